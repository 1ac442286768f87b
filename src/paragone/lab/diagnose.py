"""`doctor`: what this machine can do, and why a back end is not available."""

from __future__ import annotations

import inspect
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from paragone.kernels.backends import BACKENDS, CACHED_NUMBA, cache_folder, cache_knows, why_not

__all__ = ["Diagnosis", "environment", "examine"]

PACKAGES = (
    "paragone", "numpy", "scipy", "scikit-learn", "numba", "torch", "polars", "narwhals", "joblib",
    "cyclopts", "rich", "lightgbm", "xgboost-cpu", "xgboost", "catboost", "statsmodels", "dask",
    "ray",
)  # fmt: skip
SIMD = ("avx512f", "avx2", "avx", "fma", "sse4_2", "asimd", "sve")

GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Diagnosis:
    """Facts of the machine; `str()` is the text, `problems` what stands in the way."""

    facts: Mapping[str, Any]
    problems: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What to do, in one line."""
        if not self.problems:
            return "ready: paragone compare ensembles --quick"
        count = len(self.problems)
        more = f", and {count - 1} more above" if count > 1 else ""
        return f"it runs; first see to this: {self.problems[0]}{more}"

    def json(self) -> str:
        told = {**self.facts, "problems": self.problems, "verdict": self.verdict}
        return json.dumps(told, indent=1)

    def __str__(self) -> str:
        lines = []
        for name, value in self.facts.items():
            if isinstance(value, Mapping):
                lines.append(name)
                lines += [f"  {key:<14} {text}" for key, text in value.items()]
            else:
                lines.append(f"{name:<16} {value}")
        # The verdict tells the first problem.
        lines += ["", *(f"problem: {text}" for text in self.problems[1:])]
        lines.append(f"verdict: {self.verdict}")
        return "\n".join(lines)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> tuple[str, list[str]]:
    model, flags = platform.processor(), set()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return model or platform.machine(), []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    return model or platform.machine(), [name for name in SIMD if name in flags]


def _memory() -> tuple[int, int]:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0, 0
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines()}
    return sizes.get("MemTotal", 0), sizes.get("MemAvailable", 0)


def _gpu() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    asked = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    return "; ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else ""


def _cores() -> int:
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def _limit(name: str) -> float | None:
    """Least that a control group above this process sets: cores, or bytes; None where none does."""
    try:
        line = OWN_GROUP.read_text(encoding="ascii").splitlines()[-1]
    except (OSError, IndexError):
        return None
    home = GROUPS / line.rpartition(":")[2].lstrip("/")
    found = []
    for folder in {GROUPS, *(p for p in (home, *home.parents) if p.is_relative_to(GROUPS))}:
        try:
            number, *period = (folder / name).read_text(encoding="ascii").split()
        except (OSError, ValueError):
            continue
        if number.isdigit():
            found.append(int(number) / int(period[0] if period else 1))
    return min(found, default=None)


def _cores_told() -> str:
    quota = _limit("cpu.max")
    told = f"{_cores()} of {os.cpu_count()} usable"
    return told if quota is None else f"{told}, limited to the time of {quota:.1f}"


def _extras() -> dict[str, str]:
    """Each extra of the package: installed, or the pip line that brings it."""
    try:
        lines = metadata.requires("paragone") or []
    except metadata.PackageNotFoundError:
        return {}
    missing: dict[str, list[str]] = {}
    for line in lines:
        found = re.match(r"([\w.-]+)[^;]*;.*extra == ['\"](\w+)['\"]", line)
        if found is None or found[2] in ("dev", "docs"):
            continue
        lacking = missing.setdefault(found[2], [])
        try:
            metadata.version(found[1])
        except metadata.PackageNotFoundError:
            lacking.append(found[1])
    return {
        extra: f"without {', '.join(names)}: pip install 'paragone[{extra}]'"
        if names
        else "installed"
        for extra, names in missing.items()
    }


def _kept(folder: Path | None) -> str:
    """The place, number and size of compiled kernels."""
    from paragone.lab import format as text

    if folder is None:
        return "none that this user alone can write to"
    home = Path(__file__).resolve().parents[1]
    places = (
        home.rglob("__pycache__/*.nbc") if folder.is_relative_to(home) else (folder.rglob("*.nbc"))
    )
    sizes = [path.stat().st_size for path in places]
    return f"{folder}, {len(sizes)} kernels, {text.size(sum(sizes))}"


def environment() -> dict[str, Any]:
    """What is stored with each study: machine, cores, memory, versions."""
    model, simd = _processor()
    return {
        "machine": f"{model}, {_cores()} cores", "cores": _cores(), "simd": " ".join(simd),
        "memory": _memory()[0], "system": platform.platform(),
        "python": platform.python_version(), "load": round(os.getloadavg()[0], 2),
        "gpu": _gpu(), "versions": _versions(),
    }  # fmt: skip


def examine() -> Diagnosis:
    """Looks at the machine without importing anything heavy."""
    from paragone.lab import format as text
    from paragone.multimodal.agent._chromium import find_chromium, why_no_browser

    told = environment()
    total, free = _memory()
    cache, most = cache_folder(inspect.getfile(cache_folder)), _limit("memory.max")
    kernels = {
        name: "available" if reason is None else f"not available: {reason}"
        for name, reason in ((name, why_not(name)) for name in BACKENDS)
    }
    facts = {
        "python": f"{told['python']} at {sys.executable}",
        "system": told["system"],
        "processor": told["machine"],
        "cores": _cores_told(),
        "SIMD": told["simd"] or "unknown",
        "memory": f"{text.size(total)}, {text.size(free)} free"
        + (f", limited to {text.size(int(most))}" if most is not None and 0 < most < total else ""),
        "disk": f"{text.size(shutil.disk_usage('.').free)} free here",
        "load": f"{told['load']} over the last minute",
        "GPU": told["gpu"] or "none found (no NVIDIA driver answers)",
        "browser": (no_browser := why_no_browser()) or f"{find_chromium()}, for agents",
        "cache folder": _kept(cache),
        "back ends": kernels,
        "packages": told["versions"],
        "extras": _extras(),
    }
    problems = []
    if told["load"] > 0.5 * told["cores"]:
        problems.append(
            f"others use this machine (load {told['load']} on {told['cores']} cores): "
            "timings will be noisy; CPU time is recorded too"
        )
    if no_browser:
        problems.append(f"agents cannot run: {no_browser}")
    if cache is None:
        problems.append(
            "no cache folder is writable for this user alone: set NUMBA_CACHE_DIR to one, or "
            "kernels compile anew"
        )
    numba = told["versions"].get("numba")
    if numba and not cache_knows(numba):
        problems.append(
            f"numba {numba} keeps compiled kernels in its own cache (ours knows "
            f"{', '.join(CACHED_NUMBA)}): first calls are slower, results are the same"
        )
    if shutil.disk_usage(".").free < 1 << 30:
        problems.append("less than 1 GiB of this disk is free: studies write here")
    if total and free < 1 << 30:
        problems.append("less than 1 GiB of memory is free")
    if not Path("/proc/self/clear_refs").exists():
        problems.append("no /proc/self/clear_refs: peak memory falls back to ru_maxrss")
    return Diagnosis(facts, tuple(problems))
