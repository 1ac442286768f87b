"""Processes and threads: what runs in a program, and pools that share arrays.

`inspect()` lists every thread of this program, or of another one; `ThreadPool` and `ProcessPool`
map functions over arrays that are not copied; `Loader` feeds a training loop from a dataset.
`paragone compare workers` answers "threads or processes?" for this machine.
"""

from paragone._core.lazy import lazy_exports

_MODULES = {
    "inspection": ("inspect", "report_on", "Snapshot"),
    "locks": ("Lock", "RLock", "deadlocks"),
    "pools": ("ThreadPool", "ProcessPool", "WorkerDied", "worker_info"),
    "shared": ("SharedArray",),
    "loader": ("Loader", "item_rng"),
}

_TARGETS = {
    name: f"paragone.runtime.{module}:{name}"
    for module, names in _MODULES.items()
    for name in names
}

__getattr__, __dir__ = lazy_exports(__name__, _TARGETS)

__all__ = [*_TARGETS]  # pyright: ignore[reportUnsupportedDunderAll]
