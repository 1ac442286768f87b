"""One call from tasks to an agent: stages, budget, interruptions, and what is on disk meanwhile."""

import dataclasses
import importlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from tests.multimodal import agent_learners
from tests.multimodal.agent_learners import TinyAgent
from tests.multimodal.agent_learning import SquaresTask

from paragone._core.errors import MissingPackageError
from paragone.multimodal.agent import _train_pool, _train_run
from paragone.multimodal.agent import _train_stages as stages
from paragone.multimodal.agent._train_files import append_line, publish, read_lines
from paragone.multimodal.agent._train_pool import Work, carried_out
from paragone.multimodal.agent._train_stages import SHARES, STAGES, Ledger, shares_of
from paragone.multimodal.agent.contract import OperatorError
from paragone.multimodal.agent.demonstrations import Demonstrations
from paragone.multimodal.agent.reflection import Preferred
from paragone.multimodal.agent.train_agent import Parts, train_agent

HERE = "tests.multimodal.agent_learners"
PARTS = Parts(
    f"{HERE}:TinyAgent", f"{HERE}:build", f"{HERE}:imitate",
    "tests.multimodal.agent_learning:FakeBrowser",
)  # fmt: skip
TASKS = [SquaresTask(), SquaresTask("fake:click")]


class Clock:
    """Seconds that pass by the exercise, so that nothing depends on the machine's speed."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """A second passes with each exercise that begins; learning takes none. Few pairs will do."""
    found = Clock()
    monkeypatch.setattr(stages, "time", found)
    monkeypatch.setattr(_train_run, "_FEWEST_PAIRS", 1)
    start = SquaresTask.start

    def slow(self, browser, seed):
        found.now += 1.0
        return start(self, browser, seed)

    monkeypatch.setattr(SquaresTask, "start", slow)
    return found


def trained(folder, **options):
    return train_agent(
        TASKS, **{"minutes": 3, "out": folder, "workers": 1, "parts": PARTS, **options}
    )


@pytest.fixture
def events():
    return []


def test_from_tasks_to_an_agent(tmp_path, clock, events):
    folder = tmp_path / "agent"
    done = trained(folder, progress=events.append)
    assert done.folder == folder
    assert set(done.stages) == set(STAGES)
    assert all(entry["finished"] for entry in done.stages.values())
    # Stages end with their shares, up to the exercise that each of them is at.
    shares = list(SHARES.values())
    for number, name in enumerate(STAGES):
        entry = done.stages[name]
        if "exercises" in entry and name != "check":
            assert 0 <= entry["until"] - 180 * sum(shares[: number + 1]) <= 4
    assert done.seconds <= 180 + 4
    # Whole folders of three models; the one from before reflection is the older one.
    agents = {
        name: TinyAgent.from_pretrained(folder / name).weights
        for name in ("", "sft", "again", "preference")
    }
    assert not torch.equal(agents["sft"], agents["again"])
    assert not torch.equal(agents["again"], agents["preference"])
    # The better of the last two stays; of equals the later one.
    rated = done.stages["check"]["compared"]
    assert list(rated) == ["preference", "again"]
    stays = "again" if rated["again"] > rated["preference"] else "preference"
    assert done.stages["check"]["agent"] == stays
    assert torch.equal(agents[stays], agents[""])
    assert done.stages["prefer"]["margin"] > 0
    assert done.stages["prefer"]["pairs"] > 0
    assert set(done.success) == {"fake:tick", "fake:click"}
    # Each stage has seeds of its own, all of training.
    seeds = {
        name: {line["seed"] for line in read_lines(folder / name / "done.jsonl")}
        for name in ("demonstrations", "mistakes", "bootstrap", "check/again")
    }
    assert all(seeds.values())
    assert sum(map(len, seeds.values())) == len(set().union(*seeds.values()))
    assert max(set().union(*seeds.values())) < 1_000_000
    shown = Demonstrations(folder / "demonstrations")
    assert {sample.seed for sample in shown} <= seeds["demonstrations"]
    assert len(Demonstrations(folder / "mistakes")) == done.stages["mistakes"]["samples"]
    # What is told.
    assert [e.stage for e in events if e.kind == "stage"] == list(STAGES)
    assert [e.number for e in events if e.kind == "stage"] == list(range(1, 8))
    assert events[-1].kind == "end"
    times = [event.seconds for event in events]
    assert times == sorted(times)
    assert all(0 <= event.done <= 1 for event in events)
    assert {"loss", "success", "samples", "mistakes"} <= {k for e in events for k in e.metrics}
    lines = read_lines(folder / "metrics.jsonl")
    assert {line["stage"] for line in lines} == set(STAGES)
    # All is done: nothing is done again.
    again = trained(folder)
    assert again.success == done.success
    assert again.seconds < done.seconds + 5


class Stop(BaseException):
    """What ends a process without a word."""


@pytest.mark.parametrize("after", [7, 75])
def test_killed_at_any_exercise_it_goes_on(tmp_path, clock, monkeypatch, after):
    """Killed in each of the stages with a browser: nothing is done twice, and the clock goes on."""
    folder, left = tmp_path / "agent", after
    start = SquaresTask.start

    def dying(self, browser, seed):
        nonlocal left
        left -= 1
        if not left:
            raise Stop
        return start(self, browser, seed)

    monkeypatch.setattr(SquaresTask, "start", dying)
    with pytest.raises(Stop):
        trained(folder)
    before = json.loads((folder / "stages.json").read_text())
    assert not all(name in before["stages"] for name in STAGES)
    done = trained(folder)
    assert done.seconds <= 180 + 4 + 5
    for name in ("demonstrations", "mistakes", "bootstrap", "check/preference", "check/again"):
        lines = [(x["task"], x["seed"]) for x in read_lines(folder / name / "done.jsonl")]
        assert len(lines) == len(set(lines)) > 0


def test_interrupted_while_it_learns(tmp_path, clock, monkeypatch):
    """Ctrl-C in the middle of imitation: the weights come to what they would have come to."""
    whole = trained(tmp_path / "whole")
    built = agent_learners.build

    def interrupted(samples, **options):
        model = built(samples, **options)
        score, calls = model.log_probability, 0

        def counted(*arguments):
            nonlocal calls
            calls += 1
            if calls == 4:
                signal.raise_signal(signal.SIGINT)
            return score(*arguments)

        model.log_probability = counted
        return model

    monkeypatch.setattr(agent_learners, "build", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts")
    assert not (tmp_path / "parts" / "sft").exists()
    assert TinyAgent.from_pretrained(tmp_path / "parts") is not None
    monkeypatch.setattr(agent_learners, "build", built)
    parts = trained(tmp_path / "parts")
    assert parts.success == whole.success
    first, second = (
        TinyAgent.from_pretrained(one.folder / "sft").weights for one in (whole, parts)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_without_reflection_and_with_given_demonstrations(tmp_path, clock):
    plain = trained(tmp_path / "plain", reflect=False)
    assert list(plain.stages) == ["collect", "imitate", "check"]
    given = tmp_path / "plain" / "demonstrations"
    done = trained(tmp_path / "more", demonstrations=[given, given], reflect=False)
    assert list(done.stages) == ["imitate", "check"]
    assert done.stages["imitate"]["samples"] == 2 * len(Demonstrations(given))
    alone = train_agent(
        None, minutes=1, out=tmp_path / "alone", demonstrations=str(given), parts=PARTS
    )
    assert list(alone.stages) == ["imitate"]
    assert alone.success == {}


def test_another_run_is_refused_and_fresh_begins_anew(tmp_path, clock):
    folder = tmp_path / "agent"
    trained(folder, reflect=False)
    with pytest.raises(ValueError, match=r"holds another run: seed \(there 0, now 1\)"):
        trained(folder, reflect=False, seed=1)
    own = folder / "mine.txt"
    own.write_text("stays")
    done = trained(folder, reflect=False, seed=1, fresh=True)
    assert own.exists()
    assert min(x["seed"] for x in read_lines(folder / "demonstrations" / "done.jsonl")) > 0
    assert done.stages["collect"]["finished"]
    (folder / "stages.json").write_text("{")
    with pytest.raises(ValueError, match="expected the stages of a run"):
        trained(folder, reflect=False, seed=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"minutes": 0}, "minutes=0"),
        ({"minutes": float("nan")}, "minutes=nan"),
        ({"workers": 0}, "workers=0"),
        ({"history": 6}, "history=6"),
        ({"noise": 1.5}, "noise=1.5"),
        ({"shares": {"dream": 1}}, "'dream' is none of collect"),
        ({"shares": {"imitate": 0}}, "imitate=0"),
        ({"shares": {"prefer": -1}}, "prefer=-1"),
        ({"preset": "colossal"}, "preset 'colossal' is none of"),
        ({"encoder": "eyes"}, "encoder='eyes' is none of"),
    ],
)
def test_what_the_user_can_mend(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        trained(tmp_path / "agent", **options)
    assert not (tmp_path / "agent" / "stages.json").exists()


def test_nothing_to_learn_from(tmp_path, clock):
    with pytest.raises(ValueError, match="nothing to learn from"):
        train_agent(None, minutes=1, out=tmp_path / "agent", parts=PARTS)
    with pytest.raises(FileNotFoundError, match="no demonstrations"):
        trained(tmp_path / "agent", demonstrations=tmp_path / "none")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match="found a file"):
        trained(file)
    broken = [SquaresTask(breaks=tuple(range(100)))]
    with pytest.raises(ValueError, match=r"no demonstration was collected .* does not start"):
        train_agent(broken, minutes=0.1, out=tmp_path / "none", workers=1, parts=PARTS)


def test_an_agent_without_mistakes(tmp_path, clock, monkeypatch):
    perfect = TinyAgent(agent_learners.PERFECT)
    monkeypatch.setattr(TinyAgent, "from_pretrained", classmethod(lambda cls, folder: perfect))
    done = trained(tmp_path / "agent", noise=0.0)
    assert done.stages["prefer"]["pairs"] == 0
    assert "the agent made no mistake that could be learned from" in done.notes
    assert done.success == {"fake:tick": 1.0, "fake:click": 1.0}


@pytest.fixture
def world(monkeypatch):
    """The small world under a name that other processes find, too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield importlib.import_module("agent_learning")
    del sys.modules["agent_learning"]


def test_two_processes(tmp_path, world):
    """Workers of their own do what this process does, and lose only the exercise that breaks."""
    tasks = (world.SquaresTask(breaks=(3,)),)
    found = {}
    for workers in (1, 2):
        work = Work(
            "demonstrate", tasks, tmp_path / str(workers), browser="agent_learning:FakeBrowser",
            options={"screenshots": 2},
        )  # fmt: skip
        jobs = iter([(0, seed) for seed in range(8)])
        told = carried_out(work, jobs, workers=workers, stop=lambda: False)
        found[workers] = sorted(
            ({k: v for k, v in one.items() if k != "seconds"} for one in told),
            key=lambda one: one["seed"],
        )
    assert found[1] == found[2]
    assert [one["samples"] for one in found[2]] == [0 if s == 3 else 2 for s in range(8)]
    assert found[2][3]["error"] == "the page does not start"


def test_where_no_browser_starts(tmp_path, world, monkeypatch):
    task = world.SquaresTask()
    work = Work("demonstrate", (task,), tmp_path, browser="agent_learning:missing")
    for workers in (1, 2):
        with pytest.raises(MissingPackageError, match="no Chromium here"):
            list(carried_out(work, iter([(0, 0)]), workers=workers, stop=lambda: False))
    monkeypatch.setattr(_train_pool, "_LOST", 1)
    work = dataclasses.replace(work, browser="agent_learning:dying")
    with pytest.raises(OperatorError, match="browsers were lost one after the other"):
        list(carried_out(work, iter([(0, 0)]), workers=2, stop=lambda: False))


def test_the_earlier_agent_stays_where_preference_harms(tmp_path, clock, monkeypatch):
    """A preference that spoils the agent is found out on unseen exercises, and taken back."""

    def spoiling(model, samples, **options):
        model.weights.data = torch.tensor([-9.0, 0, 0, 0, 0, 0], dtype=torch.float64)
        publish(model, options["out"])
        return Preferred(model, 1, 1.0, 1.0, [], 1, 1.0)

    monkeypatch.setattr(_train_run, "prefer", spoiling)
    done = trained(tmp_path / "agent")
    assert done.stages["check"]["agent"] == "again"
    assert TinyAgent.from_pretrained(tmp_path / "agent").weights[0] > 0
    assert any("again/ did better than that of preference/" in note for note in done.notes)


def test_few_pairs_are_no_preference(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(_train_run, "_FEWEST_PAIRS", 10_000)
    done = trained(tmp_path / "agent")
    assert 0 < done.stages["prefer"]["pairs"] < 10_000
    assert any("too few for preference" in note for note in done.notes)
    assert not (tmp_path / "agent" / "preference").exists()
    assert list(done.stages["check"]["compared"]) == ["again", "sft"]


def test_shares_and_ledger(tmp_path, clock):
    assert sum(SHARES.values()) == pytest.approx(1.0)
    for collects in (True, False):
        for reflects in (True, False):
            some = shares_of(None, collects=collects, reflects=reflects)
            assert sum(some.values()) == pytest.approx(1.0)
            assert ("collect" in some) == collects
            assert ("mistakes" in some) == reflects
    given = shares_of(None, collects=False, reflects=True)
    assert given["imitate"] == SHARES["imitate"]
    assert given["mistakes"] == pytest.approx(SHARES["mistakes"] + 0.6 * SHARES["collect"])
    without = shares_of({"mistakes": 0}, collects=False, reflects=True)
    assert "mistakes" not in without
    assert without["imitate"] == pytest.approx(SHARES["imitate"] + 0.6 * SHARES["collect"])
    ledger = Ledger(tmp_path, {"a": (1,)}, {"collect": 1.0, "imitate": 3.0}, 100.0)
    assert ledger.begin("collect") == 25.0
    clock.now += 10
    assert ledger.left == 15.0
    assert ledger.begin("collect") == 25.0
    clock.now += 25
    ledger.end("collect", samples=3)
    assert ledger.begin("imitate") == 65.0
    clock.now += 5
    assert ledger.granted() == 60.0
    clock.now += 500
    other = Ledger(tmp_path, {"a": [1]}, {"collect": 1.0, "imitate": 3.0}, 100.0)
    assert other.seconds == 40.0
    assert other.finished("collect")
    assert not other.finished("imitate")
    assert other.finished("dream")
    other.begin("imitate")
    assert other.granted() == 60.0


def test_lines_that_were_cut(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_line(path, {"a": 1})
    with open(path, "ab") as file:
        file.write(b'{"a": 2')
    append_line(path, {"a": "drei\nähm"})
    assert read_lines(path) == [{"a": 1}, {"a": "drei\nähm"}]
    assert read_lines(tmp_path / "none.jsonl") == []


def test_a_folder_that_is_whole_at_every_moment(tmp_path, monkeypatch):
    """Killed at any of the moves, the folder has a whole configuration or none."""
    publish(TinyAgent(), tmp_path)
    moved = os.replace
    calls = []

    def cut(source, target):
        calls.append(str(target))
        if len(calls) == 2:
            raise Stop
        moved(source, target)

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(Stop):
        publish(TinyAgent((1.0,) * 6), tmp_path)
    assert calls[1].endswith("config.json")
    assert TinyAgent.from_pretrained(tmp_path).weights.sum() == 0
    assert not list(tmp_path.glob(".export.*"))
