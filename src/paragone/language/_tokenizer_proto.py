"""SentencePiece's `.model` file: a protobuf of pieces, trainer and normaliser, read and written.

A message is a run of fields, each a key (number times 8, plus the wire type) and a value: 0 a
varint, 1 eight bytes, 2 a length and so many bytes, 5 four bytes. Only fields that decide what a
text becomes are kept.

References:
    Kudo and Richardson (2018), SentencePiece, arXiv:1808.06226, section 3.
    Protocol buffers, "Encoding": varints, tags and wire types.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

__all__ = [
    "BYTE", "CONTROL", "NORMAL", "UNKNOWN", "UNUSED", "USER", "Pieces", "read_model", "write_model",
]  # fmt: skip

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of pieces, as numbered in the file and in GGUF's arrays."""


@dataclasses.dataclass
class Pieces:
    """What a SentencePiece model consists of.

    Attributes:
        pieces: Text of each piece, spaces written as U+2581.
        scores: Score of each (float32): merge order, or log-probability for "unigram".
        types: Kind of each: `NORMAL`, `UNKNOWN`, `CONTROL`, `USER`, `UNUSED` or `BYTE`.
        kind: "bpe" or "unigram".
        charsmap: Precompiled normalisation rules (empty: none).
        add_dummy_prefix: Whether a space is put before a text.
        remove_extra_whitespaces: Whether runs of spaces become one and outer ones go.
        escape_whitespaces: Whether spaces become U+2581.
        whitespace_as_suffix: Whether a space belongs to the word before it.
        byte_fallback: Whether unknown characters become their bytes.
        bos_id: Beginning of a text (-1: none).
        eos_id: End of a text (-1: none).
        pad_id: Padding (-1: none).
        unk_surface: What an unknown piece is decoded to.
    """

    pieces: list[str]
    scores: list[float]
    types: list[int]
    kind: str = "bpe"
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    whitespace_as_suffix: bool = False
    byte_fallback: bool = False
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1
    unk_surface: str = " \u2047 "

    @property
    def unk_id(self) -> int:
        """Number of the unknown piece."""
        return self.types.index(UNKNOWN)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message; IndexError where it is cut short."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise IndexError(f"wire type {wire}")
        if at + size > len(data):
            raise IndexError("cut short")
        yield number, data[at : at + size]
        at += size


def _signed(value: int | bytes | str) -> int:
    """An int32 as varints hold it: negative numbers as 64 bits."""
    assert isinstance(value, int)
    return value - (1 << 64) if value >= 1 << 63 else value


_TRAINER = {
    3: "kind", 24: "whitespace_as_suffix", 35: "byte_fallback", 41: "bos_id", 42: "eos_id",
    43: "pad_id", 44: "unk_surface",
}  # fmt: skip
_NORMALIZER = {
    2: "charsmap", 3: "add_dummy_prefix", 4: "remove_extra_whitespaces", 5: "escape_whitespaces",
}  # fmt: skip
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


def read_model(data: bytes, name: str = "the model") -> Pieces:
    """Reads a `.model` file.

    Args:
        data: Its bytes.
        name: What messages call it.

    Raises:
        ValueError: It is no SentencePiece model, or one of words or characters.
    """
    pieces, scores, types = [], [], []
    found: dict[str, int | bytes] = {"kind": 1}
    try:
        for number, value in _fields(data):
            if number == 1:
                assert isinstance(value, bytes)
                fields = dict(_fields(value))
                pieces.append(bytes(fields[1]).decode())  # pyright: ignore[reportArgumentType]
                score = fields.get(2, b"\0\0\0\0")
                assert isinstance(score, bytes)
                scores.append(struct.unpack("<f", score)[0])
                types.append(fields.get(3, NORMAL))
            elif number in (2, 3):
                assert isinstance(value, bytes)
                names = _TRAINER if number == 2 else _NORMALIZER
                found |= {names[k]: v for k, v in _fields(value) if k in names}
    except (IndexError, KeyError, AssertionError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(
            f"{name}: expected a SentencePiece model, could not read piece {len(pieces)} ({error})"
        ) from error
    kind = _KINDS.get(_signed(found.pop("kind")), "of an unknown kind")
    if kind not in ("bpe", "unigram"):
        raise ValueError(f"{name}: a model {kind}; BPE and unigram models can be read")
    if types.count(UNKNOWN) != 1:
        raise ValueError(f"{name}: {types.count(UNKNOWN)} unknown pieces among {len(types)}, not 1")
    values: dict[str, object] = {}
    for key, value in found.items():
        if key == "unk_surface":
            values[key] = bytes(value).decode()  # pyright: ignore[reportArgumentType]
        elif key == "charsmap":
            values[key] = value
        else:
            values[key] = _signed(value) if key.endswith("_id") else bool(value)
    return Pieces(pieces, scores, types, kind, **values)  # pyright: ignore[reportArgumentType]


def _packed(number: int, value: bool | int | float | str | bytes) -> bytes:
    """One field of a message."""
    if isinstance(value, float):
        return _number(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _number(number << 3) + _number(value % (1 << 64))
    data = value.encode() if isinstance(value, str) else value
    return _number(number << 3 | 2) + _number(len(data)) + data


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_model(model: Pieces) -> bytes:
    """Returns the bytes of a `.model` file that SentencePiece reads."""
    out = []
    for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True):
        body = _packed(1, piece) + _packed(2, float(score)) + _packed(3, kind)
        out.append(_packed(1, body))
    kinds = {name: number for number, name in _KINDS.items()}
    spec = _packed(3, kinds[model.kind]) + _packed(4, len(model.pieces)) + _packed(40, model.unk_id)
    for number, name in _TRAINER.items():
        if number != 3:
            spec += _packed(number, getattr(model, name))
    for number, name in ((46, "bos_id"), (47, "eos_id"), (48, "pad_id")):
        if getattr(model, name) >= 0:
            spec += _packed(number, model.pieces[getattr(model, name)])
    spec += _packed(45, model.pieces[model.unk_id])
    norm = _packed(1, "identity" if not model.charsmap else "custom")
    for number, name in _NORMALIZER.items():
        norm += _packed(number, getattr(model, name))
    return b"".join(out) + _packed(2, spec) + _packed(3, norm)
