"""Where runs happen: on this machine, or on a Dask or Ray cluster (`clusters`).

The same function performs the same run, whoever carries it there. What is timed goes one run at
a time: locally in sequence, on a cluster a whole block at once to one machine (its contestants
stay paired). Runs whose quality alone counts go to all places at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab.clusters import Cluster, DaskCluster, RayCluster, Setting
from paragone.lab.runner import Outcome, Server, Ticket

__all__ = ["ClusterEngine", "Engine", "LocalEngine", "find_cluster", "open_engine"]

OnStart = Callable[[Ticket], None]
Results = Generator[tuple[Ticket, Outcome], None, None]


class LocalEngine:
    """Runs on this machine, `places` at a time.

    Args:
        setting: What the fork servers are started with.
        scratch: Folder for running runs.
        places: Runs at once; 1 for timed studies.
    """

    def __init__(self, setting: Setting, scratch: Path, places: int):
        self.places = places
        self._free = [
            Server(
                threads=setting.threads, preload=setting.preload, device=setting.device,
                token=setting.token, scratch=scratch,
            )
            for _ in range(places)
        ]  # fmt: skip
        self._servers = list(self._free)
        self._closed = threading.Event()

    def run(self, tickets: Sequence[Ticket], on_start: OnStart) -> Results:
        """Performs the runs and yields each as it ends; in the given order with one place."""
        if self.places == 1:
            for ticket in tickets:
                on_start(ticket)
                yield ticket, self._perform(ticket)
            return
        import joblib

        starting = (self._starting(ticket, on_start) for ticket in tickets)
        how: Any = {"batch_size": 1, "pre_dispatch": self.places}
        parallel: Any = joblib.Parallel(
            n_jobs=self.places, backend="threading", return_as="generator_unordered", **how
        )
        results = parallel(joblib.delayed(self._place)(ticket) for ticket in starting)
        try:
            for result in results:  # noqa: UP028 - `yield from` would close joblib's side first
                yield result
        except BaseException:
            # What still runs must die first: joblib waits for its threads.
            self.close()
            raise

    @staticmethod
    def _starting(ticket: Ticket, on_start: OnStart) -> Ticket:
        on_start(ticket)
        return ticket

    def _place(self, ticket: Ticket) -> tuple[Ticket, Outcome]:
        return ticket, self._perform(ticket)

    def _perform(self, ticket: Ticket) -> Outcome:
        if self._closed.is_set():
            return Outcome(status="cut")
        server = self._free.pop()
        try:
            return server.perform(ticket)
        finally:
            self._free.append(server)

    def complaints(self) -> list[str]:
        """What could not be preloaded here, and why; runs are slower to start for it."""
        return sorted({text for server in self._servers for text in server.complaints})

    def close(self) -> None:
        """Kills what runs and ends the servers."""
        self._closed.set()
        for server in self._servers:
            server.close()


class ClusterEngine:
    """Runs on a cluster.

    Args:
        setting: What the fork servers are started with.
        cluster: Where they go.
        timed: Send whole blocks, one at a time on each machine.
    """

    def __init__(self, setting: Setting, cluster: Cluster, timed: bool):
        self.setting, self.cluster, self.timed = setting, cluster, timed

    def run(self, tickets: Sequence[Ticket], on_start: OnStart) -> Results:
        """Performs the runs and yields each as its answer arrives; starts are not seen here."""
        units = [[ticket] for ticket in tickets]
        if self.timed:
            blocks: dict[tuple[str, int], list[Ticket]] = {}
            for ticket in tickets:
                block = (ticket.job.block.workload, ticket.job.block.index)
                blocks.setdefault(block, []).append(ticket)
            units = list(blocks.values())
        with closing(self.cluster.perform(units, self.setting, self.timed)) as answers:
            for outcomes in answers:
                yield from outcomes

    def complaints(self) -> list[str]:
        """Nothing: servers elsewhere do not tell."""
        return []

    def close(self) -> None:
        """Lets go of the cluster."""
        self.cluster.close()


Engine = LocalEngine | ClusterEngine


def find_cluster(name: str, threads: int) -> Cluster | None:
    """The cluster that the user named, not yet reached; None is this machine.

    Args:
        name: "local", "dask", "dask:HOST:PORT", "ray" or "ray:HOST:PORT"; "dask://HOST:PORT" is
            the same, and "ray://HOST:PORT" Ray's client. Without an address what the environment
            names (DASK_SCHEDULER_ADDRESS, RAY_ADDRESS), or workers on this machine.
        threads: Threads of each run.

    Raises:
        UsageError: No engine of this name.
        MissingPackageError: Its package is not installed.
    """
    kind, _, address = name.partition(":")
    if name == "local":
        return None
    if kind == "dask":
        return DaskCluster(address.removeprefix("//"), threads)
    if kind == "ray":
        return RayCluster(name if address.startswith("//") else address, threads)
    raise UsageError(f"engine {name!r}: local, dask, dask:ADDRESS, ray or ray:ADDRESS is known")


def open_engine(
    cluster: Cluster | None,
    *,
    threads: int,
    preload: Sequence[str],
    device: str,
    timed: bool,
    token: str,
    scratch: Path,
) -> Engine:
    """Opens the engine of a study.

    Args:
        cluster: Where runs go; None is this machine.
        threads: Threads of each run.
        preload: Neutral modules for the fork servers.
        device: "cpu" or "cuda".
        timed: Whether times are compared: then one run at a time on a machine.
        token: The study's mark.
        scratch: Folder for local runs.
    """
    setting = Setting(threads=threads, preload=tuple(preload), device=device, token=token)
    if cluster is not None:
        return ClusterEngine(setting, cluster, timed)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    alone = timed or device.startswith("cuda")
    return LocalEngine(setting, scratch, 1 if alone else max(1, cores // threads))
