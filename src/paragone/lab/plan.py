"""What a study's runs are: keys, blocks, random order, hidden duplicate, who is skipped.

Pure bookkeeping over records, without side effects: the same records give the same plan, so a
study that was killed knows what is left. A run's key is a hash of all that its result depends
on; what is not in the key (the place of a file, the budget) may change between two calls.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab.build import locate, source_digest, version_of
from paragone.lab.probe import machine_facts
from paragone.lab.spec import PROTOCOL_VERSION, Block, Contestant, Request, Study, Workload

__all__ = [
    "DUPLICATE", "Plan", "block_order", "block_range", "check_names", "run_key", "run_limits",
    "run_options", "setup_key", "threads_of",
]  # fmt: skip

DUPLICATE = "~2"
"""Ends the id of a hidden duplicate."""

_EARLY = 2
_VIEW = ("prefer", "max_latency", "max_memory")
_LEAST_LIMIT, _FREE_LIMIT, _LIMIT_SHARE = 10.0, 600.0, 5
_MEMORY_SHARE = 0.8


def run_options(study: Study, request: Request) -> dict[str, Any]:
    """Returns the options that a task gets: the study's, then the user's.

    What only chooses among finished runs (`--prefer`, `--max-latency`, `--max-memory`) is left
    out, so that asking for another choice measures nothing again.
    """
    asked = {name: value for name, value in request.options.items() if name not in _VIEW}
    return {**study.options, **asked}


def _hash(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def _task_digest(task: str) -> str:
    return _hash(*(path.read_bytes().hex() for path in locate(task) if path.is_file()))


def threads_of(workload: Workload, request: Request) -> int:
    """Returns a run's threads: the study's, or those of a workload that asks how they scale."""
    return int(workload.facts.get("threads") or request.threads)


def setup_key(
    study: Study, request: Request, contestant: Contestant, workload: Workload, machine: str
) -> str:
    """Hashes all that a run is, but its block.

    Contestant, version, source and parameters; the workload's digest and parameters (not the
    places of its files); task and options; threads, device, tuning, protocol version; and the
    machine where times are compared.
    """
    make = contestant.make
    if ".py:" in make:
        make = make.rpartition("/")[2]
    place_free = {
        name: value
        for name, value in workload.params.items()
        if not (
            isinstance(value, str)
            and value.startswith("/")
            and (workload.digest or name == "cache")
        )
    }
    task = study.task.rpartition("/")[2]
    return _hash(
        PROTOCOL_VERSION, study.id, task, _task_digest(study.task), run_options(study, request),
        request.quick, request.tune, threads_of(workload, request), request.device,
        contestant.id, make, contestant.params, contestant.start, version_of(contestant),
        source_digest(contestant), workload.id, workload.load.rpartition("/")[2], place_free,
        workload.digest, workload.facts, machine if study.timed else "",
    )  # fmt: skip


def run_key(setup: str, block: Block) -> str:
    """Hashes a run: its setup and its block. Records with the same key are the same run.

    Limits are not part of it: only a run that was stopped at a limit depends on that, and it
    is done again when it may take longer now.
    """
    return _hash(setup, block.index, block.split, block.seed)


def block_order(names: Sequence[str], block: Block) -> list[str]:
    """Returns the contestants' random order in a block, the same whenever it is asked for.

    Example:
        >>> sorted(block_order(["a", "b"], Block(workload="w", index=0, split=0, seed=0)))
        ['a', 'b']
    """
    order = sorted(names)
    random.Random(f"{block.workload}|{block.index}|{block.seed}").shuffle(order)
    return order


class Plan:
    """Who runs where, what is done, what is due.

    Args:
        study: The question.
        request: What the user asked for.
        contestants: Those to run, without hidden duplicates.
        workloads: Inputs.
        machine: Fingerprint that timed runs belong to.
        limit: Seconds of one run.
        memory: Bytes of one run.

    Attributes:
        contestants: Id to contestant, the hidden duplicate last.
        workloads: Id to workload.
        reference: Contestant that runs twice ("" : none).
        setups: "contestant|workload" to `setup_key`, for pairs that meet.
    """

    def __init__(
        self,
        study: Study,
        request: Request,
        contestants: Sequence[Contestant],
        workloads: Sequence[Workload],
        machine: str,
        limit: float,
        memory: int,
    ):
        self.study, self.request = study, request
        self.workloads = {workload.id: workload for workload in workloads}
        self.reference = ""
        self.contestants = {contestant.id: contestant for contestant in contestants}
        if study.timed and study.reference:
            names = list(self.contestants)
            self.reference = study.reference if study.reference in names else names[0]
            original = self.contestants[self.reference]
            twin = dataclasses.replace(original, id=original.id + DUPLICATE)
            self.contestants[twin.id] = twin
        self.limit, self.memory = limit, memory
        self.setups = {
            f"{c.id}|{w.id}": setup_key(study, request, c, w, machine)
            for w in workloads
            for c in self.contestants.values()
            if all(w.facts.get(fact) in allowed for fact, allowed in c.needs.items())
        }

    def digest(self, budget: float | None, blocks: tuple[int, int]) -> str:
        return _hash(self.setups, budget, blocks, self.limit, self.memory)

    def block(self, workload: str, index: int) -> Block:
        splits = max(self.workloads[workload].splits, 1)
        seed = (self.request.seed * 1000 + index) % 2**31
        return Block(workload=workload, index=index, split=index % splits, seed=seed)

    def key(self, contestant: str, block: Block) -> str:
        return run_key(self.setups[f"{contestant}|{block.workload}"], block)

    def skipped(self, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Any]:
        """Those that failed in the first two blocks, or twice: they are not run again.

        Returns:
            (contestant, workload) to the record after which no run is due.
        """
        failures: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: row["block"]):
            if row["status"] != "ok" and self._stands(row):
                failures.setdefault((row["contestant"], row["workload"]), []).append(row)
        decisive = {
            pair: failed[0 if failed[0]["block"] < _EARLY else 1 :]
            for pair, failed in failures.items()
        }
        return {pair: failed[0] for pair, failed in decisive.items() if failed}

    def due(self, block: Block, over: Mapping[tuple[str, str], Any]) -> list[str]:
        """Contestants whose runs belong to this block, in their random order.

        Args:
            block: The block.
            over: What `skipped` returned.
        """
        names = []
        for name in self.contestants:
            last = over.get((name, block.workload))
            if f"{name}|{block.workload}" in self.setups and (
                last is None or block.index <= last["block"]
            ):
                names.append(name)
        return block_order(names, block)

    def open(self, blocks: Sequence[Block], rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
        """For each block, who still has to run; all of a timed block if any is missing."""
        over = self.skipped(rows)
        finished = {row["key"] for row in rows if self._stands(row)}
        found = []
        for block in blocks:
            due = self.due(block, over)
            left = [name for name in due if self.key(name, block) not in finished]
            found.append(due if left and self.study.timed else left)
        return found

    def _stands(self, row: Mapping[str, Any]) -> bool:
        limits = row["limits"]
        if row["status"] == "timeout":
            return limits["seconds"] >= self.limit
        if row["status"] == "memory":
            return limits["bytes"] >= self.memory
        return True


def run_limits(
    budget: float | None, run_limit: float | None, run_memory: int | None
) -> tuple[float, int]:
    """Returns the seconds and bytes of one run: those asked for, or shares of what there is."""
    if budget is not None and budget <= 0:
        raise UsageError(f"budget of {budget:g} s: a study needs more than 0 seconds")
    if run_limit is None:
        run_limit = max(_LEAST_LIMIT, budget / _LIMIT_SHARE) if budget else _FREE_LIMIT
    if run_memory is None:
        run_memory = int(_MEMORY_SHARE * machine_facts()["memory"])
    return run_limit, run_memory


def block_range(
    study: Study, request: Request, repeats: int | tuple[int, int] | None
) -> tuple[int, int]:
    """Returns the least and the most blocks a workload."""
    usual = study.quick_blocks if request.quick else study.blocks
    least, most = (repeats, repeats) if isinstance(repeats, int) else repeats or usual
    if not 1 <= least <= most:
        raise UsageError(f"repeats ({least}, {most}): 1 <= least <= most is needed")
    return least, most


def check_names(
    study: Study, contestants: Sequence[Contestant], workloads: Sequence[Workload]
) -> None:
    """Raises `UsageError` unless there are contestants and workloads, each with its own id."""
    for kind, named in (("contestant", contestants), ("workload", workloads)):
        ids = [item.id for item in named]
        if not ids:
            raise UsageError(f"study {study.id!r}: no {kind}s to run")
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise UsageError(f"{kind} {twice[0]!r} is there twice; give each its own id")
        odd = [name for name in ids if "|" in name or "/" in name or name.endswith(DUPLICATE)]
        if odd:
            raise UsageError(f"{kind} id {odd[0]!r}: '|', '/' and a final '~2' are reserved")
