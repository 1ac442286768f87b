"""Contestants that misbehave cost their own row and nothing else."""

import os
from pathlib import Path

import pytest

from paragone.lab.build import resolve_target
from paragone.lab.protocol import execute
from paragone.lab.spec import Contestant

HERE = Path(__file__).parent
small = {
    name: resolve_target(f"{HERE / 'small.py'}:{name}")
    for name in ("study", "request", "workload", "contestant")
}

FATES = {
    "raises": ("failed", "RuntimeError: out of luck"),
    "hangs": ("timeout", "ran past its limit of 4 s in run"),
    "hangs_deaf": ("timeout", "ran past its limit of 4 s in run"),
    "hog": ("memory", "held more than 300 MiB in run"),
    "flock": ("ok", ""),
    "escapes": ("ok", ""),
    "segfaults": ("crashed", "killed by SIGSEGV in run"),
    "quits": ("crashed", "the process ended without a result (exit code 0) in run"),
    "system_exit": ("failed", "SystemExit: 3"),
    "threads": ("ok", ""),
    "floods": ("failed", "RuntimeError: after much talk"),
    "not_a_number": ("failed", "ValueError: error is nan, not a finite number"),
    "nonsense": ("failed", "TypeError: a mapping of names to numbers is expected, got str"),
    "kills_server": ("crashed", "the run took its fork server down with it in run"),
    "closes_all": ("ok", ""),
    "missing_module": (
        "failed", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
    ),
}  # fmt: skip


def ours(token: str) -> list[str]:
    """Command lines of processes that carry the study's mark."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            marked = f"PARAGONE_LAB={token}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if marked or "time.sleep(600)" in line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def after(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nasty")
    contestants = [small["contestant"]("mean"), small["contestant"]("median")]
    contestants += [
        Contestant(id=name, title=name, make=f"{HERE / 'nasty.py'}:{name}") for name in FATES
    ]
    study = small["study"](preload=("numpy",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paragone.lab.protocol.new_token", lambda: "nastytest")
        store = execute(
            study, small["request"](), contestants, [small["workload"]("w")], folder,
            repeats=2, run_limit=4.0, run_memory=300 << 20,
        )  # fmt: skip
    return store, {row["contestant"]: row for row in store.records() if row["block"] == 0}


@pytest.mark.parametrize("name", FATES)
def test_each_has_its_row(after, name):
    row = after[1][name]
    assert (row["status"], row["message"]) == FATES[name]


def test_no_process_is_left(after):
    assert ours("nastytest") == []


def test_others_are_unharmed(after, tmp_path):
    alone = execute(
        small["study"](preload=("numpy",)), small["request"](),
        [small["contestant"]("mean"), small["contestant"]("median")],
        [small["workload"]("w")], tmp_path, repeats=2,
    )  # fmt: skip
    expected = {(r["contestant"], r["block"]): r["values"]["error"] for r in alone.records()}
    found = {(r["contestant"], r["block"]): r for r in after[0].records()}
    assert len(expected) == 6
    for run, error in expected.items():
        assert found[run]["status"] == "ok"
        assert found[run]["values"]["error"] == error


def test_those_that_failed_are_not_run_again_and_said_so(after):
    store, _ = after
    failed = {name for name, (status, _) in FATES.items() if status != "ok"}
    again = {row["contestant"] for row in store.records() if row["block"] == 1}
    assert again == {"mean", "median", "mean~2"} | (set(FATES) - failed)
    assert {entry["contestant"] for entry in store.study["skipped"]} == failed
    assert store.study["complete"]


def test_logs_are_kept_and_bounded(after):
    store, rows = after

    def log(name):
        return (store.folder / rows[name]["log"]).read_text(encoding="utf-8", errors="replace")

    assert "RuntimeError: out of luck" in log("raises")
    assert "Traceback" in log("raises")
    assert "in hangs" in log("hangs")
    assert "Segmentation fault" in log("segfaults")
    assert "in segfaults" in log("segfaults")
    flood = log("floods")
    assert len(flood) < 300_000
    assert "bytes left out" in flood
    assert "the last line" in flood
    assert "after much talk" in flood
    assert rows["mean"]["log"] == ""
