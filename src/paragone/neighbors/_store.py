"""A tree in a file whose arrays need not be read to be used.

The file is a line of magic, a line of JSON (each array's type, shape and offset), and the
arrays as they lie in memory, each at a multiple of 64 bytes. Opened by mapping, a tree of any
size is there at once, pages are read as queries touch them, and processes share them. Mapping is
copy-on-write: removing points changes the tree in memory and not the file. Nothing in the file
is executed.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from typing import Any

import numpy as np

from paragone.neighbors._dynamic import Forest, Part
from paragone.neighbors._tree import Tree

__all__ = ["load", "save"]

MAGIC = b"paragone k-d tree 1\n"
ALIGN = 64


def _arrays(forest: Forest, extra: dict[str, np.ndarray | None]) -> dict[str, np.ndarray]:
    found = {name: array for name, array in extra.items() if array is not None}
    for number, part in enumerate(forest.parts):
        found[f"{number}.live"] = part.live
        for field in fields(Tree):
            value = getattr(part.tree, field.name)
            if isinstance(value, np.ndarray):
                found[f"{number}.{field.name}"] = np.ascontiguousarray(value)
    return found


def save(path: str | os.PathLike[str], forest: Forest, extra: dict[str, np.ndarray | None]) -> None:
    """Writes the forest and some arrays more; a file of that name is replaced at the end."""
    arrays = _arrays(forest, extra)
    table: dict[str, Any] = {}
    at = 0
    for name, array in arrays.items():
        table[name] = [array.dtype.str, list(array.shape), at]
        at += -(-array.nbytes // ALIGN) * ALIGN
    head = {
        "d": forest.d, "dtype": forest.dtype.str, "leafsize": forest.leafsize,
        "midpoint": forest.midpoint, "total": forest.total, "bytes": at,
        "levels": [part.tree.levels for part in forest.parts], "arrays": table,
    }  # fmt: skip
    lines = MAGIC + json.dumps(head).encode() + b"\n"
    partial = f"{os.fspath(path)}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(lines + b" " * (-len(lines) % ALIGN))
            for array in arrays.values():
                file.write(array.data if array.size else b"")
                file.write(b"\0" * (-array.nbytes % ALIGN))
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def load(path: str | os.PathLike[str], mapped: bool) -> tuple[Forest, dict[str, np.ndarray]]:
    """Returns the forest and the other arrays.

    Raises:
        ValueError: The file is no tree, or is cut short.
    """
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{os.fspath(path)} is no k-d tree saved by this version")
        head = json.loads(file.readline())
        first = -(-file.tell() // ALIGN) * ALIGN
    size = os.path.getsize(path)
    if size != first + head["bytes"]:
        raise ValueError(
            f"{os.fspath(path)} has {size} bytes, its head says {first + head['bytes']}: it was "
            "cut short; save it again"
        )
    whole: Any = np.empty(0, np.uint8)
    if head["bytes"]:
        whole = (
            np.memmap(path, np.uint8, "c", first, (head["bytes"],))
            if mapped
            else np.fromfile(path, np.uint8, offset=first)
        )
    found = {}
    for name, (kind, shape, at) in head["arrays"].items():
        dtype, count = np.dtype(kind), int(np.prod(shape))
        piece = np.asarray(whole[at : at + count * dtype.itemsize]).view(dtype)
        found[name] = piece.reshape(shape)
    forest = Forest(head["d"], np.dtype(head["dtype"]), head["leafsize"], head["midpoint"])
    forest.total = head["total"]
    for number, levels in enumerate(head["levels"]):
        names = [field.name for field in fields(Tree) if field.name != "levels"]
        arrays = {name: found.pop(f"{number}.{name}") for name in names}
        forest.parts.append(Part(Tree(**arrays, levels=levels), found.pop(f"{number}.live")))
    return forest, found
