"""Runs on a Dask or Ray cluster: blocks of runs go out, outcomes come back as they are done.

Every worker keeps its own fork server, so a run is one fresh process there, too. A block comes
back whole or not at all: when its worker dies, the cluster gives it to another one, and what the
dead worker had measured of it is forgotten, so that nothing is lost and nothing counted twice.
What is timed holds a lock of its machine, so that one timed run is on a machine at a time,
however many workers there are.

Workloads are read where the run is: their paths must exist on every machine, and every machine
needs this version of paragone.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from paragone import __version__
from paragone._core.errors import MissingPackageError, UsageError
from paragone._core.private import open_private
from paragone.lab.probe import fingerprint
from paragone.lab.runner import Outcome, Server, Ticket, sweep

__all__ = ["Cluster", "DaskCluster", "LostClusterError", "RayCluster", "Setting", "perform_there"]

PATIENCE = 15.0
"""Seconds in which a cluster must answer."""

IDLE = 60.0
"""Seconds after which a fork server without work ends."""

Unit = Sequence[Ticket]
Done = list[tuple[Ticket, Outcome]]


class LostClusterError(UsageError):
    """The cluster is gone, or its workers die again and again; what was measured is kept."""

    def __init__(self, why: str):
        super().__init__(f"{why}; what was measured is kept, the same command goes on from here")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What fork servers are started with.

    Attributes:
        threads: Threads of each run.
        preload: Neutral modules.
        device: "cpu" or "cuda".
        token: The study's mark.
        version: The version of paragone that asks.
    """

    threads: int
    preload: tuple[str, ...]
    device: str
    token: str
    version: str = __version__


# On the machine of a worker.

_free: dict[Setting, dict[float, Server]] = {}
_ended: set[str] = set()
_guard = threading.Lock()


def perform_there(tickets: Unit, setting: Setting, alone: bool) -> Done:
    """Performs runs on whatever machine this is called; files come back as bytes.

    Args:
        tickets: What to run, in this order.
        setting: What the fork server is started with.
        alone: Whether no other timed run may be on this machine meanwhile.

    Raises:
        UsageError: Another version of paragone is installed here.
    """
    if setting.version != __version__:
        raise UsageError(
            f"a worker has paragone {__version__}, and {setting.version} asks it for runs; "
            "install one version on all machines"
        )
    with _machine_lock() if alone else nullcontext():
        server = _taken(setting)
        try:
            return [(ticket, _outcome(server, ticket, setting.token)) for ticket in tickets]
        finally:
            _give_back(setting, server)


def _taken(setting: Setting) -> Server:
    with _guard:
        if waiting := _free.get(setting):
            return waiting.popitem()[1]
    scratch = _scratch()
    server = Server(
        threads=setting.threads, preload=setting.preload, device=setting.device,
        token=setting.token, scratch=scratch,
    )  # fmt: skip
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    atexit.register(server.close)
    return server


def _give_back(setting: Setting, server: Server) -> None:
    """Keeps a server for the next unit; when none comes it ends, or studies would leave theirs."""
    stamp = time.monotonic()
    with _guard:
        _free.setdefault(setting, {})[stamp] = server
    timer = threading.Timer(IDLE, _retire, (setting, stamp))
    timer.daemon = True
    timer.start()


def _retire(setting: Setting, stamp: float) -> None:
    with _guard:
        server = _free[setting].pop(stamp, None)
    if server is not None:
        server.close()
        shutil.rmtree(server.scratch, ignore_errors=True)


def _scratch() -> Path:
    """A folder for runs; those of workers that were killed on this machine are removed."""
    place = Path(tempfile.gettempdir())
    for left in place.glob("paragone-worker-*-*"):
        number = left.name.split("-")[2]
        if number.isdigit() and not _alive(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"paragone-worker-{os.getpid()}-", dir=place))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _outcome(server: Server, ticket: Ticket, token: str) -> Outcome:
    if token in _ended:
        return Outcome(status="cut")
    outcome = server.perform(ticket)
    outcome.files = {name: path.read_bytes() for name, path in outcome.files.items()}
    outcome.discard()
    outcome.folder = None
    return outcome


@contextmanager
def _machine_lock() -> Iterator[None]:
    """Held by the one timed block that runs on this machine; waits for it."""
    path = Path(tempfile.gettempdir()) / f"paragone-timed-{os.getuid()}.lock"
    with os.fdopen(open_private(path), "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _end_there(token: str) -> None:
    """Kills what runs of a study on this machine; what waits in this worker is cut."""
    _ended.add(token)
    sweep(token)


# On the machine that asks.

_TOLD = 10
"""Seconds for which tasks of Ray are told to end."""


class Cluster:
    """A cluster, reached when it is first asked for something.

    Args:
        address: Of its scheduler or head ("" : what the environment names, else workers of its
            own on this machine).
        threads: Threads of each run.

    Attributes:
        kind: "dask" or "ray".
    """

    kind = ""

    def __init__(self, address: str, threads: int):
        self.address, self.threads = address, threads
        self._stack = ExitStack()

    @property
    def machine(self) -> str:
        """Fingerprint of its machines where they are all alike, else what it is."""
        found = set(self._fingerprints())
        return found.pop() if len(found) == 1 else self.kind

    def _fingerprints(self) -> list[str]:
        raise NotImplementedError

    def perform(
        self, units: Sequence[Unit], setting: Setting, alone: bool
    ) -> Generator[Done, None, None]:
        """Performs units of runs anywhere, and yields each unit's outcomes as they arrive.

        Closing the generator early ends what still runs of them.

        Raises:
            LostClusterError: The cluster or a unit's worker was lost, again and again.
        """
        raise NotImplementedError

    def end(self, token: str) -> None:
        """Kills what another process of this study left running on it."""

    def close(self) -> None:
        """Lets go of the cluster; ends it if it was started here."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DaskCluster(Cluster):
    """Workers of Dask's scheduler: at an address, of the current client, or started here."""

    kind = "dask"

    def __init__(self, address: str, threads: int):
        super().__init__(address, threads)
        try:
            import distributed
        except ImportError as error:
            raise MissingPackageError(
                "--engine dask needs dask: pip install 'dask[distributed]'"
            ) from error
        self._lib: Any = distributed

    @cached_property
    def _client(self) -> Any:
        import dask

        known: Any = dask
        lib, address = self._lib, self.address or known.config.get("scheduler-address", None)
        if address:
            try:
                return self._stack.enter_context(lib.Client(address, timeout=PATIENCE))
            except (OSError, ValueError) as error:
                raise UsageError(f"--engine dask: no scheduler at {address} ({error})") from error
        try:
            return lib.get_client()
        except ValueError:
            places = max(1, (os.cpu_count() or 1) // self.threads)
            cluster = lib.LocalCluster(
                n_workers=places, threads_per_worker=1, dashboard_address=None
            )
            return self._stack.enter_context(lib.Client(self._stack.enter_context(cluster)))

    def _fingerprints(self) -> list[str]:
        self._client.wait_for_workers(1, timeout=PATIENCE * 4)
        return list(self._client.run(fingerprint).values())

    def perform(
        self, units: Sequence[Unit], setting: Setting, alone: bool
    ) -> Generator[Done, None, None]:
        from concurrent.futures import CancelledError

        client, lib = self._client, self._lib
        futures = [client.submit(perform_there, u, setting, alone, pure=False) for u in units]
        left = len(futures)
        try:
            for future in lib.as_completed(futures):
                found = future.result()
                left -= 1
                yield found
        except lib.scheduler.KilledWorker as error:
            raise LostClusterError(f"Dask gave up on a block: {error}") from error
        except (lib.CancelledError, CancelledError, lib.comm.CommClosedError) as error:
            raise LostClusterError(f"the scheduler {self.address or ''} is gone") from error
        finally:
            if left:
                # A scheduler that is gone cannot be told.
                with contextlib.suppress(OSError, TimeoutError, RuntimeError):
                    client.cancel(futures, force=True)
                    self.end(setting.token)

    def end(self, token: str) -> None:
        """Kills what runs of a study on any of its machines."""
        self._client.run(_end_there, token, on_error="ignore")


def _reach(address: str) -> None:
    """Raises OSError where nobody listens: Ray would try for more than a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()


class RayCluster(Cluster):
    """Nodes of Ray: at an address, of the session that is open, or started here."""

    kind = "ray"

    def __init__(self, address: str, threads: int):
        super().__init__(address, threads)
        # What a program does is nobody's affair: Ray would tell its makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingPackageError("--engine ray needs ray: pip install ray") from error
        self._ray: Any = ray

    @cached_property
    def _nodes(self) -> list[Any]:
        """The nodes that are alive, after the connection is made."""
        ray = self._ray
        if not ray.is_initialized():
            address = self.address or os.environ.get("RAY_ADDRESS")
            quiet = {"log_to_driver": False, "logging_level": "ERROR"}
            named = address or "this machine"
            try:
                if address:
                    _reach(address)
                    ray.init(address=address, **quiet)
                else:
                    ray.init(address="local", include_dashboard=False, **quiet)
            except (OSError, ValueError, RuntimeError) as error:
                raise UsageError(
                    f"--engine ray: no cluster at {named} lets us in ({error}); "
                    "one that asks for a token wants RAY_AUTH_MODE=token here, too"
                ) from error
            self._stack.callback(ray.shutdown)
        return [node for node in ray.nodes() if node["Alive"]]

    def _fingerprints(self) -> list[str]:
        from ray.util import scheduling_strategies  # pyright: ignore[reportMissingImports]

        ray, ask = self._ray, self._ray.remote(fingerprint)
        at = scheduling_strategies.NodeAffinitySchedulingStrategy
        refs = [
            ask.options(num_cpus=0, scheduling_strategy=at(node["NodeID"], soft=True)).remote()
            for node in self._nodes
        ]
        return ray.get(refs)

    def perform(
        self, units: Sequence[Unit], setting: Setting, alone: bool
    ) -> Generator[Done, None, None]:
        ray = self._ray
        most = max([node["Resources"].get("CPU", 1) for node in self._nodes], default=1)
        needs = {
            "num_cpus": min(self.threads, most), "scheduling_strategy": "SPREAD",
            # Without one, Ray hides the GPUs.
            "num_gpus": int(setting.device.startswith("cuda")),
        }  # fmt: skip
        there = ray.remote(**needs)(perform_there)
        refs = [there.remote(unit, setting, alone) for unit in units]
        try:
            while refs:
                # A short wait lets Ctrl-C through.
                ready, refs = ray.wait(refs, num_returns=1, timeout=1.0)
                for ref in ready:
                    yield ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
            raise LostClusterError("Ray gave up on a block: its workers died") from error
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[0]
            raise LostClusterError(f"the cluster is gone ({last})") from error
        finally:
            # Killing the worker ends its fork server, and this its run. A task that is just being
            # placed may miss it, and is told again.
            for _ in range(_TOLD):
                with contextlib.suppress(ray.exceptions.RayError):
                    for ref in refs:
                        ray.cancel(ref, force=True)
                    if refs:
                        refs = ray.wait(refs, num_returns=len(refs), timeout=1)[1]
