r"""The network that all tables of mobile blocks become: stem, stages, head.

The head widens the last map with a 1x1 convolution and averages it over pixels; MobileNetV3 and
later average first, which is exact for a linear layer and costs H W times less:

$$ \text{mean}_{hw}(W x) = W \, \text{mean}_{hw}(x), \quad
   \text{but} \quad \text{mean}\,\phi(W x) \ne \phi(W\, \text{mean}\,x) . $$

Weights start as in the papers' releases: convolutions normal with variance 2 / fan-out (of one
group), the classifier uniform in $\pm 1/\sqrt K$, biases 0. GhostNet's release starts as torch
does; so does ours, as fan-out makes V2's gates saturate.

References:
    Howard et al. (2019), arXiv:1905.02244, section 5.1 and figure 5 (the head).
    He et al. (2015), arXiv:1502.01852, section 2.2, backward case (fan-out).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from paragone.vision._mobile_names import translate
from paragone.vision._mobile_style import PLAIN, Style, round_channels
from paragone.vision._mobile_table import parse
from paragone.vision.blocks.mobile_attention import MultiQueryAttention
from paragone.vision.contract import Backbone
from paragone.vision.layers import activate

__all__ = ["MobileNetwork", "Plan", "start"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A network before width and depth are chosen.

    Attributes:
        table: Stages, see `_mobile_table`.
        stem: Channels of the first convolution.
        features: Channels in front of the classifier; 0 for those of the last stage.
        head: "conv" (1x1, norm, mean), "late" (mean, 1x1 with bias, activation) or "late_norm"
            (mean, 1x1, norm).
        size: Height and width of the images that the paper's figures hold for.
        style: Activation, norms, padding.
        fixed_below: Width under which the stem keeps its channels.
        scaled_head: Whether `features` follow the width: "yes", "no", or "up" (never less).
        fan_out: Whether weights start by their fan-out, or as torch has them.
        named: Form of torchvision's names: "efficientnet", "v2", "v3", "mnasnet", or "" if it has
            no such network.
    """

    table: str
    stem: int
    features: int = 1280
    head: Literal["conv", "late", "late_norm"] = "conv"
    size: int = 224
    style: Style = PLAIN
    fixed_below: float = 0.0
    scaled_head: Literal["yes", "no", "up"] = "no"
    fan_out: bool = True
    named: str = ""


def start(network: nn.Module) -> None:
    """Draws the first weights of convolutions and linear layers in place, if there is memory."""
    if any(parameter.is_meta for parameter in network.parameters()):
        return
    layers = list(network.modules())
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out))
        elif isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.out_features)
            nn.init.uniform_(layer.weight, -bound, bound)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for layer in layers:
        if isinstance(layer, MultiQueryAttention):
            layer.start()


class MobileNetwork(Backbone):
    """Built from a `Plan`; the public functions of the families make it.

    Args:
        plan: Table and style.
        width: Factor of all channels.
        depth: Factor of all repeats.
        dropout: Rate in front of the classifier.
        drop_path: Rate of stochastic depth of the last block.
        num_classes: K; 0 gives pooled features.
        in_channels: Channels of the images.
    """

    def __init__(
        self, plan: Plan, *, width: float = 1.0, depth: float = 1.0, dropout: float = 0.2,
        drop_path: float = 0.0, num_classes: int = 1000, in_channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, factor in (("width", width), ("depth", depth)):
            if not 0 < factor < math.inf:
                raise ValueError(f"{name}={factor} is no factor: use a number above 0, such as 1.0")
        if num_classes < 0 or in_channels < 1:
            raise ValueError(
                f"num_classes={num_classes}, in_channels={in_channels}: use 0 and above (0 for "
                "features), and 1 and above"
            )
        for name, rate in (("dropout", dropout), ("drop_path", drop_path)):
            if not 0 <= rate < 1:
                raise ValueError(f"{name}={rate} is no rate: use 0 up to (not including) 1")
        self.num_classes, self.in_channels = num_classes, in_channels
        self.image_size, self.plan, self.dropout = (plan.size, plan.size), plan, dropout
        style = plan.style
        stem = (
            plan.stem
            if width < plan.fixed_below
            else round_channels(plan.stem * width, style.divisor)
        )
        self.conv_stem = style.conv(in_channels, stem, 3, 2)
        self.bn1 = style.norm(stem)
        self.channels = {2: stem}
        last = self._stages(width, depth, drop_path, stem)
        self._head(width, last)
        if plan.fan_out:
            start(self)
        self.register_load_state_dict_pre_hook(translate)

    def _stages(self, width: float, depth: float, drop_path: float, channels: int) -> int:
        """Builds the stages and returns the channels of the last."""
        stages = parse(self.plan.table, depth)
        blocks = sum(spec.x for stage in stages for spec in stage)
        made, stride, self._strides = 0, 2, list[int]()
        self.blocks = nn.Sequential()
        for stage in stages:
            built = nn.Sequential()
            for spec in stage:
                for repeat in range(spec.x):
                    first = repeat == 0
                    rate = drop_path * made / blocks
                    built.append(spec.build(channels, width, first, rate, self.plan.style))
                    if spec.kind != "mqa":
                        channels = spec.outputs(width, self.plan.style)
                        stride *= spec.s if first else 1
                    made += 1
            self.blocks.append(built)
            self._strides.append(stride)
            self.channels[stride] = channels
        return channels

    def _head(self, width: float, channels: int) -> None:
        plan, style = self.plan, self.plan.style
        features = plan.features or channels
        if plan.features and plan.scaled_head != "no":
            scaled = round_channels(features * width, style.divisor)
            features = max(scaled, features) if plan.scaled_head == "up" else scaled
        self.features = features
        if plan.features:
            self.conv_head = style.conv(channels, features, bias=plan.head == "late")
        if plan.features and plan.head == "conv":
            self.bn2 = style.norm(features)
        elif plan.head == "late_norm":
            self.norm_head = style.norm(features)
        classes = self.num_classes
        self.classifier = nn.Linear(features, classes, **style.where) if classes else nn.Identity()

    def steps(self) -> Sequence[tuple[int, nn.Module]]:
        return [(2, self.conv_stem), (2, self.bn1), *zip(self._strides, self.blocks, strict=True)]

    def head(self, features: Tensor) -> Tensor:
        x, plan = features, self.plan
        if plan.head == "conv":
            x = self.bn2(self.conv_head(x)) if plan.features else x
            x = x.mean((2, 3))
        else:
            x = self.conv_head(x.mean((2, 3), keepdim=True))
            x = activate(x, plan.style.activation) if plan.head == "late" else self.norm_head(x)
            x = x.flatten(1)
        if self.num_classes:
            x = functional.dropout(x, self.dropout, self.training)
        return self.classifier(x)
