r"""Mamba: a state space model whose step size and in- and outputs each token chooses itself.

A linear time-invariant system treats every token alike, so it cannot skip one or keep another.
Mamba makes the step $\Delta_t$ and the vectors $B_t$, $C_t$ functions of the token: a large step
forgets the past and takes the token in, a step near 0 passes it over. With $u$ the channels after
a short causal convolution,

$$ (u, z) = W_{in} x, \quad u \leftarrow \mathrm{silu}(\mathrm{conv}(u)), \quad
   (\delta, B, C) = W_x u, \quad \Delta = \mathrm{softplus}(W_\Delta \delta + b), $$
$$ h_t = e^{\Delta_t A} \odot h_{t-1} + \Delta_t u_t B_t^\top, \qquad
   y = W_{out}\big((h C + D \odot u) \odot \mathrm{silu}(z)\big), \qquad A = -e^{A_{log}} . $$

The state of D channels times N numbers is all that a token leaves behind: decoding costs the same
at every length. Cost: O(T D N) for the scan, and three times a linear layer's for the rest.

References:
    Gu and Dao (2023), "Mamba", arXiv:2312.00752, algorithm 2, figure 3 and section 3.6.

Shapes: B rows, T time, M model width, D = expand x M channels, N states, K taps, R rank of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paragone.mixers._mamba_parts import (
    CausalConv1d,
    SelectiveMixer,
    StepProjection,
    check_backend,
    check_state,
    init_step_bias,
    weights_under,
)
from paragone.mixers.ops.scan import selective_scan

__all__ = ["Mamba", "MambaState"]

_FORMS = ("auto", "scan", "step")


class MambaState(NamedTuple):
    """What goes on from one token to the next.

    Attributes:
        conv: (B, K - 1, D) last inputs of the convolution, oldest first.
        scan: (B, D, N) states, float32.
    """

    conv: Tensor
    scan: Tensor


class Mamba(SelectiveMixer):
    r"""Mamba's mixer with the parameter names of the published weights.

    Prefer it to attention when the context is long or decoding must be cheap, and to `S4D` when
    the task wants tokens to be chosen by their content. `Mamba2` affords larger states and is
    faster where matrix products are; attention still recalls more of a long context.

    Args:
        width: Model width M.
        expand: Channels D over M.
        state_size: States N of each channel.
        conv: Taps K of the convolution.
        dt_rank: Rank R of the step sizes; "auto": M / 16, rounded up.
        bias: Whether the outer projections have biases.
        conv_bias: Whether the convolution has.
        dt_range: Bounds of the first step sizes.
        causal: True; there is no other form.
        form: "scan": the kernel over the whole length; "step": token by token; "auto": the
            first for more than one token. All give the same.
        backend: "auto", "numba" or "torch", for the convolution and the scan.
        device: Device of the parameters.
        dtype: Type of the parameters; `A_log` and `D` are float32 at least.

    Raises:
        ValueError: A size below 1, `causal=False`, an unknown form or back end.

    Example:
        >>> mixer = Mamba(width=32)
        >>> y, state = mixer(torch.randn(2, 9, 32))
        >>> y.shape, state.scan.shape
        (torch.Size([2, 9, 32]), torch.Size([2, 64, 16]))
    """

    def __init__(
        self,
        width: int,
        *,
        expand: float = 2,
        state_size: int = 16,
        conv: int = 4,
        dt_rank: int | str = "auto",
        bias: bool = False,
        conv_bias: bool = True,
        dt_range: tuple[float, float] = (1e-3, 1e-1),
        causal: bool = True,
        form: str = "auto",
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        inner = int(expand * width)
        rank = -(-width // 16) if dt_rank == "auto" else int(dt_rank)
        for name, value in (("width", width), ("expand x width", inner), ("conv", conv),
                            ("state_size", state_size), ("dt_rank", rank)):  # fmt: skip
            if value < 1:
                raise ValueError(f"Mamba: {name}={value}; at least 1 is expected")
        if not causal:
            raise ValueError("Mamba: causal=False; it has no form that sees the future")
        if form not in _FORMS:
            raise ValueError(f"Mamba: form={form!r} is none of {', '.join(_FORMS)}")
        check_backend(type(self).__name__, backend, "selective_scan")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        full: Any = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        self.width, self.form, self.backend = width, form, backend
        self.state_size, self.dt_rank, self.dt_range = state_size, rank, dt_range
        self.in_proj = nn.Linear(width, 2 * inner, bias=bias, **where)
        self.conv1d = CausalConv1d(inner, conv, conv_bias, **where)
        self.x_proj = nn.Linear(inner, rank + 2 * state_size, bias=False, **where)
        self.dt_proj = StepProjection(rank, inner, **where)
        self.A_log = nn.Parameter(torch.empty(inner, state_size, device=device, dtype=full))
        self.D = nn.Parameter(torch.empty(inner, device=device, dtype=full))
        self.out_proj = nn.Linear(inner, width, bias=bias, **where)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gives the scan's own parameters their first values: A = -1 … -N, D = 1, small steps."""
        if self.A_log.is_meta:
            return
        with torch.no_grad():
            self.A_log.copy_(torch.arange(1, self.state_size + 1, device=self.A_log.device).log())
            self.D.fill_(1)
            self.dt_proj.weight.uniform_(-(self.dt_rank**-0.5), self.dt_rank**-0.5)
        init_step_bias(self.dt_proj.bias, *self.dt_range, floor=1e-4)

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], prefix: str = "", **options: Any
    ) -> Mamba:
        """Builds a mixer of the sizes of published weights and loads them.

        Args:
            state: Names to tensors, e.g. `safetensors.torch.load_file("model.safetensors")` of a
                Mamba folder from Hugging Face or of state-spaces.
            prefix: What stands before the mixer's names: "backbone.layers.0.mixer.".
            options: Further arguments of the class.

        Raises:
            ValueError: There is no mixer of that prefix.
        """
        found = weights_under(state, prefix, "x_proj.weight")
        inner, width = found["out_proj.weight"].shape[::-1]
        mixer = cls(
            width, expand=inner / width, state_size=found["A_log"].shape[1],
            conv=found["conv1d.weight"].shape[2], dt_rank=found["dt_proj.weight"].shape[1],
            bias="in_proj.bias" in found, conv_bias="conv1d.bias" in found,
            **{"dtype": found["in_proj.weight"].dtype, **options},
        )  # fmt: skip
        mixer.load_state_dict(found)
        return mixer

    def _mix(
        self,
        x: Tensor,
        state: MambaState | None,
        positions: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, MambaState]:
        if self.form == "step":
            return self._step_by_step(x, state, lengths)
        backend = "torch" if self.form == "auto" and x.shape[1] <= 1 else self.backend
        return self._run(x, state, lengths, backend, "scan")

    def _run(
        self,
        x: Tensor,
        state: MambaState | None,
        lengths: Tensor | None,
        backend: str,
        form: str,
    ) -> tuple[Tensor, MambaState]:
        conv, scan = (None, None) if state is None else state
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, conv = self.conv1d(u, conv, lengths, backend)
        dt, B, C = self.x_proj(u).split((self.dt_rank, self.state_size, self.state_size), dim=-1)
        y, scan = selective_scan(
            u, self.dt_proj(dt), -torch.exp(self.A_log), B, C, self.D, z=z,
            dt_bias=self.dt_proj.bias, state=scan, lengths=lengths, backend=backend,
        )  # fmt: skip
        return self.out_proj(y), MambaState(conv, scan)

    def _token(self, x_t: Tensor, state: MambaState | None) -> tuple[Tensor, MambaState]:
        from paragone.mixers.ops._mamba_step import conv_step, scan_step

        rows, (inner, _, taps) = x_t.shape[0], self.conv1d.weight.shape
        if state is not None:
            wanted = ((rows, taps - 1, inner), (rows, inner, self.state_size))
            check_state("Mamba", state, wanted)
        conv, scan = (None, None) if state is None else state
        u, z = self.in_proj(x_t).split(inner, dim=-1)
        u, conv = conv_step(u, self.conv1d.weight[:, 0], self.conv1d.bias, conv)
        dt, B, C = self.x_proj(u).split((self.dt_rank, self.state_size, self.state_size), dim=-1)
        y, scan = scan_step(
            u, self.dt_proj(dt), self.dt_proj.bias, self.A_log, B, C, self.D, z, scan
        )
        return self.out_proj(y), MambaState(conv, scan)
