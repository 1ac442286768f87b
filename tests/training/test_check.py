"""The command of `paragone.training.check`, as the ranks of torchrun run it."""

import socket
import sys
from contextlib import ExitStack

from tests.training.ranks import run_ranks

from paragone.training import check


def free_ports(count):
    """Ports that nothing listens on at the moment."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [one.getsockname()[1] for one in sockets]


def test_passes_and_fails_by_exit_code():
    commands = [
        ["zero", "--stage", "2", "--width", "65"],
        ["zero", "--stage", "3", "--width", "65", "--precision", "bf16", "--offload"],
        ["zero", "--stage", "1", "--width", "65", "--fast"],
        ["zero", "--stage", "3", "--width", "65", "--optimizer", "Muon"],
        ["zero", "--stage", "2", "--width", "65"],  # with a planted bug
    ]
    rows = run_ranks(
        3, "tests.training.zero_jobs:checked", commands, free_ports(len(commands)),
        timeout=60, init=False,
    )  # fmt: skip
    assert [[code for code, _ in row] for row in rows] == [[0, 0, 0, 0, 1]] * 3
    texts = [text for _, text in rows[0]]
    zero = "largest difference to one process: 0 (allowed 0)"
    assert [zero in text for text in texts] == [True, True, False, True, False]
    assert all("bytes a rank: " in text for text in texts)
    assert [text.split()[-1] for text in texts] == ["PASS"] * 4 + ["FAIL"]
    assert [text for _, text in rows[1]] == [""] * 5, "rank 0 alone speaks"


def test_without_torchrun_the_command_is_told(monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(sys, "argv", ["check.py", "zero", "--stage", "3"])
    assert check.main() == 2
    told = capsys.readouterr().err
    assert "torchrun --nproc-per-node 4 -m paragone.training.check zero --stage 3" in told


def test_checks_are_a_table():
    assert "zero" in check.CHECKS
    assert all(len(row) == 2 for row in check.CHECKS.values())
