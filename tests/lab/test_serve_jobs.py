"""The queue of the reading room: one at a time, stopped as Ctrl-C stops, nothing left behind."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from paragone._core.errors import UsageError
from paragone.lab.serve_jobs import Desk, continuing, holder, interrupt_holder
from paragone.lab.serve_studies import Lister, Sketch, asked, sketches

SHELL = ("/bin/sh", "-c")
STUBBORN = "trap '' INT; echo up; while true; do sleep 0.05; done"
PATIENT = "trap 'echo kept; exit 130' INT; echo up; while true; do sleep 0.05; done"


@contextmanager
def desk(**options):
    made = Desk(SHELL, **{"patience": 30.0, **options})
    try:
        yield made
    finally:
        made.close()


def until(true):
    """Waits for what another thread or process does; a test that hangs has failed."""
    while not true():
        time.sleep(0.01)


def gone(task):
    """Waits until no process of the task's group lives (dead ones may wait for their parent)."""

    def lives(stat):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            return False
        return int(group) == task.process.pid and state != "Z"

    until(lambda: not any(map(lives, Path("/proc").glob("[0-9]*/stat"))))


@pytest.mark.parametrize(
    ("code", "state", "note"),
    [(0, "done", ""), (1, "done", "a contestant failed"), (2, "failed", "refused"),
     (3, "failed", "nothing finished"), (130, "interrupted", "kept"), (7, "failed", "code 7")],
)  # fmt: skip
def test_the_end_of_a_study_is_told(tmp_path, code, state, note):
    with desk() as made:
        task = made.add([f"echo why; echo $0 >&2; exit {code}", "$x"], tmp_path / "a")
        until(lambda: not task.open)
        assert task.state == state
        assert note in task.note
        assert task.tail() == "why\n$x"
        assert shlex.split(task.command)[1:] == ["compare", *task.words]


def test_studies_run_one_after_the_other(tmp_path):
    with desk() as made:
        first = made.add([PATIENT], tmp_path / "a")
        second = made.add(["exit 0"], tmp_path / "b")
        third = made.add(["exit 0"], tmp_path / "c")
        until(lambda: first.tail() == "up")
        assert [task.state for task in made.tasks()] == ["running", "waiting", "waiting"]
        made.stop(third)
        assert made.task(tmp_path / "c") is None
        made.stop(first)
        until(lambda: second.state == "done")
        assert first.state == "interrupted"
        assert first.tail() == "up\nkept"
        assert first.ended <= second.begun
        assert third.process is None


def test_nothing_starts_while_the_machine_is_taken(tmp_path):
    free = threading.Event()
    asked_often = threading.Event()

    def busy():
        asked_often.set()
        return "" if free.is_set() else "another"

    with desk(busy=busy) as made:
        task = made.add(["exit 0"], tmp_path)
        asked_often.wait()
        assert (task.state, made.blocked()) == ("waiting", "another")
        free.set()
        until(lambda: task.state == "done")


def test_a_study_is_not_started_twice(tmp_path):
    with desk() as made:
        task = made.add([PATIENT], tmp_path / "a")
        with pytest.raises(UsageError, match="already"):
            made.add(["exit 0"], tmp_path / "a")
        until(lambda: task.tail() == "up")
        made.stop(task)
        until(lambda: not task.open)
        again = made.add(["exit 0"], tmp_path / "a")
        until(lambda: again.state == "done")
        assert made.tasks() == [again]


def test_who_does_not_heed_the_interrupt_is_ended(tmp_path):
    with desk() as made:
        task = made.add([STUBBORN], tmp_path)
        until(lambda: task.tail() == "up")
        made.stop(task)
        assert task.state == "stopping"
        made.kill(task)
        until(lambda: not task.open)
        assert task.state == "failed"
        assert "signal 9" in task.note
        gone(task)


@pytest.mark.parametrize("script", [PATIENT, STUBBORN], ids=["patient", "stubborn"])
def test_the_end_of_the_desk_leaves_no_process(tmp_path, script):
    with desk(patience=30.0 if script == PATIENT else 0.05) as made:
        task = made.add([script], tmp_path / "a")
        waiting = made.add(["exit 0"], tmp_path / "b")
        until(lambda: task.tail() == "up")
        assert made.close() == [task, waiting]
        gone(task)
        assert waiting.process is None
        with pytest.raises(UsageError, match="ending"):
            made.add(["exit 0"], tmp_path / "c")


def test_a_number_in_a_lock_counts_only_while_its_process_holds_it(tmp_path):
    lock = tmp_path / ".lock"
    assert holder(tmp_path) == 0
    lock.write_text(f"{os.getpid()} mark")
    assert holder(tmp_path) == 0
    with lock.open():
        assert holder(tmp_path) == os.getpid()
    lock.write_text(f"{2**22 + 1} mark")
    assert holder(tmp_path) == 0
    with pytest.raises(UsageError, match="not running"):
        interrupt_holder(tmp_path)


def test_a_study_of_a_terminal_is_interrupted(tmp_path):
    code = "import sys; f = open(sys.argv[1], 'w'); print('up', flush=True); sys.stdin.read()"
    lock = tmp_path / ".lock"
    command = [sys.executable, "-S", "-c", code, str(lock)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        process.stdout.readline()
        lock.write_text(f"{process.pid} mark")
        with desk() as made, pytest.raises(UsageError, match=str(process.pid)):
            made.add(["exit 0"], tmp_path)
        interrupt_holder(tmp_path)
        assert process.wait() == -signal.SIGINT


def test_a_command_from_a_file_only_chooses_what_is_compared():
    line = "python dev.py compare ensembles --data '/a b.csv' --quick --methods a,b --out elsewhere"
    assert continuing(line) == ("ensembles", "--data=/a b.csv", "--quick", "--methods=a,b")


@pytest.mark.parametrize(
    "line",
    ["", "rm -rf /", "compare", "paragone compare e --with evil.py:X", "paragone compare --quick",
     "paragone compare e --engine dask:tcp://far:1", "paragone compare e --data",
     "paragone compare e --fresh", "paragone compare e ; rm", "paragone bench gbdt", "compare e '"],
    ids=["empty", "other", "bare", "code", "no-study", "engine", "no-value", "fresh", "shell",
         "bench", "quote"],
)  # fmt: skip
def test_no_other_command_is_taken_from_a_file(line):
    with pytest.raises(UsageError, match="terminal"):
        continuing(line)


SKETCH = Sketch("ensembles", inputs=("table", "none"))


def test_a_form_becomes_the_words_of_compare(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my data.csv").write_text("a\n1\n")
    fields = {"quick": ["yes"], "data": ["my data.csv"], "target": ["--fresh"], "budget": ["10m"],
              "methods": ["a"], "threads": ["2"], "prefer": ["quality"], "seed": [""]}  # fmt: skip
    words, folder = asked(SKETCH, fields, ["a", "b"], tmp_path / "runs")
    assert words == (
        "ensembles", "--quick", f"--data={tmp_path}/my data.csv", "--target=--fresh",
        "--methods=a", "--budget=10m", "--threads=2", "--out=runs/ensembles-my_data-quick",
    )  # fmt: skip
    assert folder == tmp_path / "runs" / "ensembles-my_data-quick"
    every, _ = asked(SKETCH, {"methods": ["b", "a"]}, ["a", "b"], tmp_path / "runs")
    assert every == ("ensembles", "--out=runs/ensembles")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("data", "/no/where.csv", "no such file"), ("methods", "c", "'c'"), ("budget", "soon", "soon"),
     ("threads", "0", "from 1"), ("seed", "-1", "from 0"), ("prefer", "luck", "quality"),
     ("prompts", "p", "takes no prompts"), ("name", "../x", "name"), ("name", ".x", "name"),
     ("name", "a/b", "name"), ("name", "link", "name")],
)  # fmt: skip
def test_a_form_that_cannot_be_used_names_the_field(tmp_path, field, value, words):
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(UsageError, match=words):
        asked(SKETCH, {field: [value]}, ["a"], tmp_path)


def test_questions_are_read_without_importing_a_study():
    from paragone.lab import studies

    found = sketches()
    assert list(found) == studies.ids()
    assert all(sketch.question.endswith("?") and sketch.family for sketch in found.values())
    question = studies.load("memory")
    assert (found["memory"].question, found["memory"].inputs) == (question.question, ("none",))


def test_contestants_are_listed_by_another_process():
    lister = Lister()
    try:
        found = {one["id"]: one for one in lister.contestants("ensembles", wait=True)}
        assert found["decision_tree"]["title"] == "paragone decision tree"
        assert lister.contestants("ensembles") is not None
        with pytest.raises(UsageError, match="no study"):
            lister.contestants("nothing", wait=True)
    finally:
        lister.close()
