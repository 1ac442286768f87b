r"""Paths from patches to noise and back, and the layers of denoisers.

$$ x_t = a_t x + s_t \epsilon , \qquad v_t = a'_t x + s'_t \epsilon . $$

Whatever is predicted (v, x or $\epsilon$), clean patch and noise follow from it and $x_t$.

Shapes: N patches, P numbers of a patch, R repeats, W width of a denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["NoisePath", "ResidualBlock", "TimeEmbedding", "normed", "squared"]

_LAST = {"eps": 0.995}


class NoisePath:
    """A schedule, what is predicted along it, and how times are drawn.

    Args:
        schedule: "flow" or "cosine".
        prediction: "v", "x0" or "eps".
        times: "uniform" or "logit-normal".

    Raises:
        ValueError: An unknown name.
    """

    def __init__(self, schedule: str, prediction: str, times: str) -> None:
        for name, value, known in (
            ("schedule", schedule, ("flow", "cosine")),
            ("prediction", prediction, ("v", "x0", "eps")),
            ("times", times, ("uniform", "logit-normal")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is none of {', '.join(known)}")
        self.schedule, self.prediction, self.times = schedule, prediction, times

    def spread(self, uniform: Tensor) -> Tensor:
        """Times from numbers that are uniform from 0 to 1; logit-normal: a normal's sigmoid."""
        if self.times == "uniform":
            return uniform
        inner = uniform.double().clamp(1e-6, 1 - 1e-6)
        return torch.sigmoid(math.sqrt(2) * torch.erfinv(2 * inner - 1)).to(uniform.dtype)

    def factors(self, t: Tensor | float) -> tuple[Any, Any]:
        """The factors a and s at t."""
        if self.schedule == "flow":
            return 1 - t, t
        if isinstance(t, Tensor):
            return torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)
        return math.cos(math.pi / 2 * t), math.sin(math.pi / 2 * t)

    def noised(self, clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy patches and what is to be predicted; times lack the last dimension."""
        a, s = self.factors(times[..., None])
        noisy = a * clean + s * noise
        if self.prediction == "x0":
            return noisy, clean
        if self.prediction == "eps":
            return noisy, noise
        return noisy, noise - clean if self.schedule == "flow" else a * noise - s * clean

    def found(self, noisy: Tensor, predicted: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Clean patch and noise that a prediction at t > 0 means."""
        a, s = self.factors(t)
        if self.prediction == "x0":
            return predicted, (noisy - a * predicted) / s
        if self.prediction == "eps":
            return (noisy - s * predicted) / a, predicted
        if self.schedule == "flow":
            return noisy - t * predicted, noisy + (1 - t) * predicted
        return a * noisy - s * predicted, s * noisy + a * predicted

    def moments(self, steps: int) -> list[float]:
        """Times of a walk, from noise to 0; eps says nothing of the patch at 1 itself."""
        last = _LAST.get(self.prediction, 1.0)
        return [last * (1 - k / steps) for k in range(steps)] + [0.0]

    def stepped(
        self, noisy: Tensor, predicted: Tensor, t: float, after: float, eta: float,
        noise: Callable[[], Tensor],
    ) -> Tensor:  # fmt: skip
        """From t to `after`, less than t."""
        clean, eps = self.found(noisy, predicted, t)
        (a, s), (a2, s2) = self.factors(t), self.factors(after)
        sigma = eta * s2 * math.sqrt(max(1 - (a * s2 / (a2 * s)) ** 2, 0.0))
        moved = a2 * clean + math.sqrt(max(s2**2 - sigma**2, 0.0)) * eps
        return moved + sigma * noise() if sigma > 0 else moved

    def walk(
        self, predict: Callable[[Tensor, float], Tensor], noise: Callable[[], Tensor], steps: int,
        eta: float,
    ) -> Tensor:  # fmt: skip
        """Draws: `predict` takes noisy patches and a time, `noise` draws of their shape."""
        x = noise()
        times = self.moments(steps)
        for t, after in pairwise(times):
            x = self.stepped(x, predict(x, t), t, after, eta, noise)
        return x


class TimeEmbedding(nn.Module):
    """Times from 0 to 1 as sines and cosines, through two layers.

    Args:
        width: Width W of the result.
        waves: Frequencies, each a sine and a cosine.
        device: Where the weights are.
        dtype: Their type.
    """

    def __init__(
        self, width: int, waves: int = 32, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.waves = waves
        place: Any = {"device": device, "dtype": dtype}
        self.mlp = nn.Sequential(
            nn.Linear(2 * waves, width, **place), nn.SiLU(), nn.Linear(width, width, **place)
        )

    def forward(self, times: Tensor) -> Tensor:
        """(...) to (..., W)."""
        at = torch.arange(self.waves, device=times.device, dtype=torch.float32) / self.waves
        angles = 1000 * times.float()[..., None] * torch.exp(-math.log(10000) * at)
        waves = torch.cat([angles.cos(), angles.sin()], -1)
        return self.mlp(waves.to(next(self.parameters()).dtype))


class ResidualBlock(nn.Module):
    """x + g MLP((1 + f) norm(x) + b), with b, f and g from a condition if there is one."""

    def __init__(self, width: int, conditioned: bool, **place: Any) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6, **place)
        self.mlp = nn.Sequential(
            nn.Linear(width, width, **place), nn.SiLU(), nn.Linear(width, width, **place)
        )
        self.modulation = nn.Linear(width, 3 * width, **place) if conditioned else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """(N, W); the condition too."""
        if self.modulation is None or condition is None:
            return x + self.mlp(self.in_ln(x))
        shift, factor, gate = self.modulation(condition).chunk(3, -1)
        return x + gate * self.mlp(self.in_ln(x) * (1 + factor) + shift)


def normed(x: Tensor) -> Tensor:
    """LayerNorm without weights."""
    return nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)


def squared(error: Tensor) -> Tensor:
    """Squares in single precision or better."""
    return error.to(torch.promote_types(error.dtype, torch.float32)).square()
