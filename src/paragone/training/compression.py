r"""Gradients in fewer bytes, for `DistributedDataParallel` on any backend, gloo on a CPU too.

A hook takes a bucket of gradients $g_r$ of rank r and gives their mean to all ranks. What
compression C loses is kept and added to the next gradient (error feedback), so that the sum of
all updates stays within one step's loss of the true sum:

$$ x_t = g_t + e_t, \qquad e_{t+1} = x_t - C(x_t), \qquad
   \sum_t C(x_t) = \sum_t g_t + e_0 - e_{T} . $$

- `FP16`, `BF16`, `Int8`: each rank sends every other its share of the bucket, compressed; the
  share's owner adds in float32, in the order of ranks, and sends the mean, compressed again, with
  a feedback of its own. 1/2 or 1/4 of the ring's bytes.
- `TopK`: the k largest numbers and their places, from each to all.
- `PowerSGD`: a matrix M as $P Q^\top$ of rank k, by one step of subspace iteration,
  $P = \mathrm{orth}(\overline{M Q})$, $Q = \overline{M^\top P}$, started from the last Q. Exact if
  the mean has rank k.
- `Ordered`: no compression; the mean is that of a loop over the ranks, bit for bit.

An infinite or NaN gradient passes through to all ranks, so that a gradient scaler sees it, and
leaves no trace in the feedback.

References:
    Seide et al. (2014), "1-bit stochastic gradient descent", section 3.2 (error feedback).
    Karimireddy et al. (2019), "Error feedback fixes SignSGD", arXiv:1901.09847, algorithm 2.
    Tang et al. (2021), "1-bit Adam", arXiv:2102.02888, algorithm 1 (feedback at the owner).
    Vogels, Karimireddy and Jaggi (2019), "PowerSGD", arXiv:1905.13727, algorithms 1 and 2.
    Aji and Heafield (2017), "Sparse communication for distributed gradient descent",
    arXiv:1704.05021.

Shapes: n elements of a bucket, P ranks, s elements of a share.
"""

import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from paragone.training.collectives.calls import agree, all_gather, all_reduce, open_transport
from paragone.training.collectives.execution import Trace

__all__ = ["BF16", "FP16", "Compression", "Int8", "Ordered", "PowerSGD", "TopK", "hook"]

_BLOCK = 256


class Compression:
    """What all hooks share: the group, the feedback of each parameter, and the bytes.

    Args:
        group: A process group (None: the default one).
        feedback: Whether what was lost is added to the next gradient.
        timeout: Seconds that a message may take (None: the group's own timeout).

    Attributes:
        sent: Bytes that this rank has sent.
        plain: Bytes that a ring of the uncompressed gradients would have sent.
    """

    def __init__(
        self, group: Any = None, *, feedback: bool = True, timeout: float | None = None
    ) -> None:
        self.group, self.feedback, self.timeout = group, feedback, timeout
        self.sent = 0
        self.plain = 0.0
        self._lost: dict[Any, torch.Tensor] = {}
        self._known: set[Any] = set()

    def average(self, gradients: Sequence[torch.Tensor], keys: Iterable[Any]) -> list[torch.Tensor]:
        """Returns the mean over all ranks of each gradient.

        Args:
            gradients: Of this rank; the same shapes, in the same order, on all.
            keys: One for each gradient, the same in every step (such as the parameter's name).
        """
        names = list(keys)
        if len(names) != len(gradients) or not names:
            raise ValueError(
                f"{len(gradients)} gradients, {len(names)} keys: give a key for each, 1 at least"
            )
        p = dist.get_world_size(self.group)
        self.plain += 2 * (p - 1) / p * sum(g.numel() * g.element_size() for g in gradients)
        wide = torch.promote_types(gradients[0].dtype, torch.float32)
        flat = torch.cat([g.detach().reshape(-1).to(wide) for g in gradients])
        layout = (*names, *(g.shape for g in gradients))
        if layout not in self._known:
            # Ranks agree on shapes once for each bucket; later steps have the same.
            shapes = " ".join(str(tuple(g.shape)) for g in gradients)
            said = f"{type(self).__name__} {zlib.crc32(shapes.encode()):x} {len(flat)} {shapes}"
            agree(open_transport(self.group, self.timeout), said)
            self._known.add(layout)
        sizes = [g.numel() for g in gradients]
        if self.feedback and all(name in self._lost for name in names):
            flat += torch.cat([self._lost[name] for name in names])
        mean, lost = self._mean(flat, [g.shape for g in gradients], names)
        if self.feedback:
            # What is not finite would stay in the feedback for ever.
            lost = torch.where(lost.isfinite(), lost, 0.0)
            self._lost.update(zip(names, lost.split(sizes), strict=True))
        return [
            part.view(g.shape).to(g.dtype)
            for part, g in zip(mean.split(sizes), gradients, strict=True)
        ]

    def _mean(
        self, flat: torch.Tensor, shapes: Sequence[torch.Size], names: list[Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (n,) over the ranks, and what this rank's part of it lost (n,)."""
        raise NotImplementedError

    def _reduce(self, tensor: torch.Tensor, ordered: bool = False) -> torch.Tensor:
        trace = Trace()
        all_reduce(
            tensor, "ring", self.group, op="avg", ordered=ordered, trace=trace,
            check=False, timeout=self.timeout,
        )  # fmt: skip
        self.sent += trace.sent
        return tensor

    def _gather(self, share: torch.Tensor) -> torch.Tensor:
        """The shares (P, s) of all ranks."""
        trace = Trace()
        every = share.new_empty(dist.get_world_size(self.group), *share.shape)
        all_gather(
            every, share, "ring", self.group, trace=trace, check=False,
            timeout=self.timeout,
        )  # fmt: skip
        self.sent += trace.sent
        return every


class Ordered(Compression):
    """The exact mean, added in the order of ranks: training does not depend on the algorithm.

    Prefer it to DDP's own all-reduce where a run on P ranks must equal, bit for bit, one process
    that accumulates the same P micro-batches and divides by P.

    Args:
        group: A process group (None: the default one).
        timeout: Seconds that a message may take (None: the group's own timeout).

    Example:
        >>> Ordered().feedback
        False
    """

    def __init__(self, group: Any = None, *, timeout: float | None = None) -> None:
        super().__init__(group, feedback=False, timeout=timeout)

    def _mean(
        self, flat: torch.Tensor, shapes: Sequence[torch.Size], names: list[Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._reduce(flat, ordered=True), flat


class _Shares(Compression):
    """Compressed shares to their owners, compressed means back."""

    block = 1
    """Elements that are compressed together; shares are cut between them."""

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        """(s,) float32 to bytes."""
        raise NotImplementedError

    def _decode(self, wire: torch.Tensor) -> torch.Tensor:
        """What `_encode` made, back to (s,) float32."""
        raise NotImplementedError

    def _mean(
        self, flat: torch.Tensor, shapes: Sequence[torch.Size], names: list[Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        transport, n = open_transport(self.group, self.timeout), len(flat)
        p, rank = transport.size, transport.rank
        s = math.ceil(n / p / self.block) * self.block
        shares = torch.nn.functional.pad(flat.float(), (0, p * s - n)).view(p, s)
        wires = [self._encode(share) for share in shares]
        lost = (shares - torch.stack([self._decode(wire) for wire in wires])).view(-1)[:n]
        arrived = {rank: wires[rank]}
        for turn in range(1, p):
            to, source = (rank + turn) % p, (rank - turn) % p
            arrived[source] = torch.empty_like(wires[rank])
            transport.exchange([(to, wires[to])], [(source, arrived[source])])
            self.sent += wires[to].nbytes
        mean = torch.zeros(s)
        for source in range(p):
            mean += self._decode(arrived[source])
        mean /= p
        key = ("owner", *names)
        if self.feedback and key in self._lost:
            mean += self._lost[key]
        wire = self._encode(mean)
        if self.feedback:
            rest = mean - self._decode(wire)
            self._lost[key] = torch.where(rest.isfinite(), rest, 0.0)
        every = self._gather(wire)
        return torch.cat([self._decode(row) for row in every])[:n], lost


class _Half(_Shares):
    dtype = torch.float16

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.dtype).view(torch.uint8)

    def _decode(self, wire: torch.Tensor) -> torch.Tensor:
        return wire.view(self.dtype).float()


class FP16(_Half):
    """Half the bytes; relative loss 2^-11, above 65504 infinite.

    Prefer it to `BF16` where gradients are between 1e-7 and 6e4, as they mostly are.

    Example:
        >>> FP16().dtype
        torch.float16
    """


class BF16(_Half):
    """Half the bytes with the range of float32; relative loss 2^-8.

    Example:
        >>> BF16().dtype
        torch.bfloat16
    """

    dtype = torch.bfloat16


class Int8(_Shares):
    """A quarter of the bytes: 8 bits a number, one scale for 256 of them.

    Prefer it to the 16-bit hooks where the network is the limit and steps are many: each step
    loses up to 1/254 of the block's largest number, which the feedback brings back.

    Example:
        >>> Int8().block
        256
    """

    block = _BLOCK

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        blocks = x.view(-1, _BLOCK)
        scale = blocks.abs().amax(1, keepdim=True) / 127.0
        codes = torch.where(scale > 0, blocks / scale, 0.0).round()
        codes = codes.nan_to_num(0.0, 0.0, 0.0).to(torch.int8)
        return torch.cat([codes.view(-1).view(torch.uint8), scale.view(-1).view(torch.uint8)])

    def _decode(self, wire: torch.Tensor) -> torch.Tensor:
        count = len(wire) * _BLOCK // (_BLOCK + 4)
        scale = wire[count:].clone().view(torch.float32)
        return (wire[:count].view(torch.int8).view(-1, _BLOCK) * scale[:, None]).view(-1)


class TopK(Compression):
    """Only the largest numbers of a bucket, with their places; the rest waits in the feedback.

    Prefer it to `PowerSGD` for gradients of few large entries, such as those of embeddings.

    Args:
        share: Part of the numbers that is sent, above 0, at most 1.
        group: A process group (None: the default one).
        feedback: Whether what was not sent is added to the next gradient.
        timeout: Seconds that a message may take (None: the group's own timeout).

    Example:
        >>> TopK(0.05).share
        0.05
    """

    def __init__(
        self,
        share: float = 0.01,
        group: Any = None,
        *,
        feedback: bool = True,
        timeout: float | None = None,
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: give a part above 0 and at most 1, such as 0.01")
        super().__init__(group, feedback=feedback, timeout=timeout)
        self.share = share

    def _mean(
        self, flat: torch.Tensor, shapes: Sequence[torch.Size], names: list[Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        k = min(len(flat), max(1, round(self.share * len(flat))))
        places = flat.abs().topk(k, sorted=False).indices
        lost = flat.clone()
        lost[places] = 0.0
        parts = places.to(torch.int32), flat[places].float()
        wire = torch.cat([part.view(torch.uint8) for part in parts])
        mean = torch.zeros(len(flat))
        for row in self._gather(wire):
            numbers = row.view(2, -1).clone()
            mean.index_add_(0, numbers[0].view(torch.int32).long(), numbers[1].view(torch.float32))
        return mean / dist.get_world_size(self.group), lost


class PowerSGD(Compression):
    """Matrices by a product of rank k; vectors, and matrices too small to gain, as they are.

    Prefer it to `TopK` for dense matrices: its bytes grow with rows + columns.

    Args:
        rank: k; 1 to 4 are usual.
        group: A process group (None: the default one).
        feedback: Whether what was lost is added to the next gradient.
        seed: Of the first Q, the same on all ranks.
        timeout: Seconds that a message may take (None: the group's own timeout).

    Example:
        >>> PowerSGD(2).rank
        2
    """

    def __init__(
        self,
        rank: int = 2,
        group: Any = None,
        *,
        feedback: bool = True,
        seed: int = 0,
        timeout: float | None = None,
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank={rank}: at least 1 is needed")
        super().__init__(group, feedback=feedback, timeout=timeout)
        self.rank = rank
        self._seed = seed
        self._q: dict[Any, torch.Tensor] = {}

    def _gains(self, shape: torch.Size) -> bool:
        rows, columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, 0)
        return self.rank * (rows + columns) < rows * columns

    def _start(self, name: Any, columns: int, dtype: torch.dtype) -> torch.Tensor:
        q = self._q.get(name)
        if q is None or not torch.isfinite(q).all():
            generator = torch.Generator().manual_seed(self._seed)
            q = torch.randn(columns, self.rank, generator=generator)
        return q.to(dtype)

    def _mean(
        self, flat: torch.Tensor, shapes: Sequence[torch.Size], names: list[Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mean = flat.clone()
        parts = flat.split([math.prod(shape) for shape in shapes])
        means = mean.split([math.prod(shape) for shape in shapes])
        low = [i for i, shape in enumerate(shapes) if self._gains(shape)]
        whole = [i for i in range(len(shapes)) if i not in low]
        if whole:
            exact = self._reduce(torch.cat([parts[i] for i in whole]))
            for i, part in zip(whole, exact.split([len(parts[i]) for i in whole]), strict=True):
                means[i].copy_(part)
        lost = torch.zeros_like(flat)
        if not low:
            return mean, lost
        matrices = [parts[i].view(shapes[i][0], -1) for i in low]
        bases = [
            self._start(names[i], m.shape[1], m.dtype) for i, m in zip(low, matrices, strict=True)
        ]
        ps = self._averages([m @ q for m, q in zip(matrices, bases, strict=True)])
        ps = [torch.linalg.qr(p).Q for p in ps]
        qs = self._averages([m.T @ p for m, p in zip(matrices, ps, strict=True)])
        rests = lost.split([math.prod(shape) for shape in shapes])
        for i, p, q in zip(low, ps, qs, strict=True):
            self._q[names[i]] = q
            means[i].copy_((p @ q.T).view(-1))
            rests[i].copy_(parts[i] - means[i])
        return mean, lost

    def _averages(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """The mean of each over the ranks, in one message."""
        flat = self._reduce(torch.cat([t.reshape(-1) for t in tensors]))
        sizes = [t.numel() for t in tensors]
        return [part.view(t.shape) for part, t in zip(flat.split(sizes), tensors, strict=True)]


def hook(
    state: Compression,
    bucket: dist.GradBucket,  # pyright: ignore[reportPrivateImportUsage]
) -> torch.futures.Future[torch.Tensor]:
    """The hook of `DistributedDataParallel.register_comm_hook`.

    It talks while it is called, so that communication does not overlap the backward pass.

    Args:
        state: One of this module's classes, with its options.
        bucket: From DDP.

    Example:
        >>> from torch.nn.parallel import DistributedDataParallel as DDP
        >>> prepare = lambda model: DDP(model).register_comm_hook(Int8(), hook)
    """
    means = state.average(bucket.gradients(), [id(p) for p in bucket.parameters()])
    for gradient, mean in zip(bucket.gradients(), means, strict=True):
        gradient.copy_(mean)
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future
