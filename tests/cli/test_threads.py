"""`paragone threads` in the shell."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is needed")


def shell(*words):
    command = [sys.executable, "-m", "paragone", "threads", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_another_process_once_and_until_it_ends():
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3)"])
    once = shell(str(process.pid), "--no-stacks", "--json")
    data = json.loads(once.stdout)
    assert data["process"]["pid"] == process.pid
    assert [thread["native_id"] for thread in data["threads"]] == [process.pid]
    watched = shell(str(process.pid), "--watch", "--every", "0.2", "--no-stacks", "--json")
    process.wait()
    assert watched.returncode == 0, watched.stderr
    looks = [json.loads(line) for line in watched.stdout.splitlines()]
    assert len(looks) >= 2
    assert {look["process"]["pid"] for look in looks} == {process.pid}


def test_what_is_wrong_is_told_in_one_line():
    for words, told in (
        (["4000000"], "no process 4000000"), (["-3"], "is no process number"),
        (["--every", "0"], "give a positive number of seconds"), (["x"], "x"),
    ):  # fmt: skip
        done = shell(*words)
        assert done.returncode == 2
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1
