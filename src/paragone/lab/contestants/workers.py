"""The rivals of the studies `workers` and `runtime_speed`: strings only."""

from __future__ import annotations

from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["contestants", "for_speed"]

_HERE = "paragone.lab.contestants.poolers:"
_SPEED = "paragone.lab.contestants.feeders:"
_METHOD = "processes_and_threads"
_FULL = {"quick": [False]}


def _ours(id: str, title: str, target: str, note: str, **more: Any) -> Contestant:
    return Contestant(
        id=id, title=title, make=_HERE + "Ours", method=_METHOD, note=note,
        params={"target": f"paragone.runtime:{target}", **more.pop("options", {})}, **more,
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """Both pools, each library's pools, and no pool at all."""
    return [
        _ours("thread_pool", "paragone threads", "ThreadPool", "ThreadPool"),
        _ours("process_pool", "paragone processes", "ProcessPool",
              "ProcessPool, start='forkserver'; arrays in a SharedArray"),
        _ours("process_spawn", "paragone processes, spawn", "ProcessPool", "start='spawn'",
              options={"start": "spawn"}, needs=_FULL),
        _ours("process_fork", "paragone processes, fork", "ProcessPool", "start='fork'",
              options={"start": "fork"}),
        Contestant(
            id="futures_threads", title="concurrent.futures threads", make=_HERE + "Futures",
            params={"kind": "Thread"}, origin="rival", note="ThreadPoolExecutor",
        ),
        Contestant(
            id="futures_processes", title="concurrent.futures processes", make=_HERE + "Futures",
            params={"kind": "Process"}, origin="rival",
            note="ProcessPoolExecutor from a fork server",
        ),
        Contestant(
            id="multiprocessing", title="multiprocessing.Pool", origin="rival",
            make=_HERE + "MultiprocessingPool", note="Pool from a fork server",
        ),
        Contestant(
            id="joblib", title="joblib {version}", make=_HERE + "Joblib", origin="rival",
            distribution="joblib", install="pip install joblib",
            note="Parallel as a context, loky; arrays above 1 MB as memory-mapped files",
        ),
        Contestant(
            id="joblib_threads", title="joblib {version} threads", make=_HERE + "Joblib",
            params={"backend": "threading"}, origin="rival", distribution="joblib",
            install="pip install joblib", note="backend='threading'", needs=_FULL,
        ),
        Contestant(
            id="serial", title="one after the other", make=_HERE + "Serial", origin="baseline",
            note="no workers: the caller's thread",
        ),
    ]  # fmt: skip


_LOADERS = ["rows", "rows_at_once", "crops", "crops_at_once"]
_POOLS = ["threads", "processes"]


def for_speed() -> list[Contestant]:
    """Our loader and pools against DataLoader and the pools of other libraries."""
    loader = {"target": "paragone.runtime:Loader"}
    return [
        Contestant(
            id=_METHOD, title="paragone", make=_SPEED + "Ours", params=loader, method=_METHOD,
            note="Loader with 2 threads; ThreadPool and ProcessPool",
        ),
        Contestant(
            id="loader_processes", title="paragone, processes", make=_SPEED + "Ours",
            params={**loader, "kind": "process"}, method=_METHOD, needs={"part": _LOADERS},
            note="Loader with 2 processes",
        ),
        Contestant(
            id=f"usual_{_METHOD}", title="DataLoader; concurrent.futures", make=_SPEED + "Usual",
            origin="rival", distribution="torch", install="pip install torch",
            note="DataLoader(num_workers=2, persistent_workers=True); executors of the standard "
            "library",
        ),
        Contestant(
            id="multiprocessing", title="multiprocessing", make=_SPEED + "Usual",
            params={"pool": "multiprocessing"}, origin="rival", needs={"part": _POOLS},
            note="multiprocessing.Pool and its ThreadPool, chunksize=1",
        ),
        Contestant(
            id="joblib", title="joblib {version}", make=_SPEED + "Usual",
            params={"pool": "joblib"}, origin="rival", distribution="joblib",
            install="pip install joblib", needs={"part": _POOLS}, note="Parallel, batch_size=1",
        ),
        Contestant(
            id="dataloader_serial", title="DataLoader, no workers", make=_SPEED + "Usual",
            params={"workers": 0}, origin="baseline", distribution="torch",
            install="pip install torch", needs={"part": _LOADERS}, note="num_workers=0",
        ),
    ]  # fmt: skip
