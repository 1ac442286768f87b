"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CALLS", "warm_shared_group"]


def _simulator() -> None:
    from paragone.training.collectives import Machine, simulate

    simulate("tree", ranks=4, bytes=64, machine=Machine(alpha=1e-5, beta=1e-9))


def warm_shared_group() -> None:
    """Calls every kernel of the shared group, as the only rank of a segment of its own."""
    import numpy as np

    from paragone.training import _shared_channels as channels
    from paragone.training import _shared_kernels as kernels
    from paragone.training._shared_memory import lanes_at

    words, state = np.zeros(lanes_at(1) // 8, np.int64), np.zeros(3, np.int64)
    kernels.ring_bells(words, 0, 1)
    kernels.meet(words, state, 0, 1, 0, 0)
    for dtype in (np.float32, np.float64):
        lanes, bases = np.zeros(128, dtype), np.zeros((8, 1), np.int64)
        scratch, x = np.zeros(kernels.BLOCK, dtype), np.ones(5, dtype)
        kernels.all_reduce(words, state, 0, 1, lanes, bases, scratch, x.ctypes.data, 5, 0, -1, 0, 0)
    content = np.zeros(8, np.uint8)
    channels.look(words, 0, 1, np.zeros(2, np.int64))
    channels.send_some(words, 0, 1, 0, content.ctypes.data, 8, -1, 0)
    channels.peek(words, 0, 1, 0)
    channels.await_change(words, 0, 1, np.zeros(2, np.int64))
    channels.receive_some(words, 0, 1, 0, content.ctypes.data, 8, -1)


CALLS: tuple[Callable[[], None], ...] = (_simulator, warm_shared_group)
