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

from torch import nn

from paragone.vision._mobile_style import Style
from paragone.vision.blocks.conv_norm import ConvNorm
from paragone.vision.blocks.fused_residual import FusedResidual
from paragone.vision.blocks.inverted_residual import InvertedResidual
from paragone.vision.blocks.mobile_separable import SeparableResidual

__all__ = ["Spec", "parse"]

_KINDS = ("ds", "dsa", "ir", "er", "cn")


@dataclasses.dataclass(frozen=True)
class Spec:
    """Blocks of one kind in a stage: the fields are the words of the table."""

    kind: str
    x: int = 1
    k: int = 3
    s: int = 1
    e: float = 1.0
    c: int = 0
    se: float = 0.0
    skip: bool | None = None
    activation: str | None = None

    def build(
        self, inputs: int, outputs: int, stride: int, drop_path: float, style: Style
    ) -> nn.Module:
        """Returns one block."""
        style = dataclasses.replace(style, activation=self.activation or style.activation)
        skip = self.kind not in ("cn", "dsa") if self.skip is None else self.skip
        shared = {"kernel_size": self.k, "stride": stride, "skip": skip,
                  "drop_path": drop_path, "style": style}  # fmt: skip
        match self.kind:
            case "ds" | "dsa":
                linear = self.kind == "ds"
                return SeparableResidual(inputs, outputs, squeeze=self.se, linear=linear, **shared)
            case "ir":
                return InvertedResidual(inputs, outputs, expand=self.e, squeeze=self.se, **shared)
            case "er":
                return FusedResidual(inputs, outputs, expand=self.e, **shared)
            case _:
                return ConvNorm(inputs, outputs, **shared)


def _spec(text: str) -> Spec:
    kind, *words = text.split()
    assert kind in _KINDS, text
    types = {field.name: int if field.type == "int" else float
             for field in dataclasses.fields(Spec)}  # fmt: skip
    fields: dict[str, object] = {}
    for word in words:
        if word in ("skip", "noskip"):
            fields["skip"] = word == "skip"
        elif word == "relu":
            fields["activation"] = word
        else:
            name = word.rstrip("0123456789.")
            fields[name] = types[name](word[len(name) :])
    return Spec(kind, **fields)  # pyright: ignore[reportArgumentType]


def parse(table: str, depth: float = 1.0) -> list[list[Spec]]:
    """Returns the stages of a table, each repeat multiplied by `depth` and rounded up."""
    stages = [
        [_spec(part) for part in line.split(";")] for line in table.split("\n") if line.strip()
    ]
    return [
        [dataclasses.replace(spec, x=math.ceil(spec.x * depth)) for spec in stage]
        for stage in stages
    ]
