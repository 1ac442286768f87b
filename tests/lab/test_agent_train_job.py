"""`paragone agent train`: words in, an agent's folder out, and one line for what can be mended."""

import dataclasses
import importlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from paragone._core.errors import UsageError
from paragone.lab.agent_train_job import Trained, train
from paragone.lab.agent_train_progress import AgentTrainProgress, described
from paragone.multimodal.agent.contract import OperatorError
from paragone.multimodal.agent.train_agent import AgentTraining, TrainedAgent

# The package's name of it is the function.
TRAINING = importlib.import_module("paragone.multimodal.agent.train_agent")
STAGES = {
    "collect": {"exercises": 1200, "samples": 2400, "success": {"a": 0.9, "b": 1.0}},
    "imitate": {"samples": 2400, "step": 900, "loss": 0.25, "right": 0.91},
    "mistakes": {"exercises": 50, "samples": 30, "mistakes": {"a": 0.2, "b": 0.4}},
    "bootstrap": {"exercises": 9, "samples": 8, "refused": {"kept": 5, "busy": 4, "new": 0}},
    "prefer": {"pairs": 12, "margin": 1.5, "accuracy": 1.0},
    "check": {"exercises": 20, "samples": 0, "success": {"a": 0.5, "b": 1.0}},
}


@pytest.fixture
def asked(monkeypatch):
    """Takes the place of the training; what it was asked for."""
    found = {}

    def train_agent(tasks, **options):
        found.update(options, tasks=tasks)
        return TrainedAgent(Path(options["out"]), {"a": 0.5, "b": 1.0}, 1801.0, STAGES, ("so.",))

    monkeypatch.setattr(TRAINING, "train_agent", train_agent)
    return found


def test_words_become_arguments(asked):
    done = train(
        tasks="miniwob:12", minutes=3, demonstrations="one, two", shares="collect=0.3,imitate=0.5",
        no_reflect=True, fresh=True, threads=1,
    )  # fmt: skip
    assert asked["tasks"] == "miniwob:12"
    assert asked["demonstrations"] == ["one", "two"]
    assert asked["shares"] == {"collect": 0.3, "imitate": 0.5}
    assert (asked["reflect"], asked["fresh"], asked["threads"]) == (False, True, 1)
    assert asked["out"] == done.folder == "runs/agent"
    told = json.loads(done.json())
    assert told["success"] == {"a": 0.5, "b": 1.0}
    assert told["stages"]["prefer"]["pairs"] == 12


def test_what_is_printed():
    text = str(Trained("runs/agent", {"a": 0.5, "b": 1.0}, 1801.0, STAGES, ("A remark.",)))
    for words in (
        "1,200 exercises  2,400 samples  success 95%", "900 steps  right 91%  loss 0.250",
        "mistakes 30%", "refused: busy 4", "12 pairs  accuracy 100%  margin 1.500",
        "success on 20 unseen exercises", "mean  75%", "A remark.",
        "next: paragone agent score runs/agent",
    ):  # fmt: skip
        assert words in text
    assert "new 0" not in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": "miniwob:12", "minutes": 0.0}, "minutes=0.0: more than 0"),
        ({"tasks": "miniwob:12", "shares": "collect"}, "'collect' is not understood"),
        ({"tasks": "miniwob:12", "shares": "collect=much"}, "'collect=much' is not understood"),
        ({"tasks": "miniwob:12", "shares": "dream=1"}, "'dream' is none of"),
        ({"tasks": "miniwob:no-such-page"}, "no-such-page"),
        ({"tasks": "miniwob:12", "preset": "huge"}, "preset 'huge' is none of"),
        ({}, "nothing to learn from"),
        ({"demonstrations": "nowhere"}, "no demonstrations"),
    ],
)
def test_what_the_user_can_mend(tmp_path, monkeypatch, options, words):
    if "miniwob:" in options.get("tasks", ""):
        pytest.importorskip("miniwob")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words) as caught:
        train(out=str(tmp_path / "agent"), **options)
    assert "\n" not in str(caught.value)


def test_a_browser_that_does_not_start(asked, monkeypatch):
    def broken(tasks, **options):
        raise OperatorError("there is no Chromium: apt-get install chromium")

    monkeypatch.setattr(TRAINING, "train_agent", broken)
    with pytest.raises(UsageError, match="there is no Chromium"):
        train(tasks="miniwob:12")


def test_progress():
    event = AgentTraining(
        "step", "collect", 1, 7, "30 exercises, 60 samples", {"success": 0.9, "samples": 60.0},
        90.0, 1710.0, 0.05,
    )  # fmt: skip
    assert described(event) == (
        "1/7 demonstrations  30 exercises, 60 samples  success 90%  "
        "90.0 s of 30 min  ETA 28 min 30 s"
    )
    nothing = dataclasses.replace(event, metrics={"loss": float("nan")}, text="")
    assert "nan" not in described(nothing)
    assert described(AgentTraining("note", text="goes on")) == "goes on"
    assert described(AgentTraining("end", seconds=60.0)) == "done in 60.0 s"
    shown = io.StringIO()
    now = [0.0]
    with AgentTrainProgress(Console(file=shown, width=200), lambda: now[0]) as progress:
        for number in range(30):
            now[0] += 1.0
            progress(dataclasses.replace(event, seconds=float(number)))
        progress(AgentTraining("note", text="a remark"))
    lines = shown.getvalue().splitlines()
    assert 2 <= len(lines) <= 5
    assert lines[-1].endswith("a remark")


def test_the_module_is_light():
    code = (
        "import sys; import paragone.lab.agent_train_job; "
        "print([m for m in ('torch', 'numpy', 'rich', 'playwright') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
