r"""FLASH: gated attention that is quadratic inside chunks and linear between them.

The gated unit's weights cost O(T^2). FLASH keeps them inside chunks of C tokens and adds, for all
that lies before, a linear attention whose sums run over whole chunks,

$$ o_i = \frac{1}{c_i} \sum_{j \le i,\, j \in g} \mathrm{relu}\!\Big(\frac{q_i^\top k_j}{\sqrt D}
   + b_{i-j}\Big)^2 v_j \; + \; \frac{1}{C g}\, \frac{\tilde q_i^\top}{\sqrt D}
   \sum_{h < g} \sum_{j \in h} \tilde k_j v_j^\top $$

for token i of chunk g, $c_i$ the number of keys that it sees in its chunk. The sum over chunks
excludes the own one. Without a past (causal=False) each token sees all of its chunk, and the
linear part is the mean over the whole sequence, as in the paper. Four pairs of offset and scale
make the four queries and keys from one z. `mode="quad"` has no chunks: a `GatedAttentionUnit`.

Cost: O(T (C + D) (D + E)) time; state O(D E) and the running chunk.

References:
    Hua et al. (2022), "Transformer quality in linear time", arXiv:2202.10447, section 3.2, eq.
    6-8, and figure 4.

Shapes: B rows, T time, G chunks of C tokens, M model width, D key width, E hidden width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from paragone.mixers._cheap_gate import GatedUnit
from paragone.mixers._cheap_rows import append_rows, places_of, take_rows
from paragone.mixers.ops.gau import relu2_attention
from paragone.mixers.ops.gau.reference import relu2_attention as relu2_reference

__all__ = ["FLASH", "FLASHState"]

_SEGMENT = 4096
"""Tokens of a long sequence that are taken at once, so that what is in between stays in cache."""


class FLASHState(NamedTuple):
    """Finished chunks as one matrix, and the running chunk.

    Attributes:
        sums: (B, D, E) keys times values of the finished chunks, float32 at least.
        running: (B, R, 2 D + E) keys of both parts and values of the running chunk; of row b the
            first `lengths[b] % C` count.
        lengths: (B,) tokens so far.
    """

    sums: Tensor
    running: Tensor
    lengths: Tensor


class FLASH(GatedUnit):
    """Gated unit with mixed chunk attention.

    Prefer it to `GatedAttentionUnit` from a few chunks on: time is linear in length and the state
    is of fixed size. Prefer `GatedDeltaNet` or `Mamba2` where what is kept should depend on the
    input.

    Args:
        width: Model width M.
        chunk: Tokens C of a chunk.
        expansion: Hidden width E over M.
        key_size: Key width D, even.
        causal: Whether a token sees the past alone.
        mode: "mixed", or "quad" for quadratic attention to everything.
        position: "rotary", "t5" (a bias learnt for each range of distances), or None.
        scale: Standard deviation of gamma at the start; the paper's is 0.02.
        bias: Whether projections have a bias.
        backend: "auto", or a name from `paragone.kernels.choice.backends("relu2_attention")`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An option out of range.

    Example:
        >>> y, state = FLASH(64, chunk=32)(torch.randn(2, 100, 64))
        >>> y.shape, state.sums.shape, state.running.shape
        (torch.Size([2, 100, 64]), torch.Size([2, 128, 128]), torch.Size([2, 4, 384]))
    """

    def __init__(
        self,
        width: int,
        chunk: int = 256,
        expansion: float = 2,
        key_size: int = 128,
        *,
        causal: bool = True,
        mode: str = "mixed",
        position: str | None = "rotary",
        scale: float = 1.0,
        bias: bool = False,
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(
            width, expansion, key_size, 4 if mode == "mixed" else 2, causal=causal,
            position=position, scale=scale, bias=bias, device=device, dtype=dtype,
        )  # fmt: skip
        if chunk < 1:
            raise ValueError(f"chunk={chunk} is no number of tokens: 1 or more")
        if mode not in ("mixed", "quad"):
            raise ValueError(f"mode={mode!r} is none of mixed, quad")
        self.chunk, self.mode, self.backend, self.activation = chunk, mode, backend, "relu2"

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        self._needs_causal()
        if self.mode == "quad" or state is None or not len(x_t):
            return super().step(x_t, state)
        held, split = int(state.lengths[0]), self.key_size
        if not bool((state.lengths == held).all()):
            return super().step(x_t, state)
        inside = held % self.chunk
        gate, v, z = self._hidden(x_t[:, None], None)
        quad_q, lin_q, quad_k, lin_k = self._offset(z, held)
        known = torch.cat([quad_k, lin_k, v], dim=-1)
        running = torch.cat([state.running[:, :inside], known], dim=1)
        keys, values = running[..., :split], running[..., 2 * split :]
        place = torch.arange(inside + 1, device=x_t.device)
        bias = self._bias(place[-1:], place)
        root = split**-0.5
        local = relu2_reference(quad_q * root, keys, values, bias=bias) / (inside + 1)
        far = _wide(lin_q * root) @ state.sums / max(held - inside, 1)
        mixed = local + far.to(local.dtype)
        sums = state.sums
        if inside + 1 == self.chunk:
            sums = sums + _wide(running[..., split : 2 * split]).mT @ _wide(values)
            running = running[:, :0]
        return self.to_out(gate * mixed)[:, 0], FLASHState(sums, running, state.lengths + 1)

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Any]:
        if self.mode == "quad":
            return self._quadratic(x, state, positions, lengths)
        time, segment = x.shape[1], self.chunk * max(1, _SEGMENT // self.chunk)
        if self.causal and lengths is None and time > segment:
            parts = []
            for at in range(0, time, segment):
                part = slice(at, at + segment)
                where = None if positions is None else positions[:, part]
                y, state = self._mix(x[:, part], state, where, None)
                parts.append(y)
            return torch.cat(parts, dim=1), state
        held = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        held = held if state is None else state.lengths
        gate, v, z = self._hidden(x, lengths)
        places = 0 if state is None else places_of(held, time)
        quad_q, lin_q, quad_k, lin_k = self._offset(z, places if positions is None else positions)
        if lengths is not None:
            beyond = torch.arange(time, device=x.device) >= lengths[:, None]
            lin_k = lin_k.masked_fill(beyond[..., None], 0)
        queries = torch.cat([quad_q, lin_q], dim=-1) * self.key_size**-0.5
        known = torch.cat([quad_k, lin_k, v], dim=-1)
        if not self.causal:
            valid = torch.full_like(held, time) if lengths is None else lengths
            return self.to_out(gate * self._both(queries, known, valid)), None
        mixed, state = self._causal(queries, known, held, state, lengths)
        return self.to_out(gate * mixed), state

    def _causal(
        self,
        queries: Tensor,
        known: Tensor,
        held: Tensor,
        state: FLASHState | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, FLASHState]:
        """Lays the running chunk before the new tokens, so that chunks begin where they did."""
        time, chunk, split = queries.shape[1], self.chunk, self.key_size
        pending = held % chunk
        if state is not None:
            blank = queries.new_zeros(*state.running.shape[:2], queries.shape[-1])
            queries = append_rows(blank, pending, queries)
            known = append_rows(state.running, pending, known)
        total = held + (time if lengths is None else lengths)
        q, k = self._grouped(queries), self._grouped(known)
        lin_k, values = k[..., split : 2 * split], k[..., 2 * split :]
        local = self._local(q[..., :split], k[..., :split], values)
        inside = torch.arange(1, q.shape[2] + 1, device=q.device).to(q.dtype)[:, None]
        sums = (_wide(lin_k).mT @ _wide(values)).cumsum(1)
        sums = functional.pad(sums, (0, 0, 0, 0, 1, 0))
        if state is not None:
            sums = sums + state.sums[:, None]
        before = (held - pending)[:, None] + chunk * torch.arange(q.shape[1], device=q.device)
        before = before.clamp(min=1).to(sums.dtype)[..., None, None]
        far = _wide(q[..., split:]) @ sums[:, :-1] / before
        mixed = (local / inside + far.to(local.dtype)).flatten(1, 2)
        mixed = mixed[:, :time] if state is None else take_rows(mixed, pending, time)
        done = (pending + total - held) // chunk
        return mixed, self._state(sums, known, done, total)

    def _state(self, sums: Tensor, known: Tensor, done: Tensor, total: Tensor) -> FLASHState:
        rows = torch.arange(len(done), device=done.device)
        if torch.compiler.is_compiling():
            left = self.chunk - 1
        else:
            left = int((total % self.chunk).max()) if len(total) else 0
        return FLASHState(sums[rows, done], take_rows(known, done * self.chunk, left), total)

    def _both(self, queries: Tensor, known: Tensor, valid: Tensor) -> Tensor:
        """Mixed attention without a past: the own chunk, and the mean over everything."""
        time, split = queries.shape[1], self.key_size
        q, k = self._grouped(queries), self._grouped(known)
        values = k[..., 2 * split :]
        local = self._local(q[..., :split], k[..., :split], values)
        starts = self.chunk * torch.arange(q.shape[1], device=q.device)
        inside = (valid[:, None] - starts).clamp(1, self.chunk).to(q.dtype)[..., None, None]
        sums = _wide(known[..., split : 2 * split]).mT @ _wide(known[..., 2 * split :])
        whole = valid.clamp(min=1).to(sums.dtype)[:, None, None, None]
        far = _wide(q[..., split:]) @ sums[:, None] / whole
        return (local / inside + far.to(local.dtype)).flatten(1, 2)[:, :time]

    def _local(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, G, C, E) squared-ReLU attention inside chunks; what is padding has v = 0."""
        shape = q.shape[:2]
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))
        place = torch.arange(q.shape[1], device=q.device)
        bias = self._bias(place, place)
        if bias is None:
            y = relu2_attention(q, k, v, causal=self.causal, backend=self.backend)
        else:
            y = relu2_reference(q, k, v, causal=self.causal, bias=bias)
        return y.unflatten(0, shape)

    def _grouped(self, x: Tensor) -> Tensor:
        """(B, T, …) to (B, G, C, …), the tail filled up with zeros; C may be less if G = 1."""
        size = min(self.chunk, max(x.shape[1], 1))
        chunks = -(-x.shape[1] // size)
        x = functional.pad(x, (0, 0, 0, chunks * size - x.shape[1]))
        return x.unflatten(1, (chunks, size))


def _wide(x: Tensor) -> Tensor:
    """Sums over all of the past are of float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
