r"""Inception: GoogLeNet, v3 and v4, networks of many filters side by side.

GoogLeNet showed that width, bought with cheap 1x1 squeezes, beats depth at equal cost; v3 factors
large filters into 1 x k and k x 1; v4 makes the modules uniform. The module and its cost stand in
`blocks.inception`; a network is a stem, modules, the mean over all places and a linear layer. Two
auxiliary heads (one in v3) read earlier maps and push gradients into the middle while training,

$$ L = L_{\text{end}} + 0.3\,(L_{\text{aux}_1} + L_{\text{aux}_2}) , $$

and are absent in evaluation. GoogLeNet 1.50 G multiply-adds at 224 px, v3 5.71 G and v4 12.25 G
at 299 px.

References:
    Szegedy et al. (2015), arXiv:1409.4842, table 1 and section 5 (the auxiliary heads).
    Szegedy et al. (2016), arXiv:1512.00567, table 1 and section 4.
    Szegedy et al. (2017), arXiv:1602.07261, figure 9.

Shapes: B batch, C channels, H and W height and width in pixels, K classes.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from paragone.vision._lineage_inception import V3, V4_REPEATED, V4_STEM
from paragone.vision._lineage_layers import classifier, conv_norm, pooled, spread
from paragone.vision.blocks.inception import GoogLeNetBlock, InceptionBlock
from paragone.vision.contract import Backbone

__all__ = ["GoogLeNet", "InceptionOutput", "InceptionV3", "InceptionV4", "inception"]

_EPS = 1e-3
_GOOGLENET = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}


class InceptionOutput(NamedTuple):
    """What a network with auxiliary heads returns in training.

    Attributes:
        logits: (B, K).
        auxiliary: (B, K) of each auxiliary head, the earliest first.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]


class _Inception(Backbone):
    """Auxiliary heads in training, and images in another network's units.

    `auxiliary_at` names the steps whose outputs auxiliary heads read, and these heads.
    """

    auxiliary_at: dict[str, str]
    auxiliary_names: tuple[str, ...] = ()
    smallest = 1

    def _begin(self, num_classes: int, in_channels: int, side: int, transform_input: bool) -> None:
        if transform_input and in_channels != 3:
            raise ValueError(f"transform_input=True is for RGB, not for in_channels={in_channels}")
        self.num_classes, self.in_channels = num_classes, in_channels
        self.image_size, self.transform_input = (side, side), transform_input
        self.auxiliary_at = {}
        self.register_load_state_dict_pre_hook(_without_heads)

    def _prepared(self, images: Tensor) -> Tensor:
        self._check(images)
        if min(images.shape[2:]) < self.smallest:
            raise ValueError(
                f"images of {images.shape[2]} x {images.shape[3]} px end before the network does: "
                f'give {self.smallest} px or more, or build it with padding="same"'
            )
        if not self.transform_input:
            return images
        scale = images.new_tensor([0.229, 0.224, 0.225]) / 0.5
        shift = (images.new_tensor([0.485, 0.456, 0.406]) - 0.5) / 0.5
        return images * scale[:, None, None] + shift[:, None, None]

    def forward_features(self, images: Tensor) -> Tensor:
        return super().forward_features(self._prepared(images))

    def feature_maps(self, images: Tensor, strides: Any = None) -> dict[int, Tensor]:
        return super().feature_maps(self._prepared(images), strides)

    def forward(self, images: Tensor) -> Any:
        """Returns logits (B, K); in training with auxiliary heads an `InceptionOutput`."""
        if not (self.training and self.auxiliary_at):
            return super().forward(images)
        x, auxiliary = self._prepared(images), []
        heads = {self.get_submodule(at): head for at, head in self.auxiliary_at.items()}
        for _, step in self.steps():
            x = step(x)
            if step in heads:
                auxiliary.append(self.get_submodule(heads[step])(x))
        return InceptionOutput(self.head(x), tuple(auxiliary))


def _without_heads(net: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Published weights carry auxiliary heads; a network built without them leaves them out."""
    assert isinstance(net, _Inception)
    if not net.auxiliary_at:
        unused = tuple(f"{prefix}{name}." for name in net.auxiliary_names)
        for key in [key for key in state if unused and key.startswith(unused)]:
            del state[key]


class _GoogLeNetHead(nn.Module):
    """Mean of 4x4 fields, 1x1 convolution, two linear layers."""

    def __init__(
        self, in_channels: int, num_classes: int, width: float, dropout: float, where: Any
    ) -> None:
        super().__init__()
        made, hidden = _scaled(128, width), _scaled(1024, width)
        self.conv = conv_norm(in_channels, made, eps=_EPS, **where)
        self.fc1 = nn.Linear(16 * made, hidden, **where)
        self.fc2 = nn.Linear(hidden, num_classes, **where)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(functional.adaptive_avg_pool2d(x, (4, 4))).flatten(1)
        return self.fc2(self.dropout(functional.relu(self.fc1(x))))


class _V3Head(nn.Module):
    """Mean of fields, 1x1 and 5x5 convolution, a linear layer."""

    def __init__(self, in_channels: int, num_classes: int, width: float, where: Any) -> None:
        super().__init__()
        made, hidden = _scaled(128, width), _scaled(768, width)
        self.conv0 = conv_norm(in_channels, made, eps=_EPS, **where)
        self.conv1 = conv_norm(made, hidden, 5, padding=0, eps=_EPS, **where)
        self.fc = nn.Linear(hidden, num_classes, **where)

    def forward(self, x: Tensor) -> Tensor:
        # Maps of images below 299 px are too small for the published fields.
        if min(x.shape[2:]) >= 17:
            x = functional.avg_pool2d(x, 5, 3)
        else:
            x = functional.adaptive_avg_pool2d(x, (5, 5))
        return self.fc(pooled(self.conv1(self.conv0(x))))


class GoogLeNet(_Inception):
    """Inception v1 with batch norm; torchvision's names. Built by `inception`."""

    auxiliary_names = ("aux1", "aux2")

    def __init__(
        self, *, width: float = 1.0, aux: bool = False, five: int = 3, num_classes: int = 1000,
        in_channels: int = 3, dropout: float = 0.2, transform_input: bool = False,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self._begin(num_classes, in_channels, 224, transform_input)
        stem, third = _scaled(64, width), _scaled(192, width)
        self.conv1 = conv_norm(in_channels, stem, 7, stride=2, eps=_EPS, **where)
        self.conv2 = conv_norm(stem, stem, eps=_EPS, **where)
        self.conv3 = conv_norm(stem, third, 3, eps=_EPS, **where)
        for i, side in enumerate((3, 3, 3, 2), 1):
            self.add_module(f"maxpool{i}", nn.MaxPool2d(side, 2, ceil_mode=True))
        ends, entering = {"conv1": stem, "conv3": third}, third
        for name, widths in _GOOGLENET.items():
            block = GoogLeNetBlock(entering, widths, five=five, width=width, **where)
            self.add_module(name, block)
            entering = ends[name] = block.out_channels
        last = ("conv1", "conv3", "inception3b", "inception4e", "inception5b")
        self.channels = dict(zip((2, 4, 8, 16, 32), (ends[name] for name in last), strict=True))
        if aux and num_classes:
            for head, name in (("aux1", "inception4a"), ("aux2", "inception4d")):
                unit = _GoogLeNetHead(ends[name], num_classes, width, 0.7, where)
                self.add_module(head, unit)
                self.auxiliary_at[name] = head
        self.dropout = nn.Dropout(dropout)
        self.fc = classifier(entering, num_classes, **where)
        spread(self)

    def steps(self) -> list[tuple[int, nn.Module]]:
        order = {2: "conv1", 4: "maxpool1 conv2 conv3", 8: "maxpool2 inception3a inception3b",
                 16: "maxpool3 inception4a inception4b inception4c inception4d inception4e",
                 32: "maxpool4 inception5a inception5b"}  # fmt: skip
        return [(s, self.get_submodule(name)) for s, names in order.items()
                for name in names.split()]  # fmt: skip

    def head(self, features: Tensor) -> Tensor:
        return self.fc(self.dropout(pooled(features)))


class InceptionV3(_Inception):
    """Inception v3; torchvision's names, which are timm's, too. Built by `inception`."""

    auxiliary_names = ("AuxLogits",)

    def __init__(
        self, *, width: float = 1.0, aux: bool = False, same: bool = False,
        num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5,
        transform_input: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self._begin(num_classes, in_channels, 299, transform_input)
        self.smallest = 1 if same else 75
        first, second, third, fourth = (_scaled(c, width) for c in (32, 64, 80, 192))
        around = None if same else 0
        options: dict[str, Any] = {"eps": _EPS, **where}
        self.Conv2d_1a_3x3 = conv_norm(in_channels, first, 3, stride=2, padding=around, **options)
        self.Conv2d_2a_3x3 = conv_norm(first, first, 3, padding=around, **options)
        self.Conv2d_2b_3x3 = conv_norm(first, second, 3, **options)
        self.maxpool1 = nn.MaxPool2d(3, 2, int(same))
        self.Conv2d_3b_1x1 = conv_norm(second, third, padding=around, **options)
        self.Conv2d_4a_3x3 = conv_norm(third, fourth, 3, padding=around, **options)
        self.maxpool2 = nn.MaxPool2d(3, 2, int(same))
        self.channels, entering = {2: second, 4: fourth}, fourth
        for name, (stride, table) in V3.items():
            block = InceptionBlock(entering, table, width=width, same=same, **where)
            self.add_module(name, block)
            entering = self.channels[stride] = block.out_channels
        if aux and num_classes:
            self.AuxLogits = _V3Head(self.channels[16], num_classes, width, where)
            self.auxiliary_at["Mixed_6e"] = "AuxLogits"
        self.dropout = nn.Dropout(dropout)
        self.fc = classifier(entering, num_classes, **where)
        spread(self)

    def steps(self) -> list[tuple[int, nn.Module]]:
        return [
            (2, self.Conv2d_1a_3x3), (2, self.Conv2d_2a_3x3), (2, self.Conv2d_2b_3x3),
            (4, self.maxpool1), (4, self.Conv2d_3b_1x1), (4, self.Conv2d_4a_3x3),
            (8, self.maxpool2),
            *((stride, self.get_submodule(name)) for name, (stride, _) in V3.items()),
        ]  # fmt: skip

    def head(self, features: Tensor) -> Tensor:
        return self.fc(self.dropout(pooled(features)))


class InceptionV4(_Inception):
    """Inception v4; timm's names. Built by `inception`."""

    def __init__(
        self, *, width: float = 1.0, same: bool = False, num_classes: int = 1000,
        in_channels: int = 3, dropout: float = 0.0, transform_input: bool = False,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self._begin(num_classes, in_channels, 299, transform_input)
        self.smallest = 1 if same else 75
        first, second = _scaled(32, width), _scaled(64, width)
        around = None if same else 0
        options: dict[str, Any] = {"eps": _EPS, **where}
        layers: list[nn.Module] = [
            conv_norm(in_channels, first, 3, stride=2, padding=around, **options),
            conv_norm(first, first, 3, padding=around, **options),
            conv_norm(first, second, 3, **options),
        ]
        self._strides, self.channels, entering = [2, 2, 2], {2: second}, second
        blocks = [(stride, table, valid) for stride, table, valid in V4_STEM]
        blocks += [(stride, table, ()) for stride, n, table in V4_REPEATED for _ in range(n)]
        for stride, table, valid in blocks:
            block = InceptionBlock(entering, table, width=width, valid=valid, same=same, **where)
            layers.append(block)
            self._strides.append(stride)
            entering = self.channels[stride] = block.out_channels
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = classifier(entering, num_classes, **where)
        spread(self)

    def steps(self) -> list[tuple[int, nn.Module]]:
        return list(zip(self._strides, self.features, strict=True))

    def head(self, features: Tensor) -> Tensor:
        return self.last_linear(self.dropout(pooled(features)))


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def inception(
    version: Literal["googlenet", "v3", "v4"] = "googlenet", *, aux: bool = False,
    width: float = 1.0, padding: Literal["valid", "same"] = "valid", five: int = 3,
    transform_input: bool = False, num_classes: int = 1000, in_channels: int = 3,
    dropout: float | None = None, device: Any = None, dtype: Any = None,
) -> GoogLeNet | InceptionV3 | InceptionV4:  # fmt: skip
    """Builds an Inception network.

    Prefer GoogLeNet where few parameters and many multiply-adds are fine; prefer `xception` or
    `efficientnet` to v3 and v4, which they beat at less cost.

    Args:
        version: "googlenet" (v1 with batch norm), "v3" or "v4".
        aux: Whether auxiliary heads are there in training: the network then returns an
            `InceptionOutput`. Without them, theirs among published weights are left out.
        width: Scale of all channels.
        padding: Of v3 and v4: "valid" as published (images of 75 px or more), or "same" for maps
            of exactly a half each time, and small images.
        five: Side of GoogLeNet's largest filters: 3 as in the published weights, 5 as in the
            paper.
        transform_input: Whether images come normalized by ImageNet's mean and deviation, while
            the weights want (x - 0.5) / 0.5, as torchvision's published ones do.
        num_classes: K; 0 gives pooled features.
        in_channels: C of the images.
        dropout: Rate before the linear layer; the paper's own without it.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An unknown version or padding; an option that the version has not.

    Example:
        >>> net = inception("googlenet", device="meta")
        >>> net.parameter_count(), net.macs((224, 224))
        (6624904, 1498376192)
    """
    if version not in ("googlenet", "v3", "v4"):
        raise ValueError(f"version={version!r} is none of googlenet, v3, v4")
    if padding not in ("valid", "same"):
        raise ValueError(f"padding={padding!r} is none of valid, same")
    if width <= 0:
        raise ValueError(f"width={width} scales the channels; give more than 0")
    if five not in (3, 5) or (five == 5 and version != "googlenet"):
        raise ValueError(f"five={five}: 3, or with googlenet 5")
    if aux and version == "v4":
        raise ValueError("aux=True: Inception v4 has no auxiliary heads")
    shared: dict[str, Any] = {
        "width": width, "num_classes": num_classes, "in_channels": in_channels,
        "transform_input": transform_input, "device": device, "dtype": dtype,
        **({} if dropout is None else {"dropout": dropout}),
    }  # fmt: skip
    if version == "googlenet":
        return GoogLeNet(aux=aux, five=five, **shared)
    if version == "v3":
        return InceptionV3(aux=aux, same=padding == "same", **shared)
    return InceptionV4(same=padding == "same", **shared)
