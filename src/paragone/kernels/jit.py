"""`njit` as in Numba, with compiled code kept on disk by `_cache`; every kernel is made by it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numba

from paragone.kernels.backends import cache_knows

__all__ = ["TALLY", "njit", "start_threads"]

TALLY = {"compiled": 0, "loaded": 0}
"""Kernels that this process has compiled, and taken from the disk."""


def njit(function: Callable[..., Any] | None = None, *, cache: bool = True, **options: Any) -> Any:
    """Compiles a kernel on its first call, or takes it from the disk.

    Prefer it to `numba.njit` for whatever a user waits for: what another file inlines is seen
    when it changes, and a process that finds everything on disk starts three times as fast.
    With a series of Numba that `_cache` does not know, Numba's own cache takes its place: the
    results are the same, the start is slower, and `paragone doctor` says so.

    Args:
        function: The Python function, if used without parentheses.
        cache: Whether to keep compiled code.
        options: As for `numba.njit`: `nogil`, `error_model`, `parallel`, `inline`, `fastmath`.
            Without `fastmath` a kernel has none. Numba alone would let it take over that of
            whichever kernel called it first, and arithmetic would depend on the order of calls.

    Example:
        >>> @njit(nogil=True, error_model="numpy")
        ... def double(x):
        ...     return 2 * x
        >>> double(21)
        42
    """
    options = {"fastmath": False, **options}

    def compiled(function: Callable[..., Any]) -> Any:
        if not cache_knows(numba.__version__):
            # Numba's cache may load a call into its threads before they exist, and jump nowhere.
            start_threads()
            return numba.njit(cache=cache, **options)(function)
        kernel: Any = numba.njit(**options)(function)
        if cache and hasattr(kernel, "_cache"):
            kernel._cache = _cache_of(kernel)
        return kernel

    return compiled if function is None else compiled(function)


def start_threads() -> int:
    """Starts Numba's threads if they are not there, and returns how many it uses.

    The start sets the number of OpenMP's threads, and torch has the same library: what a user has
    set with `torch.set_num_threads` would be undone by the first large table that is fitted.

    Example:
        >>> start_threads() == numba.get_num_threads()
        True
    """
    torch: Any = sys.modules.get("torch")
    # Torch may be half imported by another thread.
    if not hasattr(torch, "set_num_threads"):
        return numba.get_num_threads()
    before = torch.get_num_threads()
    count = numba.get_num_threads()
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)
    return count


def _cache_of(kernel: Any) -> Any:
    from paragone.kernels._cache import KernelCache

    return KernelCache(kernel)
