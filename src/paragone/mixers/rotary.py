r"""Rotary positions: queries and keys are turned by their place, so scores know the distance alone.

Pairs of coordinates are turned by the angle $p\,\theta_i$, and a product of two turned vectors
depends on the difference of their places:

$$ \theta_i = b^{-2i/D}, \qquad
   \begin{pmatrix} x'_a \\ x'_b \end{pmatrix} = s
   \begin{pmatrix} \cos p\theta_i & -\sin p\theta_i \\ \sin p\theta_i & \cos p\theta_i \end{pmatrix}
   \begin{pmatrix} x_a \\ x_b \end{pmatrix} . $$

Which coordinates make pair i is a convention that weights depend on: (i, i + D/2) in layout
"half" (Llama, GPT-NeoX), (2i, 2i + 1) in layout "interleaved" (the paper, DeepSeek). To read
further than it was trained, a model may slow the low frequencies down: all by a factor
("linear"), those whose wave is longer than the old context ("llama3"), or by a ramp over the
number of turns in it ("yarn", which also makes the scores sharper by the amplitude s).

References:
    Su et al. (2021), RoFormer, arXiv:2104.09864, eq. 15 and 34.
    Chen et al. (2023), arXiv:2306.15595 (linear); Peng et al. (2023), YaRN, arXiv:2309.00071,
    section 3.2 and eq. 21-22; Llama team (2024), arXiv:2407.21783 (llama3).

Shapes: B rows, H heads, T time, D width that is turned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from paragone.mixers.ops.rotary import turned, usable

__all__ = ["Rotary", "places"]

Layout = Literal["half", "interleaved"]

_NEEDED = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ),
    "yarn": ("factor", "original_max_position_embeddings"),
}  # fmt: skip


def _linear(theta: Tensor, given: Mapping[str, Any], base: float) -> Tensor:
    return theta / given["factor"]


def _llama3(theta: Tensor, given: Mapping[str, Any], base: float) -> Tensor:
    turns = given["original_max_position_embeddings"] * theta / (2 * math.pi)
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return theta * (share + (1 - share) / given["factor"])


def _yarn(theta: Tensor, given: Mapping[str, Any], base: float) -> Tensor:
    pairs = len(theta)

    def pair(turns: float) -> float:
        wave = given["original_max_position_embeddings"] / (2 * math.pi * turns)
        return pairs * math.log(wave) / math.log(base)

    first, last = pair(given.get("beta_fast") or 32), pair(given.get("beta_slow") or 1)
    if given.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    at = torch.arange(pairs, dtype=torch.float64)
    slow = ((at - first) / max(last - first, 1e-3)).clamp(0, 1)
    return theta * (1 - slow + slow / given["factor"])


_SCALINGS: dict[str, Any] = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}


def _sharper(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


class Rotary:
    """Turns queries and keys by their places; holds no parameter.

    Prefer it to learned positions where text may be longer than in training; prefer "yarn" to
    "linear" scaling where the near words must stay sharp.

    Args:
        width: Coordinates D that are turned, even; those behind them stay as they are.
        base: b, the wave length of the slowest pair over 2 pi.
        layout: "half" or "interleaved".
        scaling: None, or a mapping with the published keys: `rope_type` ("linear", "llama3",
            "yarn"), `factor`, `original_max_position_embeddings`, `low_freq_factor`,
            `high_freq_factor`, `beta_fast`, `beta_slow`, `mscale`, `mscale_all_dim`,
            `attention_factor`.

    Attributes:
        frequencies: D / 2 numbers, the angles of a step.
        amplitude: s, which YaRN multiplies queries and keys by.
        score_factor: What multiplies the scores of DeepSeek's models besides: the square of
            `mscale_all_dim`'s term.

    Raises:
        ValueError: An odd width, an unknown layout or scaling, or a key that it lacks.

    Example:
        >>> rotary = Rotary(64, layout="interleaved")
        >>> rotary(torch.randn(1, 2, 5, 64), torch.arange(5)[None]).shape
        torch.Size([1, 2, 5, 64])
    """

    def __init__(
        self,
        width: int,
        *,
        base: float = 10000.0,
        layout: Layout = "half",
        scaling: Mapping[str, Any] | None = None,
    ):
        if width < 2 or width % 2:
            raise ValueError(f"rotary width={width}: pairs are turned; an even width is needed")
        if layout not in ("half", "interleaved"):
            raise ValueError(f"rotary layout={layout!r} is none of 'half', 'interleaved'")
        given = dict(scaling or {})
        kind = given.get("rope_type") or given.get("type") or ("default" if not given else None)
        if kind not in _NEEDED:
            raise ValueError(f"rotary scaling has rope_type={kind!r}, none of {', '.join(_NEEDED)}")
        for key in _NEEDED[kind]:
            if given.get(key) is None:
                raise ValueError(f"rotary scaling of rope_type={kind!r} needs {key!r}")
        self.width, self.base, self.scaling = width, float(base), given
        self.layout: Layout = layout
        theta = self.base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        if kind in _SCALINGS:
            theta = _SCALINGS[kind](theta, given, self.base)
        self.frequencies: list[float] = theta.tolist()
        self.amplitude, self.score_factor = 1.0, 1.0
        if kind == "yarn":
            self._sharpen(given)
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def _sharpen(self, given: Mapping[str, Any]) -> None:
        factor, own, all_ = (given.get(key) for key in ("factor", "mscale", "mscale_all_dim"))
        assert factor is not None
        if given.get("attention_factor") is not None:
            self.amplitude = float(given["attention_factor"])
        elif own and all_:
            self.amplitude = _sharper(factor, own) / _sharper(factor, all_)
        else:
            self.amplitude = _sharper(factor, 1.0)
        if all_:
            self.score_factor = _sharper(factor, all_) ** 2

    def __call__(self, x: Tensor, positions: Tensor | int) -> Tensor:
        """Turns the first `width` coordinates of each vector.

        Args:
            x: (B, H, T, at least D).
            positions: (B, T) or (T,) integer places, or an integer: that of the first token, from
                which the others count on.

        Returns:
            Like x, of its type; angles are computed in float64, products in float32 at least.
        """
        wide = torch.promote_types(x.dtype, torch.float32)
        return self.turn(x, *self.table(positions, x.shape[-2], x, wide))

    def table(
        self, positions: Tensor | int, time: int, like: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines, (T, D / 2) or (B, 1, T, D / 2), on the device of `like`."""
        if not isinstance(positions, int):
            return self._angles(positions[:, None] if positions.ndim == 2 else positions, dtype)
        end = positions + time
        if torch.compiler.is_compiling() or type(like).__name__ == "FakeTensor" or like.is_meta:
            return self._angles(torch.arange(positions, end, device=like.device), dtype)
        key = (like.device, dtype)
        known = self._tables.get(key)
        if known is None or len(known[0]) < end:
            with torch.inference_mode(False), torch.no_grad():
                first = torch.arange(max(256, 2 * end), device=like.device)
                known = self._tables[key] = self._angles(first, dtype)
        return known[0][positions:end], known[1][positions:end]

    def turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turns by cosines and sines that `table` gave."""
        rest = x[..., self.width :] if x.shape[-1] > self.width else None
        if self.layout == "half":
            a, b = x[..., : self.width].unflatten(-1, (2, -1)).unbind(-2)
        else:
            a, b = x[..., : self.width].unflatten(-1, (-1, 2)).unbind(-1)
        a, b = a.to(cos.dtype), b.to(cos.dtype)
        pair = (a * cos - b * sin, b * cos + a * sin)
        turned = torch.cat(pair, -1) if self.layout == "half" else torch.stack(pair, -1).flatten(-2)
        turned = turned.to(x.dtype)
        return turned if rest is None else torch.cat([turned, rest], -1)

    def turn_early(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turns (B, T, H, D), as projections give it, and returns it as (B, H, T, D)."""
        if usable(x):
            if cos.ndim == 4:
                cos, sin = cos[:, 0], sin[:, 0]
            return turned(x, cos, sin, self.layout).transpose(1, 2)
        return self.turn(x.transpose(1, 2), cos, sin)

    def _angles(self, at: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        theta = torch.tensor(self.frequencies, dtype=torch.float64, device=at.device)
        angles = at[..., None].to(torch.float64) * theta
        return (
            (angles.cos() * self.amplitude).to(dtype),
            (angles.sin() * self.amplitude).to(dtype),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Rotary:
        return Rotary(self.width, base=self.base, layout=self.layout, scaling=self.scaling)

    def __repr__(self) -> str:
        kind = self.scaling.get("rope_type") or self.scaling.get("type") or "default"
        return f"Rotary({self.width}, base={self.base:g}, layout={self.layout!r}, {kind})"


def places(start: int | Tensor, positions: Tensor | None, time: int) -> Tensor | int:
    """What to call `Rotary` with: the positions if they are given, else those from `start` on."""
    if positions is not None:
        return positions
    if isinstance(start, int):
        return start
    return start[:, None] + torch.arange(time, device=start.device)
