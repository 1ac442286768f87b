r"""What Mamba and Mamba-2 share: convolution, step projection, gated norm, rules for parameters.

Step sizes start log-uniform between two bounds, through the inverse of softplus,

$$ \Delta \sim e^{\mathcal U(\log \Delta_{\min}, \log \Delta_{\max})}, \qquad
   b = \Delta + \log(1 - e^{-\Delta}) , $$

and a model does not train well from other ones. Recipes that give every `nn.Linear` new numbers
after the model is built would undo this; the modules here are none, and keep theirs.

References:
    Gu and Dao (2023), "Mamba", arXiv:2312.00752, section 3.6 (initialisation).
    Dao and Gu (2024), arXiv:2405.21060, section 7.1 (norm behind the gate).

Shapes: B rows, T time, D channels, K taps, R rank of the step sizes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.kernels.backends import why_not
from paragone.kernels.choice import backends
from paragone.mixers.contract import Mixer
from paragone.mixers.ops.conv1d import causal_conv1d

__all__ = [
    "CausalConv1d", "GatedNorm", "SelectiveMixer", "StepProjection", "check_backend",
    "check_state", "init_step_bias", "weights_under",
]  # fmt: skip


@functools.cache
def _compiles() -> bool:
    return why_not("numba") is None


def check_state(name: str, state: Any, wanted: Sequence[tuple[int, ...]]) -> None:
    """Raises `ValueError` if a part of the state has another shape."""
    for part, shape in zip(state, wanted, strict=True):
        if tuple(part.shape) != shape:
            raise ValueError(f"{name}: state {tuple(part.shape)}; {shape} is expected")


def check_backend(name: str, backend: str, op: str) -> None:
    """Raises `ValueError` if no back end of `op` has that name."""
    if backend not in ("auto", *backends(op)):
        raise ValueError(f"{name}: backend={backend!r} is none of auto, {', '.join(backends(op))}")


@torch.no_grad()
def init_step_bias(bias: Tensor, low: float, high: float, floor: float) -> None:
    """Fills `bias` so that softplus(bias) is log-uniform in [low, high], at least `floor`."""
    span = math.log(high) - math.log(low)
    dt = torch.exp(torch.rand_like(bias, dtype=torch.float32) * span + math.log(low))
    dt = dt.clamp(min=floor)
    bias.copy_(dt + torch.log(-torch.expm1(-dt)))


def weights_under(state: Mapping[str, Tensor], prefix: str, needed: str) -> dict[str, Tensor]:
    """Returns the entries whose names begin with `prefix`, without it."""
    found = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    if needed not in found:
        some = ", ".join(list(state)[:3]) or "nothing"
        raise ValueError(f"prefix={prefix!r}: there is no {prefix + needed!r} among {some} …")
    return found


class CausalConv1d(nn.Module):
    """Depthwise causal convolution and silu; weight (D, 1, K) and bias (D,) as `nn.Conv1d` has."""

    def __init__(self, channels: int, taps: int, bias: bool, device: Any, dtype: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, taps, device=device, dtype=dtype))
        empty = torch.empty(channels, device=device, dtype=dtype)
        self.bias = nn.Parameter(empty) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            bound = self.weight.shape[2] ** -0.5
            nn.init.uniform_(self.weight, -bound, bound)
            if self.bias is not None:
                nn.init.uniform_(self.bias, -bound, bound)

    def forward(
        self, x: Tensor, state: Tensor | None, lengths: Tensor | None, backend: str
    ) -> tuple[Tensor, Tensor]:
        taps = self.weight[:, 0]
        return causal_conv1d(x, taps, self.bias, state=state, lengths=lengths, backend=backend)


class StepProjection(nn.Module):
    """weight (D, R) and bias (D,) of the step sizes; not an `nn.Linear`, on purpose."""

    def __init__(self, rank: int, channels: int, device: Any, dtype: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, rank, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Projects without the bias, which the scan adds before its softplus."""
        return functional.linear(x, self.weight)


class GatedNorm(nn.Module):
    r"""RMSNorm of $y \odot \mathrm{silu}(z)$ in groups of channels."""

    def __init__(self, channels: int, groups: int, eps: float, device: Any, dtype: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.groups, self.eps = groups, eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        work = torch.promote_types(y.dtype, torch.float32)
        gated = (y.to(work) * functional.silu(z.to(work))).unflatten(-1, (self.groups, -1))
        normed = functional.rms_norm(gated, gated.shape[-1:], eps=self.eps).flatten(-2)
        return self.weight * normed.to(y.dtype)


class SelectiveMixer(Mixer):
    """A mixer with `A_log` and `D`, which stay float32 and are not decayed."""

    A_log: nn.Parameter
    D: nn.Parameter
    in_proj: nn.Linear
    backend: str

    def parameter_groups(self, weight_decay: float = 0.1) -> list[dict[str, Any]]:
        """Parameters for an optimizer: matrices decay; A, D, step sizes, norms and biases do not.

        Args:
            weight_decay: For the matrices.

        Returns:
            Two groups, as every `torch.optim.Optimizer` takes them.
        """
        decayed, kept = [], []
        for name, parameter in self.named_parameters():
            whole = parameter.ndim < 2 or name == "A_log"
            (kept if whole else decayed).append(parameter)
        return [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ]

    def _run(
        self, x: Tensor, state: Any, lengths: Tensor | None, backend: str, form: str
    ) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Goes on by one token: (B, M) and the state to (B, M) and the new state."""
        if x_t.ndim != 2 or x_t.shape[1] != self.width:
            raise ValueError(
                f"{type(self).__name__}: x_t has shape {tuple(x_t.shape)}; (B, {self.width}) is "
                "expected"
            )
        if self._plain(x_t, state):
            return self._token(x_t, state)
        y, state = self._run(x_t[:, None], state, None, "torch", "scan")
        return y[:, 0], state

    def _plain(self, x_t: Tensor, state: Any) -> bool:
        """Whether the kernels of one token can serve: float32 on the CPU, and no gradients."""
        if torch.is_grad_enabled() or self.backend == "torch" or not x_t.shape[0]:
            return False
        kinds = {x_t.dtype, self.A_log.dtype, self.in_proj.weight.dtype}
        kinds |= set() if state is None else {part.dtype for part in state}
        return kinds == {torch.float32} and x_t.device.type == "cpu" and _compiles()

    def _token(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        raise NotImplementedError

    def _step_by_step(self, x: Tensor, state: Any, lengths: Tensor | None) -> tuple[Tensor, Any]:
        if state is None:
            _, state = self._run(x[:, :0], None, None, "torch", "scan")
        found = []
        for t in range(x.shape[1]):
            y, after = self.step(x[:, t], state)
            if lengths is not None:
                on = t < lengths
                pairs = zip(state, after, strict=True)
                after = type(after)(
                    *(torch.where(on.view(-1, *[1] * (b.ndim - 1)), b, a) for a, b in pairs)
                )
            found.append(y)
            state = after
        return torch.stack(found, 1) if found else x, state

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """`to(bfloat16)` and the like leave A_log and D in float32."""
        before = [(p, p.detach()) for p in (self.A_log, self.D)]
        super()._apply(fn, recurse)
        for (_, old), new in zip(before, (self.A_log, self.D), strict=True):
            if new.dtype in (torch.bfloat16, torch.float16):
                full = torch.empty_like(new, dtype=torch.float32)
                new.data = full if old.is_meta else full.copy_(old)
        return self
