"""Memory that a training step gives back is kept for the next one.

The C library returns the end of its heap to the system once 128 kB of it are free. A training step
frees its maps at the end and asks for them again at the next one's beginning; the system then hands
out every page anew, cleared: a fifth of a step of MobileNetV2 on a CPU.

References:
    mallopt(3): `M_TRIM_THRESHOLD`.
"""

from __future__ import annotations

import ctypes
import ctypes.util

__all__ = ["keep_memory"]

_TRIM_THRESHOLD, _TOP_PAD = -1, -2


def keep_memory(most: int = 2**31 - 1) -> bool:
    """Lets this process keep up to `most` free bytes at the end of its heap.

    It holds for the whole process until it ends, so that programs call it, not libraries. Results
    do not change.

    Args:
        most: In bytes, at most 2^31 - 1.

    Returns:
        Whether the C library is one that can (glibc).

    Raises:
        ValueError: `most` is out of range.
    """
    if not 0 <= most < 2**31:
        raise ValueError(f"keep_memory: most={most} is not within 0 and 2^31 - 1 bytes")
    library = ctypes.CDLL(ctypes.util.find_library("c") or None)
    setter = getattr(library, "mallopt", None)
    if setter is None:
        return False
    return bool(setter(_TRIM_THRESHOLD, most) and setter(_TOP_PAD, min(most, 1 << 26)))
