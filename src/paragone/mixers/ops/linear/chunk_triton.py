r"""Chunked linear attention by Triton kernels: no gate, a gate a head or a gate a channel.

The normaliser is a second pass with ones in place of the values. Nothing of a forward pass is kept
but its inputs: states before the chunks are computed again on the way back, T / C of them for each
head. The gate's gradient needs no kernel: within a chunk, with S' the state behind it and G its
gradient,

$$ \mathrm{d}b_t = q_t \odot \mathrm{d}q_t - k_t \odot \mathrm{d}k_t
   + [t = C] \sum_e S'_{\cdot e} \odot G_{\cdot e}, \qquad
   \mathrm{d}g_t = \sum_{u \ge t} \mathrm{d}b_u . $$

Cost: O(T (C + D) E) a head; T D E / C numbers of memory for the states.

References:
    Yang et al. (2024), arXiv:2312.06635, section 4 and appendix C.

Shapes: B rows, H heads, T time, C chunk, D key width, E value width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from paragone.kernels.launch import check, grid, power_of_two, start
from paragone.mixers.ops.linear.chunk_triton_kernels import (
    NONE,
    SCALAR,
    VECTOR,
    queries_and_keys_kernel,
    states_kernel,
    values_kernel,
)  # fmt: skip
from paragone.mixers.ops.linear.reference import LinearState, divided

__all__ = ["WIDEST", "chunks", "linear_attention_triton"]

WIDEST = 256
"""Widest keys that a kernel takes."""
_BLOCK = 16


def linear_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, lengths: Tensor | None,
    state: LinearState, normalize: bool, chunk: int, scale: float,
) -> tuple[Tensor, LinearState]:  # fmt: skip
    """Causal linear attention of checked input; see `interface.linear_attention`.

    Args:
        q: (B, H, T, D), features.
        k: (B, H, T, D), features.
        v: (B, H, T, E).
        gate: (B, H, T), (B, H, T, D) or None.
        lengths: (B,) tokens of each row, or None.
        state: To go on from.
        normalize: Whether to divide by the sums of the weights.
        chunk: Tokens of a chunk.
        scale: Factor of the outputs, where they are not divided.
    """
    beyond = None
    if lengths is not None:
        beyond = (torch.arange(q.shape[2], device=q.device) >= lengths[:, None])[:, None, :, None]
        k, v = k.masked_fill(beyond, 0), v.masked_fill(beyond, 0)
        if gate is not None:
            gate = gate.masked_fill(beyond if gate.ndim == 4 else beyond[..., 0], 0)
    memory, norm = state
    if normalize:
        o, memory = chunks(q, k, v, gate, memory, 1.0, chunk, wide=True)
        ones = v.new_ones(1, 1, 1, 1).expand(*v.shape[:3], 1)
        total, norm = chunks(q, k, ones, gate, norm[..., None], 1.0, chunk, wide=True)
        o, norm = divided(o, total[..., 0]).to(v.dtype), norm[..., 0]
    else:
        o, memory = chunks(q, k, v, gate, memory, scale, chunk)
    return (o if beyond is None else o.masked_fill(beyond, 0)), LinearState(memory, norm)


def chunks(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, memory: Tensor, scale: float,
    chunk: int = 64, wide: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns (B, H, T, E) outputs and the (B, H, D, E) state after the last token.

    Prefer `linear_attention`, which checks its input, knows features, lengths and a normaliser,
    and comes here on a GPU.

    Args:
        q: (B, H, T, D): float32, float16 or, on a GPU, bfloat16.
        k: (B, H, T, D).
        v: (B, H, T, E).
        gate: (B, H, T) or (B, H, T, D) logarithms of the decay, or None.
        memory: (B, H, D, E) to go on from.
        scale: Factor of the outputs.
        chunk: Tokens of a chunk; rounded to 16, 32 or 64.
        wide: Whether outputs are float32 whatever v is.

    Raises:
        ValueError: A device, dtype or width that no kernel takes.
        RuntimeError: The tensors are on the CPU, and Triton's interpreter is not switched on.
    """
    return _chunks(q, k, v, gate, memory, scale, chunk, wide)


@torch.library.custom_op("paragone::linear_chunks", mutates_args=())
def _chunks(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, memory: Tensor, scale: float,
    chunk: int, wide: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    work = _Work(q, k, v, gate, chunk)
    out = v.new_empty(v.shape, dtype=torch.float32 if wide else v.dtype)
    states, final = work.states(work.k, work.v, memory, backwards=False)
    work.values(work.v, states, out, scale, backward=False)
    return out, final


@_chunks.register_fake
def _(q, k, v, gate, memory, scale, chunk, wide):
    out = v.new_empty(v.shape, dtype=torch.float32 if wide else v.dtype)
    return out, q.new_empty(memory.shape, dtype=torch.float32)


@torch.library.custom_op("paragone::linear_chunks_backward", mutates_args=())
def _chunks_backward(
    dout: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None,
    memory: Tensor, scale: float, chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    work = _Work(q, k, v, gate, chunk)
    dout = _last_dense(dout * scale if scale != 1.0 else dout)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    states, final = work.states(work.k, work.v, memory, backwards=False)
    pulls, dmemory = work.states(work.q, dout, dfinal, backwards=True)
    work.values(dout, pulls, dv, 1.0, backward=True)
    work.queries_and_keys(dout, states, pulls, dq, dk)
    if gate is None:
        return dq, dk, dv, q.new_empty(0), dmemory
    behind = torch.cat([states[:, 1:], final.flatten(0, 1)[:, None]], 1)
    dgate = work.gates(dq, dk, (behind * pulls).sum(-1))
    return dq, dk, dv, dgate, dmemory


@_chunks_backward.register_fake
def _(dout, dfinal, q, k, v, gate, memory, scale, chunk):
    grads = [x.new_empty(x.shape) for x in (q, k, v)]
    dgate = q.new_empty(0) if gate is None else gate.new_empty(gate.shape)
    return *grads, dgate, q.new_empty(memory.shape, dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.chunk, _ = inputs
    ctx.save_for_backward(*tensors)


def _derive(ctx: Any, dout: Tensor, dfinal: Tensor) -> tuple[Any, ...]:
    q, k, v, gate, memory = ctx.saved_tensors
    dq, dk, dv, dgate, dmemory = _chunks_backward(
        dout, dfinal, q, k, v, gate, memory, ctx.scale, ctx.chunk
    )
    return dq, dk, dv, None if gate is None else dgate, dmemory.to(memory.dtype), None, None, None


_chunks.register_autograd(_derive, setup_context=_keep)


def _last_dense(x: Tensor) -> Tensor:
    return x if x.shape[-1] <= 1 or x.stride(-1) == 1 else x.contiguous()


class _Work:
    """One call: its tensors, the gates' sums, and the launches."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, chunk: int):
        check("linear_attention", q=q, k=k, v=v)
        (rows, self.heads, self.time, self.width), self.value_width = q.shape, v.shape[-1]
        if self.width > WIDEST:
            raise ValueError(
                f"linear_attention: keys are {self.width} wide, at most {WIDEST} fit a tile"
            )
        self.q, self.k, self.v, self.gate = (
            *(_last_dense(x) for x in (q, k, v)), None if gate is None else gate.detach(),
        )  # fmt: skip
        self.planes = rows * self.heads
        self.chunk = min(
            max(1 << (chunk.bit_length() - 1), _BLOCK), 64 if self.width <= 128 else 32
        )
        self.chunks = -(-self.time // self.chunk)
        self.kind = NONE if gate is None else VECTOR if gate.ndim == 4 else SCALAR
        self.b = q if gate is None else self._sums(gate)
        highest = q.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
        self.meta = {
            "D": self.width, "E": self.value_width, "CHUNK": self.chunk, "GATE": self.kind.value,
            "PRECISION": "tf32x3" if highest else "tf32", "num_warps": 4, "num_stages": 1,
        }  # fmt: skip

    def _padded(self, x: Tensor) -> Tensor:
        """(planes, chunks, C, 1 or D) of float64, zero behind the last token."""
        x = x.reshape(self.planes, self.time, x.shape[3] if x.ndim == 4 else 1).to(torch.float64)
        x = functional.pad(x, (0, 0, 0, self.chunks * self.chunk - self.time))
        return x.unflatten(1, (self.chunks, self.chunk))

    def _sums(self, gate: Tensor) -> Tensor:
        return self._padded(gate).cumsum(2).to(torch.float32).contiguous()

    def states(self, x: Tensor, y: Tensor, begin: Tensor, backwards: bool) -> tuple[Tensor, Tensor]:
        """(planes, chunks, D, E) before each chunk, and after the last one; or backwards."""
        shape = (self.planes, self.chunks, self.width, self.value_width)
        found = torch.empty(shape, dtype=torch.float32, device=x.device)
        begin = begin.to(torch.float32).contiguous()
        final = torch.empty_like(begin)
        wide = [min(power_of_two(n), 64) for n in (self.width, self.value_width)]
        size = grid("linear_attention", self.planes, -(-self.width // wide[0]),
                    -(-self.value_width // wide[1]))  # fmt: skip
        start(
            states_kernel, size,
                x, y, self.b, begin, found, final, x.stride()[:3], y.stride()[:3], self.heads,
                self.time, self.chunks, TILE_D=wide[0], TILE_E=wide[1], REVERSE=backwards,
                **self.meta,
            )  # fmt: skip
        return found, final

    def values(self, v: Tensor, states: Tensor, out: Tensor, scale: float, backward: bool) -> None:
        tile = min(power_of_two(self.value_width), 64)
        size = grid("linear_attention", self.chunks * (self.chunk // self._block()), self.planes,
                    -(-self.value_width // tile))  # fmt: skip
        start(
            values_kernel, size,
                self.q, self.k, v, self.b, states, out, self.q.stride()[:3], self.k.stride()[:3],
                v.stride()[:3], out.stride()[:3], scale, self.heads, self.time, self.chunks,
                TILE_D=power_of_two(self.width), TILE_E=tile, BLOCK=self._block(),
                BACKWARD=backward, **self.meta,
            )  # fmt: skip

    def queries_and_keys(
        self, dout: Tensor, states: Tensor, pulls: Tensor, dq: Tensor, dk: Tensor
    ) -> None:
        tensors = (self.q, self.k, self.v, dout)
        tile = min(power_of_two(self.value_width), 64 if self.width <= 64 else 32)
        size = grid("linear_attention", self.chunks * (self.chunk // self._block()), self.planes)
        start(
            queries_and_keys_kernel, size,
                *tensors, self.b, states, pulls, dq, dk,
                *(x.stride()[:3] for x in (*tensors, dq, dk)), self.heads, self.time, self.chunks,
                TILE_D=power_of_two(self.width), TILE_E=tile, BLOCK=self._block(), **self.meta,
            )  # fmt: skip

    def gates(self, dq: Tensor, dk: Tensor, ends: Tensor) -> Tensor:
        """The gate's gradient from those of q and k, and (planes, chunks, D) at ends of chunks."""
        assert self.gate is not None
        pull = self.q.to(torch.float64) * dq - self.k.to(torch.float64) * dk
        if self.kind == SCALAR:
            pull, ends = pull.sum(-1), ends.sum(-1, keepdim=True)
        pull = self._padded(pull)
        pull[:, :, -1] += ends
        found = pull.flip(2).cumsum(2).flip(2).flatten(1, 2)[:, : self.time]
        return found.reshape(self.gate.shape).to(self.gate.dtype)

    def _block(self) -> int:
        return _BLOCK if self.kind == VECTOR else self.chunk
