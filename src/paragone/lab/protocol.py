"""The protocol of a fair comparison: what runs, in which order, how often, and when to stop.

A *block* is (workload, split, seed): every contestant runs once in it, in random order, and
blocks repeat, so that drift of the machine falls on all alike. See `execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paragone.lab.spec import Contestant, Request, Study, Workload
from paragone.lab.store import Store

__all__ = ["Event", "MismatchError", "execute"]


class MismatchError(RuntimeError):
    """Contestants of one block did not get the same data: the study cannot go on."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What just happened, for whoever shows progress.

    Attributes:
        kind: "study" (plan is known), "start" (a run starts), "run" (a run ended),
            "end" (the study ended, `status` says how).
        contestant: Contestant id ("" for study events); hidden duplicates end in "~2".
        workload: Workload id.
        block: Index of the block.
        elapsed: Seconds of this run, or of the study.
        status: The run's status; at the end "settled", "most", "budget" or "interrupted".
        message: The error's last line.
        done: Finished runs of the plan.
        planned: Runs of the plan, as far as it is known now.
        eta: Seconds until the plan is done, None while nothing is known.
        record: The run's record, for "run".
    """

    kind: Literal["study", "start", "run", "end"]
    contestant: str = ""
    workload: str = ""
    block: int = -1
    elapsed: float = 0.0
    status: str = ""
    message: str = ""
    done: int = 0
    planned: int = 0
    eta: float | None = None
    record: Mapping[str, Any] | None = None


def execute(
    study: Study,
    request: Request,
    contestants: Sequence[Contestant],
    workloads: Sequence[Workload],
    folder: str | Path,
    *,
    budget: float | None = None,
    repeats: int | tuple[int, int] | None = None,
    run_limit: float | None = None,
    run_memory: int | None = None,
    fresh: bool = False,
    engine: str = "local",
    on_event: Callable[[Event], None] | None = None,
    unsettled: Callable[[Path], Collection[str]] | None = None,
    missing: Sequence[Contestant] = (),
    command: str = "",
    environment: Mapping[str, Any] | None = None,
) -> Store:
    """Performs a study in `folder`, or continues the one that is there.

    Args:
        study: The question; its `blocks`, `reference`, `task` and `preload` are used.
        request: What the user asked for.
        contestants: Those to run (installed ones), without hidden duplicates.
        workloads: Inputs, with digests.
        folder: The study's folder, such as `runs/NAME`; made if absent.
        budget: Seconds for the whole study, over all calls (None: no limit).
        repeats: Blocks a workload: n, or (least, most); None takes the study's own.
        run_limit: Seconds for one run (None: max(10, budget / 5), or 600 without a budget).
        run_memory: Bytes that one run's processes may hold (None: 80 % of the machine's).
        fresh: Forget what the folder holds and start again.
        engine: "local", "dask", "dask:tcp://host:port", or "ray".
        on_event: Called with each `Event`, from this thread or the engine's dispatcher,
            never twice at a time.
        unsettled: Called as `unsettled(folder)` after each round of blocks from the least on;
            returns the ids of the workloads that need another block, none ends the study.
            `study.json` then holds `looks`, the number of calls so far, for spending alpha.
            Give `paragone.lab.summary.unsettled`. None: the least number of blocks is run.
        missing: Contestants that are not installed; only listed in `study.json`.
        command: The exact command that makes this study again.
        environment: What `doctor` says of the machine; stored.

    Returns:
        The closed store; `store.folder`, `store.study` (the dict of `study.json`) and
        `store.records()` can be read. `store.study["ended"]` is "settled", "most" or "budget".

    Raises:
        UsageError: The folder holds another study, or another process is writing to it; no
            contestants or workloads.
        MissingPackageError: The engine's package is not installed.
        MismatchError: Contestants of one block read different data or splits.
        KeyboardInterrupt: Interrupted; `study.json` says so and the same call continues.
    """
    raise NotImplementedError
