"""The contestants of the study `upsampling`, and of `carafe_speed`."""

from __future__ import annotations

from typing import Any

from torch import nn

from paragone._core.lazy import resolve
from paragone.lab.spec import Contestant

__all__ = [
    "TorchPixelShuffle", "TorchTransposed", "TorchUpsample", "contestants", "for_speed", "ours",
]  # fmt: skip

_HERE = "paragone.lab.contestants.upsampling:"
_FULL: dict[str, Any] = {"quick": [False]}


def ours(
    method: str, channels: int, out_channels: int, scale: int, kernel_size: int = 1, **options: Any
) -> nn.Module:
    """Our `Upsample`; kernels and places that depend on content are read before channels go."""
    late = method in ("carafe", "dysample") and out_channels < 4
    return resolve("paragone.vision:Upsample")(
        method, channels, scale, out_channels=out_channels, kernel_size=kernel_size,
        project="after" if late else "before", **options,
    )  # fmt: skip


class TorchUpsample(nn.Sequential):
    """torch's interpolation behind a convolution."""

    def __init__(self, channels: int, out_channels: int, scale: int, kernel_size: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, out_channels, kernel_size, padding=kernel_size // 2),
            nn.Upsample(scale_factor=scale, mode="bilinear"),
        )


class TorchTransposed(nn.ConvTranspose2d):
    """torch's transposed convolution as it starts by itself.

    Args:
        channels: C of the input.
        out_channels: C of the output.
        scale: Stride.
        side: Side of its kernel: 0 is the stride, as in most U-Nets.
    """

    def __init__(self, channels: int, out_channels: int, scale: int, side: int = 0) -> None:
        side = side or scale
        cut, odd = divmod(side - scale, 2)
        super().__init__(channels, out_channels, side, scale, cut + odd, output_padding=odd)


class TorchPixelShuffle(nn.Sequential):
    """A convolution as torch starts it, and torch's pixel shuffle."""

    def __init__(self, channels: int, out_channels: int, scale: int, kernel_size: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, out_channels * scale**2, kernel_size, padding=kernel_size // 2),
            nn.PixelShuffle(scale),
        )


def _ours(
    id: str, title: str, method: str, note: str = "", needs: Any = None, **options: Any
) -> Contestant:
    return Contestant(
        id=id, title=title, make=_HERE + "ours", params={"method": method, **options},
        method="upsampling", note=note, needs=needs or {},
    )  # fmt: skip


def _torch(
    id: str, title: str, make: str, note: str, needs: Any = None, **params: Any
) -> Contestant:
    return Contestant(
        id=id, title=title, make=_HERE + make, params=params, origin="rival",
        distribution="torch", install="pip install torch", note=note, needs=needs or {},
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """Ours by method, the unfold formulation of CARAFE, and torch's modules as they start."""
    pools = {"part": ["segment", "cost"]}
    return [
        _ours("nearest", "nearest", "nearest", needs=_FULL),
        _ours("bilinear", "bilinear", "bilinear"),
        _ours("bicubic", "bicubic", "bicubic", needs=_FULL),
        _ours("pixel_shuffle", "pixel shuffle, ICNR", "pixel_shuffle"),
        _ours("transposed", "transposed, bilinear start", "transposed",
              "kernel twice the stride, or one less"),
        _ours("unpool", "max-unpool", "unpool", "needs a pool: not in super-resolution",
              needs=pools),
        _ours("carafe", "CARAFE", "carafe"),
        _ours("dysample", "DySample", "dysample", "lp, 4 groups where they divide"),
        _ours("dysample_pl", "DySample pl, dyscope", "dysample", needs={
            **_FULL, "part": ["segment", "cost"]}, style="pl", dyscope=True),
        _ours("carafe_unfold", "CARAFE by unfold", "carafe", "its definition in plain torch",
              needs={"part": ["cost"]}, backend="torch"),
        _torch("torch_bilinear", "torch bilinear", "TorchUpsample", "nn.Upsample", _FULL),
        _torch("torch_transposed", "torch transposed", "TorchTransposed",
               "kernel = stride, torch's own start"),
        _torch("torch_uneven", "torch transposed, kernel 2 s - 1", "TorchTransposed",
               "stride 2: kernel 3, no multiple of the stride", {"part": ["segment", "cost"]},
               side=3),
        _torch("torch_shuffle", "torch pixel shuffle", "TorchPixelShuffle", "torch's own start"),
    ]  # fmt: skip


_CALLS = "paragone.lab.contestants.carafe_calls:"


def for_speed() -> list[Contestant]:
    """Ours by catalogue id, the unfold formulation, and torch's own modules."""

    def other(id: str, title: str, make: str, note: str, *ops: str) -> Contestant:
        return Contestant(
            id=id, title=title, make=_CALLS + make, origin="rival", distribution="torch",
            install="pip install torch", note=note, needs={"op": list(ops)},
        )  # fmt: skip

    return [
        Contestant(id="carafe", title="paragone", make=_CALLS + "Ours", method="upsampling"),
        other("unfold_carafe", "unfold", "Torch", "copies every neighbourhood: the usual "
              "formulation, in torch", "carafe"),
        other("torch", "torch", "Torch", "torch's interpolate", "bilinear", "bicubic", "resize"),
    ]  # fmt: skip
