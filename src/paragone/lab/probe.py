"""Clocks and gauges of one run: wall and CPU time, peak memory, digests, load of the machine.

Peak memory is the kernel's high-water mark of resident pages, `VmHWM` in `/proc/self/status`,
reset on entering a phase by writing 5 to `/proc/self/clear_refs`. It sees native memory, which
`tracemalloc` does not, and starts anew in each phase, which `ru_maxrss` cannot (and which a
child inherits from a big parent). Off Linux the peak falls back to `ru_maxrss`.

CPU time counts all threads, the children that were waited for, and those still alive:

    cpu = self(user + system) + reaped children + live descendants.

Foreign load during a run is what others took of the machine, and the pressure (PSI) is the
share of time in which some task waited for a CPU:

    foreign = (busy time of all CPUs - own CPU time) / (wall * number of CPUs).
"""

from __future__ import annotations

import gc
import hashlib
import math
import os
import pickle
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "LoadMeter", "Probe", "descendants", "digest_arrays", "fingerprint", "machine_facts",
    "resident",
]  # fmt: skip

_PAGE = resource.getpagesize()
_TICK = os.sysconf("SC_CLK_TCK")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    """Returns the ids of all processes below `pid`, nearest first (none off Linux)."""
    found: list[int] = []
    queue = [pid]
    while queue:
        parent = queue.pop(0)
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for thread in threads:
            children = [int(c) for c in _read(f"/proc/{parent}/task/{thread}/children").split()]
            found += children
            queue += children
    return found


def resident(pid: int, *, shared: bool = True) -> int:
    """Returns the resident bytes of a process, 0 if it is gone.

    Args:
        pid: The process.
        shared: Count pages shared with others in full; else each by its share (PSS, slower).
    """
    if shared:
        fields = _read(f"/proc/{pid}/statm").split()
        return int(fields[1]) * _PAGE if fields else 0
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu_of(pid: int) -> float:
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK if fields else 0.0


def _cpu_time() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = own.ru_utime + own.ru_stime + reaped.ru_utime + reaped.ru_stime
    return used + sum(_cpu_of(child) for child in descendants(os.getpid()))


def _reset_peak() -> int:
    """Lets the high-water mark fall to what is resident now, and returns that."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return 0
    return resident(os.getpid())


def _peak() -> int:
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cuda() -> Any:
    """torch.cuda if this process has used a GPU, else None; never imports torch."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def digest_arrays(*arrays: Any) -> str:
    """Returns a hash of the arrays' types, shapes and bytes, equal wherever they are equal.

    Texts, numbers, tensors, mappings and sequences are arrays too; anything else is pickled.

    Example:
        >>> import numpy as np
        >>> digest_arrays(np.arange(3)) == digest_arrays(np.arange(3).copy())
        True
    """
    total = hashlib.blake2b(digest_size=16)
    for array in arrays:
        _feed(total, array)
    return total.hexdigest()


def _feed(total: Any, item: Any) -> None:
    import numpy as np

    if isinstance(item, bytes | str):
        content = item.encode() if isinstance(item, str) else item
        total.update(b"bytes %d;" % len(content) + content)
    elif isinstance(item, Mapping):
        total.update(b"mapping %d;" % len(item))
        for key in sorted(item):
            _feed(total, repr(key))
            _feed(total, item[key])
    elif hasattr(item, "detach"):
        bits = item.detach().cpu().contiguous().reshape(-1).view(sys.modules["torch"].uint8)
        total.update(f"{item.dtype} {tuple(item.shape)};".encode() + bits.numpy().tobytes())
    elif item is None:
        total.update(b"none;")
    elif isinstance(item, list | tuple) or str(getattr(item, "dtype", "")) == "object":
        total.update(b"sequence %d;" % len(item))
        for part in item:
            _feed(total, part)
    elif hasattr(item, "__array__") or isinstance(item, int | float | complex):
        values = np.asarray(item)
        total.update(f"{values.dtype.str} {values.shape};".encode())
        total.update(np.ascontiguousarray(values).tobytes())
    else:
        total.update(pickle.dumps(item, protocol=4))


class Probe:
    """Records one run: a task gets it and reports through it alone.

    Args:
        folder: Where arrays are written.

    Attributes:
        values: Measure name to number.
        phases: Phase name to its "wall" and "cpu" seconds, "peak" and "start" bytes.
        curves: Name to {"x": [...], "y": [...]}.
        digests: Name to hash.

    Example:
        >>> probe = Probe()
        >>> with probe.phase("fit"):
        ...     total = sum(range(1000))
        >>> sorted(probe.values)
        ['fit_cpu_s', 'fit_peak', 'fit_s']
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = Path(folder) if folder is not None else None
        self.values: dict[str, float] = {}
        self.phases: dict[str, dict[str, float]] = {}
        self.curves: dict[str, dict[str, list[float | None]]] = {}
        self.digests: dict[str, str] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures its body; entered again under one name, times add up and peaks take the most.

        Gives the values `name_s`, `name_cpu_s`, `name_peak`, and `name_gpu_peak` where a GPU
        was used. Garbage of earlier phases is collected before the clock starts.
        """
        if self.folder is not None:
            (self.folder / "phase").write_text(name, encoding="utf-8")
        gc.collect()
        if cuda := _cuda():
            cuda.synchronize()
            cuda.reset_peak_memory_stats()
        start = _reset_peak()
        cpu, wall = _cpu_time(), time.perf_counter()
        try:
            yield
        finally:
            if cuda := _cuda():
                cuda.synchronize()
            wall, cpu = time.perf_counter() - wall, _cpu_time() - cpu
            peaks = {"peak": _peak()}
            if cuda:
                peaks["gpu_peak"] = cuda.max_memory_allocated()
            self._add(name, {"wall": wall, "cpu": max(cpu, 0.0)}, peaks, start)

    def _add(self, name: str, times: dict[str, float], peaks: dict[str, int], start: int) -> None:
        phase = self.phases.setdefault(name, {"start": start})
        for kind, seconds in times.items():
            phase[kind] = phase.get(kind, 0.0) + seconds
        for kind, size in peaks.items():
            phase[kind] = max(phase.get(kind, 0), size)
        self.values[f"{name}_s"] = phase["wall"]
        self.values[f"{name}_cpu_s"] = phase["cpu"]
        for kind in peaks:
            self.values[f"{name}_{kind}"] = phase[kind]

    def value(self, name: str, number: float) -> None:
        """Records a measure.

        Raises:
            ValueError: Not a finite number: a run with such a result has failed.
        """
        converted = float(number)
        if not math.isfinite(converted):
            raise ValueError(f"{name} is {converted}, not a finite number")
        self.values[name] = converted

    def curve(self, name: str, x: Sequence[float], y: Sequence[float]) -> None:
        """Records a curve; a value that is not finite leaves a gap."""
        if len(x) != len(y):
            raise ValueError(f"curve {name!r}: {len(x)} x but {len(y)} y; give as many of both")
        points = ([float(v) for v in x], [float(v) for v in y])
        xs, ys = ([v if math.isfinite(v) else None for v in axis] for axis in points)
        self.curves[name] = {"x": xs, "y": ys}

    def array(self, name: str, array: Any) -> None:
        """Saves an array as the artifact `name.npy`.

        Raises:
            ValueError: An array of Python objects, or a name that is not a file name.
        """
        import numpy as np

        if not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"array name {name!r}: letters, digits, _ and - make a file name")
        if self.folder is not None:
            np.save(self.folder / f"{name}.npy", np.asarray(array), allow_pickle=False)

    def digest(self, name: str, *arrays: Any) -> None:
        """Records the hash of what this run was given; contestants of a block must agree."""
        self.digests[name] = digest_arrays(*arrays)


class LoadMeter:
    """What others did on this machine between its making and `stop`."""

    def __init__(self):
        self._start = time.monotonic(), self._busy(), self._pressure()

    @staticmethod
    def _busy() -> float:
        line = _read("/proc/stat").partition("\n")[0].split()[1:9]
        ticks = [int(field) for field in line]
        return (sum(ticks) - ticks[3] - ticks[4]) / _TICK if len(ticks) > 4 else 0.0

    @staticmethod
    def _pressure() -> float:
        line = _read("/proc/pressure/cpu").partition("\n")[0]
        return float(line.rpartition("total=")[2]) / 1e6 if "total=" in line else 0.0

    def stop(self, own: float) -> dict[str, float]:
        """Returns {"psi", "foreign"}: shares from 0 to 1.

        Args:
            own: CPU seconds that the measured run itself took.
        """
        wall, busy, pressure = self._start
        wall = max(time.monotonic() - wall, 1e-3)
        foreign = (self._busy() - busy - own) / (wall * (os.cpu_count() or 1))
        psi = (self._pressure() - pressure) / wall
        return {
            "psi": round(min(max(psi, 0.0), 1.0), 4),
            "foreign": round(min(max(foreign, 0.0), 1.0), 4),
        }


def machine_facts() -> dict[str, Any]:
    """Returns what tells this machine from another: processor, cores, memory, Python, GPUs."""
    lines = _read("/proc/cpuinfo").splitlines()
    model = next((ln.partition(":")[2].strip() for ln in lines if ln.startswith("model name")), "")
    memory = _read("/proc/meminfo").split()
    allowed = _read("/sys/fs/cgroup/memory.max").strip()
    total = int(memory[1]) * 1024 if memory else 0
    gpus = []
    if os.path.isdir("/proc/driver/nvidia/gpus"):
        for card in sorted(os.listdir("/proc/driver/nvidia/gpus")):
            text = _read(f"/proc/driver/nvidia/gpus/{card}/information")
            gpus += [ln.partition(":")[2].strip() for ln in text.splitlines() if "Model" in ln]
    return {
        "system": platform.system(),
        "processor": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "memory": min(total, int(allowed)) if allowed.isdigit() else total,
        "python": platform.python_version(),
        "gpus": gpus,
    }


def fingerprint() -> str:
    """Returns a short hash of `machine_facts`: timings are comparable where it is the same."""
    facts = machine_facts()
    facts["memory"] >>= 30
    return hashlib.blake2b(repr(sorted(facts.items())).encode(), digest_size=6).hexdigest()
