"""Where runs happen: on this machine, or through joblib on a Dask or Ray cluster.

joblib is the seam: the same function performs the same run, whoever carries it there. Every
place keeps its own fork server, so a run is one fresh process everywhere. What is timed goes
one run at a time: locally in sequence, elsewhere a whole block at once to one machine (its
contestants stay paired) under a lock that each machine grants to one block. Runs whose quality
alone counts go to all places at once.

Workloads are read where the run is: on a cluster, their paths must exist on every machine.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragone._core.errors import MissingPackageError, UsageError
from paragone._core.private import open_private
from paragone.lab.runner import Outcome, Server, Ticket

__all__ = ["ClusterEngine", "Engine", "LocalEngine", "open_engine"]

OnStart = Callable[[Ticket], None]
Results = Generator[tuple[Ticket, Outcome], None, None]


@dataclass(frozen=True, kw_only=True)
class _Setting:
    threads: int
    preload: tuple[str, ...]
    device: str
    token: str


class LocalEngine:
    """Runs on this machine, `places` at a time.

    Args:
        setting: What the fork servers are started with.
        scratch: Folder for running runs.
        places: Runs at once; 1 for timed studies.
    """

    def __init__(self, setting: _Setting, scratch: Path, places: int):
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


_servers: dict[_Setting, Server] = {}
_guard = threading.Lock()


def _perform_there(
    tickets: Sequence[Ticket], setting: _Setting, alone: bool
) -> list[tuple[Ticket, Outcome]]:
    """Performs runs on whatever machine this is called; files come back as bytes."""
    with _guard, _machine_lock() if alone else nullcontext():
        if setting not in _servers:
            _servers[setting] = Server(
                threads=setting.threads, preload=setting.preload, device=setting.device,
                token=setting.token,
            )  # fmt: skip
            atexit.register(_servers[setting].close)
        outcomes = []
        for ticket in tickets:
            outcome = _servers[setting].perform(ticket)
            outcome.files = {name: path.read_bytes() for name, path in outcome.files.items()}
            outcome.discard()
            outcome.folder = None
            outcomes.append((ticket, outcome))
        return outcomes


@contextmanager
def _machine_lock() -> Iterator[None]:
    """Held by the one timed block that runs on this machine; waits for it."""
    path = Path(tempfile.gettempdir()) / f"paragone-timed-{os.getuid()}.lock"
    with os.fdopen(open_private(path), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class ClusterEngine:
    """Runs wherever a joblib back end carries them.

    Args:
        setting: What the fork servers are started with.
        backend: joblib's name of the back end, registered.
        timed: Send whole blocks, one at a time on each machine.
        cleanup: Closed with the engine.
    """

    def __init__(self, setting: _Setting, backend: str, timed: bool, cleanup: ExitStack):
        self.setting, self.backend, self.timed = setting, backend, timed
        self._cleanup = cleanup

    def run(self, tickets: Sequence[Ticket], on_start: OnStart) -> Results:
        """Performs the runs and yields each as its answer arrives; starts are not seen here."""
        import joblib

        units = [[ticket] for ticket in tickets]
        if self.timed:
            blocks: dict[tuple[str, int], list[Ticket]] = {}
            for ticket in tickets:
                block = (ticket.job.block.workload, ticket.job.block.index)
                blocks.setdefault(block, []).append(ticket)
            units = list(blocks.values())
        # Ray's back end cannot stream: a round of blocks arrives as one list.
        order = "list" if self.backend == "ray" else "generator_unordered"
        with joblib.parallel_config(backend=self.backend):
            how: Any = {"batch_size": 1, "return_as": order}
            parallel: Any = joblib.Parallel(n_jobs=-1, **how)
            calls = (joblib.delayed(_perform_there)(u, self.setting, self.timed) for u in units)
            for outcomes in parallel(calls):
                yield from outcomes

    def complaints(self) -> list[str]:
        """Nothing: servers elsewhere do not tell."""
        return []

    def close(self) -> None:
        """Lets go of the cluster."""
        self._cleanup.close()


Engine = LocalEngine | ClusterEngine


def open_engine(
    name: str,
    *,
    threads: int,
    preload: Sequence[str],
    device: str,
    timed: bool,
    token: str,
    scratch: Path,
) -> Engine:
    """Opens the engine that the user named.

    Args:
        name: "local", "dask", "dask:tcp://host:port", "ray", or "ray:ADDRESS". Without an
            address Dask uses the current client, or starts workers on this machine.
        threads: Threads of each run.
        preload: Neutral modules for the fork servers.
        device: "cpu" or "cuda".
        timed: Whether times are compared: then one run at a time on a machine.
        token: The study's mark.
        scratch: Folder for local runs.

    Raises:
        UsageError: No engine of this name.
        MissingPackageError: Its package is not installed.
    """
    setting = _Setting(threads=threads, preload=tuple(preload), device=device, token=token)
    kind, _, address = name.partition(":")
    if kind == "local":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        alone = timed or device.startswith("cuda")
        return LocalEngine(setting, scratch, 1 if alone else max(1, cores // threads))
    if kind == "dask":
        return ClusterEngine(setting, "dask", timed, _enter_dask(address, threads))
    if kind == "ray":
        return ClusterEngine(setting, "ray", timed, _enter_ray(address))
    raise UsageError(f"engine {name!r}: local, dask, dask:ADDRESS, ray or ray:ADDRESS is known")


def _enter_dask(address: str, threads: int) -> ExitStack:
    try:
        import distributed
    except ImportError as error:
        raise MissingPackageError(
            "--engine dask needs dask: pip install 'dask[distributed]'"
        ) from error
    stack = ExitStack()
    if address:
        stack.enter_context(distributed.Client(address))
        return stack
    try:
        distributed.get_client()
    except ValueError:
        places = max(1, (os.cpu_count() or 1) // threads)
        # None: no dashboard; Dask's own annotation forgets that.
        quiet: Any = {"dashboard_address": None}
        cluster = distributed.LocalCluster(n_workers=places, threads_per_worker=1, **quiet)
        stack.enter_context(cluster)
        stack.enter_context(distributed.Client(cluster))
    return stack


def _enter_ray(address: str) -> ExitStack:
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.util.joblib import register_ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingPackageError("--engine ray needs ray: pip install ray") from error
    stack = ExitStack()
    if not ray.is_initialized():
        ray.init(address=address or None)
        stack.callback(ray.shutdown)
    register_ray()
    return stack
