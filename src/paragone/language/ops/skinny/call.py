r"""A few rows times a large matrix: what heads of drafts and small batches want.

For one to sixteen rows a product is bound by reading its weights, and a general matrix product
arranges them anew in each call. Here a matrix is brought into panels once, and then read as one
stream for all rows:

$$ y_{ir} = \sum_{k < K} w_{rk}\, x_{ik} + b_r , \qquad i < n \le 16 , \; r < R . $$

The sum over k runs in order, in one accumulator: a row's result has the same bits in every company.

Cost: R K weights read once for up to 8 to 12 rows.

References:
    Goto and van de Geijn (2008), ACM TOMS 34(3), article 12, section 4.

Shapes: n rows, K inputs, R outputs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.choice import choose, register
from paragone.kernels.teams import share
from paragone.language.ops.skinny.reference import narrowed, skinny_reference

__all__ = ["SkinnyWeights", "skinny_linear"]

_IN_CACHE = 1 << 19
_WORTH_A_TEAM = 1 << 20


def _cpu_only(device: str) -> str | None:
    return None if device == "cpu" else f"serves the CPU, the weights are on {device}"


register("skinny_linear", {"numba": _cpu_only, "torch": lambda device: None})


@dataclasses.dataclass(frozen=True)
class SkinnyWeights:
    """A matrix that is ready for `skinny_linear`; `pack` makes it.

    Attributes:
        outputs: R.
        inputs: K.
        kind: "float32" or "int8".
        backend: "numba" or "torch".
        weight: In panels (numpy), or (R, K) (torch).
        scale: (R,) of 8-bit weights, or empty.
        bias: (R,), or empty.

    Example:
        >>> packed = SkinnyWeights.pack(torch.eye(3))
        >>> skinny_linear(torch.tensor([[1.0, 2.0, 3.0]]), packed).tolist()
        [[1.0, 2.0, 3.0]]
    """

    outputs: int
    inputs: int
    kind: str
    backend: str
    weight: Any
    scale: Any
    bias: Any

    @classmethod
    def pack(
        cls, weight: Any, bias: Any = None, *, weights: str = "float32", backend: str = "auto"
    ) -> SkinnyWeights:
        """Brings a matrix into the order in which it will be read; a copy.

        Args:
            weight: (R, K), torch or numpy.
            bias: (R,), or None.
            weights: "float32" or "int8", with a scale for each row.
            backend: "auto", or a name from `paragone.kernels.choice.backends("skinny_linear")`.

        Raises:
            ValueError: Shapes that do not fit, another kind, or a back end that cannot serve.
        """
        weight = torch.as_tensor(weight).detach()
        bias = None if bias is None else torch.as_tensor(bias).detach().to(weight.device)
        if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            raise ValueError(
                f"weight {tuple(weight.shape)} and bias {None if bias is None else (*bias.shape,)}:"
                " (R, K) and (R,) are expected"
            )
        if weights not in ("float32", "int8"):
            raise ValueError(f"weights={weights!r} is none of 'float32', 'int8'")
        outputs, inputs = weight.shape
        name = choose("skinny_linear", backend, device=weight.device.type)
        scale = weight.new_zeros(0)
        if weights == "int8":
            weight, scale = narrowed(weight)
        elif name == "numba":
            weight = weight.float()
        bias = scale.new_zeros(0) if bias is None else bias
        if name == "torch":
            return cls(outputs, inputs, weights, name, weight.clone(), scale, bias.clone())
        from paragone.language.ops.decoding._cpu_panels import PANEL
        from paragone.language.ops.skinny.layout import padded, paneled

        rest = [padded(part.float().numpy().copy(), PANEL) for part in (scale, bias)]
        panels = np.ascontiguousarray(paneled(weight.numpy()))
        return cls(outputs, inputs, weights, name, panels, *rest)


def skinny_linear(x: Any, packed: SkinnyWeights, threads: int | None = None) -> Any:
    """Multiplies a few rows with a packed matrix; no gradients.

    Prefer it to `torch.nn.functional.linear` on the CPU for up to 16 rows; beyond some 30 rows
    that is the quicker one.

    Args:
        x: (n, K) float32, torch or numpy (on other back ends than "numba" of the weights' dtype,
            or any with 8 bits).
        packed: What `SkinnyWeights.pack` gives.
        threads: Most threads (None: torch's number). Results do not depend on it.

    Returns:
        (n, R), of the kind that x is; perhaps a view of a wider one.

    Raises:
        ValueError: A shape, dtype or device that does not fit, or an x that wants gradients.
    """
    if x.ndim != 2 or x.shape[1] != packed.inputs:
        raise ValueError(f"x has shape {tuple(x.shape)}; (n, {packed.inputs}) fits")
    whole = isinstance(x, np.ndarray)
    if not whole and x.requires_grad and torch.is_grad_enabled():
        raise ValueError("x wants gradients and there are none: call it under torch.no_grad()")
    if packed.backend == "torch":
        y = _by_torch(torch.from_numpy(x) if whole else x, packed)
        return y.numpy() if whole else y
    if str(x.dtype).rpartition(".")[2] != "float32" or (not whole and x.device.type != "cpu"):
        where = "cpu" if whole else x.device
        raise ValueError(f"x is {x.dtype} on {where}; float32 on the CPU fits")
    y = _by_numba(x if whole else x.detach().numpy(), packed, threads)
    return y if whole else torch.from_numpy(y)


def _by_torch(x: Tensor, packed: SkinnyWeights) -> Tensor:
    if packed.weight.device != x.device or (
        packed.kind != "int8" and packed.weight.dtype != x.dtype
    ):
        raise ValueError(
            f"x is {x.dtype} on {x.device}; {packed.weight.dtype} on {packed.weight.device} fits"
        )
    scale, bias = (part if len(part) else None for part in (packed.scale, packed.bias))
    return skinny_reference(x, packed.weight, scale, bias)


def _by_numba(x: np.ndarray, packed: SkinnyWeights, threads: int | None) -> np.ndarray:
    from paragone.language.ops.skinny._cpu import skinny_kernel
    from paragone.language.ops.skinny.layout import block_of, side_by_side

    elements, panels = packed.weight.size, len(packed.weight)
    if not len(x) or not elements:
        bias = packed.bias[: packed.outputs] if len(packed.bias) else np.float32(0.0)
        return np.zeros((len(x), packed.outputs), np.float32) + bias
    block = block_of(len(x), elements > _IN_CACHE and packed.kind == "float32")
    rows = side_by_side(x, block)
    wide = panels * packed.weight.shape[2]
    out = np.empty((len(rows) * block, wide), np.float32)
    workers = 1
    if elements * len(x) >= _WORTH_A_TEAM:
        workers = threads or torch.get_num_threads()
    units = 1 if workers == 1 else min(panels, 8 * workers)
    share(
        skinny_kernel, units, rows, packed.weight, packed.scale, packed.bias, out, threads=workers
    )
    return out[: len(x), : packed.outputs]
