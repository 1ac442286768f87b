r"""Inception: several filters side by side on one map, each behind a cheap 1x1 convolution.

A full 5x5 convolution of all channels costs $25\,H W C D$. The module asks every size of filter
at once and lets a 1x1 convolution first squeeze the channels that the expensive ones see. For
GoogLeNet's module with $r_3, r_5$ channels behind the squeezes and $d_1, d_3, d_5, d_p$ out:

$$ H W \big( C d_1 + C r_3 + 9\, r_3 d_3 + C r_5 + k_5^2\, r_5 d_5 + C d_p \big), \qquad
   D = d_1 + d_3 + d_5 + d_p . $$

Pushed to the limit, one filter for each channel, this becomes the separable convolution
(`blocks.separable`). Later modules factor the filters themselves: k x k into 1 x k and k x 1 costs
$2 k$ instead of $k^2$. All modules of all versions are the same idea with other numbers, so here
is one block that reads them from a table; its cost is the sum over its convolutions.

References:
    Szegedy et al. (2015), "Going deeper with convolutions", arXiv:1409.4842, figure 2 (b).
    Szegedy et al. (2016), "Rethinking the Inception architecture", arXiv:1512.00567, section 3.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.vision._lineage_layers import conv_norm

__all__ = ["GoogLeNetBlock", "InceptionBlock", "Step", "branches_of"]

_EPS = 1e-3


class Step(NamedTuple):
    """One convolution of a branch, or a pool (`out` 0)."""

    name: str
    out: int
    kernel: tuple[int, int]
    stride: int


def branches_of(table: Sequence[str], width: float = 1.0) -> list[list[list[Step]]]:
    """Reads branches, one a line, from text.

    Args:
        table: "name=channels@kernel/stride" in order; "a|b" lets two convolutions see the same;
            "avg" (zeros around count), "mean" (they do not) and "max", with "/2", are pools.
        width: Scale of the channels.

    Example:
        >>> branches_of(["max/2 branch.1=32@1x7"])[0][1]
        [Step(name='branch.1', out=32, kernel=(1, 7), stride=1)]
    """
    return [
        [[_step(part, width) for part in word.split("|")] for word in line.split()]
        for line in table
    ]


def _step(text: str, width: float) -> Step:
    what, _, stride = text.partition("/")
    name, _, shape = what.partition("=")
    if not shape:
        return Step(name, 0, (3, 3), int(stride or 1))
    channels, _, kernel = shape.partition("@")
    high, _, wide = kernel.partition("x")
    sides = (int(high), int(wide or high))
    return Step(name, max(1, round(int(channels) * width)), sides, int(stride or 1))


class InceptionBlock(nn.Module):
    """Branches on one map, set side by side.

    Args:
        in_channels: C.
        table: The branches, as `branches_of` reads them. Filters of stride 2 stand without zeros
            around, unless `same`; others keep the size.
        width: Scale of the channels.
        valid: Names of filters of stride 1 without zeros around.
        same: Whether zeros around keep every size a half of the one before, rounded up.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Attributes:
        out_channels: D.
    """

    def __init__(
        self, in_channels: int, table: Sequence[str], *, width: float = 1.0,
        valid: Sequence[str] = (), same: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.branches = branches_of(table, width)
        self.valid, self.same, self.out_channels = tuple(valid), same, 0
        for branch in self.branches:
            entering = in_channels
            for fork in branch:
                for step in filter(lambda step: step.out, fork):
                    around = tuple(_around(side, step, self.valid, same) for side in step.kernel)
                    unit = conv_norm(
                        entering, step.out, step.kernel, stride=step.stride,
                        padding=(around[0], around[1]), eps=_EPS, device=device, dtype=dtype,
                    )  # fmt: skip
                    _put(self, step.name, unit)
                entering = sum(step.out for step in fork) or entering
            self.out_channels += entering

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._branch(branch, x) for branch in self.branches], 1)

    def _branch(self, branch: list[list[Step]], x: Tensor) -> Tensor:
        for fork in branch:
            made = [self._apply_step(step, x) for step in fork]
            x = made[0] if len(made) == 1 else torch.cat(made, 1)
        return x

    def _apply_step(self, step: Step, x: Tensor) -> Tensor:
        if step.out:
            return self.get_submodule(step.name)(x)
        around = _around(3, step, (), self.same)
        if step.name == "max":
            return functional.max_pool2d(x, 3, step.stride, around)
        return functional.avg_pool2d(
            x, 3, step.stride, around, count_include_pad=step.name == "avg"
        )

    @staticmethod
    def multiply_adds(
        in_channels: int, table: Sequence[str], size: tuple[int, int], *, width: float = 1.0,
        valid: Sequence[str] = (), same: bool = False,
    ) -> int:  # fmt: skip
        """Returns the sum over the convolutions; arguments of the block, and the input's size."""
        total = 0
        for branch in branches_of(table, width):
            entering, (height, wide) = in_channels, size
            for fork in branch:
                after = (height, wide)
                for step in fork:
                    after = tuple(
                        (side + 2 * _around(k, step, tuple(valid), same) - k) // step.stride + 1
                        for side, k in zip((height, wide), step.kernel, strict=True)
                    )
                    taps = step.kernel[0] * step.kernel[1]
                    total += after[0] * after[1] * taps * entering * step.out
                entering = sum(step.out for step in fork) or entering
                height, wide = after
        return total


def _around(side: int, step: Step, valid: tuple[str, ...], same: bool) -> int:
    return 0 if not same and (step.stride > 1 or step.name in valid) else side // 2


def _put(module: nn.Module, name: str, unit: nn.Module) -> None:
    """Registers a unit under a name with dots, with containers on the way."""
    *way, last = name.split(".")
    for part in way:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.add_module(last, unit)


class GoogLeNetBlock(InceptionBlock):
    """The first Inception module: 1x1, squeezed 3x3, squeezed 5x5, pooled 1x1.

    Args:
        in_channels: C.
        widths: d1, r3, d3, r5, d5, dp of the formula.
        five: Side of the largest filter: 5 in the paper, 3 in the weights that everybody uses.
        width: Scale of the channels.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int], *, five: int = 5, width: float = 1.0,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        table = self.table(widths, five)
        super().__init__(in_channels, table, width=width, device=device, dtype=dtype)

    @staticmethod
    def table(widths: Sequence[int], five: int = 5) -> list[str]:
        """Returns the module's branches for `InceptionBlock`."""
        d1, r3, d3, r5, d5, dp = widths
        return [
            f"branch1={d1}@1",
            f"branch2.0={r3}@1 branch2.1={d3}@3",
            f"branch3.0={r5}@1 branch3.1={d5}@{five}",
            f"max branch4.1={dp}@1",
        ]
