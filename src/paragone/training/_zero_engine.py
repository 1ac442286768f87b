"""The reduce-and-publish engine of `Zero`: gradients into shares, shares into parameters.

Buckets are reduced in one fixed order, whatever order a rank's backward fills them in, so that
the ranks always talk about the same bucket. A bucket that backward did not fill (a parameter was
not used) goes at the end of the backward, with zeros in the gaps; which parameters were used by
any rank is agreed on before the step, as an unused one must be left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from paragone.training._zero_comm import Pending, Ranks, bits_of, float_of
from paragone.training._zero_gather import Unit, Units, split_into_units
from paragone.training._zero_norm import LEVELS, largest, level_sums, norm_of
from paragone.training._zero_setup import make_buckets, spread
from paragone.training._zero_shards import Bucket, Entry, Piece, Policy

__all__ = ["OwnEngine"]

_WORD = 62


class OwnEngine:
    """Stages 1 to 3 in plain collectives.

    Args:
        model: The model.
        groups: Parameter groups.
        ranks: The group of processes.
        policy: How shares are kept.
        units: Classes that stage 3 gathers whole.
        most: Bytes of a bucket.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[dict[str, Any]],
        ranks: Ranks,
        policy: Policy,
        units: Sequence[type[nn.Module]],
        most: float,
    ) -> None:
        self.model, self.ranks, self.policy = model, ranks, policy
        self._sync, self._ending, self._dirty, self._complete = True, False, False, False
        self._next = 0
        self._flying: list[tuple[Bucket, Pending]] = []
        self._ready: list[tuple[Piece, Tensor]] | None = None
        self._largest = 0.0
        self._handles: list[Any] = []
        names = {p: name for name, p in model.named_parameters()}
        self.device = next(iter(names)).device
        for param in names:
            if not param.is_contiguous():
                param.data = param.data.contiguous()
        trained = {p for g in groups for p in g["params"] if p.requires_grad and p.numel()}
        self._count = sum(p.numel() for p in trained)
        spread(model.named_buffers(), ranks)
        if policy.stage < 3:
            spread(((name, p) for p, name in names.items() if p not in trained), ranks)
        found, hooked = split_into_units(model, units) if policy.stage == 3 else (None, {})
        parts = None if found is None else [params for _, params in found]
        made = make_buckets(names, trained, parts, ranks, policy, most)
        self.buckets = [bucket for part in made for bucket in part]
        self._order = [b for b in (self.buckets if found is None else self.buckets[::-1])
                       if b.trainable]  # fmt: skip
        self.units: Units | None = None
        unit_of: dict[Bucket, Unit] = {}
        if found is not None:
            all_units = [Unit(name, part) for (name, _), part in zip(found, made, strict=True)]
            unit_of = {bucket: unit for unit in all_units for bucket in unit.buckets}
            self.units = Units(all_units, hooked, self._queue_end)
        if policy.stage > 1:
            for bucket in self._order:
                for entry in bucket.entries:
                    arrived = self._arrival(bucket, entry, unit_of.get(bucket))
                    hook = entry.param.register_post_accumulate_grad_hook(arrived)
                    self._handles.append(hook)
            self._begin()

    def pieces_of(self, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The groups with this rank's pieces in place of the parameters."""
        held = {piece.entry.param: piece.tensor for b in self._order for piece in b.pieces}
        return [{**g, "params": [held[p] for p in g["params"] if p in held]} for g in groups]

    def pieces(self) -> Iterator[tuple[Bucket, Piece]]:
        """All pieces of this rank, frozen ones too."""
        for bucket in self.buckets:
            for piece in bucket.pieces:
                yield bucket, piece

    def _arrival(
        self, bucket: Bucket, entry: Entry, unit: Unit | None
    ) -> Callable[[nn.Parameter], None]:
        def arrived(param: nn.Parameter) -> None:
            if unit is not None and not unit.visited:
                raise RuntimeError(
                    f"{entry.name} was used while its module was not running, so stage 3 had "
                    "released it: name the class of the module that uses it in units=(...)"
                )
            self._queue_end()
            if not self._sync:
                self._dirty = True
                return
            bucket.waiting.discard(entry.index)
            while self._next < len(self._order) and not self._order[self._next].waiting:
                self._launch()

        return arrived

    def _begin(self) -> None:
        """Ready for the next backward."""
        self._next, self._ending = 0, False
        for bucket in self._order:
            bucket.waiting = {entry.index for entry in bucket.entries}

    def _launch(self) -> None:
        """Reduces the next bucket; one transfer overlaps with what follows."""
        bucket = self._order[self._next]
        self._next += 1
        self._flying.append((bucket, bucket.send_gradients()))
        if len(self._flying) > 1:
            self._land()

    def _land(self) -> None:
        bucket, pending = self._flying.pop(0)
        bucket.add(pending)

    def _round(self) -> None:
        """Reduces every bucket that this backward has not reduced yet."""
        while self._next < len(self._order):
            self._launch()
        while self._flying:
            self._land()
        self._complete, self._dirty = True, False
        self._begin()

    def _queue_end(self) -> None:
        if not self._ending:
            self._ending = True
            torch.autograd.Variable._execution_engine.queue_callback(self._end)

    def _end(self) -> None:
        """Runs when a backward is over."""
        self._ending = False
        if self.policy.stage > 1 and self._sync:
            with torch.no_grad():
                self._round()
        if self.units is not None:
            self.units.end_backward()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        before, self._sync = self._sync, False
        try:
            yield
        finally:
            self._sync = before

    def gathered(self) -> Any:
        return nullcontext() if self.units is None else self.units.gathered()

    def prepare(self, scale: float | None, overflow: bool) -> bool:
        """Makes the averages of this rank's pieces; returns whether all ranks' are finite."""
        if self._ready is None:
            if self.policy.stage == 1 or self._dirty or not self._complete:
                self._round()
            for bucket in self._order:
                bucket.average(scale)
            shares = [b.grad for b in self._order if b.grad is not None]
            mine = math.nan if overflow else largest(shares)
            mask = sum(1 << i for bucket in self._order for i in bucket.used)
            words = -(-(1 + max(e.index for b in self._order for e in b.entries)) // _WORD)
            cut = [mask >> (_WORD * i) & ((1 << _WORD) - 1) for i in range(words)]
            rows = self.ranks.exchange([bits_of(mine), *cut], self.device, "agreeing on the step")
            tops = [float_of(row[0]) for row in rows]
            self._largest = max(tops) if all(map(math.isfinite, tops)) else math.inf
            used = 0
            for row in rows:
                used |= sum(word << (_WORD * i) for i, word in enumerate(row[1:]))
            self._ready = [
                (piece, piece.of(bucket.grad))
                for bucket in self._order
                if bucket.grad is not None
                for piece in bucket.pieces
                if used >> piece.entry.index & 1
            ]
        return math.isfinite(self._largest)

    def norm(self) -> float:
        """Norm of the average gradient over all ranks, after `prepare`."""
        assert self._ready is not None
        if not math.isfinite(self._largest):
            return math.inf
        grads = [grad for _, grad in self._ready]
        if self.ranks.ordered:
            sums = level_sums(grads, self._largest, self._count)
        else:
            squares = [torch.linalg.vector_norm(g, dtype=torch.float64).square() for g in grads]
            sums = [float(sum(squares)), *[0.0] * (LEVELS - 1)]
        rows = self.ranks.exchange(list(map(bits_of, sums)), self.device, "adding up the norm")
        return norm_of([list(map(float_of, row)) for row in rows])

    def scale(self, factor: float) -> None:
        """Multiplies the prepared gradients."""
        for _, grad in self._ready or ():
            grad.mul_(factor)

    def hand_over(self) -> None:
        """Gives the prepared gradients to the pieces, for the optimizer's step."""
        for piece, grad in self._ready or ():
            piece.tensor.grad = grad

    def publish(self) -> None:
        """Shares into parameters, also into those of stage 3 that are gathered at the moment."""
        for bucket in self.buckets:
            bucket.publish()
        for unit in () if self.units is None else self.units.units:
            if unit.here:
                unit.here = False
                unit.gather()

    def discard(self) -> None:
        """Drops all gradients; what was reduced since the last step is forgotten."""
        self._ready, self._complete, self._dirty = None, False, False
        self._flying.clear()
        for bucket in self._order:
            bucket.grad = None
            bucket.used.clear()
            for piece in bucket.pieces:
                piece.tensor.grad = None
            for entry in bucket.entries:
                entry.param.grad = None
        if self.units is not None:
            for unit in self.units.units:
                unit.visited = False
        self._begin()

    def tensors(self) -> dict[str, list[Tensor]]:
        """Live tensors by what they are for."""
        found: dict[str, list[Tensor]] = {"parameters": [], "gradients": [], "master": []}
        for bucket in self.buckets:
            for kind, tensors in bucket.tensors().items():
                found[kind] += tensors
        if self.policy.stage < 3:
            found["parameters"] += [p.detach() for p in self.model.parameters()]
        return found

    def resting(self, state: list[Tensor]) -> list[Tensor] | None:
        """Tensors that offloading has moved to the host."""
        if self.policy.rest is None:
            return None
        kept = [(b.rest, b.master, b.grad) for b in self.buckets]
        return [t for row in kept for t in row if t is not None] + state

    def close(self) -> None:
        """Takes all hooks off and leaves the parameters whole."""
        for handle in self._handles:
            handle.remove()
        if self.units is not None:
            self.units.remove()
