"""A grid as text, and what each move does on it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

__all__ = ["FORBIDDEN", "FREE", "MOVES", "TARGET", "parsed", "shifted"]

FREE, FORBIDDEN, TARGET = 0, 1, 2

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1), (0, 0))
"""Rows and columns of up, right, down, left, stay: the order of Zhao's a1 to a5."""

_MEANING = {".": FREE, "#": FORBIDDEN, "T": TARGET, "S": FREE}


def parsed(layout: str | Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cells (R, C) as int8 and where an S stands (R, C)."""
    if isinstance(layout, os.PathLike) or (isinstance(layout, str) and os.path.isfile(layout)):
        raise ValueError(
            f"layout is the name of a file, {str(layout)!r}: give the text that it holds"
        )
    text = layout.splitlines() if isinstance(layout, str) else [str(row) for row in layout]
    rows = [row.strip() for row in text if row.strip()]
    if not rows:
        raise ValueError("layout is empty: give rows of '.', '#' forbidden, 'T' target, 'S' start")
    wide = len(rows[0])
    for number, row in enumerate(rows):
        if len(row) != wide:
            raise ValueError(
                f"row {number} of the layout has {len(row)} cells, row 0 has {wide}: make all equal"
            )
    letters = np.frombuffer("".join(rows).encode("utf-32-le"), np.uint32).reshape(len(rows), wide)
    cells = np.full(letters.shape, -1, np.int8)
    for letter, kind in _MEANING.items():
        cells[letters == ord(letter)] = kind
    if (cells < 0).any():
        r, c = np.argwhere(cells < 0)[0]
        raise ValueError(
            f"{rows[r][c]!r} in row {r}, column {c} of the layout is no cell: "
            "use '.', '#' forbidden, 'T' target, 'S' start"
        )
    if not (cells == TARGET).any():
        raise ValueError("the layout has no target: write 'T' where the agent should go")
    return cells, letters == ord("S")


def shifted(
    shape: tuple[int, int], move: tuple[int, int], wind: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cell that a move leads to (R, C), before any wall, and whether it bumps."""
    r, c = np.indices(shape, dtype=np.int32)
    down, right = r + move[0], c + move[1]
    bump = (down < 0) | (down >= shape[0]) | (right < 0) | (right >= shape[1])
    down, right = np.where(bump, r, down), np.where(bump, c, right)
    if wind is not None:
        down = np.clip(down - wind[c], 0, shape[0] - 1)
    return (down * shape[1] + right).astype(np.int32), bump
