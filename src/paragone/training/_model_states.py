r"""Bytes of parameters, gradients, master weights and moments, and who of N ranks keeps which.

A recipe says how many bytes each of $\Psi$ parameters takes; ZeRO stage 1 divides the optimizer's
states (master and moments) by the N ranks, stage 2 the gradients too, stage 3 the parameters too:

$$ M_0 = (p + g + s)\Psi, \quad M_1 = (p + g)\Psi + \tfrac{s\Psi}{N}, \quad
   M_2 = p\Psi + \tfrac{(g + s)\Psi}{N}, \quad M_3 = \tfrac{(p + g + s)\Psi}{N} . $$

References:
    Rajbhandari et al. (2020), "ZeRO", arXiv:1910.02054, figure 1: p = g = 2, s = 12.
    Rajbhandari et al. (2021), "ZeRO-Infinity", arXiv:2104.07857, section 3: 20 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paragone.training._model_shapes import Weight

__all__ = ["OPTIMIZERS", "PRECISIONS", "Precision", "States", "states"]

_BLOCK = 256
_SMALL = 4096
_NO_MATRIX = ("embedding", "positions", "head")


@dataclass(frozen=True)
class Precision:
    """Bytes of an element: of the weight, its gradient, its master copy, a moment, a product."""

    parameter: int
    gradient: int
    master: int
    moment: int
    compute: int
    note: str


PRECISIONS: dict[str, Precision] = {
    "fp32": Precision(4, 4, 0, 4, 4, "all in 32 bits"),
    "fp16": Precision(2, 2, 4, 4, 2, "16-bit weights and gradients, fp32 master (ZeRO's 2+2+12)"),
    "bf16": Precision(2, 2, 4, 4, 2, "as fp16"),
    "autocast": Precision(4, 4, 0, 4, 2, "fp32 weights, 16-bit products: torch.autocast, FSDP2"),
    "bf16-fp32-gradients": Precision(2, 4, 4, 4, 2, "gradients kept in fp32 (DeepSpeed's 18)"),
    "bf16-both-gradients": Precision(2, 6, 4, 4, 2, "both gradients (ZeRO-Infinity's 20)"),
    "bf16-no-master": Precision(2, 2, 0, 4, 2, "no master copy, fp32 moments"),
    "bf16-states": Precision(2, 2, 0, 2, 2, "everything in bf16 (stochastic rounding)"),
}
"""Recipes by name, with what an AdamW run keeps for each parameter."""


def _times(moments: int) -> Callable[[Weight, int], int]:
    return lambda weight, size: moments * size * weight.elements


def _eight_bit(moments: int) -> Callable[[Weight, int], int]:
    def count(weight: Weight, size: int) -> int:
        n = weight.elements
        return moments * (n + 4 * math.ceil(n / _BLOCK) if n >= _SMALL else 4 * n)

    return count


def _muon(weight: Weight, size: int) -> int:
    matrix = len(weight.shape) >= 2 and weight.name not in _NO_MATRIX
    return (1 if matrix else 2) * size * weight.elements


def _adafactor(weight: Weight, size: int) -> int:
    if len(weight.shape) < 2:
        return size * weight.elements
    *batch, rows, columns = weight.shape
    return size * math.prod(batch) * (rows + columns)


OPTIMIZERS: dict[str, Callable[[Weight, int], int]] = {
    "adamw": _times(2), "adam": _times(2), "schedule-free": _times(2),
    "adamw8bit": _eight_bit(2), "lion8bit": _eight_bit(1),
    "lion": _times(1), "sgd-momentum": _times(1), "sgd": _times(0),
    "muon": _muon, "adafactor": _adafactor,
}  # fmt: skip
"""Bytes of the moments of one weight; 8 bits come with a 4-byte scale for 256 elements."""


@dataclass(frozen=True)
class States:
    """Bytes on one rank (`device`) and in its host's memory, by part; parameters counted."""

    count: int
    trained: int
    device: dict[str, int]
    host: dict[str, int]
    largest: int
    """Bytes of the largest layer at the width of a product."""
    root: int
    """Bytes of what stands outside the layers, likewise."""


def _share(size: int, ranks: int) -> int:
    return -(-size // ranks)


def states(
    weights: Sequence[Weight], optimizer: str, precision: Precision | None, zero: int, ranks: int,
    offload: str | None, split: int = 1,
) -> States:  # fmt: skip
    """Counts the model states of one rank.

    Args:
        weights: All weights, each once.
        optimizer: A key of `OPTIMIZERS`.
        precision: Bytes of each part; None takes the elements as they were built.
        zero: Stage 0 to 3.
        ranks: Ranks N that share.
        offload: None, "optimizer" or "parameters".
        split: Ranks of tensor parallelism: matrices are cut, vectors are on each.
    """
    moments = OPTIMIZERS[optimizer]
    sums = dict.fromkeys(("parameters", "gradients", "master", "moments"), 0)
    count = trained = root = 0
    layers: dict[int, int] = {}
    for weight in weights:
        cut = split if len(weight.shape) > 1 else 1
        elements = _share(weight.elements * weight.count, cut)
        count += weight.elements * weight.count
        own = weight.size
        width = precision.compute if precision else own
        sums["parameters"] += elements * (precision.parameter if precision else own)
        if weight.layers:
            each = elements * width // weight.layers
            layers[weight.unit] = layers.get(weight.unit, 0) + each
        else:
            root += elements * width
        if not weight.trained:
            continue
        trained += weight.elements * weight.count
        sums["gradients"] += elements * (precision.gradient if precision else own)
        sums["master"] += elements * (precision.master if precision else 0)
        size = precision.moment if precision else own
        sums["moments"] += _share(moments(weight, size) * weight.count, cut)
    shared = {1: ("master", "moments"), 2: ("gradients", "master", "moments"),
              3: tuple(sums)}.get(zero, ())  # fmt: skip
    device = {k: _share(v, ranks) if k in shared else v for k, v in sums.items()}
    away = {"optimizer": ("master", "moments"), "parameters": tuple(sums)}.get(offload or "", ())
    if offload == "optimizer" and zero >= 2:
        away = ("gradients", *away)
    host = {k: device[k] for k in away}
    return States(count, trained, {k: 0 if k in away else v for k, v in device.items()}, host,
                  max(layers.values(), default=0), root)  # fmt: skip
