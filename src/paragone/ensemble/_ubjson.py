"""Universal Binary JSON, read only: JSON's data with typed, counted containers.

A value is one marker byte and its payload, big-endian. A container may announce the type of its
items (`$`) and their number (`#`), which turns an array of floats into one block of bytes;
XGBoost's `.ubj` files are made of those. Every length is held against what is left of the
file before anything is allocated, so a damaged or hostile file gives a `ValueError`.

Cost: one pass; typed arrays come back as NumPy arrays without a loop.

References:
    Universal Binary JSON specification, draft 12 (ubjson.org): types, optimised containers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["read_ubjson"]

_NUMBERS = {b"i": "i1", b"U": "u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
_CONSTANTS = {b"Z": None, b"T": True, b"F": False}
_MAX_DEPTH = 64


def read_ubjson(data: bytes) -> Any:
    """Returns the one value that the bytes hold: dicts, lists, arrays, numbers, text.

    Example:
        >>> read_ubjson(b"{U\\x01aU\\x07}")
        {'a': 7}
    """
    reader = _Reader(data)
    value = reader.value(reader.marker(), 0)
    if reader.at != len(data) and data[reader.at :].strip(b"N\n\0"):
        raise ValueError(f"{len(data) - reader.at} bytes follow the end of the document")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if size < 0 or size > len(self.data) - self.at:
            raise ValueError(f"the file ends early: {size} bytes are wanted at byte {self.at}")
        self.at += size
        return self.data[self.at - size : self.at]

    def marker(self) -> bytes:
        found = self.take(1)
        while found == b"N":
            found = self.take(1)
        return found

    def peek(self) -> bytes:
        return self.data[self.at : self.at + 1]

    def length(self) -> int:
        kind = self.marker()
        if kind not in (b"i", b"U", b"I", b"l", b"L"):
            raise ValueError(f"byte {self.at}: a length of type {kind!r}")
        size = int(self.number(kind))
        if size < 0:
            raise ValueError(f"byte {self.at}: a length of {size}")
        return size

    def number(self, kind: bytes) -> int | float:
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()

    def text(self) -> str:
        return self.take(self.length()).decode("utf-8")

    def value(self, kind: bytes, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError(f"byte {self.at}: nested deeper than {_MAX_DEPTH}")
        if kind in _NUMBERS:
            return self.number(kind)
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if kind == b"S":
            return self.text()
        if kind == b"C":
            return self.take(1).decode("ascii")
        if kind == b"H":
            return float(self.text())
        if kind == b"[":
            return self.array(depth)
        if kind == b"{":
            return self.object(depth)
        raise ValueError(f"byte {self.at}: unknown marker {kind!r}")

    def header(self) -> tuple[bytes | None, int | None]:
        """The announced type and number of items of a container, each if there is one."""
        kind = count = None
        if self.peek() == b"$":
            self.take(1)
            kind = self.take(1)
            if self.peek() != b"#":
                raise ValueError(f"byte {self.at}: a typed container without a count")
        if self.peek() == b"#":
            self.take(1)
            count = self.length()
        # An untyped or numeric item takes a byte at least; constants take none, hence the cap.
        if count is not None and count > max(len(self.data) - self.at, 0):
            raise ValueError(f"byte {self.at}: {count} items do not fit into the file")
        return kind, count

    def array(self, depth: int) -> Any:
        kind, count = self.header()
        if kind in _NUMBERS and count is not None:
            dtype = np.dtype(_NUMBERS[kind])
            return np.frombuffer(self.take(count * dtype.itemsize), dtype).astype(
                dtype.newbyteorder("=")
            )
        items = []
        while (count is None and self.peek() != b"]") or (count is not None and len(items) < count):
            items.append(self.value(kind or self.marker(), depth + 1))
        if count is None:
            self.take(1)
        return items

    def object(self, depth: int) -> dict[str, Any]:
        kind, count = self.header()
        found: dict[str, Any] = {}
        read = 0
        while (count is None and self.peek() != b"}") or (count is not None and read < count):
            key = self.text()
            found[key] = self.value(kind or self.marker(), depth + 1)
            read += 1
        if count is None:
            self.take(1)
        return found
