"""Checks of the training systems on the processes that are there, started by torchrun.

    torchrun --nproc-per-node 4 -m paragone.training.check zero --stage 2

compares `Zero` on four ranks with one process's optimizer, prints the largest difference (0 in
ordered mode), the bytes a rank and PASS or FAIL, and exits with 0 or 1. A check is a module with
`add_arguments(parser)` and `run(arguments) -> bool`; one more line in `CHECKS` adds it. Nothing
heavy is imported before the arguments are read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from paragone._core.lazy import resolve
from paragone._core.network import choose_interface

__all__ = ["CHECKS", "main"]

CHECKS = {
    "zero": ("paragone.training._check_zero", "ZeRO against one process, bit by bit"),
}
"""Name of a check to the module that holds it, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one check; returns the exit code: 0 passed, 1 failed, 2 not started by torchrun.

    Args:
        arguments: Command line without the program; None takes that of the process.
    """
    parser = argparse.ArgumentParser(
        prog="torchrun --nproc-per-node N -m paragone.training.check", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds of any one wait")
    checks = parser.add_subparsers(dest="check", required=True)
    for name, (module, text) in CHECKS.items():
        resolve(module).add_arguments(checks.add_parser(name, help=text))
    given = parser.parse_args(arguments)
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        words = " ".join(sys.argv[1:] if arguments is None else arguments)
        print(
            "this check needs several processes; start it with\n"
            f"    torchrun --nproc-per-node 4 -m paragone.training.check {words}",
            file=sys.stderr,
        )
        return 2
    return 0 if _with_group(CHECKS[given.check][0], given) else 1


def _with_group(module: str, given: argparse.Namespace) -> bool:
    """Runs a check inside a process group whose waits are bounded."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    if torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 0:
        device, backend = f"cuda:{os.environ.get('LOCAL_RANK', '0')}", "nccl"
        torch.cuda.set_device(device)
    else:
        device, backend = "cpu", "gloo"
        torch.set_num_threads(1)
    choose_interface()
    dist.init_process_group(backend, timeout=timedelta(seconds=given.timeout))
    try:
        return resolve(f"{module}:run")(given, device)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # gloo's threads can abort the interpreter's own end, after everything has been said.
    os._exit(code)
