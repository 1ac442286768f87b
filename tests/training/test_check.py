"""The command of `paragone.training.check`, as the ranks of torchrun run it."""

import sys

from tests.training.ranks import run_ranks

from paragone.training import check


def test_passes_and_fails_by_exit_code():
    commands = [
        ["zero", "--stage", "2", "--width", "65"],
        ["zero", "--stage", "3", "--width", "65", "--precision", "bf16", "--offload"],
        ["zero", "--stage", "1", "--width", "65", "--fast", "--optimizer", "paragone.AdamW"],
        ["zero", "--stage", "3", "--width", "65", "--optimizer", "Muon"],
    ]
    for bug in (False, True):
        told = commands if not bug else commands[:1]
        rows = run_ranks(3, "tests.training.zero_jobs:checked", told, bug, timeout=60, init=False)
        codes = [[code for code, _ in row] for row in rows]
        assert codes == [[int(bug)] * len(told)] * 3
        text = rows[0][0][1]
        assert ("largest difference to one process: 0 (allowed 0)" in text) != bug
        assert "bytes a rank: " in text
        assert text.rstrip().endswith("FAIL" if bug else "PASS")
        assert rows[1][0][1] == "", "rank 0 alone speaks"


def test_without_torchrun_the_command_is_told(monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(sys, "argv", ["check.py", "zero", "--stage", "3"])
    assert check.main() == 2
    told = capsys.readouterr().err
    assert "torchrun --nproc-per-node 4 -m paragone.training.check zero --stage 3" in told


def test_checks_are_a_table():
    assert "zero" in check.CHECKS
    assert all(len(row) == 2 for row in check.CHECKS.values())
