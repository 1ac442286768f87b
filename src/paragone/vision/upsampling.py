r"""Ways back from small maps to large ones, behind one interface.

Interpolation spreads what is there. A transposed convolution adds a learned stamp at every
place, a pixel shuffle computes $r^2$ channels and lays them out as an $r \times r$ block,

$$ \mathrm{PS}(x)_{c,\,ry+i,\,rx+j} = x_{c r^2 + r i + j,\; y,\; x} , $$

max-unpooling puts values back where a pool took them from, CARAFE (in `carafe`) predicts a small
kernel for each place, and DySample predicts where to look: with offsets $o(x)$ around the places
$p$ of bilinear interpolation,

$$ y = \mathrm{sample}\big(x,\; p + 0.25\, W x\big) \quad\text{or}\quad
   \mathrm{sample}\big(x,\; p + 0.5\, \sigma(V x) \odot W x\big) . $$

Learned ways can print their period on the image. Its energy is the variance of the means of the
$s \times s$ phases of the output on constant input, `checkerboard`; a start without it is ICNR
for pixel shuffles (the $r^2$ kernels of a block start equal) and the bilinear stamp for
transposed convolutions, where the kernel is a multiple of the stride - in the interior only.

Cost: interpolation 4 or 16 multiplications a number, pixel shuffle and transposed convolution
$k^2 C$, DySample 4 and a 1 x 1 convolution.

References:
    Shi et al. (2016), arXiv:1609.05158, eq. 4 (pixel shuffle); Aitken et al. (2017),
    arXiv:1707.02937, section 3 (ICNR); Odena et al. (2016), "Deconvolution and checkerboard
    artifacts"; Long et al. (2015), arXiv:1411.4038, section 3.3 (bilinear start); Badrinarayanan
    et al. (2017), arXiv:1511.00561, section 3 (unpooling); Liu et al. (2023), arXiv:2308.15085,
    eq. 3-6 (DySample).

Shapes: B batch, C channels, H and W input size in pixels, s scale, G groups.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.vision._upsampling_resize import INTERPOLATIONS, Interpolate
from paragone.vision.carafe import CARAFE, fit

__all__ = [
    "METHODS", "DySample", "MaxUnpool", "Method", "PixelShuffle", "TransposedConv", "Upsample",
    "bilinear_kernel", "checkerboard", "icnr_", "phase_energy",
]  # fmt: skip

Method = Literal[
    "nearest", "nearest-exact", "bilinear", "bicubic", "pixel_shuffle", "transposed", "unpool",
    "carafe", "dysample",
]  # fmt: skip

METHODS = (*INTERPOLATIONS, "pixel_shuffle", "transposed", "unpool", "carafe", "dysample")


def _whole(scale: float, name: str) -> int:
    if scale != int(scale) or scale < 1:
        raise ValueError(f"{name}: scale is {scale}; a whole number from 1 on is needed")
    return int(scale)


def _maps(x: Tensor, channels: int, name: str) -> None:
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(
            f"{name}: maps have shape {tuple(x.shape)}; (B, {channels}, H, W) is needed"
        )


def icnr_(conv: nn.Conv2d, scale: int) -> None:
    """Makes the `scale`^2 kernels and biases that one pixel shuffle lays side by side equal.

    Channel c * s * s + i * s + j is the pixel (i, j) of channel c, as in `nn.PixelShuffle`;
    TensorFlow's depth_to_space has (i, j, c), and needs another repetition.
    """
    with torch.no_grad():
        for value in (conv.weight, conv.bias):
            if value is not None:
                value.copy_(value[:: scale * scale].repeat_interleave(scale * scale, 0))


def bilinear_kernel(kernel_size: int, scale: int) -> Tensor:
    """Returns the float64 stamp (k, k) with which a transposed convolution interpolates.

    Its s x s phases each add up to 1; from k = 2 s - s % 2 on it is exactly the bilinear one.
    """
    centre = (kernel_size - 1) / 2
    line = 1 - (torch.arange(kernel_size, dtype=torch.float64) - centre).abs() / scale
    line = line.clamp(min=0)
    for phase in range(scale):
        line[phase::scale] /= line[phase::scale].sum()
    return line[:, None] * line[None, :]


class PixelShuffle(nn.Module):
    """A convolution to s * s times the channels, laid out as blocks of s x s pixels.

    Prefer it to `TransposedConv` for super-resolution: all its work is done at the small size, and
    it starts without a checkerboard.

    Args:
        channels_in: C of the input.
        channels_out: C of the output.
        scale: s.
        kernel_size: Side of the convolution, odd.
        icnr: Whether the start is nearest-neighbour interpolation of one convolution.
        bias: Whether the convolution has one.

    Example:
        >>> PixelShuffle(8, 3, scale=2)(torch.randn(1, 8, 5, 7)).shape
        torch.Size([1, 3, 10, 14])
    """

    def __init__(
        self, channels_in: int, channels_out: int, scale: int = 2, *, kernel_size: int = 3,
        icnr: bool = True, bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scale, self.channels_in = _whole(scale, "PixelShuffle"), channels_in
        if kernel_size % 2 != 1:
            raise ValueError(f"kernel_size is {kernel_size}; an odd number keeps the size")
        self.conv = nn.Conv2d(
            channels_in, channels_out * self.scale**2, kernel_size, padding=kernel_size // 2,
            bias=bias, device=device, dtype=dtype,
        )  # fmt: skip
        if icnr:
            icnr_(self.conv, self.scale)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Returns (B, C_out, s H, s W), cut or continued to `size`."""
        _maps(x, self.channels_in, "PixelShuffle")
        return fit(functional.pixel_shuffle(self.conv(x), self.scale), size, self.scale)


class TransposedConv(nn.ConvTranspose2d):
    """A transposed convolution that starts as bilinear interpolation.

    Its output has s times the input's size whatever the kernel (`output_padding` is found), or
    the size asked for. With a kernel that is no multiple of the stride the stamps overlap
    unevenly; with one that is, they still do so at the edges, and after training.

    Args:
        channels_in: C of the input.
        channels_out: C of the output.
        scale: Stride s.
        kernel_size: Side of the stamp; 2 s - s % 2 without it. It is centred.
        init: "bilinear" (a projection of the channels, the identity where their number stays,
            times the bilinear stamp), or "default": torch's.
        bias: Whether it has one, 0 at the bilinear start.

    Example:
        >>> TransposedConv(3, 3)(torch.ones(1, 3, 4, 4))[0, 0, 2, 2].item()
        1.0
    """

    def __init__(
        self, channels_in: int, channels_out: int, scale: int = 2, *,
        kernel_size: int | None = None, init: Literal["bilinear", "default"] = "bilinear",
        bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        scale = _whole(scale, "TransposedConv")
        side = 2 * scale - scale % 2 if kernel_size is None else kernel_size
        if side < scale or (scale == 1 and side % 2 == 0):
            raise ValueError(
                f"kernel_size is {side}: with stride {scale} "
                + ("less leaves holes" if side < scale else "an odd one keeps the size")
            )
        cut = (side - scale + 1) // 2
        if init not in ("bilinear", "default"):
            raise ValueError(f"init {init!r} is neither bilinear nor default")
        super().__init__(
            channels_in, channels_out, side, scale, cut, bias=bias, device=device, dtype=dtype
        )
        self.scale = scale
        if init == "bilinear":
            self._start()

    def _start(self) -> None:
        with torch.no_grad():
            if self.in_channels == self.out_channels:
                mixing = torch.eye(self.in_channels)
            else:
                mixing = nn.Linear(self.in_channels, self.out_channels, bias=False).weight.t()
            stamp = bilinear_kernel(self.kernel_size[0], self.scale)
            whole = mixing.double()[:, :, None, None] * stamp
            self.weight.copy_(whole.to(self.weight))
            if self.bias is not None:
                self.bias.zero_()

    def forward(self, input: Tensor, size: tuple[int, int] | None = None) -> Tensor:  # pyright: ignore
        """Returns (B, C_out, s H, s W) or of `size`."""
        _maps(input, self.in_channels, "TransposedConv")
        wanted = size or (input.shape[2] * self.scale, input.shape[3] * self.scale)
        natural = [
            (n - 1) * self.scale - 2 * self.padding[0] + self.kernel_size[0]  # pyright: ignore
            for n in input.shape[2:]
        ]
        more = [min(max(w - n, 0), self.scale - 1) for w, n in zip(wanted, natural, strict=True)]
        y = functional.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, more  # pyright: ignore
        )  # fmt: skip
        return fit(y, wanted, self.scale)


class MaxUnpool(nn.Module):
    """Puts values back where its max-pool found the largest; all other places are 0.

    Prefer it to interpolation where edges must stay in place and no weights can be spared. Where
    several places of a window are equally large the first, row by row, counts. Pools that overlap
    are refused: two values would want one place.

    Args:
        kernel_size: Side and stride of the pool.
        padding: Rows and columns around the pool's input.

    Example:
        >>> up = MaxUnpool(2)
        >>> small, where = up.pool(torch.arange(9.0).view(1, 1, 3, 3))
        >>> up(small, where, size=(3, 3))[0, 0].tolist()
        [[0.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]
    """

    def __init__(
        self, kernel_size: int = 2, *, stride: int | None = None, padding: int = 0
    ) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        if stride < kernel_size:
            raise ValueError(
                f"stride {stride} under a kernel of {kernel_size}: windows overlap, and unpooling "
                "is not defined; use stride >= kernel_size"
            )
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the largest values (B, C, h, w) and their places, counted through a map."""
        return functional.max_pool2d(
            x, self.kernel_size, self.stride, self.padding, return_indices=True
        )

    def forward(self, x: Tensor, indices: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Unpools.

        Args:
            x: Values (B, C, h, w).
            indices: Places from `pool`, of the same shape.
            size: Size of the pool's input; needed where it was odd, stride times (h, w) without.

        Raises:
            ValueError: Shapes that differ, or a place outside of `size`.
        """
        if x.shape != indices.shape:
            raise ValueError(
                f"values are {tuple(x.shape)}, places {tuple(indices.shape)}: they must agree"
            )
        height, width = size or tuple(
            (n - 1) * self.stride - 2 * self.padding + self.kernel_size for n in x.shape[2:]
        )
        if not x.is_meta and x.numel() and int(indices.max()) >= height * width:
            raise ValueError(
                f"a place lies outside of {height} x {width}: give the size of the pool's input"
            )
        flat = x.new_zeros(*x.shape[:2], height * width)
        return flat.scatter(2, indices.flatten(2), x.flatten(2)).view(*x.shape[:2], height, width)


class DySample(nn.Module):
    """Upsampling by sampling at learned places.

    Prefer it to `CARAFE` where memory is short: it predicts two numbers for each pixel and group,
    not a kernel. It starts as bilinear interpolation.

    Args:
        channels: C, a multiple of `groups`, and of s * s for "pl".
        scale: s.
        style: "lp" predicts offsets, then shuffles them; "pl" shuffles the map, then predicts.
        groups: Groups of channels with places of their own.
        dyscope: Whether the reach of the offsets is learned too (0 to 0.5) or 0.25.

    Example:
        >>> DySample(8, groups=4)(torch.randn(1, 8, 5, 7)).shape
        torch.Size([1, 8, 10, 14])
    """

    def __init__(
        self, channels: int, scale: int = 2, *, style: Literal["lp", "pl"] = "lp",
        groups: int = 4, dyscope: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        scale = _whole(scale, "DySample")
        if style not in ("lp", "pl"):
            raise ValueError(f"style {style!r} is neither lp nor pl")
        if channels % groups or (style == "pl" and channels % scale**2):
            raise ValueError(
                f"{channels} channels: a multiple of groups={groups}"
                + (f" and of {scale**2} is needed" if style == "pl" else " is needed")
            )
        self.channels, self.scale, self.style, self.groups = channels, scale, style, groups
        block = scale**2
        seen, found = (channels, 2 * groups * block) if style == "lp" else (
            channels // block, 2 * groups
        )  # fmt: skip
        where = {"device": device, "dtype": dtype}
        self.offset = nn.Conv2d(seen, found, 1, **where)
        nn.init.normal_(self.offset.weight, std=0.001)
        nn.init.zeros_(self.offset.bias)  # pyright: ignore[reportArgumentType]
        self.scope = nn.Conv2d(seen, found, 1, bias=False, **where) if dyscope else None
        if self.scope is not None:
            nn.init.zeros_(self.scope.weight)
        line = (torch.arange(scale, **where) - (scale - 1) / 2) / scale
        around = torch.stack(
            [line[None, :].expand(scale, scale), line[:, None].expand(scale, scale)]
        )
        start = around[:, None].expand(2, groups, scale, scale).reshape(1, -1, 1, 1)
        self.register_buffer("init_pos", start.to(self.offset.weight.dtype))

    def _offsets(self, x: Tensor) -> Tensor:
        """Offsets (B, 2 G s s, H, W) in input pixels: x before y, then groups, then phases."""
        seen = functional.pixel_shuffle(x, self.scale) if self.style == "pl" else x
        found = self.offset(seen)
        reach = 0.25 if self.scope is None else 0.5 * self.scope(seen).sigmoid()
        found = found * reach
        if self.style == "pl":
            found = functional.pixel_unshuffle(found, self.scale)
        return found + self.init_pos  # pyright: ignore[reportOperatorIssue]

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Returns (B, C, s H, s W), cut or continued to `size`."""
        _maps(x, self.channels, "DySample")
        (batch, _, height, width), groups = x.shape, self.groups
        offsets = self._offsets(x).unflatten(1, (2, -1))
        across = torch.arange(width, device=x.device, dtype=x.dtype) + 0.5
        down = torch.arange(height, device=x.device, dtype=x.dtype) + 0.5
        across = (offsets[:, 0] + across) * (2 / width) - 1
        down = (offsets[:, 1] + down[:, None]) * (2 / height) - 1
        grid = torch.stack(
            [functional.pixel_shuffle(v, self.scale).flatten(0, 1) for v in (across, down)], -1
        )
        y = functional.grid_sample(
            x.reshape(batch * groups, self.channels // groups, height, width),
            grid,
            "bilinear",
            "border",
            False,
        )
        return fit(y.view(batch, self.channels, *y.shape[2:]), size, self.scale)


class Upsample(nn.Module):
    """Any way of upsampling, by name, with one call.

    Prefer it to a class of its own where the way is to be chosen later, as in `UNet` and `FCN`.

    Sizes are torch's. With `scale` the output has floor(scale * H) rows and places follow `scale`
    (`recompute_scale_factor=True`: they follow the rounded size); with `size` in the call it has
    that size and places follow it. The learned ways have a whole scale; `size` may differ from
    scale * H by less than one block, the last rows and columns being cut or repeated.

    Args:
        method: "nearest", "nearest-exact", "bilinear", "bicubic", "pixel_shuffle", "transposed",
            "unpool", "carafe" or "dysample".
        channels: C of the input; the learned ways need it.
        scale: Output size over input size.
        out_channels: C of the output; as the input without it. Where the method does not change
            channels a convolution does.
        kernel_size: Side of that convolution, and of the pixel shuffle's.
        project: Whether that convolution works "before" or "after" upsampling.
        options: Of the method: `align_corners`, `half_pixel`, `antialias`, `cubic`,
            `recompute_scale_factor`; `icnr`, `bias`; `init`, `stamp` (kernel of the transposed
            convolution); `style`, `groups`, `dyscope`; `kernel`, `encoder`, `compressed`.

    Raises:
        ValueError: An unknown method, or one that needs `channels` without it.

    Example:
        >>> Upsample("carafe", channels=8, scale=2)(torch.randn(1, 8, 5, 7)).shape
        torch.Size([1, 8, 10, 14])
    """

    def __init__(
        self, method: Method, channels: int | None = None, scale: float = 2, *,
        out_channels: int | None = None, kernel_size: int = 1,
        project: Literal["before", "after"] = "before", device: Any = None, dtype: Any = None,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"method {method!r} is none of {', '.join(METHODS)}")
        if project not in ("before", "after"):
            raise ValueError(f"project {project!r} is neither before nor after")
        learned = method in ("pixel_shuffle", "transposed", "carafe", "dysample")
        if channels is None and (learned or out_channels is not None):
            raise ValueError(f"{method} needs channels here: Upsample({method!r}, channels=…)")
        wanted = channels if out_channels is None else out_channels
        own = method in ("pixel_shuffle", "transposed")
        self.method, self.scale, self.project = method, scale, project
        self.conv = None
        if channels is not None and wanted is not None and wanted != channels and not own:
            self.conv = nn.Conv2d(
                channels, wanted, kernel_size, padding=kernel_size // 2, device=device, dtype=dtype
            )
        inner = channels if project == "after" else wanted
        where = {"device": device, "dtype": dtype}
        self.up: nn.Module
        if method in INTERPOLATIONS:
            self.up = Interpolate(method, scale, **options)  # pyright: ignore[reportArgumentType]
        elif method == "unpool":
            self.up = MaxUnpool(_whole(scale, method), **options)
        elif channels is not None and wanted is not None and inner is not None:
            self.up = _learned(method, channels, wanted, inner, scale, kernel_size, where, options)

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the max-pool that "unpool" undoes, and the places.

        Raises:
            ValueError: Another method.
        """
        if not isinstance(self.up, MaxUnpool):
            raise ValueError(f"{self.method} has no pool; only unpool has")
        return self.up.pool(x)

    def forward(
        self, x: Tensor, size: tuple[int, int] | None = None, indices: Tensor | None = None
    ) -> Tensor:
        """Upsamples (B, C, H, W).

        Args:
            x: The maps.
            size: Height and width of the output, where it is not scale times the input's.
            indices: For "unpool" alone: where `pool` found the values.
        """
        if self.conv is not None and self.project == "before":
            x = self.conv(x)
        if isinstance(self.up, MaxUnpool):
            if indices is None:
                raise ValueError("unpool needs indices=…, the second thing that pool returns")
            x = self.up(x, indices, size)
        else:
            x = self.up(x, size)
        return self.conv(x) if self.conv is not None and self.project == "after" else x


def _learned(
    method: str, channels: int, wanted: int, inner: int, scale: float, kernel_size: int,
    where: dict[str, Any], options: dict[str, Any],
) -> nn.Module:  # fmt: skip
    s = _whole(scale, method)
    if method == "pixel_shuffle":
        return PixelShuffle(channels, wanted, s, kernel_size=kernel_size, **where, **options)
    if method == "transposed":
        options = dict(options)
        side = options.pop("stamp", None)
        return TransposedConv(channels, wanted, s, kernel_size=side, **where, **options)
    if method == "carafe":
        return CARAFE(inner, s, **where, **options)
    options = {"groups": next(g for g in (4, 2, 1) if inner % g == 0), **options}
    return DySample(inner, s, **where, **options)


def phase_energy(maps: Tensor, scale: int, border: int = 0) -> float:
    """Returns the variance of the means of the s x s phases, the mean over maps.

    Args:
        maps: (B, C, H, W); rows and columns beyond a multiple of `scale` are left out.
        scale: s.
        border: Rows and columns to leave out on each side, a multiple of `scale`.
    """
    if border % scale:
        raise ValueError(f"border is {border}; a multiple of scale={scale} keeps the phases")
    height, width = ((n - 2 * border) // scale * scale for n in maps.shape[2:])
    if min(height, width) < 1:
        raise ValueError(f"nothing is left of {tuple(maps.shape[2:])} within border={border}")
    inner = maps.detach()[:, :, border : border + height, border : border + width].double()
    phases = functional.pixel_unshuffle(inner, scale).mean((2, 3))
    return float(phases.unflatten(1, (-1, scale**2)).var(2, correction=0).mean())


def checkerboard(
    module: nn.Module, channels: int, *, scale: int = 2, size: int = 12, border: int | None = None
) -> float:
    """Measures how much of its period a way of upsampling prints: 0 is none.

    Args:
        module: Called with ones (1, channels, size, size).
        channels: C of its input.
        scale: Its scale s.
        size: Side of the input in pixels.
        border: Output rows and columns left out on each side; 4 s without it. 0 measures the upper
            left quarter, edges included: of the whole, opposite edges would make up for each other.

    Example:
        >>> checkerboard(PixelShuffle(4, 4), 4) < 1e-12, checkerboard(
        ...     PixelShuffle(4, 4, icnr=False), 4) < 1e-12
        (True, False)
    """
    weight = next((p for p in module.parameters()), torch.empty(0))
    x = torch.ones(1, channels, size, size, dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        y = module(x)
    if border == 0:
        y = y[:, :, : size // 2 * scale, : size // 2 * scale]
    return phase_energy(y, scale, 4 * scale if border is None else border)
