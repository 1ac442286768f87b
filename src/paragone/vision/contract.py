r"""What every backbone keeps: images to logits, feature maps by stride, and its cost counted.

A backbone is a trunk of steps and a head. Each step knows the stride that its output has, so
that a segmenter or a detector takes the last map of every stride it wants and runs no further:

$$ f_s = (\text{step}_{n(s)} \circ \dots \circ \text{step}_1)(x), \quad
   n(s) = \max\{i : \text{stride}_i = s\} . $$

References:
    Lin et al. (2017), "Feature pyramid networks", arXiv:1612.03144, section 3 (the last map of
    each stride).

Shapes: B batch, C channels, H and W height and width in pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from paragone.vision.counting import count_macs

__all__ = ["Backbone"]


class Backbone(nn.Module):
    """Base of all backbones; subclasses set the attributes and write `steps` and `head`.

    Attributes:
        num_classes: K; 0 gives pooled features in place of logits.
        in_channels: C of the images.
        image_size: Height and width in pixels that the paper's figures hold for.
        channels: Channels of the last map of each stride, by stride.
    """

    num_classes: int
    in_channels: int
    image_size: tuple[int, int]
    channels: dict[int, int]

    def steps(self) -> Sequence[tuple[int, nn.Module]]:
        """Returns the trunk in order: the stride of each step's output, and the step."""
        raise NotImplementedError

    def head(self, features: Tensor) -> Tensor:
        """Returns logits (B, K) of the trunk's last map."""
        raise NotImplementedError

    def forward_features(self, images: Tensor) -> Tensor:
        """Returns the trunk's last map."""
        self._check(images)
        for _, step in self.steps():
            images = step(images)
        return images

    def feature_maps(
        self, images: Tensor, strides: Iterable[int] | None = None
    ) -> dict[int, Tensor]:
        """Returns the last map of each stride, and computes nothing behind the coarsest.

        Args:
            images: (B, C, H, W).
            strides: Which ones; all of `channels` without it.

        Raises:
            ValueError: A stride that this backbone has no map of.
        """
        self._check(images)
        wanted = set(self.channels if strides is None else strides)
        if missing := sorted(wanted - set(self.channels)):
            raise ValueError(
                f"no map of stride {missing[0]}: this backbone has {sorted(self.channels)}"
            )
        steps = self.steps()
        last = max(i for i, (stride, _) in enumerate(steps) if stride in wanted)
        found: dict[int, Tensor] = {}
        for stride, step in steps[: last + 1]:
            images = step(images)
            if stride in wanted:
                found[stride] = images
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (B, K) of images (B, C, H, W)."""
        return self.head(self.forward_features(images))

    def macs(self, size: tuple[int, int] | None = None) -> int:
        """Returns the multiply-adds of one image, counted, not estimated.

        Args:
            size: Height and width in pixels; `image_size` without it.
        """
        height, width = size or self.image_size
        return count_macs(self, (self.in_channels, height, width))

    def parameter_count(self) -> int:
        """Returns how many numbers are trained."""
        return sum(p.numel() for p in self.parameters())

    def _check(self, images: Tensor) -> None:
        if images.dim() != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"images have shape {tuple(images.shape)}: this backbone takes "
                f"(B, {self.in_channels}, H, W)"
            )
        if not torch.is_floating_point(images):
            raise ValueError(f"images are {images.dtype}: give floats, for example x.float() / 255")
