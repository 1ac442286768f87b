r"""Performer: softmax attention estimated by positive random features (FAVOR+), in linear time.

The softmax kernel is an expectation of products of positive features, so attention becomes a
quotient of two sums that run on over time:

$$ e^{q^\top k} = \mathbb{E}_{\omega \sim N(0,I)}\big[e^{\omega^\top q - |q|^2/2}\,
   e^{\omega^\top k - |k|^2/2}\big], \qquad
   o_i = \frac{\sum_{j \le i} \phi(q_i)^\top \phi(k_j)\, v_j}
              {\sum_{j \le i} \phi(q_i)^\top \phi(k_j)} . $$

What is particular here: features stay logarithms until a reference is subtracted that cancels
exactly (no epsilon, hence no bias), and the reference of the keys is a maximum that runs on, so
that no output knows the future. What to expect of it is told by `approximation_error`: good for
small queries and keys, useless for large ones; and by `feature_rank`: F features give an
attention matrix of rank F at most, where softmax has full rank.

Cost: O(T F D) time, state O(F D) a head.

References:
    Choromanski et al. (2021), "Rethinking attention with Performers", arXiv:2009.14794, eq. 4-7,
    theorem 2 (orthogonal features); Likhosherstov et al. (2022), "Chefs' random tables",
    arXiv:2205.15317, theorem 3 (optimal positive features).

Shapes: B rows, H heads, T time, D head width, F features, M model width.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paragone.mixers.contract import Mixer
from paragone.mixers.ops import features as maps

__all__ = [
    "ApproximationError", "Performer", "PerformerState", "approximation_error", "feature_rank",
]  # fmt: skip


class PerformerState(NamedTuple):
    """Sums over the past.

    Attributes:
        sums: (B, H, F, D) features times values, relative to exp(peak).
        norm: (B, H, F) sum of the features, relative to exp(peak).
        peak: (B, H) largest logarithm of a key's feature so far.
    """

    sums: Tensor
    norm: Tensor
    peak: Tensor


class Performer(Mixer):
    """Multi-head attention with random features.

    Prefer it to `MultiHeadAttention` for long sequences and small heads, above all to speed up a
    model that was trained with softmax; prefer `LinearAttention` when training from scratch: its
    map costs nothing and is as good. Check `approximation_error` on your own queries first.

    Args:
        width: Model width M; a multiple of `heads`.
        heads: Heads H.
        features: Features F a head (None: D ln D, rounded up to a multiple of 8).
        kernel: "softmax" (FAVOR+), "softmax-hyperbolic" (pairs of opposite directions),
            "softmax-optimal" (FAVOR++, in pairs; follows the size of queries and keys in
            training), "relu" (another kernel than softmax), or "exp" (no random features:
            exp as the activation of queries and keys; F = D).
        causal: Whether a token sees the past alone.
        redraw: Steps of training after which directions are drawn anew (None: never).
        orthogonal: Whether directions are orthogonal inside blocks of D.
        seed: Of the directions (None: taken from torch's generator). The draw depends on the
            seed and the step alone, and both are saved with the parameters.
        chunk: Tokens taken at once in the causal form; no result depends on it but in rounding.
        bias: Whether projections have a bias.
        backend: "auto", or a name from `paragone.kernels.choice.backends("exp_features")`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An option out of range.

    Example:
        >>> y, state = Performer(64, heads=4)(torch.randn(2, 100, 64))
        >>> y.shape, state.sums.shape
        (torch.Size([2, 100, 64]), torch.Size([2, 4, 48, 16]))
    """

    directions: Tensor
    draws: Tensor
    spread: Tensor

    def __init__(
        self,
        width: int,
        heads: int,
        features: int | None = None,
        kernel: str = "softmax",
        *,
        causal: bool = True,
        redraw: int | None = 1000,
        orthogonal: bool = True,
        seed: int | None = None,
        chunk: int = 64,
        bias: bool = False,
        backend: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width={width} is no multiple of heads={heads}")
        if chunk < 1 or (redraw is not None and redraw < 1):
            raise ValueError(f"chunk={chunk} and redraw={redraw} count tokens and steps: 1 or more")
        self.width, self.heads, self.causal = width, heads, causal
        self.features = _checked_features(features, kernel, width // heads)
        self.kernel, self.redraw, self.orthogonal = kernel, redraw, orthogonal
        self.seed, self.chunk, self.backend = seed, chunk, backend
        where: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        self.to_qkv = nn.Linear(width, 3 * width, **where)
        self.to_out = nn.Linear(width, width, **where)
        count = maps.directions_for(kernel, self.features)
        self.register_buffer("directions", torch.empty(count, width // heads, device=device))
        self.register_buffer("draws", torch.zeros(2, dtype=torch.int64, device=device))
        self.register_buffer("spread", torch.empty((), device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws directions; queries and keys are expected at unit scale."""
        if self.directions.is_meta:
            return
        seed = int(torch.randint(2**31, ())) if self.seed is None else self.seed
        with torch.no_grad():
            self.draws.copy_(torch.tensor([seed, 0]))
            self.spread.fill_(2 * math.sqrt(self.width // self.heads))
        self.redraw_directions(0)

    @torch.no_grad()
    def redraw_directions(self, number: int) -> None:
        """Replaces the directions by the draw of that number; older states become void."""
        generator = torch.Generator().manual_seed(int(self.draws[0]) * 1_000_003 + number)
        count, width = self.directions.shape
        drawn = maps.draw(count, width, generator, orthogonal=self.orthogonal)
        self.directions.copy_(drawn)

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Any]:
        q, k, v = self._split(x)
        if self.training and not torch.compiler.is_compiling():
            self._count(q, k)
        query, key, shift = self._reach(q, k)
        if lengths is not None:
            beyond = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
            shift = shift.masked_fill(beyond[:, None], torch.inf)
        if self.causal:
            y, state = maps.attend_past(
                query, key, shift, v, state, chunk=self.chunk, backend=self.backend
            )
            state = PerformerState(*state)
        else:
            y = maps.attend_all(query, key, shift, v, backend=self.backend)
        return self.to_out(y.transpose(1, 2).flatten(2).to(x.dtype)), state

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if q.dtype in (torch.float16, torch.bfloat16):
            q, k = q.float(), k.float()
        scale = q.shape[-1] ** -0.25
        return q * scale, k * scale, v

    def _reach(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithms of the features of q, of k, and what is to be subtracted from the latter."""
        if self.kernel in ("relu", "exp"):
            nothing = k.new_zeros(k.shape[:-1])
            if self.kernel == "exp":
                return q, k, nothing
            query, key = (maps.relu_features(t, self.directions).log() for t in (q, k))
            return query, key, nothing
        spread = self.spread.clone() if self.kernel == "softmax-optimal" else None
        query, key = (maps.reach_of(t, self.directions, self.kernel, spread) for t in (q, k))
        return query, key, k.square().sum(-1) / 2

    @torch.no_grad()
    def _count(self, q: Tensor, k: Tensor) -> None:
        if self.redraw is not None and self.features:
            done = int(self.draws[1])
            if done and done % self.redraw == 0:
                self.redraw_directions(done // self.redraw)
            self.draws[1] += 1
        if self.kernel == "softmax-optimal" and q.numel():
            self.spread.lerp_(_spread(q, k).to(self.spread.dtype), 0.05)


def _checked_features(features: int | None, kernel: str, width: int) -> int:
    if kernel not in maps.KERNELS:
        raise ValueError(f"kernel={kernel!r} is none of {', '.join(maps.KERNELS)}")
    if kernel == "exp":
        if features not in (None, width):
            raise ValueError(f"features={features}: kernel='exp' has as many as D = {width}")
        return width
    if features is None:
        features = 8 * max(1, math.ceil(width * math.log(max(width, 2)) / 8))
    paired = kernel in ("softmax-hyperbolic", "softmax-optimal")
    if features < 1 or (paired and features % 2):
        raise ValueError(f"features={features}: kernel={kernel!r} takes a positive (even) number")
    return features


def _spread(q: Tensor, k: Tensor) -> Tensor:
    """Mean of |q_i + k_j|^2 over all pairs."""
    q, k = q.flatten(0, -2), k.flatten(0, -2)
    return q.square().sum(-1).mean() + k.square().sum(-1).mean() + 2 * q.mean(0) @ k.mean(0)


class ApproximationError(NamedTuple):
    """How far estimated attention is from softmax attention.

    Attributes:
        relative: (draws,) Frobenius norm of the difference over that of softmax.
        baseline: The same for the mean of all visible values, which knows nothing.
    """

    relative: Tensor
    baseline: float


def approximation_error(
    q: Tensor,
    k: Tensor,
    features: int = 256,
    kernel: str = "softmax",
    *,
    causal: bool = False,
    draws: int = 8,
    orthogonal: bool = True,
    seed: int = 0,
) -> ApproximationError:
    """Measures the error of the attention weights on your own queries and keys, in float64.

    Below one half of `baseline` the features are of use; near it or above, attention to
    everything alike would be as good. The error falls as 1 / sqrt(F), from a level that grows
    exponentially with |q|^2 + |k|^2.

    Args:
        q: (..., T, D) queries, not yet scaled.
        k: (..., S, D) keys.
        features: F.
        kernel: As for `Performer`.
        causal: Whether query i sees keys j <= i only.
        draws: Sets of directions to try.
        orthogonal: As for `Performer`.
        seed: Of the first set.

    Example:
        >>> q, k = 0.1 * torch.randn(2, 64, 16)
        >>> bool(approximation_error(q, k, features=512).relative.mean() < 0.05)
        True
    """
    q, k = q.detach().double(), k.detach().double()
    features = _checked_features(None if kernel == "exp" else features, kernel, q.shape[-1])
    wanted = torch.softmax(_visible(q @ k.mT * q.shape[-1] ** -0.5, causal), dim=-1)
    even = torch.softmax(_visible(torch.zeros_like(wanted), causal), dim=-1)
    errors = []
    for draw in range(draws):
        a, b = _maps_of(q, k, features, kernel, orthogonal, seed + draw)
        errors.append(torch.linalg.norm(_weights(a, b, causal) - wanted))
    size = torch.linalg.norm(wanted)
    return ApproximationError(
        torch.stack(errors) / size, float(torch.linalg.norm(even - wanted) / size)
    )


def feature_rank(
    q: Tensor, k: Tensor, features: int = 256, kernel: str = "softmax", *, seed: int = 0
) -> tuple[int, int]:
    """Returns the ranks of the softmax weights and of the estimated ones, in float64.

    A map with F features gives weights of rank F at most, whatever it is: one that is learnt,
    random, or the plain exponential of queries and keys (kernel "exp", F = D).

    Args:
        q: (T, D) queries, not yet scaled.
        k: (S, D) keys.
        features: F.
        kernel: As for `Performer`.
        seed: Of the directions.

    Example:
        >>> q, k = torch.randn(2, 96, 16, generator=torch.Generator().manual_seed(0))
        >>> feature_rank(q, k, features=24)
        (96, 24)
    """
    q, k = q.detach().double(), k.detach().double()
    features = _checked_features(None if kernel == "exp" else features, kernel, q.shape[-1])
    exact = maps.softmax_weights(q, k)
    a, b = _maps_of(q, k, features, kernel, True, seed)
    estimated = _weights(a, b)
    return int(torch.linalg.matrix_rank(exact)), int(torch.linalg.matrix_rank(estimated))


def _maps_of(
    q: Tensor, k: Tensor, features: int, kernel: str, orthogonal: bool, seed: int
) -> tuple[Tensor, Tensor]:
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    generator = torch.Generator().manual_seed(seed)
    count = maps.directions_for(kernel, features)
    directions = maps.draw(count, q.shape[-1], generator, orthogonal=orthogonal)
    directions = directions.to(q.device)
    if kernel == "relu":
        return maps.relu_features(q, directions).log(), maps.relu_features(k, directions).log()
    spread = _spread(q, k)
    return (
        maps.log_features(q, directions, kernel, spread),
        maps.log_features(k, directions, kernel, spread),
    )


def _weights(a: Tensor, b: Tensor, causal: bool = False) -> Tensor:
    """Estimated attention weights (..., T, S), by products in float64."""
    peak = b.amax(-2, keepdim=True)
    reach = a + peak
    products = torch.exp(reach - reach.amax(-1, keepdim=True)) @ torch.exp(b - peak).mT
    products = products.tril() if causal else products
    return products / products.sum(-1, keepdim=True)


def _visible(scores: Tensor, causal: bool) -> Tensor:
    if not causal:
        return scores
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(hidden, -torch.inf)
