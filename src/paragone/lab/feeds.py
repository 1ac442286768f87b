"""Datasets that loaders are measured with: rows that cost nothing, and images to crop.

Each comes plain (`__getitem__`, an item at a time) and in whole batches (`__getitems__`). What an
item is follows from its number alone, so that all loaders must deliver the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["BATCH", "Crops", "CropsAtOnce", "Rows", "RowsAtOnce", "dataset", "load", "truth"]

BATCH = 64
SIZE = 160
_MEAN = np.array([123.7, 116.3, 103.5], np.float32)
_SCALE = np.float32(1.0) / np.array([58.4, 57.1, 57.4], np.float32)


class Rows:
    """Rows of a table, as they are."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        return self.data[i]


class RowsAtOnce(Rows):
    """The same, a batch at a time."""

    def __getitems__(self, indices: list[int]) -> Any:
        return self.data[indices]


def _window(i: int, data: Any) -> tuple[int, int, bool]:
    """Corner of item i's crop, and whether it is flipped."""
    high, wide = data.shape[1] - SIZE, data.shape[2] - SIZE
    return i * 7919 % (high + 1), i * 104729 % (wide + 1), i % 2 == 1


class Crops(Rows):
    """Images (n, h, w, 3) of bytes: cropped, flipped, normalised with NumPy to (3, s, s)."""

    def __getitem__(self, i: int) -> Any:
        top, left, flip = _window(i, self.data)
        part = self.data[i, top : top + SIZE, left : left + SIZE]
        part = part[:, ::-1] if flip else part
        return np.ascontiguousarray(((part.astype(np.float32) - _MEAN) * _SCALE).transpose(2, 0, 1))


class CropsAtOnce(Crops):
    """The same by one kernel a batch that releases Python's lock."""

    def __getitems__(self, indices: list[int]) -> Any:
        from paragone.lab._chore_kernels import crop

        windows = np.array([_window(i, self.data) for i in indices])
        out = np.empty((len(indices), 3, SIZE, SIZE), np.float32)
        crop(self.data, np.array(indices), windows[:, :2], windows[:, 2], _MEAN, _SCALE, out)
        return out


_KINDS: dict[str, type[Rows]] = {
    "rows": Rows, "rows_at_once": RowsAtOnce, "crops": Crops, "crops_at_once": CropsAtOnce
}  # fmt: skip


def dataset(part: str, data: Any) -> Any:
    """The dataset of a workload."""
    return _KINDS[part](data)


def load(part: str, count: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The input of a run: data, and which part of the study it is for.

    Returns:
        Rows of 12 kB (n, 3072), images (n, 200, 200, 3), or numbers (n,); and the setting.
    """
    random = np.random.default_rng(0)
    if part.startswith("rows"):
        return random.random((count, 3072), dtype=np.float32), {"part": part}
    if part.startswith("crops"):
        return random.integers(0, 256, (count, 200, 200, 3), np.uint8), {"part": part}
    return np.arange(count), {"part": part}


def truth(data: np.ndarray, setting: dict[str, Any]) -> np.ndarray:
    """What a contestant must return: the first number of each batch, or each number."""
    part = setting["part"]
    if part not in _KINDS:
        return data.astype(float)
    items = dataset(part.removesuffix("_at_once"), data)
    return np.array([float(items[i].flat[0]) for i in range(0, len(items), BATCH)])
