r"""Arrays that several processes see at once, over anonymous memory that cannot be left behind.

A block of memory from `memfd_create` has no name in any file system: the kernel frees it when the
last mapping and the last descriptor are gone, however the processes ended. What travels to another
process is not the data but where to find it, about 100 bytes:

    (pid, descriptor, inode, shape, dtype)  ->  open /proc/<pid>/fd/<descriptor>, map it.

The inode tells the block from another one that took the same number since. No name, no helper
process and no clean-up are needed, `/dev/shm` stays empty, and its size (64 MB in many containers)
is no limit. The block is sealed against shrinking, so that no process can be hit by SIGBUS.

Cost: O(1) to pass on, 20-40 microseconds to attach; pages are taken when first touched.

References:
    Linux manual pages, memfd_create(2), fcntl(2) on file seals, proc(5) on /proc/pid/fd.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import weakref
from typing import Any

import numpy as np

__all__ = ["SharedArray", "attach"]


class SharedArray:
    """A NumPy array in memory that worker processes share; pickling it copies nothing.

    Prefer it to `multiprocessing.shared_memory`, which leaves its block in `/dev/shm` when the
    owner is killed and wants `unlink` from exactly one process, and to joblib's memory-mapped
    files, which are written to disk first. Linux only.

    `array` is the NumPy array; indexing and `numpy.asarray` go to it. Writes are seen by all
    processes at once and nothing is locked: let each process write rows of its own.

    Args:
        shape: Shape; its memory is zero.
        dtype: Type of the elements; Python objects cannot be shared.

    Raises:
        ValueError: A negative shape, or a type that holds Python objects.

    Example:
        >>> with SharedArray((2, 3), "float32") as shared:
        ...     shared[0] = 1.0
        ...     print(float(shared.array.sum()))
        3.0
    """

    def __init__(self, shape: Any, dtype: Any = np.float64) -> None:
        shape = tuple(int(n) for n in (shape if np.iterable(shape) else (shape,)))
        kind = np.dtype(dtype)
        if min(shape, default=0) < 0:
            raise ValueError(f"shape={shape} has a negative length: use 0 and above")
        if kind.hasobject:
            raise ValueError(
                f"dtype={kind} holds Python objects, which live in one process: use a type of "
                "fixed size"
            )
        self._own(os.memfd_create("paragone", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        os.ftruncate(self._descriptor, max(math.prod(shape) * kind.itemsize, 1))
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, seals)
        self._map(shape, kind)

    def _own(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        self._close.atexit = False

    def _map(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        memory = mmap.mmap(self._descriptor, max(math.prod(shape) * dtype.itemsize, 1))
        self._array: np.ndarray | None = np.ndarray(shape, dtype, buffer=memory)

    @classmethod
    def from_array(cls, array: Any) -> SharedArray:
        """Copies an array, once, into shared memory; one that is shared already is returned."""
        if isinstance(array, SharedArray):
            return array
        values = np.asarray(array)
        made = cls(values.shape, values.dtype)
        made.array[...] = values
        return made

    @property
    def array(self) -> np.ndarray:
        """The NumPy array; views of it stay valid after `close`.

        Raises:
            ValueError: The array was closed.
        """
        if self._array is None:
            raise ValueError("this SharedArray is closed; keep a view of `array` if it is needed")
        return self._array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements."""
        return self.array.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.array.nbytes

    @property
    def inode(self) -> int:
        """Number of the block of memory: equal wherever the memory is the same."""
        return os.fstat(self._descriptor).st_ino

    def close(self) -> None:
        """Lets go of the memory; it is freed when no view and no other process holds it."""
        self._array = None
        self._close()

    def __enter__(self) -> SharedArray:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, key: Any) -> Any:
        return self.array[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.array[key] = value

    def __repr__(self) -> str:
        state = "closed" if self._array is None else f"{self.shape}, {self.dtype}"
        return f"SharedArray({state})"

    def __reduce__(self) -> tuple[Any, ...]:
        return attach, self.place()

    def place(self) -> tuple[int, int, int, tuple[int, ...], np.dtype]:
        """Where the memory is, for `attach` in another process."""
        array = self.array
        return os.getpid(), self._descriptor, self.inode, array.shape, array.dtype


def attach(pid: int, descriptor: int, inode: int, shape: Any, dtype: np.dtype) -> SharedArray:
    """Opens another process's block; see the module's text.

    Raises:
        ValueError: The block is gone.
    """
    made = SharedArray.__new__(SharedArray)
    with contextlib.suppress(OSError):
        made._own(os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC))
        if made.inode == inode:
            made._map(shape, dtype)
            return made
    raise ValueError(
        f"the shared array of process {pid} is gone: it was closed there, or the process has "
        "ended, before this one attached; keep it open until the workers hold it"
    )
