r"""Newton boosting by several processes, on one machine or on many: the model of one process.

Each process holds a part of the rows and calls `fit(X, y, process_group=True)`. Only sums over
rows leave it: with $W_{r}[j, b]$ the histogram of a node over the rows of process r (whole numbers,
`_histogram`),

$$ W[j, b] = \sum_r W_r[j, b] , $$

which is exact in any order, so every process finds the same splits that one would; bin edges come
from whole columns, scales and leaves from sums in fixed point. **Equal, bit for bit, to the model
of one process on the rows of all shards one after the other**: edges, trees, gains, leaf values,
early stopping, whatever the number of processes and threads.

Cost: for each split one all-reduce of p x 256 words (the smaller child; the larger one is the
difference) and one of a word; once, 4 bytes for each value to find the edges. Losses that refit
leaves (absolute, quantile, Huber), GOSS and metrics gather a few numbers a row at one process.

What it does not do: `tree_method="exact"` and "approx", and `booster="gblinear"`, run in one
process only; an objective or metric of your own must treat rows one by one.

A process that dies or hangs raises `LostWorkerError` in all others, at the latest after `timeout`
seconds; with `checkpoint` the same call goes on from the last finished round.

From the shell, each process taking its part of the row groups:

    torchrun --nproc-per-node 2 -m paragone.ensemble.distributed train \
        --data train.parquet --target y --out model.json --set n_estimators=200

References:
    Chen & Guestrin (2016), "XGBoost", section 4 (all-reduced histograms).

Symbols: R processes, p columns.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import sys
from collections.abc import Sequence
from typing import Any

from paragone._core.network import choose_interface
from paragone.ensemble._share import LostWorkerError

__all__ = ["LostWorkerError", "connect", "disconnect", "main"]


def connect(
    *,
    rank: int | None = None,
    world_size: int | None = None,
    init_method: str | None = None,
    timeout: float = 60.0,
) -> tuple[int, int]:
    """Joins the other processes; call it once, before `fit(..., process_group=True)`.

    Under `torchrun` no argument is needed. Anywhere else (Dask, Ray, ssh) give each process its
    rank, their number, and one address, `"tcp://host:port"` of the process with rank 0.

    Args:
        rank: Number of this process, 0 to world_size - 1.
        world_size: Number of processes.
        init_method: Where to meet; see `torch.distributed.init_process_group`.
        timeout: Seconds to wait for the others.

    Returns:
        The rank and the number of processes.
    """
    import torch.distributed as dist

    if not dist.is_initialized():
        choose_interface()
        dist.init_process_group(
            "gloo",
            init_method=init_method,
            rank=-1 if rank is None else rank,
            world_size=-1 if world_size is None else world_size,
            timeout=datetime.timedelta(seconds=timeout),
        )
    return dist.get_rank(), dist.get_world_size()


def disconnect() -> None:
    """Leaves the other processes."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains on files from the shell; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="torchrun ... -m paragone.ensemble.distributed",
        description=(__doc__ or "").split("\n")[0],
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="fit to Parquet or CSV files and save the model")
    train.add_argument("--data", nargs="+", required=True, help="files or folders")
    train.add_argument("--target", required=True, help="column to predict")
    train.add_argument("--weight", help="column of row weights")
    train.add_argument("--eval", nargs="+", help="files to watch")
    train.add_argument("--task", choices=("classifier", "regressor"), default="classifier")
    train.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="parameters")
    train.add_argument("--out", required=True, help="JSON file for the model")
    train.add_argument("--cache", help="folder for the bins")
    train.add_argument("--checkpoint", help="file for finished rounds")
    train.add_argument("--timeout", type=float, default=60.0, help="seconds")
    options = parser.parse_args(arguments)
    from paragone.ensemble import NewtonBoostingClassifier, NewtonBoostingRegressor

    kind = {"classifier": NewtonBoostingClassifier, "regressor": NewtonBoostingRegressor}
    model = kind[options.task](**dict(_setting(text) for text in options.set))
    rank, size = connect(timeout=options.timeout)
    try:
        model.fit_files(
            options.data, target=options.target, sample_weight=options.weight,
            eval_set=options.eval, cache=options.cache, checkpoint=options.checkpoint,
            process_group=size > 1, timeout=options.timeout,
        )  # fmt: skip
    except LostWorkerError as error:
        print(f"rank {rank}: {error}; {error.rounds} rounds are finished", file=sys.stderr)
        return 3
    if rank == 0:
        model.save_model(options.out)
        print(f"{options.out}: {model.n_estimators_} rounds by {size} processes")
    disconnect()
    return 0


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text!r} is not NAME=VALUE, such as max_depth=8")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


if __name__ == "__main__":
    sys.exit(main())
