"""Buckets: parameters laid behind each other and cut into one share a rank.

A bucket is the unit of communication at every stage. Its layout is the only thing that the two
ways of sharding differ in. By *element*, N equal shares cut the row of parameters anywhere and
the end is padded. By *tensor*, a parameter lies whole in the share of one owner (the least
loaded so far), which optimizers need that look at a whole matrix. A *piece* is what one rank
holds of one parameter; the optimizer sees pieces only, so a parameter that was not used is
skipped as it would be without sharding.

What a share consists of, with P elements in the bucket:

| stage | parameters | gradients until the step | the optimizer works on |
|---|---|---|---|
| 1 | P, on every rank | P | P/N: of the parameters, or of the fp32 master |
| 2 | P | P/N | the same |
| 3 | P/N, all while in use | P/N | the resting share, or its fp32 master |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paragone.training._zero_comm import Pending, Ranks

__all__ = ["Bucket", "Entry", "Piece", "Policy", "layout"]

LOW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Policy:
    """How every bucket of one `Zero` is kept."""

    stage: int
    shard_by: str
    master: bool
    gradient_dtype: torch.dtype | None
    rest: torch.device | None


@dataclass(eq=False)
class Entry:
    """A parameter in a bucket: its number, its name, where it begins."""

    index: int
    name: str
    param: nn.Parameter
    shape: torch.Size
    at: int = 0

    @property
    def numel(self) -> int:
        return self.shape.numel()


@dataclass(eq=False)
class Piece:
    """Elements start:stop of a parameter (flat); `at` is their place in this rank's share."""

    entry: Entry
    start: int
    stop: int
    at: int
    whole: bool
    tensor: Tensor

    def of(self, share: Tensor) -> Tensor:
        """The same elements of another tensor laid out as the share."""
        part = share[self.at : self.at + self.stop - self.start]
        return part.view(self.entry.shape) if self.whole else part


def layout(
    numels: Sequence[int], ranks: int, shard_by: str, loads: list[int], align: int = 1
) -> tuple[list[int], list[int]]:
    """Where each parameter begins, and the elements of each rank's share.

    Args:
        numels: Elements of each parameter.
        ranks: Number of ranks N.
        shard_by: "element" or "tensor".
        loads: Elements that each rank owns so far; brought up to date by "tensor".
        align: Parameters begin at multiples of it (of their owner's share, by "tensor").

    Example:
        >>> layout([3, 4], 2, "element", [0, 0])
        ([0, 3], [4, 4])
        >>> layout([3, 4], 2, "tensor", [0, 0])
        ([4, 0], [4, 3])
    """
    room = [-(-numel // align) * align for numel in numels]
    if shard_by == "element":
        starts = [sum(room[:i]) for i in range(len(room))]
        return starts, [-(-(starts[-1] + numels[-1]) // ranks)] * ranks
    sizes, places = [0] * ranks, {}
    for i in sorted(range(len(numels)), key=lambda i: (-numels[i], i)):
        owner = min(range(ranks), key=lambda r: (loads[r], r))
        places[i] = (owner, sizes[owner])
        sizes[owner] += room[i]
        loads[owner] += numels[i]
    begins = [sum(sizes[:r]) for r in range(ranks)]
    return [begins[places[i][0]] + places[i][1] for i in range(len(numels))], sizes


class Bucket:
    """Parameters of one type that are reduced, updated and gathered together.

    Args:
        entries: The parameters; `at` is set here.
        ranks: The group.
        policy: Stage, way of sharding, master weights, where shares rest.
        loads: See `layout`.
        trainable: Whether the optimizer has them.
    """

    def __init__(
        self,
        entries: list[Entry],
        ranks: Ranks,
        policy: Policy,
        loads: list[int],
        trainable: bool,
    ) -> None:
        self.entries, self.ranks, self.policy = entries, ranks, policy
        first = entries[0].param
        self.dtype, self.device, self.trainable = first.dtype, first.device, trainable
        self.name = entries[0].name + (f" and {len(entries) - 1} more" if entries[1:] else "")
        # Matrix products may round by alignment: views of stage 3 begin where torch's tensors do.
        align = 64 // self.dtype.itemsize if policy.stage == 3 else 1
        numels = [entry.numel for entry in entries]
        starts, self.sizes = layout(numels, ranks.size, policy.shard_by, loads, align)
        for entry, start in zip(entries, starts, strict=True):
            entry.at = start
        self.begin = sum(self.sizes[: ranks.rank])
        self.flat: Tensor | None = None
        self.rest: Tensor | None = None
        self.master: Tensor | None = None
        self.grad: Tensor | None = None
        self.used: set[int] = set()
        self.waiting: set[int] = set()
        self._spread()
        self._attach()

    def _spread(self) -> None:
        """Every rank begins with the parameters of rank 0."""
        if self.ranks.size > 1:
            whole = self._packed([entry.param.detach() for entry in self.entries])
            self.ranks.broadcast(whole, f"spreading {self.name}")
            for entry in self.entries:
                entry.param.detach().copy_(self._view(whole, entry))

    def _view(self, whole: Tensor, entry: Entry) -> Tensor:
        return whole[entry.at : entry.at + entry.numel].view(entry.shape)

    def _packed(self, tensors: Sequence[Tensor | None]) -> Tensor:
        whole = torch.zeros(sum(self.sizes), dtype=self.dtype, device=self.device)
        for entry, tensor in zip(self.entries, tensors, strict=True):
            if tensor is not None:
                self._view(whole, entry).copy_(tensor)
        return whole

    def _cuts(self) -> Iterator[tuple[Entry, int, int]]:
        end = self.begin + self.sizes[self.ranks.rank]
        for entry in self.entries:
            start = max(self.begin, entry.at)
            stop = min(end, entry.at + entry.numel)
            if start < stop:
                yield entry, start - entry.at, stop - entry.at

    def _attach(self) -> None:
        """Makes this rank's share and the pieces that the optimizer will see."""
        policy, cuts = self.policy, list(self._cuts())
        self.load = max((e.at + stop - self.begin for e, _, stop in cuts), default=0)
        home = policy.rest or self.device
        if policy.stage == 3:
            whole = self._packed([entry.param.detach() for entry in self.entries])
            share = whole[self.begin : self.begin + self.load]
            self.rest = share.clone() if home == self.device else share.to(home)
            self.flat = whole
        low = self.dtype in LOW and policy.master
        if self.trainable and (low or (policy.rest is not None and policy.stage < 3)):
            dtype = torch.float32 if low else self.dtype
            self.master = torch.empty(self.load, dtype=dtype, device=home)
        own = self.master if self.master is not None else self.rest
        self.pieces = []
        for entry, start, stop in cuts:
            at, whole_tensor = entry.at + start - self.begin, policy.shard_by == "tensor"
            source = entry.param.detach().view(-1)[start:stop]
            if own is None:
                tensor = source.view(entry.shape) if whole_tensor else source
            else:
                tensor = own[at : at + stop - start]
                tensor.copy_(source)
                tensor = tensor.view(entry.shape) if whole_tensor else tensor
            self.pieces.append(
                Piece(entry, start, stop, at, whole_tensor, nn.Parameter(tensor, False))
            )
        if policy.stage == 3:
            self.release()

    @property
    def gradient_dtype(self) -> torch.dtype:
        return self.policy.gradient_dtype or self.dtype

    def send_gradients(self) -> Pending:
        """Starts the reduction of what the parameters have collected, and frees that."""
        grads = [entry.param.grad for entry in self.entries]
        for entry, grad in zip(self.entries, grads, strict=True):
            if grad is not None and grad.layout != torch.strided:
                raise ValueError(f"{entry.name} has a sparse gradient: build it with sparse=False")
        self.used |= {e.index for e, g in zip(self.entries, grads, strict=True) if g is not None}
        whole = self._packed(grads)
        for entry in self.entries:
            entry.param.grad = None
        return self.ranks.reduce_scatter(whole, self.sizes, f"reducing gradients of {self.name}")

    def add(self, pending: Pending) -> None:
        """Adds the shares of all ranks, in their order, to the gradient of this rank's share.

        Sums of 16-bit gradients are taken in fp32 and kept as averages, or they would overflow.
        """
        rows = pending.rows()[:, : self.load]
        kept, low = self.gradient_dtype, self.gradient_dtype in LOW
        exact = torch.float32 if self.dtype in LOW else self.dtype
        total = None
        if self.grad is not None and not low:
            total = self.grad.to(self.device, exact)
        for row in rows:
            total = row.to(exact, copy=True) if total is None else total.add_(row)
        assert total is not None
        if low:
            total.div_(self.ranks.size)
            if self.grad is not None:
                total.add_(self.grad.to(self.device))
        home = self.policy.rest or self.device
        self.grad = total.to(device=home, dtype=kept)

    def average(self, scale: float | None) -> None:
        """Makes the sum of gradients an average in the type of the pieces, over `scale`."""
        if self.grad is None or not self.pieces:
            return
        grad = self.grad.to(self.pieces[0].tensor.dtype)
        if self.gradient_dtype not in LOW:
            grad.div_(self.ranks.size)
        if scale is not None:
            grad.mul_(1.0 / scale)
        self.grad = grad

    def publish(self) -> None:
        """Brings the pieces that the optimizer changed back into the parameters of all ranks."""
        if self.policy.stage == 3:
            if self.master is not None and self.rest is not None and self.load:
                self.rest.copy_(self.master)
            return
        what = f"gathering {self.name}"
        whole = torch.zeros(sum(self.sizes), dtype=self.dtype, device=self.device)
        for piece in self.pieces:
            piece.of(whole[self.begin :]).copy_(piece.tensor)
        self.ranks.all_gather(whole, self.sizes, what)
        for entry in self.entries:
            entry.param.detach().copy_(self._view(whole, entry))

    def gather(self) -> None:
        """Stage 3: brings all elements of the parameters into their common storage."""
        assert self.flat is not None
        assert self.rest is not None
        total = sum(self.sizes)
        self.flat.untyped_storage().resize_(total * self.flat.element_size())
        with torch.no_grad():
            self.flat[self.begin : self.begin + self.load].copy_(self.rest)
            self.ranks.all_gather(self.flat, self.sizes, f"gathering {self.name}")
        for entry in self.entries:
            entry.param.data = self._view(self.flat, entry)

    def release(self) -> None:
        """Stage 3: frees the common storage; the parameters keep their shape and read as NaN."""
        assert self.flat is not None
        hole = _hole(self.dtype, self.device)
        for entry in self.entries:
            entry.param.data = hole.expand(entry.shape)
        self.flat.untyped_storage().resize_(0)

    def tensors(self) -> dict[str, list[Tensor]]:
        """Live tensors by what they are for, for a count of bytes."""
        grads = [e.param.grad for e in self.entries if e.param.grad is not None]
        shares = [t for t in (self.rest, self.flat) if t is not None]
        return {
            "parameters": shares or [entry.param.detach() for entry in self.entries],
            "gradients": [*grads, *([] if self.grad is None else [self.grad])],
            "master": [] if self.master is None else [self.master],
        }


_HOLES: dict[Any, Tensor] = {}


def _hole(dtype: torch.dtype, device: torch.device) -> Tensor:
    """One NaN that stands for any number of elements."""
    key = (dtype, device)
    if key not in _HOLES:
        value = float("nan") if dtype.is_floating_point else 0
        _HOLES[key] = torch.full((), value, dtype=dtype, device=device)
    return _HOLES[key]
