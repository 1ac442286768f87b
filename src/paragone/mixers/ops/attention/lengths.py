"""What is known of the lengths of rows, asked of a GPU once and not in every call.

A number that the host wants of a tensor on a GPU stops the host until all of the GPU's work is
done; a tower of 27 blocks that asks six times in each would never be ahead of its GPU.

Shapes: N rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Facts", "facts"]

_known: Any = WeakTensorKeyDictionary()


class Facts(NamedTuple):
    """Numbers of the lengths of N rows.

    Attributes:
        least: The smallest length, 0 if there is no row.
        most: The largest one.
        total: Their sum.
        starts: (N + 1,) int64: where each row starts if they stand one behind the other.
    """

    least: int
    most: int
    total: int
    starts: Tensor


def facts(lengths: Tensor) -> Facts:
    """Returns the numbers of (N,) int64 lengths.

    For a tensor on a GPU they are kept as long as it is and torch does not write to it. On the CPU
    they are counted anew: that costs nothing, and NumPy may write without torch's knowing.

    Example:
        >>> facts(torch.tensor([3, 0, 4]))[:3]
        (0, 4, 7)
    """
    kept = lengths.is_cuda and type(lengths) is Tensor and not lengths.is_inference()
    if not kept or torch.compiler.is_compiling():
        return _counted(lengths)
    version, found = _known.get(lengths, (None, None))
    if version != lengths._version:
        found = _counted(lengths)
        _known[lengths] = (lengths._version, found)
    return found


def _counted(lengths: Tensor) -> Facts:
    starts = torch.nn.functional.pad(torch.cumsum(lengths, 0), (1, 0))
    if not len(lengths):
        return Facts(0, 0, 0, starts)
    least, most, total = torch.stack([lengths.amin(), lengths.amax(), starts[-1]]).tolist()
    return Facts(least, most, total, starts)
