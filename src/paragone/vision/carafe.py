r"""CARAFE: every pixel of the output is a mix of its neighbourhood, with weights of its own.

A small network reads the map and predicts, for each output pixel, a $k \times k$ kernel; softmax
makes its weights positive with sum 1, and the kernel mixes the neighbourhood of the input pixel
that the output pixel lies in:

$$ \mathcal{W} = \mathrm{softmax}_{k^2}\big(\mathrm{PS}(E * (D\,x))\big), \qquad
   y_{c,\,p} = \sum_{u, v = -\lfloor k/2 \rfloor}^{\lfloor k/2 \rfloor}
   \mathcal{W}_{g(c),\,uv,\,p}\; x_{c,\,\lfloor p / s \rfloor + (u, v)} , $$

with zeros outside of the map, and kernels shared by the channels of a group. The sum over
kernels is `ops.carafe`: compiled code with gradients, where the usual formulation copies every
neighbourhood.

Cost: $s^2 k^2 C$ multiplications an input pixel, and a convolution to $s^2 k^2$ channels.

References:
    Wang et al. (2019), "CARAFE", arXiv:1905.02188, eq. 1-5.

Shapes: B batch, C channels, H and W input size, s scale, k side of a kernel, G groups.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from paragone.vision.ops.carafe.call import reassemble, unpack

__all__ = ["CARAFE", "fit"]


class CARAFE(nn.Module):
    """Upsampling with a predicted kernel for every pixel.

    Prefer it to bilinear interpolation where segments need crisp edges; its output on constant
    input is constant (the softmax), so it starts without a checkerboard.

    Args:
        channels: C.
        scale: s.
        kernel: Side k of the predicted kernels, odd.
        groups: Groups of channels with kernels of their own; divides C.
        encoder: Side of the convolution that predicts them.
        compressed: Channels that it reads; 64, or C where that is less, without it.
        backend: "auto", or a name from `paragone.kernels.choice.backends("carafe")`.

    Example:
        >>> import torch
        >>> CARAFE(8, scale=2)(torch.randn(1, 8, 5, 7)).shape
        torch.Size([1, 8, 10, 14])
    """

    def __init__(
        self, channels: int, scale: int = 2, *, kernel: int = 5, groups: int = 1,
        encoder: int = 3, compressed: int | None = None, backend: str = "auto", device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if scale != int(scale) or scale < 1:
            raise ValueError(f"CARAFE: scale is {scale}; a whole number from 1 on is needed")
        if kernel % 2 != 1 or encoder % 2 != 1:
            raise ValueError(f"kernel={kernel} and encoder={encoder} must be odd to have a centre")
        if groups < 1 or channels % groups:
            raise ValueError(f"{channels} channels in {groups} groups: groups must divide them")
        self.channels, self.scale, self.kernel = channels, int(scale), kernel
        self.groups, self.backend = groups, backend
        compressed = min(64, channels) if compressed is None else compressed
        where = {"device": device, "dtype": dtype}
        self.channel_compressor = nn.Conv2d(channels, compressed, 1, **where)
        self.content_encoder = nn.Conv2d(
            compressed, self.scale**2 * kernel**2 * groups, encoder, padding=encoder // 2, **where
        )
        nn.init.xavier_uniform_(self.channel_compressor.weight)
        nn.init.normal_(self.content_encoder.weight, std=0.001)
        for layer in (self.channel_compressor, self.content_encoder):
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]

    def extra_repr(self) -> str:
        return f"scale={self.scale}, kernel={self.kernel}, groups={self.groups}"

    def kernels(self, x: Tensor) -> Tensor:
        """Returns the kernels (B, G k k, s H, s W) for maps (B, C, H, W)."""
        return unpack(self._packed(x))

    def _packed(self, x: Tensor) -> Tensor:
        """The same as (B, H, W, G, s s, k k), which needs no pixel shuffle."""
        logits = self.content_encoder(self.channel_compressor(x))
        parts = logits.unflatten(1, (self.groups, self.kernel**2, self.scale**2))
        return parts.permute(0, 4, 5, 1, 3, 2).softmax(-1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Returns (B, C, s H, s W), cut or continued to `size` by less than a block."""
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"CARAFE: maps have shape {tuple(x.shape)}; (B, {self.channels}, H, W) is needed"
            )
        return fit(reassemble(x, self._packed(x), backend=self.backend), size, self.scale)


def fit(x: Tensor, size: tuple[int, int] | None, scale: int) -> Tensor:
    """Cuts or repeats the last rows and columns of (B, C, H, W), by less than `scale`."""
    if size is None or tuple(x.shape[2:]) == tuple(size):
        return x
    more = [int(w) - n for w, n in zip(size, x.shape[2:], strict=True)]
    if max(map(abs, more)) >= scale:
        raise ValueError(
            f"size {tuple(size)} is {scale} or more pixels away from {tuple(x.shape[2:])}, which "
            f"scale={scale} gives; interpolate for other sizes"
        )
    x = x[:, :, : size[0], : size[1]]
    return functional.pad(x, (0, max(more[1], 0), 0, max(more[0], 0)), "replicate")
