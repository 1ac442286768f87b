r"""Mamba-2: heads with one decay each, so that a selective state space is masked attention.

With A a single number for each head instead of one for each state, the whole map from x to y is a
matrix $M_{ij} = C_i^\top B_j\, e^{c_i - c_j} \Delta_j$: linear attention with a decay that the
tokens choose. Within a chunk it is multiplied out, between chunks the state is handed on, and the
work becomes products of matrices; states of 64 to 256 numbers a channel cost little.

$$ (z, u, \delta) = W_{in} x, \quad (x', B, C) = \mathrm{silu}(\mathrm{conv}(u)), \quad
   \Delta = \mathrm{softplus}(\delta + b), $$
$$ S_t = e^{\Delta_t a} S_{t-1} + \Delta_t B_t x_t'^\top, \quad
   y = W_{out}\, \mathrm{RMSNorm}\big((S^\top C + d\, x') \odot \mathrm{silu}(z)\big), \quad
   a = -e^{A_{log}} . $$

Cost: O(T D (Q + N)) for chunks of Q tokens, all of it in products.

References:
    Dao and Gu (2024), "Transformers are SSMs", arXiv:2405.21060, section 6 and section 7.1.

Shapes: B rows, T time, M model width, D = expand x M channels in H heads of P, G groups, N states,
K taps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.mixers._mamba_parts import (
    CausalConv1d,
    GatedNorm,
    SelectiveMixer,
    check_backend,
    check_state,
    init_step_bias,
    weights_under,
)
from paragone.mixers.ops.ssd import CHUNK, ssd

__all__ = ["Mamba2", "Mamba2State"]

_FORMS = ("auto", "chunked", "scan", "step")


class Mamba2State(NamedTuple):
    """What goes on from one token to the next.

    Attributes:
        conv: (B, K - 1, D + 2 G N) last inputs of the convolution, oldest first.
        ssd: (B, H, N, P) states, float32.
    """

    conv: Tensor
    ssd: Tensor


class Mamba2(SelectiveMixer):
    r"""Mamba-2's mixer with the parameter names of the published weights.

    Prefer it to `Mamba` for larger states (recall grows with them) and for speed at training;
    `Mamba` has a decay for every state and channel. Prefer `GatedDeltaNet` where old entries must
    be overwritten.

    Args:
        width: Model width M.
        expand: Channels D over M.
        head_size: Channels P of a head; divides D. None: 64, or D if that is not a multiple.
        state_size: States N.
        groups: Groups G of heads that share B and C, and of channels that are normed together.
        conv: Taps K of the convolution.
        chunk: Tokens Q that are multiplied out at once; changes the time, not the result.
        bias: Whether the outer projections have biases.
        conv_bias: Whether the convolution has.
        norm_eps: Added to the mean square in the norm.
        dt_range: Bounds of the first step sizes.
        dt_limit: Bounds of all step sizes.
        causal: True; there is no other form.
        form: "chunked"; "scan": one token after the other inside the operation; "step": token by
            token through the whole block; "auto": the first for more than one token.
        backend: "auto", "numba" or "torch", for the convolution and the chunks.
        device: Device of the parameters.
        dtype: Type of the parameters; `A_log` and `D` are float32 at least.

    Raises:
        ValueError: Sizes that do not divide, `causal=False`, an unknown form or back end.

    Example:
        >>> mixer = Mamba2(width=64, head_size=32, state_size=16)
        >>> y, state = mixer(torch.randn(2, 9, 64))
        >>> y.shape, state.ssd.shape
        (torch.Size([2, 9, 64]), torch.Size([2, 4, 16, 32]))
    """

    def __init__(
        self,
        width: int,
        *,
        expand: float = 2,
        head_size: int | None = None,
        state_size: int = 64,
        groups: int = 1,
        conv: int = 4,
        chunk: int = CHUNK,
        bias: bool = False,
        conv_bias: bool = True,
        norm_eps: float = 1e-5,
        dt_range: tuple[float, float] = (1e-3, 1e-1),
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        causal: bool = True,
        form: str = "auto",
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        inner = int(expand * width)
        size = (64 if inner % 64 == 0 else inner) if head_size is None else head_size
        for name, value in (("width", width), ("expand x width", inner), ("head_size", size),
                            ("state_size", state_size), ("groups", groups), ("conv", conv),
                            ("chunk", chunk)):  # fmt: skip
            if value < 1:
                raise ValueError(f"Mamba2: {name}={value}; at least 1 is expected")
        heads = inner // size
        if inner % size or heads % groups:
            raise ValueError(
                f"Mamba2: {inner} channels in heads of {size} in {groups} groups; head_size must "
                "divide expand x width, and groups the number of heads"
            )
        if not causal:
            raise ValueError("Mamba2: causal=False; it has no form that sees the future")
        if form not in _FORMS:
            raise ValueError(f"Mamba2: form={form!r} is none of {', '.join(_FORMS)}")
        check_backend(type(self).__name__, backend, "ssd")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        full: Any = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        mixed = inner + 2 * groups * state_size
        self.width, self.form, self.backend, self.chunk = width, form, backend, chunk
        self.heads, self.groups, self.state_size = heads, groups, state_size
        self.dt_range, self.dt_limit, self.parts = dt_range, dt_limit, (inner, mixed, heads)
        self.in_proj = nn.Linear(width, inner + mixed + heads, bias=bias, **where)
        self.conv1d = CausalConv1d(mixed, conv, conv_bias, **where)
        self.dt_bias = nn.Parameter(torch.empty(heads, **where))
        self.A_log = nn.Parameter(torch.empty(heads, device=device, dtype=full))
        self.D = nn.Parameter(torch.empty(heads, device=device, dtype=full))
        self.norm = GatedNorm(inner, groups, norm_eps, **where)
        self.out_proj = nn.Linear(inner, width, bias=bias, **where)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gives the heads their first decays (A uniform in -16 … -1), D = 1 and small steps."""
        if self.A_log.is_meta:
            return
        with torch.no_grad():
            self.A_log.uniform_(1, 16).log_()
            self.D.fill_(1)
        init_step_bias(self.dt_bias, *self.dt_range, floor=1e-4)

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], prefix: str = "", *, groups: int = 1, **options: Any
    ) -> Mamba2:
        """Builds a mixer of the sizes of published weights and loads them.

        Args:
            state: Names to tensors, e.g. `safetensors.torch.load_file("model.safetensors")`.
            prefix: What stands before the mixer's names: "backbone.layers.0.mixer.".
            groups: Groups G, which shapes do not tell.
            options: Further arguments of the class.

        Raises:
            ValueError: There is no mixer of that prefix.
        """
        found = weights_under(state, prefix, "dt_bias")
        inner, width = found["out_proj.weight"].shape[::-1]
        mixed, _, taps = found["conv1d.weight"].shape
        mixer = cls(
            width, expand=inner / width, head_size=inner // len(found["A_log"]), groups=groups,
            state_size=(mixed - inner) // (2 * groups), conv=taps, bias="in_proj.bias" in found,
            conv_bias="conv1d.bias" in found,
            **{"dtype": found["in_proj.weight"].dtype, **options},
        )  # fmt: skip
        mixer.load_state_dict(found)
        return mixer

    def _mix(
        self,
        x: Tensor,
        state: Mamba2State | None,
        positions: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, Mamba2State]:
        if self.form == "step":
            return self._step_by_step(x, state, lengths)
        one = self.form == "auto" and x.shape[1] <= 1
        form = "scan" if one or self.form == "scan" else "chunked"
        return self._run(x, state, lengths, "torch" if one else self.backend, form)

    def _run(
        self,
        x: Tensor,
        state: Mamba2State | None,
        lengths: Tensor | None,
        backend: str,
        form: str,
    ) -> tuple[Tensor, Mamba2State]:
        conv, before = (None, None) if state is None else state
        z, u, dt = self.in_proj(x).split(self.parts, dim=-1)
        u, conv = self.conv1d(u, conv, lengths, backend)
        inner, both = self.parts[0], self.groups * self.state_size
        v, B, C = u.split((inner, both, both), dim=-1)
        work = torch.promote_types(x.dtype, torch.float32)
        dt = functional.softplus(dt.to(work) + self.dt_bias.to(work)).clamp(*self.dt_limit)
        y, after = ssd(
            v.unflatten(-1, (self.heads, -1)), dt, -torch.exp(self.A_log),
            B.unflatten(-1, (self.groups, -1)), C.unflatten(-1, (self.groups, -1)), self.D,
            state=before, lengths=lengths, chunk=self.chunk, form=form, backend=backend,
        )  # fmt: skip
        return self.out_proj(self.norm(y.flatten(-2), z)), Mamba2State(conv, after)

    def _token(self, x_t: Tensor, state: Mamba2State | None) -> tuple[Tensor, Mamba2State]:
        from paragone.mixers.ops._mamba_step import conv_step, ssd_step

        rows, (inner, mixed, heads) = x_t.shape[0], self.parts
        taps, size = self.conv1d.weight.shape[2], inner // heads
        if state is not None:
            wanted = ((rows, taps - 1, mixed), (rows, heads, self.state_size, size))
            check_state("Mamba2", state, wanted)
        conv, before = (None, None) if state is None else state
        z, u, dt = self.in_proj(x_t).split(self.parts, dim=-1)
        u, conv = conv_step(u, self.conv1d.weight[:, 0], self.conv1d.bias, conv)
        y, after = ssd_step(
            u, dt, self.dt_bias, self.dt_limit, self.A_log, self.D, self.groups, before,
            self.state_size,
        )  # fmt: skip
        return self.out_proj(self.norm(y, z)), Mamba2State(conv, after)
