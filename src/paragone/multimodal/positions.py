r"""Places of texts and pictures: four laws that give each token a point of the plane.

A text is a line and a picture an area. A token gets two coordinates, each of which turns every
other pair of a query's and a key's numbers,

$$ \theta_i = b^{-2i/D}, \qquad \text{angle of pair } i = \theta_i \cdot
   \begin{cases} x & i \text{ even} \\ y & i \text{ odd} \end{cases} , $$

so that a text whose n-th token stands at (n, n) is turned exactly as in a plain language model.
Where a picture of h x w patches stands after a text that ended at L, and where the text goes on:

$$ \begin{array}{llll}
   & \text{patch } (r, c),\ 1 \le r \le h,\ 1 \le c \le w & \text{next text} \\
   \text{1d} & (L + n, L + n),\ n = (r - 1) w + c & L + hw + 1 \\
   \text{m-rope} & (L + r, L + c) & L + \max(h, w) + 1 \\
   \text{rope-tie} & (L + (w + 1) r, L + (h + 1) c) & L + (w + 1)(h + 1) \\
   \text{rope-tv} & (L + \tfrac{wh - h}{2} + r, L + \tfrac{wh - w}{2} + c) & L + wh + 1
   \end{array} $$

Only RoPE-TV keeps all laws: text alone is as in one dimension; a picture takes as many places as
it has patches, with neighbours one apart; and it lies in the middle of its gap on both axes.
RoPE-Tie is symmetric, too, but stretches the patches; M-RoPE puts the picture at the gap's
beginning. Halves are exact in float32 up to 2^23.

References:
    Su (2024), kexue.fm/archives/10040 (RoPE-Tie) and kexue.fm/archives/10352 (RoPE-Tie-v2, which
    is RoPE-TV).
    Wang et al. (2024), Qwen2-VL, arXiv:2409.12191, section 2.1 (M-RoPE).

Shapes: T tokens, h rows and w columns of patches, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from paragone.mixers.rotary import Rotary

__all__ = ["SCHEMES", "Segment", "positions", "table"]

Segment = tuple[str, int] | tuple[str, int, int]
"""("text", tokens) or ("image", rows, columns)."""

Grid = tuple[Tensor, Tensor]


def _line(r: Tensor, c: Tensor, h: int, w: int) -> Grid:
    return (r - 1) * w + c, (r - 1) * w + c


def _m_rope(r: Tensor, c: Tensor, h: int, w: int) -> Grid:
    return r, c


def _tie(r: Tensor, c: Tensor, h: int, w: int) -> Grid:
    return (w + 1) * r, (h + 1) * c


def _tv(r: Tensor, c: Tensor, h: int, w: int) -> Grid:
    return (w * h - h) / 2 + r, (w * h - w) / 2 + c


SCHEMES: dict[str, tuple[Callable[..., Grid], Callable[[int, int], int]]] = {
    "1d": (_line, lambda h, w: h * w + 1),
    "m-rope": (_m_rope, lambda h, w: max(h, w) + 1),
    "rope-tie": (_tie, lambda h, w: (h + 1) * (w + 1)),
    "rope-tv": (_tv, lambda h, w: h * w + 1),
}
"""Name to the places of patches behind L, and what the next text's place is beyond L."""


def positions(scheme: str, segments: Sequence[Segment], start: float = 0) -> Tensor:
    """Places of a document's tokens.

    Prefer "rope-tv"; "1d" knows no rows, and "m-rope" is what Qwen2-VL's weights expect.

    Args:
        scheme: A name of `SCHEMES`.
        segments: ("text", tokens) and ("image", rows, columns) in order.
        start: Place of the first token of a text that begins the document.

    Returns:
        (T, 2) float32: the coordinates along rows (downwards) and along columns. Patches are in
        raster order. Of M-RoPE's three, these are height and width.

    Raises:
        ValueError: An unknown scheme or segment.

    Example:
        >>> positions("rope-tv", [("text", 1), ("image", 1, 2), ("text", 1)]).tolist()
        [[0.0, 0.0], [1.5, 1.0], [1.5, 2.0], [3.0, 3.0]]
    """
    if scheme not in SCHEMES:
        raise ValueError(f"positions={scheme!r} is none of {', '.join(SCHEMES)}")
    patch, gap = SCHEMES[scheme]
    found, last = [], float(start) - 1
    for segment in segments:
        kind, *sizes = segment
        if (kind, len(sizes)) not in (("text", 1), ("image", 2)) or min(sizes) < (kind != "text"):
            raise ValueError(
                f"segment {segment!r}: ('text', tokens) or ('image', rows, columns) is expected"
            )
        if kind == "text":
            at = last + 1 + torch.arange(sizes[0], dtype=torch.float64)
            found.append(torch.stack([at, at], -1))
            last += sizes[0]
            continue
        h, w = sizes
        r, c = torch.meshgrid(
            torch.arange(1, h + 1, dtype=torch.float64),
            torch.arange(1, w + 1, dtype=torch.float64),
            indexing="ij",
        )
        found.append(last + torch.stack(patch(r, c, h, w), -1).flatten(0, 1))
        last += gap(h, w) - 1
    if not found:
        return torch.zeros(0, 2)
    return torch.cat(found).to(torch.float32)


def table(rotary: Rotary, at: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Cosines and sines that `rotary.turn` and `rotary.turn_early` take, of points of the plane.

    Args:
        rotary: Its frequencies, amplitude and layout count.
        at: (B, T, 2) places.
        dtype: Type of what comes back; angles are computed in float64.

    Returns:
        Two (B, 1, T, D / 2) tensors; those of points (n, n) are the plain ones of place n, bit
        for bit.
    """
    theta = torch.tensor(rotary.frequencies, dtype=torch.float64, device=at.device)
    axis = torch.arange(len(theta), device=at.device) % 2
    angles = at.to(torch.float64)[..., axis] * theta
    cos, sin = (angles.cos() * rotary.amplitude, angles.sin() * rotary.amplitude)
    return cos.to(dtype)[:, None], sin.to(dtype)[:, None]
