"""GGUF, the container of llama.cpp: fields with types, then tensors, each at an aligned place.

    "GGUF", version, tensors, fields | key, type, value … | name, axes, type, offset … | data

Axes are listed from the fastest. Tensors of float32, float16 and bfloat16 are read, and those of
8 bits ("Q8_0"): blocks of 32 numbers, one float16 scale d and 32 bytes q, of value d q.

References:
    ggml-org, "GGUF specification" (ggml/docs/gguf.md), version 3.

Shapes: none; tensors have those of the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

__all__ = ["is_gguf", "quantized", "read_fields", "read_tensors", "write_gguf"]

_MAGIC = b"GGUF"
_ALIGN = 32
_BLOCK = 32
_SCALARS = "BbHhIif?..QqdD"
_STRING, _ARRAY = 8, 9
_SIZES = {
    at: struct.calcsize("<" + code) for at, code in enumerate(_SCALARS) if code in "BbHhIif?Qqd"
}
_MOST_AXES, _MOST_NESTED, _MOST_ALIGN = 8, 4, 1 << 20
_FLOAT32, _FLOAT16, _BYTES, _BFLOAT16 = 0, 1, 8, 30
_PLAIN = {_FLOAT32: torch.float32, _FLOAT16: torch.float16, _BFLOAT16: torch.bfloat16}


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does."""
    with path.open("rb") as file:
        return file.read(4) == _MAGIC


def read_fields(path: Path) -> dict[str, Any]:
    """Reads the fields of a file: name to number, text or list.

    Raises:
        ValueError: No GGUF file, one that is cut short, or a version other than 2 and 3.
    """
    return _head(path)[0]


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads fields and tensors; bytes of 8 bits come as float32.

    Raises:
        ValueError: As `read_fields`, or tensors of types that are not read.
    """
    fields, infos, start = _head(path)
    other = sorted({kind for _, _, kind, _ in infos} - {*_PLAIN, _BYTES})
    if other:
        raise ValueError(
            f"{path}: tensors of the ggml types {other}; float32 (0), float16 (1), Q8_0 (8) and "
            "bfloat16 (30) are read"
        )
    data = np.memmap(path, np.uint8, "r")
    tensors = {}
    for name, shape, kind, offset in infos:
        count = math.prod(shape)
        if kind == _BYTES and (not shape or shape[-1] % _BLOCK):
            raise ValueError(
                f"{path}: {name} of shape {shape}; Q8_0 has rows of {_BLOCK} n numbers"
            )
        size = count // _BLOCK * 34 if kind == _BYTES else count * _PLAIN[kind].itemsize
        at = start + offset
        if at + size > len(data):
            raise ValueError(f"{path}: {name} ends at byte {at + size}, the file at {len(data)}")
        raw = np.array(data[at : at + size])
        if kind == _BYTES:
            tensors[name] = torch.from_numpy(_dequantized(raw)).view(shape)
        else:
            tensors[name] = torch.from_numpy(raw).view(_PLAIN[kind]).view(shape)
    return fields, tensors


def write_gguf(
    path: Path, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], bytes_: set[str]
) -> None:
    """Writes a file.

    Args:
        path: Where.
        fields: Name to number, text or list.
        tensors: Name to tensor of float32, float16 or bfloat16.
        bytes_: Names of tensors to write with 8 bits; their rows are multiples of 32.
    """
    kinds = {kind: at for at, kind in _PLAIN.items()}
    with path.open("wb") as file:
        file.write(_MAGIC + struct.pack("<IQQ", 3, len(tensors), len(fields)))
        for key, value in fields.items():
            _write_text(file, key)
            _write_value(file, value)
        offset = 0
        for name, x in tensors.items():
            _write_text(file, name)
            kind = _BYTES if name in bytes_ else kinds[x.dtype]
            file.write(struct.pack(f"<I{x.ndim}QIQ", x.ndim, *reversed(x.shape), kind, offset))
            size = x.numel() // _BLOCK * 34 if kind == _BYTES else x.numel() * x.element_size()
            offset += -(-size // _ALIGN) * _ALIGN
        file.write(b"\0" * (-file.tell() % _ALIGN))
        for name, x in tensors.items():
            x = x.detach().to("cpu").contiguous()
            if name in bytes_:
                file.write(quantized(x.float().numpy()).tobytes())
            else:
                file.write(x.flatten().view(torch.uint8).numpy().tobytes())
            file.write(b"\0" * (-file.tell() % _ALIGN))


def quantized(x: np.ndarray) -> np.ndarray:
    """Blocks of 8 bits: (…, multiple of 32) float32 to (blocks, 34) bytes.

    Each block's scale is its largest magnitude over 127; halves are rounded away from zero.
    """
    blocks = x.reshape(-1, _BLOCK)
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = blocks * inverse
    whole = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
    return np.concatenate([scale.astype(np.float16).view(np.uint8), whole.view(np.uint8)], 1)


def _dequantized(raw: np.ndarray) -> np.ndarray:
    blocks = raw.reshape(-1, 34)
    scale = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    return blocks[:, 2:].view(np.int8) * scale


class _Cursor:
    """Reads one value after the other."""

    def __init__(self, path: Path):
        self.path, self.at = path, 0
        self.data = np.memmap(path, np.uint8, "r")

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise ValueError(f"{self.path}: ends at byte {len(self.data)}, amid its header")
        piece = self.data[self.at : self.at + size].tobytes()
        self.at += size
        return piece

    def unpack(self, code: str, count: int = 1) -> tuple[Any, ...]:
        """Reads `count` times what `code` says; a count beyond the file asks for no memory."""
        raw = self.take(count * struct.calcsize("<" + code))
        return struct.unpack(f"<{count if count != 1 else ''}{code}", raw)

    def text(self) -> str:
        return self.take(self.unpack("Q")[0]).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.unpack("IQ")
            if depth == _MOST_NESTED:
                raise ValueError(f"{self.path}: arrays in arrays, more than {_MOST_NESTED} deep")
            if inner in (_STRING, _ARRAY):
                return [self.value(inner, depth + 1) for _ in range(count)]
            return list(self.unpack(self._code(inner), count))
        return self.unpack(self._code(kind))[0]

    def _code(self, kind: int) -> str:
        if kind not in _SIZES:
            raise ValueError(f"{self.path}: a field of type {kind}, which version 3 does not have")
        return _SCALARS[kind]


_Info = tuple[str, tuple[int, ...], int, int]


def _head(path: Path) -> tuple[dict[str, Any], list[_Info], int]:
    """Fields, tensors (name, shape, type, offset) and where the data begin."""
    cursor = _Cursor(path)
    if len(cursor.data) < 24 or cursor.take(4) != _MAGIC:
        raise ValueError(f"{path} is no GGUF file: it does not begin with 'GGUF'")
    version, tensors, count = cursor.unpack("IQQ")
    if version not in (2, 3):
        raise ValueError(f"{path}: version {version} of GGUF; 2 and 3 are read")
    fields = {}
    for _ in range(count):
        key = cursor.text()
        fields[key] = cursor.value(cursor.unpack("I")[0])
    infos = []
    for _ in range(tensors):
        name = cursor.text()
        axes = cursor.unpack("I")[0]
        if axes > _MOST_AXES:
            raise ValueError(f"{path}: {name} has {axes} axes; at most {_MOST_AXES} are read")
        shape = cursor.unpack("Q", axes)
        infos.append((name, tuple(reversed(shape)), *cursor.unpack("IQ")))
    align = fields.get("general.alignment", _ALIGN)
    if not isinstance(align, int) or not 1 <= align <= _MOST_ALIGN:
        raise ValueError(f"{path}: general.alignment is {align!r}; 1 to {_MOST_ALIGN} is expected")
    return fields, infos, -(-cursor.at // align) * align


def _write_text(file: BinaryIO, text: str) -> None:
    raw = text.encode()
    file.write(struct.pack("<Q", len(raw)) + raw)


def _kind(value: Any) -> int:
    if isinstance(value, bool):
        return 7
    if isinstance(value, str):
        return _STRING
    if isinstance(value, float):
        return 6
    return 5 if value < 0 else 4


def _write_value(file: BinaryIO, value: Any) -> None:
    if isinstance(value, list | tuple):
        kind = max((_kind(one) for one in value), default=4)
        if kind in (4, 5):
            kind = 5
        file.write(struct.pack("<IIQ", _ARRAY, kind, len(value)))
        if kind == _STRING:
            for one in value:
                _write_text(file, one)
        else:
            file.write(struct.pack(f"<{len(value)}{_SCALARS[kind]}", *value))
        return
    kind = _kind(value)
    file.write(struct.pack("<I", kind))
    if kind == _STRING:
        _write_text(file, value)
    else:
        file.write(struct.pack("<" + _SCALARS[kind], value))
