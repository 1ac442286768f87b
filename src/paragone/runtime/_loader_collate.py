"""From items to a batch, by the rules of torch's `default_collate`, with or without torch.

Arrays, tensors and numbers gain a leading axis; mappings and sequences are collated by key and by
place; texts stay a list. Without torch the leaves are NumPy arrays, and `to_torch` makes tensors
of them without copying.
"""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["collate", "map_leaves", "pack", "to_torch"]


def collate(items: Sequence[Any]) -> Any:
    """Batches items: arrays (n, ...) of NumPy or, where items are tensors, of torch.

    Raises:
        ValueError: Items of different shapes or lengths.
        TypeError: A type that has no batch.

    Example:
        >>> collate([{"x": 1.5, "name": "a"}, {"x": 2.5, "name": "b"}])
        {'x': array([1.5, 2.5]), 'name': ['a', 'b']}
    """
    first = items[0]
    if isinstance(first, np.ndarray):
        _same_shapes([np.shape(item) for item in items])
        return np.stack([np.asarray(item) for item in items])
    if _is_tensor(first):
        _same_shapes([tuple(item.shape) for item in items])
        return sys.modules["torch"].stack(list(items))
    if isinstance(first, np.generic | bool | int | float | complex):
        return _numbers(items)
    if isinstance(first, str | bytes):
        return items
    if isinstance(first, Mapping):
        return _like(first, {key: collate([item[key] for item in items]) for key in first})
    if isinstance(first, Sequence):
        lengths = {len(item) for item in items}
        if len(lengths) > 1:
            raise ValueError(
                f"items of one batch have {min(lengths)} to {max(lengths)} parts; give as many in "
                "each, or a collate_fn"
            )
        parts = [collate(part) for part in zip(*items, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else parts
    raise TypeError(
        f"items of type {type(first).__name__} have no batch: return arrays, numbers, texts, "
        "mappings or sequences of them, or give a collate_fn"
    )


def _numbers(items: Sequence[Any]) -> np.ndarray:
    first = items[0]
    if isinstance(first, np.generic):
        return np.array(items)
    kind = np.float64 if isinstance(first, float) else None
    return np.array(items, dtype=kind)


def _is_tensor(item: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(item, torch.Tensor)


def _same_shapes(shapes: list[tuple[int, ...]]) -> None:
    if len(set(shapes)) > 1:
        found = sorted(set(shapes))
        raise ValueError(
            f"items of one batch have different shapes, such as {found[0]} and {found[-1]}; bring "
            "them to one size, or give a collate_fn that pads"
        )


def _like(first: Mapping, content: dict) -> Mapping:
    """A mapping of the first item's type where it can be made."""
    if type(first) is dict:
        return content
    if hasattr(first, "update"):
        made: Any = copy.copy(first)
        made.update(content)
        return made
    kind: Any = type(first)
    return kind(content)


def map_leaves(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Applies a function to what stands in a batch's mappings, lists and tuples."""
    if isinstance(tree, Mapping):
        return _like(tree, {key: map_leaves(part, function) for key, part in tree.items()})
    if isinstance(tree, list):
        return [map_leaves(part, function) for part in tree]
    if isinstance(tree, tuple):
        parts = [map_leaves(part, function) for part in tree]
        made: Any = type(tree)
        return made(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return function(tree)


def to_torch(tree: Any) -> Any:
    """The batch with tensors in place of arrays; they share their memory."""
    torch = sys.modules["torch"]

    def convert(leaf: Any) -> Any:
        return torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf

    return map_leaves(tree, convert)


class _Packer(pickle.Pickler):
    """Pickles with tensors of the CPU as arrays, so that their bytes can stand apart."""

    def reducer_override(self, obj: Any) -> Any:
        if not _is_tensor(obj) or obj.device.type != "cpu" or obj.layout.__str__() != _STRIDED:
            return NotImplemented
        flat = obj.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
        data = flat.view(sys.modules["torch"].uint8).numpy()
        return _tensor, (data, str(obj.dtype).removeprefix("torch."), tuple(obj.shape))


_STRIDED = "torch.strided"


def _tensor(data: np.ndarray, dtype: str, shape: tuple[int, ...]) -> Any:
    import torch

    return torch.from_numpy(data).view(getattr(torch, dtype)).reshape(shape)


def pack(batch: Any) -> tuple[bytes, list[memoryview]]:
    """A batch as a pickle and, apart from it, the bytes of its arrays, which are not copied."""
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    _Packer(file, 5, buffer_callback=buffers.append).dump(batch)
    return file.getvalue(), [buffer.raw() for buffer in buffers]
