r"""Position-sensitive RoI align: each bin of a region looks at channels of its own.

A detector's second stage needs, for each region, a small map of fixed size. Where every bin reads
the same channels that map has as many channels as the trunk; here bin (i, j) of P x Q reads group
(i, j) alone, so that the channels know where in the object they stand, and the result has 1/(P Q)
of the channels. With S bilinear samples a bin,

$$ o_{n,c,i,j} = \frac{1}{S} \sum_{s=1}^{S}
   F_{b_n,\; (c P + i) Q + j}\big(y_{n,i,s},\, x_{n,j,s}\big) . $$

Cost: O(N C P Q S) each way, independent of the size of the map.

References:
    Dai et al. (2016), "R-FCN", arXiv:1605.06409, eq. 1 (channels by position).
    He et al. (2017), "Mask R-CNN", arXiv:1703.06870, section 3 (bilinear samples, no rounding).
    Qin et al. (2019), "ThunderNet", arXiv:1903.11752, section 3.2 (7 x 7 bins, 5 channels).

Shapes: B images, N regions, C channels put out, P x Q bins, H x W the map.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from paragone.kernels import choice
from paragone.kernels.launch import serves
from paragone.vision.ops.ps_roi_align.reference import ps_roi_align_reference

__all__ = ["ps_roi_align"]


def _numba(device: torch.device, dtype: torch.dtype, **_: object) -> str | None:
    if device.type != "cpu":
        return f"it serves the CPU, not {device.type}"
    return None if dtype == torch.float32 else f"it computes in float32, and {dtype} is another"


def _triton(device: torch.device, dtype: torch.dtype, named: str = "auto") -> str | None:
    return serves(device, dtype, named)


choice.register("ps_roi_align", {"triton": _triton, "numba": _numba, "torch": lambda **facts: None})


def ps_roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    *,
    backend: str = "auto",
    pool: Literal["mean", "max"] = "mean",
    aligned: bool = True,
) -> Tensor:
    """Pools regions of a map, each bin from channels of its own.

    Prefer it to `torchvision.ops.ps_roi_align` on a CPU (weights are made once for all channels,
    and threads share the regions), for `pool="max"`, and for regions without extent: their bins
    are 0 here where torchvision puts out NaN. Otherwise values and gradients agree.

    Args:
        input: (B, C P Q, H, W); channel (c P + i) Q + j is what bin (i, j) of c reads.
        rois: (N, 5): image, left, top, right, bottom.
        output_size: P and Q.
        spatial_scale: Cells of the map for one unit of the regions: 1 / stride for pixels.
        sampling_ratio: Samples a bin along each axis; 0: as many as the bin has cells, rounded up.
        backend: "auto", or a name from `paragone.kernels.choice.backends("ps_roi_align")`.
        pool: "mean" of the samples, as published, or "max", as the authors released it.
        aligned: Whether cell k has its centre at k + 1/2, as in torchvision; otherwise at k.

    Returns:
        (N, C, P, Q). The gradient goes to `input` alone.

    Raises:
        ValueError: Shapes, dtypes, devices or image numbers that do not fit.

    Example:
        >>> maps, region = torch.ones(1, 5 * 49, 20, 20), torch.tensor([[0, 32.0, 32, 96, 128]])
        >>> ps_roi_align(maps, region, 7, spatial_scale=1 / 16).shape
        torch.Size([1, 5, 7, 7])
    """
    rows, columns = (output_size,) * 2 if isinstance(output_size, int) else output_size
    _check(input, rois, rows, columns, sampling_ratio, pool)
    served = choice.choose(
        "ps_roi_align", backend, device=input.device, dtype=input.dtype, named=backend
    )
    shift = 0.5 if aligned else 0.0
    if served == "torch":
        return ps_roi_align_reference(
            input, rois.detach(), (rows, columns), spatial_scale, sampling_ratio, pool, shift
        )
    from paragone.vision.ops.ps_roi_align.operator import ps_roi_align_op, run

    learns = torch.is_grad_enabled() and input.requires_grad
    plain = type(input) in (Tensor, torch.nn.Parameter) and type(rois) is Tensor
    call = run if plain and not learns and not torch.compiler.is_compiling() else ps_roi_align_op
    return call(
        input, rois.detach().float(), rows, columns, spatial_scale, sampling_ratio,
        pool == "max", shift, served == "triton",
    )[0]  # fmt: skip


def _check(input: Tensor, rois: Tensor, rows: int, columns: int, ratio: int, pool: str) -> None:
    name = "ps_roi_align"
    if pool not in ("mean", "max"):
        raise ValueError(f"{name}: pool={pool!r} is none of mean, max")
    if rows < 1 or columns < 1 or ratio < 0:
        raise ValueError(
            f"{name}: {rows} x {columns} bins with sampling_ratio={ratio}; give at least one bin "
            "and no negative ratio"
        )
    if input.ndim != 4 or not input.is_floating_point():
        raise ValueError(f"{name}: input is {tuple(input.shape)} of {input.dtype}; give floats "
                         "(B, C P Q, H, W)")  # fmt: skip
    if input.shape[1] % (rows * columns) or 0 in input.shape[1:]:
        raise ValueError(
            f"{name}: {tuple(input.shape)[1:]} cannot be read by {rows} x {columns} bins; the "
            f"channels must be a positive multiple of {rows * columns}, height and width positive"
        )
    if rois.ndim != 2 or rois.shape[1] != 5 or not rois.is_floating_point():
        raise ValueError(f"{name}: rois are {tuple(rois.shape)} of {rois.dtype}; give floats "
                         "(N, 5): image, left, top, right, bottom")  # fmt: skip
    if rois.device != input.device:
        raise ValueError(f"{name}: rois are on {rois.device}, input on {input.device}; move them")
    if type(rois) is not Tensor or rois.device.type != "cpu" or torch.compiler.is_compiling():
        return
    given = rois.detach().float().numpy()
    images = given[:, 0]
    if not (np.isfinite(given).all() and (images >= 0).all() and (images < len(input)).all()):
        raise ValueError(
            f"{name}: a region is not finite, or its image is none of 0 to {len(input) - 1}; look "
            "at rois[:, 0] and at the boxes"
        )
