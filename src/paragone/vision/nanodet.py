r"""NanoDet: a single-shot detector without anchors, as a rival to two stages.

Every cell of three maps tells, at once, how good a box it has for each class and where the box
ends. Both answers are distributions. The score is trained towards the overlap that the cell's box
really has (quality focal loss), so that ranking by it ranks by precision; each side is the mean of
a distribution over n + 1 distances in cells, trained on the two next to the truth y:

$$ L_Q = |q - \sigma|^2\, \mathrm{BCE}(\sigma, q), \quad
   L_D = -\big((\lceil y\rceil - y) \ln S_{\lfloor y\rfloor} + (y - \lfloor y\rfloor) \ln
   S_{\lceil y\rceil}\big), \quad d = \sum_{i=0}^{n} i\, S_i . $$

Which cells learn an object is settled by adaptive selection: of the nine nearest of each map,
those whose square of five cells overlaps the object more than the mean plus one deviation of all
candidates, and whose centre lies inside. The neck sums maps from coarse to fine and back with
depthwise 5x5 filters.

Cost, counted at 320 px with 20 classes: 367 M multiply-adds on "shufflenet_v2_1.0", 162 M on
"shufflenet_v2_0.5".

References:
    Li et al. (2020), "Generalized focal loss", arXiv:2006.04388, eq. 2-6.
    Zhang et al. (2020), "ATSS", arXiv:1912.02424, algorithm 1.
    Rezatofighi et al. (2019), "Generalized IoU", arXiv:1902.09630, algorithm 1.
    Liu et al. (2018), "Path aggregation network", arXiv:1803.01534, section 3.1 (the neck).

Shapes: B images, A cells of all maps, G objects, K classes, n + 1 distances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.vision._detector_base import Detector, Sizes, suppressed
from paragone.vision._detector_matching import BACKGROUND, select
from paragone.vision.boxes import anchors, clip
from paragone.vision.contract import Backbone
from paragone.vision.layers import DepthwiseConv, NormAct, PointwiseConv

__all__ = ["NanoDet"]

_STRIDES, _SQUARE, _PRIOR = (8, 16, 32), 5, -4.6
"""Maps; the square of a cell in cells; logit of a score of 0.01."""


def _separable(
    entering: int, channels: int, kernel: int, stride: int, where: dict[str, Any]
) -> nn.Sequential:
    return nn.Sequential(
        DepthwiseConv(entering, kernel, stride, **where),
        NormAct(entering, "relu", **where),
        PointwiseConv(entering, channels, **where),
        NormAct(channels, "relu", **where),
    )


class PathAggregation(nn.Module):
    """Maps of one width, each having seen the coarser and the finer ones."""

    def __init__(self, entering: Sequence[int], channels: int, where: dict[str, Any]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            nn.Sequential(PointwiseConv(c, channels, **where), NormAct(channels, "relu", **where))
            for c in entering
        )
        gaps = range(len(entering) - 1)
        self.up = nn.ModuleList(_separable(channels, channels, 5, 1, where) for _ in gaps)
        self.down = nn.ModuleList(_separable(channels, channels, 5, 2, where) for _ in gaps)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        found = [layer(x) for layer, x in zip(self.lateral, maps, strict=True)]
        for i in reversed(range(len(found) - 1)):
            above = functional.interpolate(found[i + 1], scale_factor=2.0, mode="nearest")
            found[i] = self.up[i](found[i] + above)
        for i, layer in enumerate(self.down):
            found[i + 1] = found[i + 1] + layer(found[i])
        return found


class NanoDet(Detector):
    """A light single-shot detector without anchors.

    Prefer it to `ThunderNet` where time per image must not depend on what is in it, and for
    export (its graph is one file); prefer that one for small data sets and small objects.

    Args:
        backbone: A name of `backbones()`, "shufflenet_v2_0.5" and its kin, or a `Backbone` with
            maps of stride 8, 16 and 32.
        num_classes: K, without background; labels are 0 to K - 1.
        in_channels: C of the images.
        channels: Width of the neck and the head.
        depth: Separable convolutions of each head.
        distances: n: sides reach n cells of their map from the centre.
        score_threshold: Least score of a detection.
        suppression: "hard", as published, or "soft"; state it with every figure.
        nms_threshold: Overlap of detections from which it acts.
        max_detections: Most detections of an image.
        candidates: Most boxes of an image that suppression sees.
        freeze_norm: Whether the trunk's batch norms keep their statistics.
        mean: Of the images' channels in [0, 1]; without it what the trunk's weights want.
        std: What they are divided by; likewise.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An unknown backbone or suppression; no class.

    Example:
        >>> NanoDet("shufflenet_v2_1.0", num_classes=20, device="meta").macs((320, 320)) < 5e8
        True
    """

    def __init__(
        self, backbone: str | Backbone = "shufflenet_v2_1.0", num_classes: int = 20, *,
        in_channels: int = 3, channels: int = 96, depth: int = 2, distances: int = 7,
        score_threshold: float = 0.05, suppression: Literal["soft", "hard"] = "hard",
        nms_threshold: float = 0.6, max_detections: int = 100, candidates: int = 1000,
        freeze_norm: bool = False, mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        options: dict[str, Any] = {
            "backbone": backbone, "num_classes": num_classes, "in_channels": in_channels,
            "channels": channels, "depth": depth, "distances": distances,
            "score_threshold": score_threshold, "suppression": suppression,
            "nms_threshold": nms_threshold, "max_detections": max_detections,
            "candidates": candidates, "freeze_norm": freeze_norm, "mean": mean, "std": std,
        }  # fmt: skip
        super().__init__(backbone, num_classes, in_channels, mean, std, _STRIDES, freeze_norm,
                         options, device, dtype)  # fmt: skip
        if suppression not in ("soft", "hard"):
            raise ValueError(f"suppression={suppression!r} is none of soft, hard")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.suppression, self.max_detections = suppression, max_detections
        self.candidates, self.distances = candidates, distances
        entering = [self.backbone.channels[stride] for stride in _STRIDES]
        self.neck = PathAggregation(entering, channels, where)
        told = num_classes + 4 * (distances + 1)
        self.heads = nn.ModuleList(
            nn.Sequential(
                *(_separable(channels, channels, 5, 1, where) for _ in range(depth)),
                PointwiseConv(channels, told, bias=True, **where),
            )
            for _ in _STRIDES
        )
        for head in self.heads:
            last: Any = list(head.children())[-1]
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
            nn.init.constant_(last.bias[:num_classes], _PRIOR)

    raw_names = ("stride_8", "stride_16", "stride_32")

    def raw(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Returns (B, K + 4 (n + 1), H, W) of stride 8, 16 and 32.

        The first K channels are logits of the classes, then follow n + 1 logits of the distance to
        the left, top, right and bottom, in cells from the cell's centre ((x + 1/2) stride).

        Args:
            batch: (B, C, H, W) in [0, 1], height and width multiples of 32.
        """
        maps = self.maps(batch, _STRIDES)
        necks = self.neck([maps[stride] for stride in _STRIDES])
        return tuple(head(x) for head, x in zip(self.heads, necks, strict=True))

    def _flat(self, raw: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, A, K), logits of distances (B, A, 4, n + 1) and squares (A, 4)."""
        rows = torch.cat([x.flatten(2) for x in raw], 2).transpose(1, 2).float()
        sides = rows[..., self.num_classes :].unflatten(2, (4, self.distances + 1))
        squares = [
            anchors((x.shape[2], x.shape[3]), stride, (_SQUARE * stride,), (1.0,), device=x.device)
            for x, stride in zip(raw, _STRIDES, strict=True)
        ]
        return rows[..., : self.num_classes], sides, torch.cat(squares)

    def decoded(self, sides: Tensor, squares: Tensor) -> Tensor:
        """Returns boxes (…, A, 4) in pixels from logits of distances (…, A, 4, n + 1).

        Args:
            sides: Logits.
            squares: (A, 4), five cells wide, around the cells' centres.
        """
        steps = torch.arange(self.distances + 1, device=sides.device, dtype=sides.dtype)
        away = (sides.softmax(-1) * steps).sum(-1) * _strides(squares)
        middle = (squares[:, :2] + squares[:, 2:]) / 2
        return torch.cat([middle - away[..., :2], middle + away[..., 2:]], -1)

    def detections(self, *raw: Tensor, sizes: Sizes) -> list[dict[str, Tensor]]:
        logits, sides, squares = self._flat([x.detach() for x in raw])
        boxes, found = self.decoded(sides, squares), []
        for scores, mine, size in zip(logits.sigmoid(), boxes, sizes, strict=True):
            mine = clip(mine, size)
            good = (mine[:, 2:] > mine[:, :2]).all(1, keepdim=True)
            rows, labels = ((scores > self.score_threshold) & good).nonzero().unbind(1)
            values = scores[rows, labels]
            best = values.topk(min(self.candidates, len(values))).indices
            found.append(suppressed(
                mine[rows[best]], values[best], labels[best], soft=self.suppression == "soft",
                threshold=self.nms_threshold, least=self.score_threshold,
                limit=self.max_detections,
            ))  # fmt: skip
        return found

    def losses(
        self, batch: Tensor, targets: list[tuple[Tensor, Tensor]], sizes: Sizes
    ) -> dict[str, Tensor]:
        raw = self.raw(batch)
        logits, sides, squares = self._flat(raw)
        levels = [x.shape[2] * x.shape[3] for x in raw]
        boxes = self.decoded(sides, squares)
        chosen = [select(objects, squares, levels) for objects, _ in targets]
        count = max(sum(int((rows != BACKGROUND).sum()) for rows in chosen), 1)
        quality, ends, told, weight = logits.sum() * 0, boxes.sum() * 0, sides.sum() * 0, 0.0
        for i, (rows, (objects, labels)) in enumerate(zip(chosen, targets, strict=True)):
            mine = (rows != BACKGROUND).nonzero()[:, 0]
            aims, wanted = objects[rows[mine]], torch.zeros_like(logits[i])
            shared, whole = _overlaps(boxes[i, mine], aims)
            wanted[mine, labels[rows[mine]]] = shared.detach()
            quality = quality + _quality(logits[i], wanted)
            importance = logits[i, mine].detach().sigmoid().amax(1)
            ends = ends + ((1 - whole) * importance).sum()
            told = told + (self._told(sides[i, mine], aims, squares[mine]) * importance).sum()
            weight += float(importance.sum())
        weight = max(weight, 1e-6)
        return {
            "quality": quality / count, "box": 2.0 * ends / weight,
            "distribution": 0.25 * told / weight,
        }  # fmt: skip

    def _told(self, sides: Tensor, aims: Tensor, squares: Tensor) -> Tensor:
        """Cross-entropy (M,) of the distances on both sides of the true ones."""
        middle = (squares[:, :2] + squares[:, 2:]) / 2
        away = torch.cat([middle - aims[:, :2], aims[:, 2:] - middle], 1) / _strides(squares)
        away = away.clamp(0, self.distances - 0.01)
        low = away.floor()
        share = away - low
        near, far = (
            sides.log_softmax(-1).gather(2, at.long()[..., None])[..., 0] for at in (low, low + 1)
        )
        return -((1 - share) * near + share * far).mean(1)


def _strides(squares: Tensor) -> Tensor:
    return (squares[:, 2:3] - squares[:, :1]) / _SQUARE


def _quality(logits: Tensor, wanted: Tensor) -> Tensor:
    away = (wanted - logits.sigmoid()).square()
    missed = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (away * missed).sum()


def _overlaps(boxes: Tensor, aims: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union, and the generalised one, of pairs (M, 4)."""
    low, high = torch.maximum(boxes[:, :2], aims[:, :2]), torch.minimum(boxes[:, 2:], aims[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, aims)]
    union = (areas[0] + areas[1] - common).clamp(min=1e-6)
    low, high = torch.minimum(boxes[:, :2], aims[:, :2]), torch.maximum(boxes[:, 2:], aims[:, 2:])
    hull = (high - low).prod(1).clamp(min=1e-6)
    return common / union, common / union - (hull - union) / hull
