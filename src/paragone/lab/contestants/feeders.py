"""Loaders and pools behind one call, `(data, setting) -> numbers`, for the study of speed.

A contestant is made once and called again and again; what it starts in its first call stays until
the run's process ends. Which part it plays is in the setting: a loader delivers an epoch in batches
of 64 to a consumer that looks at one number, a pool passes numbers through an empty function, one
task each.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab import chores, feeds

__all__ = ["Ours", "Usual"]

Setting = Mapping[str, Any]


def _heads(batches: Any) -> np.ndarray:
    return np.array([float(batch.reshape(-1)[0]) for batch in batches])


class Ours:
    """Paragone's loader and pools.

    Args:
        target: The loader, whose module's neighbours are the pools.
        kind: Workers of the loader.
        workers: Their number, and that of the pools.
    """

    def __init__(self, target: str, kind: str = "thread", workers: int = 2) -> None:
        self.target, self.kind, self.workers = target, kind, workers
        self.kept: Any = None

    def __call__(self, data: np.ndarray, setting: Setting) -> np.ndarray:
        part = setting["part"]
        if part in ("threads", "processes"):
            return self._pass_on(part, data)
        if self.kept is None:
            self.kept = resolve(self.target)(
                feeds.dataset(part, data), feeds.BATCH, workers=self.workers, kind=self.kind,
                output="torch",
            )  # fmt: skip
        return _heads(self.kept)

    def _pass_on(self, part: str, data: np.ndarray) -> np.ndarray:
        if self.kept is None:
            name = "ThreadPool" if part == "threads" else "ProcessPool"
            self.kept = resolve(f"paragone.runtime:{name}")(self.workers)
        return np.array(list(self.kept.map(chores.empty, data.tolist(), chunksize=1)), float)


class Usual:
    """torch's DataLoader, and a pool of another library.

    Args:
        workers: Their number.
        pool: "futures", "multiprocessing" or "joblib".

    Attributes:
        end: Ends the pool's workers.
    """

    def __init__(self, workers: int = 2, pool: str = "futures") -> None:
        self.workers, self.pool = workers, pool
        self.kept: Any = None
        self.end: Callable[[], Any] = list

    def __call__(self, data: np.ndarray, setting: Setting) -> np.ndarray:
        part = setting["part"]
        if part in ("threads", "processes"):
            if self.kept is None:
                self.kept = self._opened(part)
            return np.array(list(self.kept(data.tolist())), float)
        if self.kept is None:
            at_once = part.endswith("_at_once")
            self.kept = resolve("torch.utils.data:DataLoader")(
                feeds.dataset(part, data), feeds.BATCH, num_workers=self.workers,
                persistent_workers=self.workers > 0,
                collate_fn=resolve("torch:from_numpy") if at_once else None,
            )  # fmt: skip
        return _heads(self.kept)

    def _opened(self, part: str) -> Callable[[list[int]], Any]:
        """A function that passes numbers through the pool, one task each."""
        context = multiprocessing.get_context("forkserver")
        if self.pool == "futures":
            if part == "threads":
                made = resolve("concurrent.futures:ThreadPoolExecutor")(self.workers)
            else:
                made = resolve("concurrent.futures:ProcessPoolExecutor")(self.workers, context)
            self.end = made.shutdown
            return lambda items: made.map(chores.empty, items, chunksize=1)
        if self.pool == "multiprocessing":
            kind = resolve("multiprocessing.pool:ThreadPool") if part == "threads" else context.Pool
            pool = kind(self.workers)
            self.end = pool.terminate
            return lambda items: pool.map(chores.empty, items, chunksize=1)
        backend = "threading" if part == "threads" else "loky"
        parallel = resolve("joblib:Parallel")(self.workers, backend=backend, batch_size=1)
        parallel.__enter__()
        self.end = lambda: parallel.__exit__(None, None, None)
        delayed = resolve("joblib:delayed")
        return lambda items: parallel(delayed(chores.empty)(x) for x in items)
