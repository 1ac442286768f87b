"""`kill -9` at random moments, then the same call: nothing lost, one block repeated at most."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paragone.lab.build import resolve_target
from paragone.lab.protocol import execute
from paragone.lab.runner import sweep
from paragone.lab.store import read_records, read_study

pytestmark = pytest.mark.slow

SMALL = str(Path(__file__).with_name("small.py"))
KILLS = 10
BLOCKS = 6

CODE = """
import sys
from paragone.lab.build import resolve_target
from paragone.lab.protocol import execute
parts = resolve_target(sys.argv[1] + ":parts")()
execute(*parts, sys.argv[2], repeats=int(sys.argv[3]),
        on_event=lambda event: print(event.kind, event.done, flush=True))
"""


def call(folder):
    return subprocess.Popen(
        [sys.executable, "-c", CODE, SMALL, str(folder), str(BLOCKS)], stdout=subprocess.PIPE
    )


def whole_lines(folder):
    path = folder / "records.jsonl"
    raw = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in raw[: raw.rfind(b"\n") + 1].splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    parts = resolve_target(f"{SMALL}:parts")()
    return execute(*parts, tmp_path_factory.mktemp("calm"), repeats=BLOCKS)


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """The folder of a study that was killed at random moments, and how often it was."""
    folder = tmp_path_factory.mktemp("killed")
    chance = random.Random(20)
    kills, lines, tokens = 0, 0, []
    while kills < KILLS:
        with call(folder) as process:
            # After some of the events, each of which ends or starts a run, and a little more.
            events = [process.stdout.readline() for _ in range(chance.randint(1, 12))]
            time.sleep(chance.uniform(0.0, 0.06))
            process.send_signal(signal.SIGKILL)
            if not events[-1]:
                break
        kills += 1
        found = len(whole_lines(folder))
        assert found >= lines
        lines = found
        tokens.append((folder / ".lock").read_text().partition(" ")[2])
    with call(folder) as process:
        process.stdout.read()
        assert process.wait() == 0
    return folder, kills, tokens


def test_the_same_runs_are_there_in_the_end(disturbed, undisturbed):
    folder, kills, _ = disturbed
    assert kills == KILLS
    found = {row["key"]: row for row in read_records(folder)}
    expected = {row["key"]: row for row in undisturbed.records()}
    assert found.keys() == expected.keys()
    assert len(expected) == 2 * BLOCKS * 4
    for key, row in expected.items():
        assert found[key]["values"]["error"] == row["values"]["error"]
        assert found[key]["status"] == "ok"
    assert read_study(folder)["complete"]


def test_each_kill_repeats_one_block_at_most(disturbed):
    folder, kills, _ = disturbed
    attempts = {}
    for row in whole_lines(folder):
        attempts.setdefault((row["workload"], row["block"]), []).append(row["attempt"])
    repeated = sum(max(each) for each in attempts.values())
    assert 0 < repeated <= kills
    for each in attempts.values():
        assert each == sorted(each)
        assert each.count(max(each)) == 4
        assert all(each.count(attempt) < 4 for attempt in range(max(each)))


def test_no_line_is_corrupt_and_no_id_twice(disturbed):
    folder, _, _ = disturbed
    raw = (folder / "records.jsonl").read_bytes()
    assert raw.endswith(b"\n")
    ids = [json.loads(line)["id"] for line in raw.splitlines()]
    assert ids == [f"r{i:04d}" for i in range(1, len(ids) + 1)]


def test_every_artifact_that_a_record_names_is_whole(disturbed):
    import numpy as np

    folder, _, _ = disturbed
    for row in read_records(folder):
        assert np.load(folder / row["artifacts"]["found"]).shape == (3,)


def test_the_killed_left_no_process(disturbed):
    _, _, tokens = disturbed
    assert all(tokens)
    assert [sweep(token) for token in tokens] == [0] * len(tokens)
