"""`paragone agent score`: one table, one sentence, files, and one line for bad input."""

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest

from paragone._core.errors import UsageError
from paragone.lab import agent_score_job as job

HERE = Path(__file__).parents[1] / "multimodal" / "agent_worlds.py"
SPEC = importlib.util.spec_from_file_location("worlds_of_score_job", HERE)
worlds = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(worlds)


@pytest.fixture(autouse=True)
def drawn_world(monkeypatch):
    """Tasks and browsers of the drawn world in place of real ones."""
    home = "paragone.multimodal.agent."
    tasks = {"fake:one": worlds.Buttons("fake:one"), "fake:two": worlds.Buttons("fake:two", 2)}

    def opened(names):
        listed = ",".join([names] if isinstance(names, str) else names).split(",")
        for name in listed:
            if name not in tasks:
                raise ValueError(f"tasks: {name!r} is not known")
        return [tasks[name] for name in listed]

    monkeypatch.setattr(importlib.import_module(home + "open_tasks"), "open_tasks", opened)
    module = types.ModuleType(home + "browser")
    module.Browser = worlds.FakeBrowser
    monkeypatch.setitem(sys.modules, home + "browser", module)


def test_one_table_one_sentence_and_files(tmp_path):
    told = []
    found = job.score("first-widget", tasks="fake:one,fake:two", episodes=6, out=str(tmp_path),
                      progress=told.append)  # fmt: skip
    text = str(found)
    head, *rows = text.splitlines()[:4]
    assert head.split()[:3] == ["task", "agent,", "%"]
    assert [part in head for part in ("random", "oracle", "ms a step")] == [True] * 3
    assert [row.split()[0] for row in rows] == ["fake:one", "fake:two", "mean"]
    assert "first-widget succeeds in" in text
    assert "12 episodes of 2 tasks" in text
    assert "against random clicks" in text
    assert "episodes ended by:" in text
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert list(scores) == ["first-widget", "random-click", "oracle"]
    assert scores["oracle"]["success"] == 1.0
    assert json.loads(found.json())["scores"] == scores
    assert (tmp_path / "replay.html").read_text().startswith("<!")
    strips = sorted(path.name for path in (tmp_path / "strips").iterdir())
    assert any(name.endswith("-failed.png") for name in strips)
    assert any(name.endswith("-done.png") for name in strips)
    assert len(told) == 36
    assert [event.step for event in told] == list(range(1, 37))
    assert told[-1].done == 1.0


def test_the_same_call_goes_on_and_fresh_begins_anew(tmp_path):
    options = {"tasks": "fake:one", "episodes": 3, "out": str(tmp_path), "no_baselines": True}
    first = job.score("random-click", **options)
    told = []
    assert job.score("random-click", **options, progress=told.append).scores == first.scores
    assert told == []
    job.score("random-click", **options, fresh=True, progress=told.append)
    assert len(told) == 3
    assert list(first.scores) == ["random-click"]
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 3


def test_two_agents_do_the_same_exercises(tmp_path):
    found = job.score("oracle", tasks="fake:one,fake:two", episodes=6, out=str(tmp_path),
                      against="random-click,oracle", no_baselines=True)  # fmt: skip
    assert list(found.scores) == ["oracle", "random-click"]
    assert "against random clicks" in str(found)
    folders = []
    for name in ("able", "idle"):
        # Folders without an agent: what stands in the log already is not done again.
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"name": name}))
        folders.append(str(tmp_path / name))
    log = tmp_path / "both" / "episodes.jsonl"
    log.parent.mkdir()
    from paragone.multimodal.agent._scoring_attempts import digest_of

    names = {digest_of(folder): Path(folder).name for folder in folders}
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    with log.open("w") as pen:
        for digest, name in names.items():
            for line in lines[:6]:
                good = name == "able"
                pen.write(json.dumps({**line, "agent": digest, "success": good}) + "\n")
    both = job.score(folders[0], tasks="fake:one", episodes=6, out=str(log.parent),
                     against=folders[1], no_baselines=True)  # fmt: skip
    assert f"less {folders[1]}, on the same exercises: +100.0 [" in str(both)
    head, row = str(both).splitlines()[:2]
    assert head.index("steps") + len("steps") == row.rindex(row.split()[-2]) + len(row.split()[-2])


def test_what_training_had(tmp_path):
    folder = tmp_path / "agent"
    (folder / "demonstrations").mkdir(parents=True)
    lines = [json.dumps({"instruction": f"Click  {name}."}) for name in ("red", "blue")]
    (folder / "demonstrations" / "samples.jsonl").write_text("\n".join([*lines, '{"instr']))
    assert job._instructions(folder) == {"Click red.", "Click blue."}
    assert job._instructions(tmp_path / "none") is None
    (folder / "sft").mkdir()
    given = tmp_path / "given"
    given.mkdir()
    asked = {"tasks": ["fake:one"], "demonstrations": [str(given), "gone"]}
    (folder / "stages.json").write_text(json.dumps({"asked": asked, "stages": {}}))
    for place in (folder, folder / "sft"):
        assert job._texts(job._asked(place)["tasks"]) == ["fake:one"]
        assert job._taught(place, None) == [folder.resolve(), given]
    found = job.score("oracle", tasks="fake:one", episodes=8, data=str(folder),
                      out=str(tmp_path / "out"), no_baselines=True)  # fmt: skip
    unseen = found.scores["oracle"]["unseen_instructions"]
    assert 0 < unseen["episodes"] < 8
    assert f"never seen in training: {unseen['hits']} of {unseen['episodes']}" in str(found)


def test_what_a_reader_must_know(tmp_path):
    found = job.score("oracle", tasks="fake:two", episodes=2, seed=5, out=str(tmp_path / "a"))
    assert "seeds are for training" in str(found)
    lazy = job.score("random-click", tasks="fake:two", episodes=2, out=str(tmp_path / "b"))
    assert "no sign of reading" in str(lazy)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "name an agent"),
        ({"agent": "nowhere", "tasks": "fake:one"}, "no such folder"),
        ({"agent": "oracle"}, "give --tasks"),
        ({"agent": "oracle", "tasks": "fake:none"}, "fake:none"),
        ({"agent": "oracle", "tasks": "fake:one", "episodes": 0}, "--episodes 0"),
        ({"agent": "oracle", "tasks": "fake:one", "data": "nowhere"}, "--data nowhere"),
        ({"agent": "oracle", "tasks": "fake:one", "against": "oracel"}, "oracel: no such folder"),
        ({"screenspot": "a.json"}, "go together"),
        ({"screenspot": "a.json", "predictions": "b.json"}, "no such file"),
    ],
    ids=lambda one: one if isinstance(one, str) else "-".join(one) or "none",
)
def test_bad_input_is_one_line(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words) as caught:
        job.score(**options)
    assert "\n" not in str(caught.value)


def test_screenspot_files_are_counted(tmp_path):
    one = {"img_filename": "a.png", "bbox": [10, 10, 20, 20], "instruction": "Go",
           "data_type": "text", "data_source": "windows", "img_size": [100, 100]}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps([one, one]))
    (tmp_path / "b.json").write_text(json.dumps([[15, 15], [90, 90]]))
    found = job.score(screenspot=str(tmp_path / "a.json"), predictions=str(tmp_path / "b.json"),
                      benchmark="screenspot")  # fmt: skip
    assert "50.0" in str(found)
    told = json.loads(found.json())
    assert told["accuracy"] == 0.5
    assert told["by_group"]
    (tmp_path / "b.json").write_text("no json")
    with pytest.raises(UsageError):
        job.score(screenspot=str(tmp_path / "a.json"), predictions=str(tmp_path / "b.json"))
