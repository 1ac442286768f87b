"""Tables of mobile networks: one line a stage, the words of a line say what its blocks are.

`ir x2 k5 s2 e6 c40 se0.25` is two inverted residuals with filters of side 5, the first of stride
2, expansion 6, 40 channels and a squeeze of a quarter; `;` joins different blocks in one stage.

References:
    Tan et al. (2019), "MnasNet", arXiv:1807.11626, section 4.1: layers of a block are alike, the
    first of them alone has a stride.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import nn

from paragone.vision._mobile_style import Style, round_channels
from paragone.vision.blocks.conv_norm import ConvNorm
from paragone.vision.blocks.fused_residual import FusedResidual
from paragone.vision.blocks.ghost import GhostBottleneck
from paragone.vision.blocks.inverted_residual import InvertedResidual
from paragone.vision.blocks.mobile_attention import MobileAttention
from paragone.vision.blocks.mobile_separable import SeparableResidual
from paragone.vision.blocks.universal_bottleneck import UniversalBottleneck

__all__ = ["Spec", "parse"]

_KINDS = ("ds", "dsa", "ir", "er", "cn", "uir", "mqa", "gh")


@dataclasses.dataclass(frozen=True)
class Spec:
    """Blocks of one kind in a stage: the fields are the words of the table.

    Attributes:
        kind: "ds" or "dsa" (separable, the latter with an activation at its end), "ir" (inverted
            residual), "er" (fused), "cn" (convolution), "uir" (universal bottleneck), "mqa"
            (attention), "gh" (ghost bottleneck).
        x: How many blocks.
        k: Side of the filters.
        a: Side of the filters at the start, of "uir".
        s: Stride of the first block; of the keys in "mqa".
        e: Expansion.
        m: Channels within, of "gh".
        c: Channels that leave.
        se: Share of squeeze and excitation.
        h: Heads, of "mqa".
        d: Width of a head, of "mqa".
        skip: Whether the input is added, where that differs from the kind's habit.
        relu: Whether the activation is ReLU in place of the network's.
        dfc: Whether "gh" has attention.
    """

    kind: str
    x: int = 1
    k: int = 3
    a: int = 0
    s: int = 1
    e: float = 1.0
    m: int = 0
    c: int = 0
    se: float = 0.0
    h: int = 4
    d: int = 64
    skip: bool | None = None
    relu: bool = False
    dfc: bool = False

    def outputs(self, width: float, style: Style) -> int:
        """Returns the channels that leave a block."""
        return round_channels(self.c * width, style.divisor)

    def build(
        self, inputs: int, width: float, first: bool, drop_path: float, style: Style
    ) -> nn.Module:
        """Returns one block, the first of its kind or a later one."""
        if self.relu:
            style = dataclasses.replace(style, activation="relu")
        more: dict[str, Any] = {"kernel_size": self.k, "drop_path": drop_path, "style": style}
        if self.kind == "mqa":
            return MobileAttention(inputs, heads=self.h, head_width=self.d, stride=self.s, **more)
        outputs = self.outputs(width, style)
        more["stride"] = self.s if first else 1
        if self.kind == "gh":
            inner = round_channels(self.m * width, style.divisor)
            return GhostBottleneck(
                inputs, outputs, inner=inner, squeeze=self.se, attention=self.dfc, **more
            )
        more["skip"] = self.kind not in ("cn", "dsa") if self.skip is None else self.skip
        match self.kind:
            case "cn":
                return ConvNorm(inputs, outputs, **more)
            case "er":
                return FusedResidual(inputs, outputs, expand=self.e, **more)
            case "ir":
                return InvertedResidual(inputs, outputs, expand=self.e, squeeze=self.se, **more)
            case "uir":
                return UniversalBottleneck(
                    inputs, outputs, expand=self.e, start_size=self.a, **more
                )
            case _:
                linear = self.kind == "ds"
                return SeparableResidual(inputs, outputs, squeeze=self.se, linear=linear, **more)


def _spec(text: str) -> Spec:
    kind, *words = text.split()
    assert kind in _KINDS, text
    types = {field.name: float if field.type == "float" else int
             for field in dataclasses.fields(Spec)}  # fmt: skip
    fields: dict[str, Any] = {}
    for word in words:
        if word in ("skip", "noskip"):
            fields["skip"] = word == "skip"
        elif word in ("relu", "dfc"):
            fields[word] = True
        else:
            name = word.rstrip("0123456789.")
            fields[name] = types[name](word[len(name) :])
    return Spec(kind, **fields)


def parse(table: str, depth: float = 1.0) -> list[list[Spec]]:
    """Returns the stages of a table, each repeat multiplied by `depth` and rounded up."""
    stages = [
        [_spec(part) for part in line.split(";")] for line in table.split("\n") if line.strip()
    ]
    return [
        [dataclasses.replace(spec, x=math.ceil(spec.x * depth)) for spec in stage]
        for stage in stages
    ]
