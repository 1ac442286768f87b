"""The protocol of a fair comparison: what runs, in which order, how often, and when to stop.

A *block* is (workload, split, seed): every contestant runs once in it, in random order, and
blocks repeat. A machine that slows down then falls on all alike, and differences are paired:
with load b_i of block i and true logarithmic costs m_A, m_B,

    log t_A,i - log t_B,i = m_A - m_B + noise,   b_i cancels.

Never all of A and then all of B: simulated drift of 15 % lets a method differ from itself in
17-29 % of such studies, and in 0-3 % of blocked ones. A hidden duplicate of one contestant
(`"gbdt~2"`) runs in every block of a timed study and measures that noise floor.

Blocks are added until the verdicts are clear, the most blocks are done, or the budget ends.
Everything is keyed (`plan`), so the same call continues where it was killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from paragone._core.errors import UsageError
from paragone.lab.build import source_digest, version_of
from paragone.lab.clusters import Cluster
from paragone.lab.engines import Engine, find_cluster, open_engine
from paragone.lab.plan import (
    DUPLICATE,
    Plan,
    block_range,
    check_names,
    run_limits,
    run_options,
    threads_of,
)
from paragone.lab.probe import fingerprint, machine_facts
from paragone.lab.runner import Outcome, Ticket, new_token, sweep
from paragone.lab.spec import PROTOCOL_VERSION, Block, Contestant, Job, Request, Study, Workload
from paragone.lab.store import SCHEMA, Store

__all__ = ["Event", "MismatchError", "execute"]


class MismatchError(UsageError):
    """Contestants of one block did not get the same data: the study cannot go on."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What just happened, for whoever shows progress.

    Attributes:
        kind: "study" (plan is known), "start" (a run starts), "run" (a run ended),
            "end" (the study ended, `status` says how). Engines on other machines tell no
            starts.
        contestant: Contestant id ("" for study events); hidden duplicates end in "~2".
        workload: Workload id.
        block: Index of the block.
        elapsed: Seconds of this run, or of this call.
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


class _Execution:
    """One call of `execute`: drives the plan, writes records, tells events."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        blocks: tuple[int, int],
        budget: float | None,
        grace: float,
        on_event: Callable[[Event], None] | None,
    ):
        self.plan, self.store, self.budget, self.grace = plan, store, budget, grace
        self.least, self.most = blocks
        self.on_event = on_event
        self.telling = threading.RLock()
        self.began = time.monotonic()
        self.spent = sum(row["wall"] for row in self._complete_rows())
        self.deadline = time.time() + budget - self.spent if budget else float("inf")

    # What is known.

    def _complete_rows(self) -> list[dict[str, Any]]:
        rows = self.store.records()
        names = sorted({(row["workload"], row["block"]) for row in rows})
        left = self.plan.open([self.plan.block(*name) for name in names], rows)
        whole = {name for name, missing in zip(names, left, strict=True) if not missing}
        return [row for row in rows if (row["workload"], row["block"]) in whole]

    def _counts(self) -> tuple[int, int, float | None]:
        """Runs done and planned, and the estimated seconds between them."""
        rows = self.store.records()
        last = max([row["block"] + 1 for row in rows] + [self.least])
        cost: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            cost.setdefault((row["contestant"], row["workload"]), []).append(row["wall"])
        known = {pair: sum(walls) / len(walls) for pair, walls in cost.items()}
        typical = sum(known.values()) / len(known) if known else 0.0
        over = self.plan.skipped(rows)
        done = {(row["contestant"], row["workload"], row["block"]) for row in rows}
        due = {
            (name, workload, index)
            for workload in self.plan.workloads
            for index in range(last)
            for name in self.plan.due(self.plan.block(workload, index), over)
        }
        left = sum(known.get(run[:2], typical) for run in due - done)
        if self.budget:
            left = min(left, max(self.deadline - time.time(), 0.0))
        return len(done), len(due | done), left if known else None

    def tell(self, kind: Any, ticket: Ticket | None = None, **more: Any) -> None:
        # Engines that run several at once tell starts from another thread.
        with self.telling:
            self._tell(kind, ticket, **more)

    def _tell(self, kind: Any, ticket: Ticket | None, **more: Any) -> None:
        done, planned, eta = self._counts()
        if ticket is not None:
            block = ticket.job.block
            more |= {
                "contestant": ticket.job.contestant.id,
                "workload": block.workload,
                "block": block.index,
            }
        event = Event(kind=kind, **{"done": done, "planned": planned, "eta": eta, **more})
        shown = {k: v for k, v in dataclasses.asdict(event).items() if k != "record"}
        state = {"start": "running", "run": "running", "study": "running"}.get(kind, event.status)
        self.store.progress(
            {**shown, "state": state, "since": time.time(), "study": self.plan.study.id}
        )
        if self.on_event is not None:
            self.on_event(event)

    # What is done.

    def tickets(self, block: Block, names: Sequence[str]) -> list[Ticket]:
        attempt = self.store.attempt(block.workload, block.index) if self.plan.study.timed else 0
        study, request = self.plan.study, self.plan.request
        found = []
        for name in names:
            job = Job(
                key=self.plan.key(name, block), task=study.task,
                contestant=self.plan.contestants[name],
                workload=self.plan.workloads[block.workload], block=block,
                threads=threads_of(self.plan.workloads[block.workload], request),
                device=request.device, quick=request.quick,
                tune=request.tune, options=run_options(study, request),
            )  # fmt: skip
            found.append(
                Ticket(
                    job=job, limit=self.plan.limit, memory=self.plan.memory,
                    deadline=self.deadline, extra={"attempt": attempt},
                )
            )  # fmt: skip
        return found

    def perform(self, engine: Engine, tickets: Sequence[Ticket]) -> bool:
        """Runs tickets and stores their records; false if the budget ended before all ran."""
        whole = True
        with contextlib.closing(engine.run(tickets, self._starting)) as results:
            for ticket, outcome in results:
                if outcome.status == "cut":
                    whole = False
                else:
                    row = self._record(ticket, outcome)
                    self.tell(
                        "run", ticket, elapsed=row["wall"], status=row["status"],
                        message=row["message"], record=row,
                    )  # fmt: skip
                outcome.discard()
        return whole

    def _starting(self, ticket: Ticket) -> None:
        if time.time() < self.deadline:
            self.tell("start", ticket)

    def _record(self, ticket: Ticket, outcome: Outcome) -> dict[str, Any]:
        job, block = ticket.job, ticket.job.block
        result = outcome.result
        self._check_same_work(job, result.get("digests", {}))
        record = {
            "key": job.key, "setup": self.plan.setups[f"{job.contestant.id}|{block.workload}"],
            "attempt": ticket.extra["attempt"], "contestant": job.contestant.id,
            "workload": block.workload, "block": block.index, "split": block.split,
            "seed": block.seed, "status": outcome.status, "message": outcome.message,
            "values": result.get("values", {}), "phases": result.get("phases", {}),
            "curves": result.get("curves", {}), "digests": result.get("digests", {}),
            "wall": round(outcome.wall, 6), "cpu": round(outcome.cpu, 6),
            "group_peak": outcome.peak, "load": outcome.load, "threads": job.threads,
            "limits": {"seconds": ticket.limit, "bytes": ticket.memory},
            "machine": outcome.machine, "versions": result.get("versions", {}),
        }  # fmt: skip
        return self.store.append(record, outcome.files)

    def _check_same_work(self, job: Job, digests: Mapping[str, str]) -> None:
        name, where = job.contestant.id, f"block {job.block.index} of {job.workload.id!r}"
        claimed = job.workload.digest
        if claimed and digests.get("data", claimed) != claimed:
            raise self._mismatch(
                f"{where}: {name} read data {digests['data'][:12]}, but the workload is "
                f"{claimed[:12]}; the input changed since the study was planned: run it again"
            )
        for row in self.store.records():
            if (row["workload"], row["block"]) != (job.block.workload, job.block.index):
                continue
            for kind in digests.keys() & row["digests"].keys():
                if digests[kind] != row["digests"][kind]:
                    raise self._mismatch(
                        f"{where}: {name} got {kind} {digests[kind][:12]}, but {row['contestant']} "
                        f"({row['id']}) got {row['digests'][kind][:12]}; contestants must get the "
                        "same bytes: make `load` depend on its arguments alone, then use --fresh"
                    )

    def _mismatch(self, message: str) -> MismatchError:
        self.store.study["error"] = message
        return MismatchError(message)

    def affordable(self, workload: str, index: int) -> bool:
        """Whether a block beyond the least fits into what the budget has left."""
        if not self.budget:
            return True
        costs: dict[int, float] = {}
        for row in self.store.records():
            if row["workload"] == workload and row["block"] < index:
                costs[row["block"]] = costs.get(row["block"], 0.0) + row["wall"]
        usual = sum(costs.values()) / len(costs) if costs else 0.0
        return time.time() + usual <= self.deadline

    def rounds(
        self, engine: Engine, unsettled: Callable[[Path], Collection[str]] | None
    ) -> Literal["settled", "most", "budget"]:
        """Adds rounds of blocks, one block a workload each, until nothing is left to learn."""
        active: Collection[str] = list(self.plan.workloads)
        looked_at = -1
        for index in range(self.most):
            rows = self.store.records()
            blocks = [self.plan.block(workload, index) for workload in self.plan.workloads]
            missing = self.plan.open(blocks, rows)
            if unsettled and index >= self.least and any(missing) and looked_at != len(rows):
                active, looked_at = self._look(unsettled, index), len(rows)
                if not active:
                    return "settled"
            todo = [
                (block, names)
                for block, names in zip(blocks, missing, strict=True)
                if names and block.workload in active
            ]
            fitting = [
                (block, names)
                for block, names in todo
                if index < self.least or self.affordable(block.workload, index)
            ]
            if todo and not fitting:
                return "budget"
            if not self._in_turn(engine, fitting, index):
                return "budget"
        return "most"

    def _in_turn(
        self, engine: Engine, units: Sequence[tuple[Block, Sequence[str]]], index: int
    ) -> bool:
        """Performs blocks; false if the budget left any of them out or cut it.

        Half a block compares few: with a budget, a workload's first block begins only if it
        fits at half of what runs took so far (workloads differ), and the time goes to others.
        The first of all may pass the budget by the grace; one that is cut is named.
        """
        if not (self.budget and index < self.least):
            return self.perform(engine, [t for unit in units for t in self.tickets(*unit)])
        whole = True
        for number, (block, names) in enumerate(units):
            walls = [row["wall"] for row in self.store.records()]
            usual = sum(walls) / len(walls) if walls else 0.0
            if number and time.time() + usual * len(names) / 2 > self.deadline:
                whole = False
                continue
            grace = 0.0 if self._complete_rows() else self.grace
            self.deadline += grace
            done = self.perform(engine, self.tickets(block, names))
            self.deadline -= grace
            if not done and index == 0:
                self.store.study["cut"] = block.workload
            whole = whole and done
        return whole

    def _look(self, unsettled: Callable[[Path], Collection[str]], index: int) -> Collection[str]:
        """Asks which workloads need another block, and counts the looks for alpha spending."""
        looks = index - self.least + 1
        self.store.study["looks"] = max(self.store.study.get("looks", 0), looks)
        self.store.save()
        return [
            workload for workload in unsettled(self.store.folder) if workload in self.plan.workloads
        ]


def execute(
    study: Study,
    request: Request,
    contestants: Sequence[Contestant],
    workloads: Sequence[Workload],
    folder: str | Path,
    *,
    budget: float | None = None,
    grace: float = 0.0,
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
    notes: Sequence[str] = (),
) -> Store:
    """Performs a study in `folder`, or continues the one that is there.

    A timed block that was interrupted is done again as a whole, so that its runs stay paired.
    A contestant that fails in its first two blocks on a workload is not run there again.

    Args:
        study: The question; its `blocks`, `reference`, `task` and `preload` are used.
        request: What the user asked for.
        contestants: Those to run (installed ones), without hidden duplicates.
        workloads: Inputs, with digests.
        folder: The study's folder, such as `runs/NAME`; made if absent.
        budget: Seconds for the whole study, over all calls (None: no limit).
        grace: Seconds by which the first block may pass it, so that all contestants have run once.
        repeats: Blocks a workload: n, or (least, most); None takes the study's own.
        run_limit: Seconds for one run (None: max(10, budget / 5), or 600 without a budget).
        run_memory: Bytes that one run's processes may hold (None: 80 % of the machine's;
            0: no limit).
        fresh: Forget what the folder holds and start again.
        engine: "local", "dask", "dask:HOST:PORT", "ray" or "ray:HOST:PORT".
        on_event: Called with each `Event`, never twice at a time.
        unsettled: Called as `unsettled(folder)` after each round of blocks from the least on;
            returns the ids of the workloads that need another block, none ends the study.
            `study.json` then holds `looks`, the number of calls so far, for spending alpha.
            Give `paragone.lab.summary.unsettled`. None: the least number of blocks is run.
        missing: Contestants that are not installed; only listed in `study.json`.
        command: The exact command that makes this study again.
        environment: What `doctor` says of the machine; stored.
        notes: What a reader must know of how it was asked for; stored.

    Returns:
        The closed store; `store.folder`, `store.study` (the dict of `study.json`) and
        `store.records()` can be read. `store.study["ended"]` is "settled", "most" or "budget",
        `store.study["cut"]` the workload in whose first block the budget ended, or "".

    Raises:
        UsageError: The folder holds another study, or another process is writing to it; no
            contestants or workloads.
        MissingPackageError: The engine's package is not installed.
        MismatchError: Contestants of one block read different data or splits.
        KeyboardInterrupt: Interrupted; `study.json` says so and the same call continues.
    """
    check_names(study, contestants, workloads)
    least, most = block_range(study, request, repeats)
    blocks = (least, most if unsettled else least)
    limit, memory = run_limits(budget, run_limit, run_memory)
    cluster = find_cluster(engine, request.threads)
    with cluster or contextlib.nullcontext(), Store(folder, fresh=fresh) as store:
        # Times belong to a machine: only then is a cluster asked which it is.
        machine = cluster.machine if cluster and study.timed else fingerprint()
        plan = Plan(study, request, contestants, workloads, machine, limit, memory)
        sweep(store.left_token)
        if cluster and store.left_token:
            cluster.end(store.left_token)
        found = store.study.get("study", study.id)
        if found != study.id:
            raise UsageError(
                f"{folder} holds the study {found!r}; choose another --out, or replace it: --fresh"
            )
        digest = plan.digest(budget, blocks)
        finished = store.study.get("plan") == digest and store.study.get("ended") in _FINAL
        asked = {
            "command": command, "blocks": list(blocks), "engine": engine, "budget_s": budget,
            "environment": {**machine_facts(), **(environment or {})}, "plan": digest,
            "missing": [_described(contestant) for contestant in missing], "notes": list(notes),
        }  # fmt: skip
        store.study = _told(plan, asked, store.study, finished)
        store.save()
        if finished:
            return store
        _drive(_Execution(plan, store, blocks, budget, grace, on_event), cluster, unsettled)
    return store


_FINAL = ("settled", "most", "budget")


def _told(
    plan: Plan, asked: Mapping[str, Any], before: Mapping[str, Any], finished: bool
) -> dict[str, Any]:
    """What `study.json` says when a call begins; what a finished study found stays."""
    study, request = plan.study, plan.request
    told = {
        "schema": SCHEMA, "protocol": PROTOCOL_VERSION, "study": study.id,
        "family": study.family, "question": study.question,
        "created": before.get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
        "request": dataclasses.asdict(request),
        "measures": [dataclasses.asdict(measure) for measure in study.measures],
        "workloads": [dataclasses.asdict(workload) for workload in plan.workloads.values()],
        "contestants": [_described(contestant) for contestant in plan.contestants.values()],
        "reference": plan.reference, "threads": request.threads, "timed": study.timed,
        "tuning": f"{request.tune} trials each" if request.tune else "defaults",
        "run_limit_s": plan.limit, "run_memory": plan.memory, "setups": plan.setups, **asked,
        "looks": 0, "skipped": [], "complaints": [], "ended": "", "cut": "", "complete": False,
    }  # fmt: skip
    kept: tuple[str, ...] = ("looks",) if before.get("plan") == asked["plan"] else ()
    if finished:
        kept = ("looks", "skipped", "complaints", "ended", "cut", "complete", "environment")
    return told | {name: before[name] for name in kept if name in before}


def _described(contestant: Contestant) -> dict[str, Any]:
    return dataclasses.asdict(contestant) | {
        "version": version_of(contestant),
        "source_digest": source_digest(contestant),
        "hidden": contestant.id.endswith(DUPLICATE),
    }


def _preload(study: Study) -> tuple[str, ...]:
    """The study's neutral modules, and the task's own, which every run needs."""
    module = study.task.rpartition(":")[0]
    return (*study.preload, *([] if module.endswith(".py") else [module]))


def _drive(
    execution: _Execution,
    cluster: Cluster | None,
    unsettled: Callable[[Path], Collection[str]] | None,
) -> None:
    """Runs the plan to its end and writes how it ended, whatever happens."""
    plan, store = execution.plan, execution.store
    study, request, token = plan.study, plan.request, new_token()
    store.mark(token)
    place = open_engine(
        cluster, threads=request.threads, preload=_preload(study), device=request.device,
        timed=study.timed, token=token, scratch=store.scratch,
    )  # fmt: skip
    ended = "interrupted"
    try:
        execution.tell("study")
        ended = execution.rounds(place, unsettled)
    except MismatchError:
        ended = "mismatch"
        raise
    finally:
        place.close()
        rows = store.records()
        store.study["skipped"] = [
            {"contestant": name, "workload": workload, "after": row["id"], "status": row["status"]}
            for (name, workload), row in plan.skipped(rows).items()
        ]
        least = [plan.block(w, i) for w in plan.workloads for i in range(execution.least)]
        store.study["ended"], store.study["complaints"] = ended, place.complaints()
        store.study["complete"] = ended in _FINAL and not any(plan.open(least, rows))
        store.save()
        elapsed = time.monotonic() - execution.began
        execution.tell("end", elapsed=elapsed, status=ended)
