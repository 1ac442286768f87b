"""Collectives over the lanes of a shared group, for any type, operation, layout and size.

Each is a sequence of rounds: every rank writes a chunk of what others need into its lane, all
meet, and each reads from the lanes what is for it. Reductions run over the lanes in the order of
the ranks, so that every rank gets the bits of a serial loop; 16-bit floats are summed in 32 bits
and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

from paragone.training import _shared_memory as layout
from paragone.training._shared_station import MismatchError, Station

__all__ = ["Collectives", "code_of", "described", "reduced"]

_KINDS = (
    "meet", "all_reduce", "broadcast", "all_gather", "reduce_scatter", "reduce", "gather",
    "scatter", "all_to_all", "barrier",
)  # fmt: skip
_DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int8,
    torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64, torch.complex128,
    torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip
_NUMBER = {dtype: number for number, dtype in enumerate(_DTYPES)}
_OPS: Any = dist.ReduceOp.RedOpType
_HALVES = (torch.float16, torch.bfloat16)
_BITS = {
    _OPS.BAND: torch.bitwise_and, _OPS.BOR: torch.bitwise_or, _OPS.BXOR: torch.bitwise_xor,
}  # fmt: skip
_STEPS = {
    _OPS.SUM: torch.add, _OPS.AVG: torch.add, _OPS.PRODUCT: torch.mul, _OPS.MIN: torch.minimum,
    _OPS.MAX: torch.maximum, **_BITS,
}  # fmt: skip
_TRUTHS = {
    _OPS.SUM: torch.logical_or, _OPS.PRODUCT: torch.logical_and, _OPS.MIN: torch.logical_and,
    _OPS.MAX: torch.logical_or, **_BITS,
}  # fmt: skip


def code_of(kind: str, dtype: torch.dtype, op: int = 0, root: int = 0) -> int:
    """Returns what ranks compare before they exchange anything."""
    if dtype not in _NUMBER:
        raise ValueError(f"dtype={dtype} is not known to the shared group: use one of {_DTYPES}")
    return _KINDS.index(kind) | op << 8 | _NUMBER[dtype] << 16 | root << 24


def described(code: int, number: int) -> str:
    """Returns a descriptor in words."""
    kind, op, dtype = _KINDS[code & 0xFF], code >> 8 & 0xFF, _DTYPES[code >> 16 & 0xFF]
    how = f" {_OPS(op).name}" if "reduce" in kind else ""
    root = f" root {code >> 24}" if kind in ("broadcast", "reduce", "gather", "scatter") else ""
    return kind if kind == "barrier" else f"{kind}{how}{root} of {number} {str(dtype)[6:]}"


def _step(dtype: torch.dtype, op: Any) -> Callable[..., torch.Tensor]:
    table = _TRUTHS if dtype == torch.bool else _STEPS
    whole = not (dtype.is_floating_point or dtype.is_complex)
    refused = (
        op not in table
        or (op in _BITS and not whole)
        or (op == _OPS.AVG and whole)
        or (dtype.is_complex and op in (_OPS.MIN, _OPS.MAX))
        or (dtype.is_floating_point and dtype.itemsize == 1)
    )
    if refused:
        raise ValueError(
            f"{op.name} of {dtype} is not defined here: bit operations need integers or bool, AVG "
            "needs floats or complex numbers, MIN and MAX need an order, 8-bit floats a wider type"
        )
    return table[op]


def reduced(parts: Sequence[torch.Tensor], op: Any, out: torch.Tensor) -> None:
    """Writes the reduction of the parts, in their order, to `out`.

    Args:
        parts: Tensors of one shape and dtype, none of which overlaps `out`.
        op: Of `dist.ReduceOp`.
        out: Like one of them.
    """
    step, dtype = _step(out.dtype, op), out.dtype
    if dtype in _HALVES and op in (_OPS.SUM, _OPS.AVG, _OPS.PRODUCT):
        total = parts[0].float()
        for part in parts[1:]:
            step(total, part, out=total)
    else:
        total = out
        if len(parts) == 1:
            out.copy_(parts[0])
        for k, part in enumerate(parts[1:]):
            step(parts[0] if k == 0 else total, part, out=total)
    if op == _OPS.AVG:
        total /= len(parts)
    if total is not out:
        out.copy_(total)


class Collectives:
    """The operations of one rank; all tensors are flat and contiguous.

    Args:
        station: This rank's place in the segment.
    """

    def __init__(self, station: Station) -> None:
        self._station = station
        self._bytes = torch.from_numpy(station.lanes).view(station.world, 2, layout.LANE)
        self._views: dict[torch.dtype, torch.Tensor] = {}

    def _lanes(self, dtype: torch.dtype) -> torch.Tensor:
        if dtype not in self._views:
            self._views[dtype] = self._bytes.view(dtype)
        return self._views[dtype]

    def _rounds(
        self, code: int, number: int, width: int, pieces: Sequence[torch.Tensor | None],
        dtype: torch.dtype,
    ) -> Iterator[tuple[int, int, int, torch.Tensor]]:  # fmt: skip
        """Yields (from, to, room of a piece, lanes) when all have filled their lanes.

        `width` values of each piece pass, as many pieces side by side as there are; the number of
        pieces is the same on all ranks.
        """
        station, lanes = self._station, self._lanes(dtype)
        room = lanes.shape[2] // len(pieces) // 8 * 8
        low = 0
        while True:
            high = min(low + room, width)
            slot = (int(station.state[0]) + 1) & 1
            mine = lanes[station.rank, slot]
            for j, piece in enumerate(pieces):
                if piece is not None and len(piece) > low:
                    part = piece[low:high]
                    mine[j * room : j * room + len(part)].copy_(part)
            station.meet(code if low == 0 else -1, number)
            yield low, high, room, lanes[:, slot]
            low = high
            if low >= width:
                return

    def all_reduce(self, tensor: torch.Tensor, op: Any) -> None:
        _step(tensor.dtype, op)
        code = code_of("all_reduce", tensor.dtype, int(op))
        number = len(tensor)
        for low, high, _, lanes in self._rounds(code, number, number, [tensor], tensor.dtype):
            reduced([lane[: high - low] for lane in lanes], op, tensor[low:high])

    def reduce(self, tensor: torch.Tensor, root: int, op: Any) -> None:
        _step(tensor.dtype, op)
        code = code_of("reduce", tensor.dtype, int(op), root)
        number = len(tensor)
        for low, high, _, lanes in self._rounds(code, number, number, [tensor], tensor.dtype):
            if self._station.rank == root:
                reduced([lane[: high - low] for lane in lanes], op, tensor[low:high])

    def broadcast(self, tensor: torch.Tensor, root: int) -> None:
        code, number = code_of("broadcast", tensor.dtype, 0, root), len(tensor)
        mine = self._station.rank == root
        pieces = [tensor if mine else None]
        for low, high, _, lanes in self._rounds(code, number, number, pieces, tensor.dtype):
            if not mine:
                tensor[low:high].copy_(lanes[root, : high - low])

    def all_gather(self, outputs: Sequence[torch.Tensor], tensor: torch.Tensor) -> None:
        code, number = code_of("all_gather", tensor.dtype), len(tensor)
        for low, high, _, lanes in self._rounds(code, number, number, [tensor], tensor.dtype):
            for k, output in enumerate(outputs):
                output[low:high].copy_(lanes[k, : high - low])

    def gather(
        self, outputs: Sequence[torch.Tensor] | None, tensor: torch.Tensor, root: int
    ) -> None:
        code, number = code_of("gather", tensor.dtype, 0, root), len(tensor)
        for low, high, _, lanes in self._rounds(code, number, number, [tensor], tensor.dtype):
            for k, output in enumerate(outputs or ()):
                output[low:high].copy_(lanes[k, : high - low])

    def scatter(
        self, output: torch.Tensor, tensors: Sequence[torch.Tensor] | None, root: int
    ) -> None:
        code, number = code_of("scatter", output.dtype, 0, root), len(output)
        pieces: list[torch.Tensor | None] = [None] * self._station.world
        if tensors is not None:
            pieces = [*tensors]
        for low, high, room, lanes in self._rounds(code, number, number, pieces, output.dtype):
            begin = self._station.rank * room
            output[low:high].copy_(lanes[root, begin : begin + high - low])

    def reduce_scatter(
        self, output: torch.Tensor, tensors: Sequence[torch.Tensor], op: Any
    ) -> None:
        _step(output.dtype, op)
        code, number = code_of("reduce_scatter", output.dtype, int(op)), len(output)
        for low, high, room, lanes in self._rounds(code, number, number, tensors, output.dtype):
            begin = self._station.rank * room
            reduced([lane[begin : begin + high - low] for lane in lanes], op, output[low:high])

    def all_to_all(self, outputs: Sequence[torch.Tensor], tensors: Sequence[torch.Tensor]) -> None:
        """Piece j of each rank goes to rank j; pieces may differ in length."""
        world, dtype = self._station.world, tensors[0].dtype
        own = torch.tensor([[len(t) for t in tensors], [len(t) for t in outputs]])
        told = torch.empty(world, 2, world, dtype=torch.int64)
        self.all_gather([*told.view(world, -1)], own.view(-1))
        if not torch.equal(told[:, 0], told[:, 1].T):
            wrong = (told[:, 0] != told[:, 1].T).nonzero()[0].tolist()
            raise MismatchError(
                f"rank {wrong[0]} sends {told[wrong[0], 0, wrong[1]]} values to rank {wrong[1]}, "
                f"which expects {told[wrong[1], 1, wrong[0]]}"
            )
        width = int(told.max())
        code = code_of("all_to_all", dtype)
        for low, high, room, lanes in self._rounds(code, width, width, tensors, dtype):
            begin = self._station.rank * room
            for k, output in enumerate(outputs):
                part = output[low:high]
                part.copy_(lanes[k, begin : begin + len(part)])
