"""The study of agents: lessons, task, contestants, findings, claims, pictures."""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from paragone._core.errors import MissingPackageError, UsageError
from paragone.lab import studies
from paragone.lab._ranking import applies
from paragone.lab.contestants import agents as contestants
from paragone.lab.outcome import Cell, Difference, Row, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Request, Workload
from paragone.lab.studies import _agents_findings as findings
from paragone.lab.studies import _agents_pictures as pictures
from paragone.lab.tasks import _agents_lessons as lessons
from paragone.lab.tasks import agents as task

STUDY = studies.load("agents")
QUICK = STUDY.workloads(Request(quick=True))
FULL = STUDY.workloads(Request())
HOME = "paragone.multimodal.agent."
HERE = Path(__file__).parents[1] / "multimodal" / "agent_worlds.py"
SPEC = importlib.util.spec_from_file_location("worlds_of_study", HERE)
worlds = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(worlds)

pytestmark = pytest.mark.usefixtures("preloaded")


@pytest.fixture(autouse=True)
def drawn_world(monkeypatch):
    """Tasks and browsers of the drawn world in place of real ones."""
    blind = dict.fromkeys(range(99), "blind")
    listed = [worlds.Buttons("fake:one"), worlds.Buttons("fake:two", 2)]
    listed.append(worlds.Buttons("fake:bad", troubles=blind))
    known = {one.name: one for one in listed}

    def opened(names):
        for name in names:
            if name not in known:
                raise ValueError(f"tasks: {name!r} is not known")
        return [known[name] for name in names]

    monkeypatch.setattr(importlib.import_module(HOME + "open_tasks"), "open_tasks", opened)
    module = types.ModuleType(HOME + "browser")
    module.Browser = worlds.FakeBrowser
    monkeypatch.setitem(sys.modules, HOME + "browser", module)


class Seer:
    """A policy that knows colours by their means, and where it sees one it clicks."""

    dialect, screenshots = "ui-tars-1.5", 1

    def __init__(self, known):
        self.known = known

    def coordinates(self, screen):
        from paragone.multimodal.agent.coordinates import Coordinates

        return Coordinates.of(screen, model="pixels")

    def propose(self, context):
        words = context.instruction.rstrip(".").replace("Click ", "").split(", then ")
        word = words[min(len(context.history), len(words) - 1)]
        gap = np.abs(context.screens[-1].pixels.astype(int) - self.known.get(word, 999)).sum(-1)
        y, x = np.argwhere(gap == gap.min()).mean(0)
        return f"Thought: I see {word}.\nAction: click(start_box='({int(x)},{int(y)})')"


def seer(lessons, seed):
    """A stranger's contestant: it learns the colours of words from demonstrations."""
    found = {}
    for sample in lessons.samples:
        left, top, right, bottom = map(int, sample.wanted.box)
        word = sample.wanted.action.thought.rstrip(".").split()[-1]
        inside = sample.context.screens[-1].pixels[top:bottom, left:right]
        found.setdefault(word, []).append(inside.reshape(-1, 3).mean(0))
    return Seer({word: np.mean(some, 0) for word, some in found.items()})


def told(lessons):
    """One that tells what it has cost, and a curve."""
    return task.Built(agent=seer(lessons, 0), parameters=9, seen=8, curve=[(1.0, 2.0), (2.0, 1.0)])


def no_agent(lessons):
    """A planted wrong one."""
    return [lessons]


def performed(make, tmp_path, names=("fake:one", "fake:two"), part="learn", **facts):
    own = next((c for c in STUDY.contestants(Request()) if c.id == make), None)
    contestant = own or Contestant(id=make, title=make, make=f"{__file__}:{make}", origin="guest")
    params = {"cache": str(tmp_path / "cache"), "names": list(names), "seeds": 6, "held": 4}
    workload = Workload(id="w", title="w", load=f"{lessons.__name__}:load", params=params,
                        facts={"part": part, "episodes": 5, **facts})  # fmt: skip
    folder = tmp_path / contestant.id
    folder.mkdir(exist_ok=True)
    job = Job(key="k", task=STUDY.task, contestant=contestant, workload=workload, quick=True,
              block=Block(workload="w", index=0, split=0, seed=0), threads=1,
              folder=str(folder))  # fmt: skip
    probe = Probe(folder)
    task.run(job, probe)
    json.dumps({"values": probe.values, "curves": probe.curves}, allow_nan=False)
    return probe, folder


def test_lessons_are_collected_once_and_are_the_same_for_all(tmp_path, monkeypatch):
    first = lessons.load(str(tmp_path / "a"), ["fake:one", "fake:two"], 6, 3)
    assert {sample.seed for sample in first.samples} <= set(range(6))
    assert {sample.seed for sample in first.held} == {1_000_000, 1_000_001, 1_000_002}
    assert {sample.task for sample in first.samples} == {"fake:one", "fake:two"}
    assert first.instructions == {sample.context.instruction for sample in first.samples}
    assert any(sample.rejected for sample in first.samples) or len(first.samples) >= 9
    again = lessons.load(str(tmp_path / "b"), ["fake:one", "fake:two"], 6, 3)
    assert again.identity() == first.identity()
    assert lessons.load(str(tmp_path / "c"), ["fake:one"], 6, 3).digest != first.digest
    monkeypatch.setattr(lessons, "_taught", lambda *told: pytest.fail("collected again"))
    assert lessons.load(str(tmp_path / "a"), ["fake:one", "fake:two"], 6, 3).digest == first.digest


def test_pages_in_trouble_teach_nothing(tmp_path):
    found = lessons.collected(tmp_path / "a", ["fake:one", "fake:bad"], 4, 2)
    assert found["failed"] >= 4
    assert {s.task for s in lessons.load(str(tmp_path / "a"), ["fake:one"], 4, 2).samples} == {
        "fake:one"
    }
    with pytest.raises(UsageError, match="finished none"):
        lessons.collected(tmp_path / "b", ["fake:bad"], 4, 2)


def test_without_a_browser_one_line_says_what_is_missing(tmp_path, monkeypatch):
    def missing():
        raise MissingPackageError("driving a browser\nneeds playwright: pip install playwright")

    monkeypatch.setattr(sys.modules[HOME + "browser"], "Browser", missing)
    with pytest.raises(UsageError, match="needs playwright: pip install playwright") as caught:
        lessons.collected(tmp_path / "a", ["fake:one"], 1, 1)
    assert "\n" not in str(caught.value)


def test_an_agent_is_judged_in_the_closed_loop(tmp_path):
    probe, folder = performed("told", tmp_path)
    values = probe.values
    missing = set(QUICK[0].measures) - set(values) - {"unseen"}
    assert not missing
    assert set(values) & {"unseen"} or values["instructions_unseen"] == 0
    assert values["accuracy"] == 1.0
    assert values["in_box"] == 1.0
    assert values["steps"] == 1.5
    assert (values["parameters"], values["seen"]) == (9, 8)
    assert np.load(folder / "correct.npy").mean() == values["accuracy"]
    assert np.load(folder / "strip_done.npy").shape[-1] == 3
    assert set(np.load(folder / "ended.npy")) == {"done"}
    assert probe.curves["loss over CPU seconds"]["y"] == [2.0, 1.0]
    assert 0 < values["policy_s"] < values["step_s"]


def test_rows_beside_have_the_same_exercises(tmp_path):
    found = {name: performed(name, tmp_path)
             for name in ("random_click", "first_widget", "oracle")}  # fmt: skip
    shares = {name: probe.values["accuracy"] for name, (probe, _) in found.items()}
    assert shares["oracle"] == 1.0 > shares["random_click"]
    assert len({json.dumps(probe.digests) for probe, _ in found.values()}) == 1
    assert "in_box" in found["random_click"][0].values
    assert "in_box" not in found["oracle"][0].values
    assert (found["random_click"][1] / "strip_failed.npy").is_file()


def test_what_is_no_agent_is_told(tmp_path):
    with pytest.raises(TypeError, match="made a list"):
        performed("no_agent", tmp_path)


def test_offline_judgement_knows_right_from_wrong(tmp_path):
    given = lessons.load(str(tmp_path / "a"), ["fake:one"], 12, 6)
    good = seer(given, 0)
    assert task.in_box(good, given.held) == 1.0
    assert task.in_box(worlds.Mumbling(None), given.held) == 0.0
    swapped = Seer(dict(zip(good.known, list(good.known.values())[::-1], strict=True)))
    assert task.in_box(swapped, given.held) < 1.0
    assert task.in_box(good, ()) == 0.0


def test_samples_are_cut_to_what_a_contestant_sees(tmp_path):
    given = lessons.load(str(tmp_path / "a"), ["fake:two"], 3, 1)
    late = next(at for at, s in enumerate(given.samples) if len(s.context.screens) > 1)
    short = contestants.Shown(given.samples, 1)
    assert len(short) == len(given.samples)
    assert len(short[late].context.screens) == 1
    kept = given.samples[late].context.screens[-1].pixels
    assert np.array_equal(short[late].context.screens[0].pixels, kept)
    silent = contestants.Shown(given.samples, 5, thoughts=False)[late]
    assert silent.wanted.action.thought == ""
    assert all(one.thought == "" for one in silent.context.history)
    assert silent.wanted.box == given.samples[late].wanted.box
    assert [one.seed for one in short[:2]] == [one.seed for one in given.samples[:2]]


def test_our_agents_keep_the_budget_and_learn_from_mistakes(tmp_path, monkeypatch):
    given = lessons.load(str(tmp_path / "a"), ["fake:one"], 4, 2)
    called = []
    for name in ("find_mistakes", "prefer"):
        real = getattr(importlib.import_module(HOME + "reflection"), name)
        monkeypatch.setattr(
            HOME + f"reflection.{name}",
            lambda *a, real=real, name=name, **k: called.append(name) or real(*a, **k),
        )
    sizes = {"stem": 16, "stem_blocks": 0, "width": 32, "heads": 2, "encoder_layers": 1,
             "layers": 1}  # fmt: skip
    begun = contestants.clock()
    found = contestants.agent(given, 1.5, 0, 1, "cpu", reflect=True, sizes=sizes)
    spent = contestants.clock() - begun
    assert called[0] == "find_mistakes"
    assert found.seen > 0
    assert found.parameters == sum(p.numel() for p in found.agent.parameters())
    text = found.agent.propose(given.held[0].context)
    assert text.startswith("Thought:")
    assert found.curve[-1][0] <= spent


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "full"])
def test_inputs_and_measures_are_well_formed(quick):
    found, ours = (QUICK if quick else FULL), STUDY.contestants(Request(quick=quick))
    known = {m.name for m in STUDY.measures}
    assert all(set(w.measures) <= known for w in found)
    for role in ("quality", "time", "memory", "count"):
        assert sum(m.primary for m in STUDY.measures if m.role == role) == 1
    met = {w.id: {c.id for c in ours if applies(c, w)} for w in found}
    learn = [w for w in found if w.facts["part"] == "learn"]
    assert all(w.counts for w in learn)
    for place in learn:
        assert {"imitation", "reflection", "history_5", "coarse", *findings._ROWS} <= met[place.id]
        assert met[f"{place.id}-possible"] == {"oracle"}
        assert STUDY.reference in met[place.id]
    if not quick:
        assert {n for names in findings.QUESTIONS.values() for n in names} <= met["several"]
    with pytest.raises(UsageError, match="--target"):
        STUDY.workloads(Request(target="x"))


def test_the_users_own_pages_and_demonstrations(tmp_path):
    given = lessons.load(str(tmp_path / "a"), ["fake:one"], 4, 2)
    data = str(tmp_path / "a" / "train")
    learn, possible = STUDY.workloads(Request(data=data, quick=True, cache=str(tmp_path / "cache")))
    assert learn.params["names"] == ["fake:one"]
    assert possible.facts["part"] == "possible"
    own = lessons.stored(**learn.params)
    assert own.digest == given.digest
    assert len(own.held) > 0
    assert lessons.stored(**learn.params).digest == own.digest
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "mine.html").write_text("<p>")
    assert lessons.find_tasks(str(tmp_path / "pages")) == (
        [f"file:{(tmp_path / 'pages').resolve()}"], False
    )  # fmt: skip
    with pytest.raises(UsageError, match="expected a folder of demonstrations"):
        lessons.find_tasks(str(tmp_path / "nowhere"))


def summary(values, differences=(), places=FULL, curves=(), records=()):
    """Values: (workload, contestant) to measure to number."""
    tables = {w.id: [] for w in places}
    for (place, name), more in values.items():
        tables[place].append(Row(
            contestant=name, title=name, origin="paragone",
            cells={key: Cell(value=value) for key, value in more.items()},
        ))  # fmt: skip
    gaps = [
        Difference(a=a, b=b, measure="accuracy", workload=place, estimate=gap, low=gap - 0.05,
                   high=gap + 0.05, word=word, method="paired bootstrap")
        for place, a, b, gap, word in differences
    ]  # fmt: skip
    return Summary(
        study=STUDY.id, question="?", workloads=places, contestants=STUDY.contestants(Request()),
        tables=tables, measures=STUDY.measures, differences=gaps, curves=curves, records=records,
    )  # fmt: skip


def holding(good):
    sign, word = (1, "better") if good else (-1, "worse")
    shares = {"imitation": 0.6, "reflection": 0.6 + 0.1 * sign, "history_5": 0.6 + 0.2 * sign,
              "silent": 0.6 - 0.1 * sign, "coarse": 0.6 - 0.2 * sign, "vq": 0.6 - 0.3 * sign,
              "moonvit": 0.59, "random_click": 0.05, "first_widget": 0.2}  # fmt: skip
    values, told = {}, []
    for place in ("clicks", "several"):
        for name, share in shares.items():
            offline = share + (0.1 if good else -0.1)
            values[place, name] = {"accuracy": share, "in_box": offline, "step_s": 0.05,
                                   "policy_s": 0.02, "unseen": share - 0.1,
                                   "instructions_unseen": 0.3}  # fmt: skip
        values[f"{place}-possible", "oracle"] = {"accuracy": 0.98}
        told += [(place, a, "imitation", round(shares[a] - 0.6, 2), word)
                 for a in ("reflection", "history_5")]  # fmt: skip
        told += [(place, "imitation", b, round(0.6 - shares[b], 2), word)
                 for b in ("silent", "coarse", "vq")]  # fmt: skip
        told.append((place, "moonvit", "imitation", -0.01, "inconclusive"))
    return summary(values, told)


def test_claims_hold_and_do_not():
    count = len(STUDY.claims)
    assert [c.check(holding(True)).verdict for c in STUDY.claims] == ["holds"] * count
    told = [c.check(holding(False)) for c in STUDY.claims]
    assert [t.verdict for t in told] == ["does not hold"] * count, [t.measured for t in told]
    empty = Summary(study=STUDY.id, question="?")
    assert [c.check(empty).verdict for c in STUDY.claims] == ["not tested"] * count
    assert STUDY.answer(empty) == ""
    assert STUDY.findings(empty) == []
    open_ = dataclasses.replace(holding(True), differences=())
    assert [c.check(open_).verdict for c in STUDY.claims][:-1] == ["not tested"] * (count - 1)
    reflected = STUDY.claims[0].check(holding(True)).measured
    assert "60 % -> 70 %, +10.0 [+5.0, +15.0] points (better)" in reflected


def test_the_answer_has_a_part_for_each_question():
    text = STUDY.answer(holding(True))
    for words in ("On several, by encoder: raw patches (60 %, not told apart from MoonViT 59 %)",
                  "history: 5 (80 % against 1 screenshot 60 %)",
                  "learning: with reflection and DPO (70 % against imitation alone 60 %)",
                  "resolution: patches of 8 pixels (60 % against of 16 40 %)",
                  "300 s of CPU time each"):  # fmt: skip
        assert words in text
    alone = STUDY.answer(dataclasses.replace(holding(True), differences=()))
    assert "not told apart" not in alone
    assert "same CPU time," not in " ".join(STUDY.findings(holding(True)))
    uneven = holding(True)
    for row in uneven.tables["several"]:
        row.cells["train_cpu_s"] = Cell(value=300.0 if row.contestant == "vq" else 200.0)
    assert any("to 300 s (codes)" in text for text in STUDY.findings(uneven))
    said = " ".join(STUDY.findings(holding(True)))
    for words in ("random click 5 %, first widget 20 % and the DOM oracle 98 %",
                  "several by +10 points", "training never had", "50 to 50 ms"):  # fmt: skip
        assert words in said


def test_pictures_are_drawn(tmp_path, monkeypatch):
    strip = np.full((90, 300, 3), 128, np.uint8)
    np.save(tmp_path / "strip.npy", strip)
    records = [{"contestant": "imitation", "workload": "several", "values": {},
                "artifacts": {"strip_done": "strip.npy", "strip_failed": "strip.npy"}}]  # fmt: skip
    curves = [("imitation", "several", "loss over CPU seconds", [1.0, 2.0, 3.0], [3.0, None, 1.0])]
    made = dataclasses.replace(holding(True), records=records, curves=curves)
    monkeypatch.setattr(pictures, "summarize", lambda folder: made)
    path = tmp_path / "p.svg"
    pictures.strips(str(tmp_path), str(path))
    text = path.read_text()
    assert text.count("data:image/jpeg") == 2
    assert "imitation: success (several)" in text
    pictures.offline("", str(path))
    assert "70 % offline" in path.read_text()
    pictures.losses("", str(path))
    assert "CPU seconds" in path.read_text()
    monkeypatch.setattr(pictures, "summarize", lambda folder: Summary(study="s", question="?"))
    for draw in (pictures.strips, pictures.offline, pictures.losses):
        with pytest.raises(SystemExit, match="nothing to draw"):
            draw("", str(path))


def test_the_browser_is_closed_whatever_happens():
    with contextlib.suppress(KeyError), lessons._browser() as page:
        raise KeyError("x")
    assert page.starts == -1
