r"""Resizing by interpolation, as torch, PIL and TensorFlow mean it.

Output place $i$ looks at the input's real-valued place $s(i)$ and mixes the neighbours $j$ there:

$$ y_i = \frac{\sum_j w\big((s(i) - j) / \rho\big)\, x_j}{\sum_j w\big((s(i) - j) / \rho\big)},
   \qquad s(i) = \begin{cases} (i + \tfrac12) r - \tfrac12 & \text{half-pixel} \\
   i\,(n - 1) / (m - 1) & \text{align\_corners} \\ i\, r & \text{asymmetric} \end{cases} $$

with $r = n / m$ (or 1 / scale), $\rho = \max(r, 1)$ with antialias and 1 without, and $w$ the
triangle or Keys' cubic with constant $a$: -0.75 in torch and OpenCV, -0.5 in PIL, TensorFlow and
torch's antialiased form. Without antialias places beyond the edge repeat it; with it they are
left out.

Cost: 2 or 4 taps an axis; times r when antialiased.

References:
    Keys (1981), "Cubic convolution interpolation", IEEE TASSP 29(6), eq. 4 and 8.

Shapes: n input size, m output size, T taps.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["INTERPOLATIONS", "Interpolate", "Interpolation", "resize", "taps"]

Interpolation = Literal["nearest", "nearest-exact", "bilinear", "bicubic"]

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic")


def _kernel(x: Tensor, mode: str, a: float) -> Tensor:
    x = x.abs()
    if mode == "bilinear":
        return (1 - x).clamp(min=0)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def taps(
    n: int, m: int, mode: Interpolation, *, ratio: float | None = None,
    align_corners: bool = False, half_pixel: bool = True, antialias: bool = False,
    cubic: float = -0.75,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns which inputs (m, T) each output mixes, and the float64 weights (m, T).

    Args:
        n: Input size.
        m: Output size.
        mode: Which kernel.
        ratio: Inputs an output; n / m without it.
        align_corners: Whether the first and last samples of both sides coincide.
        half_pixel: Whether pixels are areas with centres at a half.
        antialias: Whether the kernel widens when the image shrinks.
        cubic: Keys' constant.
    """
    r = n / m if ratio is None else ratio
    i = torch.arange(m, dtype=torch.float64)
    if mode in ("nearest", "nearest-exact"):
        at = ((i + (0.5 if mode == "nearest-exact" else 0.0)) * r).floor().long().clamp(0, n - 1)
        return at[:, None], torch.ones(m, 1, dtype=torch.float64)
    if align_corners:
        r = (n - 1) / (m - 1) if m > 1 else 0.0
    place = (i + 0.5) * r - 0.5 if half_pixel and not align_corners else i * r
    wide = max(r, 1.0) if antialias else 1.0
    if mode == "bilinear" and not antialias:
        place = place.clamp(min=0)
    reach = (1 if mode == "bilinear" else 2) * wide
    first = torch.floor(place - reach).long() + 1
    at = first[:, None] + torch.arange(math.ceil(2 * reach) + (1 if antialias else 0))
    weights = _kernel((place[:, None] - at) / wide, mode, cubic)
    if antialias:
        weights = torch.where((at >= 0) & (at < n), weights, torch.zeros_like(weights))
        weights = weights / weights.sum(1, keepdim=True)
    return at.clamp(0, n - 1), weights


def _along(x: Tensor, axis: int, at: Tensor, weights: Tensor) -> Tensor:
    shape = [1] * x.dim()
    shape[axis] = -1
    parts = (
        x.index_select(axis, at[:, t].to(x.device)) * weights[:, t].to(x).view(shape)
        for t in range(at.shape[1])
    )
    return torch.stack(list(parts)).sum(0)


def resize(
    x: Tensor, size: tuple[int, int], mode: Interpolation, *,
    ratios: tuple[float, float] | None = None, align_corners: bool = False,
    half_pixel: bool = True, antialias: bool = False, cubic: float = -0.75,
) -> Tensor:  # fmt: skip
    """Resizes maps (B, C, n_h, n_w) to (B, C, *size): the definition, one axis after the other."""
    for axis in (2, 3):
        ratio = None if ratios is None else ratios[axis - 2]
        at, weights = taps(
            x.shape[axis], size[axis - 2], mode, ratio=ratio, align_corners=align_corners,
            half_pixel=half_pixel, antialias=antialias, cubic=cubic,
        )  # fmt: skip
        x = _along(x, axis, at, weights)
    return x


class Interpolate(nn.Module):
    """Interpolation with every convention as an argument.

    torch's own kernels compute it wherever torch has that form; the others take `resize`.

    Args:
        mode: "nearest", "nearest-exact", "bilinear" or "bicubic".
        scale: Output size over input size, rounded down; need not be whole.
        align_corners: Whether corner samples coincide (then the picture is stretched a little).
        half_pixel: Without it and without `align_corners`, TensorFlow 1's asymmetric places.
        antialias: Whether the kernel widens when the image shrinks, as in PIL.
        cubic: Constant of the cubic; torch's own choice without it: -0.75, antialiased -0.5.
        recompute_scale_factor: Whether places follow the rounded size, not `scale`.

    Raises:
        ValueError: Options that the mode has no meaning for.
    """

    def __init__(
        self, mode: Interpolation, scale: float = 2, *, align_corners: bool = False,
        half_pixel: bool = True, antialias: bool = False, cubic: float | None = None,
        recompute_scale_factor: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if mode not in INTERPOLATIONS:
            raise ValueError(f"mode {mode!r} is none of {', '.join(INTERPOLATIONS)}")
        if not scale > 0 or math.isinf(scale):
            raise ValueError(f"scale is {scale}: it must be positive and finite")
        smooth = mode in ("bilinear", "bicubic")
        if not smooth and (align_corners or antialias or not half_pixel):
            raise ValueError(
                f"{mode} has neither align_corners nor half_pixel nor antialias: leave them out"
            )
        if cubic is not None and mode != "bicubic":
            raise ValueError(f"cubic={cubic} is for bicubic, not for {mode}: leave it out")
        if align_corners and antialias:
            raise ValueError("antialias with align_corners has no definition: choose one")
        own = -0.5 if antialias else -0.75
        self.mode: Interpolation = mode
        self.scale, self.smooth = scale, smooth
        self.align_corners, self.half_pixel, self.antialias = align_corners, half_pixel, antialias
        self.cubic = own if cubic is None else cubic
        self.recompute_scale_factor = recompute_scale_factor
        self.torch_has_it = self.cubic == own and (half_pixel or align_corners)

    def extra_repr(self) -> str:
        return f"{self.mode!r}, scale={self.scale}"

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Resizes (B, C, H, W) to `size`, or by the scale."""
        given = size is not None
        height, width = (math.floor(n * self.scale) for n in x.shape[2:])
        out = (height, width) if size is None else size
        if min(out) < 1 or min(x.shape[2:]) < 1:
            raise ValueError(f"a map of {tuple(x.shape[2:])} cannot become {tuple(out)}: both "
                             "need at least one pixel")  # fmt: skip
        if self.torch_has_it:
            return functional.interpolate(
                x, size, None if given else float(self.scale), self.mode,
                self.align_corners if self.smooth else None,
                None if given else self.recompute_scale_factor, antialias=self.antialias,
            )  # fmt: skip
        fixed = not given and not self.recompute_scale_factor
        return resize(
            x, out, self.mode, ratios=(1 / self.scale, 1 / self.scale) if fixed else None,
            align_corners=self.align_corners, half_pixel=self.half_pixel,
            antialias=self.antialias, cubic=self.cubic,
        )  # fmt: skip
