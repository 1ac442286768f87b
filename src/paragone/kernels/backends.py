"""Which back ends this machine has, and why not the others.

A back end that was asked for by name and cannot run raises with the reason that stands here;
nothing falls back in silence. Asking is cheap: no back end is imported to answer.
"""

import ctypes.util
import functools
import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from paragone._core.private import closed_to_others

__all__ = ["BACKENDS", "CACHED_NUMBA", "cache_folder", "cache_knows", "why_not"]

CACHED_NUMBA = ("0.68",)
"""Series of Numba whose inner names our cache of kernels was written for and tested with."""


def cache_knows(numba_version: str) -> bool:
    """Whether our own cache keeps compiled kernels; else Numba's does, and starts are slower.

    Example:
        >>> cache_knows("0.68.3"), cache_knows("9.0.0")
        (True, False)
    """
    return numba_version.rpartition(".")[0] in CACHED_NUMBA


def cache_folder(source: str | os.PathLike[str]) -> Path | None:
    """Returns the folder in which Numba will keep the compiled kernels of this source file.

    Numba's own rule: `NUMBA_CACHE_DIR`, else `__pycache__` beside the source, else the user's
    cache, so that a read-only installation is warm from its second process on too. A folder that
    is another user's (neither ours, nor root's, nor of the one who owns the source), or in which
    all may write, is passed over: what lies there is run. None means that every process will
    compile anew.
    """
    beside = Path(source).resolve().parent / "__pycache__"
    named = os.environ.get("NUMBA_CACHE_DIR")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    for folder in (Path(named),) if named else (beside, user):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                if closed_to_others(folder, os.stat(beside.parent).st_uid):
                    return folder
        except OSError:
            continue
    return None


@functools.cache
def _folder_of(*named: str | None) -> Path | None:
    """`cache_folder` of our kernels, tried once for each setting: each call of an op asks."""
    return cache_folder(__file__)


def _no_numba() -> str | None:
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed: pip install numba"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set: unset it"
    if _folder_of(os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")) is None:
        return (
            "no folder for compiled kernels is writable for this user alone: set NUMBA_CACHE_DIR "
            "to one"
        )
    return None


def _no_torch() -> str | None:
    return None if importlib.util.find_spec("torch") else "torch is not installed"


def _no_cuda() -> str | None:
    if not Path("/proc/driver/nvidia/version").exists() and not ctypes.util.find_library("cuda"):
        return "no NVIDIA driver answers on this machine"
    return _no_torch()


def _no_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    reason = _no_cuda()
    return reason and f"{reason}; TRITON_INTERPRET=1 runs its kernels slowly on the CPU"


BACKENDS: dict[str, Callable[[], str | None]] = {
    "numba": _no_numba,
    "torch": _no_torch,
    "triton": _no_triton,
    "cuda": _no_cuda,
}
"""Name of each back end to its predicate: None when it can run here, else the reason."""


def why_not(backend: str) -> str | None:
    """Says why a back end cannot run here; None when it can.

    Raises:
        ValueError: No back end of that name.

    Example:
        >>> why_not("numba") is None
        True
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is none of {', '.join(BACKENDS)}")
    return BACKENDS[backend]()


# What `torch.compiler.assume_constant_result` sets, without importing torch: the answer is a
# constant of a compiled graph, in which looking at files would be a break.
vars(why_not)["_dynamo_marked_constant"] = True
