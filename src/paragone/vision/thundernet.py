r"""ThunderNet: a two-stage detector small enough for a CPU.

The first stage proposes regions from one map of stride 16, the second looks into each through
position-sensitive RoI align. Every part is made thin. Context enhancement sums three 1x1
convolutions, of the map of stride 16, of that of stride 32 made twice as large, and of the mean
of the latter; spatial attention lets what the proposals have learned weigh that map:

$$ F^{\text{CEM}} = W_4 C_4 + \uparrow_2 W_5 C_5 + W_g \overline{C_5}, \qquad
   F^{\text{SAM}} = F^{\text{CEM}} \odot \sigma\big(\mathrm{BN}(\theta(F^{\text{RPN}}))\big) . $$

The second stage pools 7 x 7 bins of 5 channels from the latter, and one layer of 1024 units tells
class and box. The loss is the sum of four parts: cross-entropy and smooth L1 in both stages.

Cost, counted at 320 px with 200 regions and 20 classes: SNet49 248.6 M multiply-adds, SNet146
487.4 M, SNet535 1284 M. With two logits an anchor in place of one (2.56 M) and the uneven split of
the authors' trunk it is 251.2 M and 492.8 M; 250 M are published for the first, which agrees, and
461 M for the second, which do not follow from the published table of channels.

References:
    Qin et al. (2019), "ThunderNet", arXiv:1903.11752, section 3 (parts), 4.1 (training).
    Ren et al. (2015), "Faster R-CNN", arXiv:1506.01497, eq. 1-2 (losses and deltas).

Shapes: B images, A anchors a cell, R regions, N objects or detections, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.vision._detector_base import Detector, Sizes, suppressed
from paragone.vision._detector_matching import match, sample
from paragone.vision.boxes import (
    anchors,
    box_iou,
    clip,
    decode_boxes,
    encode_boxes,
    nms,
)  # fmt: skip
from paragone.vision.contract import Backbone
from paragone.vision.layers import DepthwiseConv, NormAct, PointwiseConv
from paragone.vision.position_sensitive import ps_roi_align

__all__ = ["RECIPE", "SMALL_RECIPE", "ThunderNet"]

RECIPE: dict[str, Any] = {
    "optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "batch": 64,
    "epochs": 80, "milestones": (0.5, 0.75), "gamma": 0.1,
    "sizes": (240, 320, 480), "test_size": 320,
    "augmentation": (
        ("photometric", {"brightness": 0.125, "contrast": 0.5, "saturation": 0.5, "hue": 0.05}),
        ("expand", {"most": 4.0, "p": 0.5}),
        ("iou_crop", {"least": (0.1, 0.3, 0.5, 0.7, 0.9), "smallest": 0.3}),
        ("flip", {"p": 0.5}),
    ),
}  # fmt: skip
"""The published training as data; `milestones` are shares of the epochs."""

SMALL_RECIPE: dict[str, Any] = {
    "optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05, "batch": 8, "epochs": 12,
    "schedule": "cosine", "warmup_steps": 60, "clip_norm": 10.0, "ema": True,
    "sizes": (320,), "test_size": 320,
    "augmentation": (
        ("flip", {"p": 0.5}), ("flip_vertical", {"p": 0.5}),
        ("photometric", {"brightness": 0.1, "contrast": 0.2}),
    ),
    "model_options": {
        "backbone": "shufflenet_v2_0.5", "scales": (16, 32, 64, 128, 256), "aligned": True,
        "region_samples": 256, "score_threshold": 0.02,
    },
}  # fmt: skip
"""For a few hundred images and a pretrained trunk: 292 images of blood cells in 230 seconds of one
core. Stochastic gradient descent learns the small objects several times as slowly."""

_BINS, _STRIDE, _ROI_STD = 7, 16, (0.1, 0.1, 0.2, 0.2)


class ContextEnhancement(nn.Module):
    """Local, coarse and global context in one map of stride 16."""

    def __init__(
        self, fine: int, coarse: int, channels: int, local: bool, where: dict[str, Any]
    ) -> None:
        super().__init__()
        self.local = PointwiseConv(fine, channels, bias=True, **where)
        self.alone = local
        if local:
            return
        self.coarse = PointwiseConv(coarse, channels, bias=True, **where)
        self.whole = PointwiseConv(coarse, channels, bias=True, **where)

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        fine = self.local(maps[16])
        if self.alone:
            return fine
        coarse = maps[32]
        near = functional.interpolate(self.coarse(coarse), scale_factor=2.0, mode="nearest")
        return fine + near + self.whole(coarse.mean((2, 3), keepdim=True))


class ProposalHead(nn.Module):
    """A depthwise 5x5 and a pointwise convolution, then one logit and four deltas an anchor."""

    def __init__(self, channels: int, width: int, count: int, where: dict[str, Any]) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(channels, 5, **where)
        self.norm1 = NormAct(channels, "relu", **where)
        self.pointwise = PointwiseConv(channels, width, **where)
        self.norm2 = NormAct(width, "relu", **where)
        self.objectness = PointwiseConv(width, count, bias=True, **where)
        self.deltas = PointwiseConv(width, 4 * count, bias=True, **where)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.norm2(self.pointwise(self.norm1(self.depthwise(context))))
        objectness = self.objectness(x).permute(0, 2, 3, 1).flatten(1)
        deltas = self.deltas(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4)
        return x, objectness, deltas


class SpatialAttention(nn.Module):
    """Weighs the context by what the proposals have learned of fore- and background."""

    def __init__(self, width: int, channels: int, where: dict[str, Any]) -> None:
        super().__init__()
        self.project = PointwiseConv(width, channels, **where)
        self.norm = NormAct(channels, "sigmoid", **where)

    def forward(self, proposal: Tensor, context: Tensor) -> Tensor:
        return context * self.norm(self.project(proposal))


class RegionHead(nn.Module):
    """One layer for all regions, then K + 1 logits (background last) and four deltas."""

    def __init__(self, channels: int, width: int, classes: int, where: dict[str, Any]) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, width, **where)
        self.logits = nn.Linear(width, classes + 1, **where)
        self.deltas = nn.Linear(width, 4, **where)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.relu(self.hidden(pooled.flatten(1)))
        return self.logits(x), self.deltas(x)


class ThunderNet(Detector):
    """A light two-stage detector.

    Prefer it to `NanoDet` where objects are small or few data are there (the second stage sees
    each region again); prefer that one where a fixed time for each image is all that counts.

    Args:
        backbone: "snet49", "snet146", "snet535", "shufflenet_v2_0.5", any other name of
            `backbones()`, or a `Backbone` with maps of stride 16 and 32.
        num_classes: K, without background; labels are 0 to K - 1.
        in_channels: C of the images.
        scales: Square roots of the anchors' areas in pixels; smaller ones for small objects.
        ratios: Their heights over widths.
        score_threshold: Least score of a detection.
        suppression: "soft" (linear, as published) or "hard"; state it with every figure.
        nms_threshold: Overlap of detections from which it acts.
        proposals: Regions looked at for each image: while training, and in evaluation.
        candidates: Best anchors that suppression chooses them from: training, evaluation.
        max_detections: Most detections of an image.
        proposal_samples: Anchors of an image that the first two losses look at.
        region_samples: Regions of an image, at most a quarter with an object, for the others.
        context: Whether the map of stride 32 and its mean are added to that of stride 16.
        attention: Whether what proposals have learned weighs the map that regions are pooled from.
        sampling_ratio: Samples of a bin along each axis; 0: adaptive.
        pool: "mean" of the samples, as published, or "max", as the authors released it.
        aligned: Whether cells have their centres at halves when regions are pooled; the
            published form has not.
        freeze_norm: Whether the trunk's batch norms keep their statistics; for pretrained trunks
            and batches of a few images.
        mean: Of the images' channels in [0, 1]; without it what the trunk's published weights
            want: 0 for a ShuffleNetV2 and a `Backbone`, else ImageNet's.
        std: What they are divided by; likewise.
        generator: Draws the samples of a step; torch's own without it.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An unknown backbone, suppression or pool; no class.

    Example:
        >>> net = ThunderNet("snet49", num_classes=20, device="meta")
        >>> net.macs((320, 320))
        248608240
    """

    def __init__(
        self, backbone: str | Backbone = "snet49", num_classes: int = 20, *,
        in_channels: int = 3, scales: Sequence[float] = (32, 64, 128, 256, 512),
        ratios: Sequence[float] = (0.5, 0.75, 1.0, 4 / 3, 2.0), score_threshold: float = 0.05,
        suppression: Literal["soft", "hard"] = "soft", nms_threshold: float = 0.5,
        proposals: tuple[int, int] = (1000, 200), candidates: tuple[int, int] = (2000, 1000),
        max_detections: int = 100, proposal_samples: int = 256, region_samples: int = 512,
        context: bool = True, attention: bool = True, sampling_ratio: int = 2,
        pool: Literal["mean", "max"] = "mean", aligned: bool = False, freeze_norm: bool = False,
        mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
        generator: torch.Generator | None = None, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        options: dict[str, Any] = {
            "backbone": backbone, "num_classes": num_classes, "in_channels": in_channels,
            "scales": tuple(scales), "ratios": tuple(ratios), "score_threshold": score_threshold,
            "suppression": suppression, "nms_threshold": nms_threshold, "proposals": proposals,
            "candidates": candidates, "max_detections": max_detections,
            "proposal_samples": proposal_samples, "region_samples": region_samples,
            "context": context, "attention": attention, "sampling_ratio": sampling_ratio,
            "pool": pool, "aligned": aligned, "freeze_norm": freeze_norm, "mean": mean,
            "std": std,
        }  # fmt: skip
        strides = (16, 32) if context else (16,)
        super().__init__(backbone, num_classes, in_channels, mean, std, strides, freeze_norm,
                         options, device, dtype)  # fmt: skip
        if suppression not in ("soft", "hard") or pool not in ("mean", "max"):
            raise ValueError(
                f"suppression={suppression!r} and pool={pool!r}; give soft or hard, mean or max"
            )
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.generator, self.strides = generator, strides
        self.scales, self.ratios = tuple(scales), tuple(ratios)
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.suppression, self.max_detections = suppression, max_detections
        self.proposals, self.candidates = tuple(proposals), tuple(candidates)
        self.samples = (proposal_samples, region_samples)
        self.pooling: dict[str, Any] = {
            "sampling_ratio": sampling_ratio, "pool": pool, "aligned": aligned,
        }  # fmt: skip
        fine, coarse = (self.backbone.channels.get(stride, 0) for stride in (16, 32))
        thin, width = 5 * _BINS**2, 256
        self.context = ContextEnhancement(fine, coarse, thin, not context, where)
        self.proposal = ProposalHead(thin, width, len(scales) * len(ratios), where)
        self.attention = SpatialAttention(width, thin, where) if attention else None
        self.region = RegionHead(thin, 1024, num_classes, where)
        small = (self.proposal.objectness, self.proposal.deltas, self.region.logits)
        for layer, spread in (*((layer, 0.01) for layer in small), (self.region.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=spread)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    raw_names = ("objectness", "deltas", "features")

    def raw(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns objectness (B, H W A), deltas (B, H W A, 4) and the map (B, 245, H, W).

        H and W count cells of 16 pixels. `export_onnx` exports this and the region head;
        `detections` is what stands between and behind them.

        Args:
            batch: (B, C, H, W) in [0, 1], height and width multiples of 32.
        """
        maps = self.maps(batch, self.strides)
        context = self.context(maps)
        proposal, objectness, deltas = self.proposal(context)
        if self.attention is not None:
            context = self.attention(proposal, context)
        return objectness, deltas, context

    def export_onnx(self, path: str | Path, size: tuple[int, int] = (320, 320)) -> list[Path]:
        """Writes two ONNX files: the trunk with both heads' inputs, and the region head.

        The second, `<name>-regions.onnx`, takes pooled regions (R, 5, 7, 7) of any number and
        puts out "logits" (R, K + 1), background last, and "deltas" (R, 4), in units of
        (.1, .1, .2, .2). Between them stand `regions` and `ps_roi_align`.

        Args:
            path: The first file.
            size: Height and width of the images in pixels, multiples of 32.

        Returns:
            Both files.

        Raises:
            ValueError: A size that is no multiple of 32.
            MissingPackageError: onnx or onnxscript is not installed.
        """
        from paragone.vision._detector_export import export

        (first,) = super().export_onnx(path, size)
        weight = self.region.hidden.weight
        pooled = torch.zeros(2, 5, _BINS, _BINS, device=weight.device, dtype=weight.dtype)
        second = first.with_name(f"{first.stem}-regions.onnx")
        names = ("logits", "deltas")
        return [first, export(self, "region", pooled, second, "pooled", names, free=True)]

    def counted(self, batch: Tensor) -> Any:
        features = self.raw(batch)[2]
        return self.region(features.new_empty(self.proposals[1], features.shape[1]))

    def anchors(self, features: Tensor) -> Tensor:
        """Returns the anchors (H W A, 4) of a map (B, 245, H, W)."""
        size = (features.shape[2], features.shape[3])
        return anchors(size, _STRIDE, self.scales, self.ratios, device=features.device)

    def regions(
        self, objectness: Tensor, deltas: Tensor, boxes: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Returns the regions (R, 4) that one image's first stage proposes, the best first.

        Args:
            objectness: (H W A,) logits.
            deltas: (H W A, 4).
            boxes: (H W A, 4) anchors.
            size: Height and width of the image in pixels: regions end there.
        """
        stage = 0 if self.training else 1
        scores, rows = objectness.detach().float().topk(min(self.candidates[stage], len(boxes)))
        found = clip(decode_boxes(deltas.detach()[rows].float(), boxes[rows]), size)
        large = (found[:, 2:] - found[:, :2] >= 1).all(1).nonzero()[:, 0]
        found, scores = found[large], scores[large]
        return found[nms(found, scores, 0.7, limit=self.proposals[stage])]

    def look(self, features: Tensor, regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns logits (R, K + 1) and deltas (R, 4) of the regions of all images in order."""
        numbered = [
            torch.cat([r.new_full((len(r), 1), float(i)), r], 1) for i, r in enumerate(regions)
        ]
        wide = features if features.dtype == torch.float64 else features.float()
        pooled = ps_roi_align(wide, torch.cat(numbered), _BINS, 1 / _STRIDE, **self.pooling)
        return self.region(pooled.to(self.region.hidden.weight.dtype))

    def detections(self, *raw: Tensor, sizes: Sizes) -> list[dict[str, Tensor]]:
        objectness, deltas, features = raw
        boxes = self.anchors(features)
        regions = [
            self.regions(o, d, boxes, size)
            for o, d, size in zip(objectness, deltas, sizes, strict=True)
        ]
        logits, moves = self.look(features, regions)
        found, start = [], 0
        for mine, size in zip(regions, sizes, strict=True):
            rows = slice(start, start + len(mine))
            found.append(self._kept(logits[rows], moves[rows], mine, size))
            start += len(mine)
        return found

    def _kept(
        self, logits: Tensor, moves: Tensor, regions: Tensor, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        scores = logits.detach().float().softmax(1)[:, : self.num_classes]
        boxes = clip(decode_boxes(moves.detach().float(), regions, _ROI_STD), size)
        good = (boxes[:, 2:] > boxes[:, :2]).all(1, keepdim=True)
        rows, labels = ((scores > self.score_threshold) & good).nonzero().unbind(1)
        return suppressed(
            boxes[rows], scores[rows, labels], labels, soft=self.suppression == "soft",
            threshold=self.nms_threshold, least=self.score_threshold, limit=self.max_detections,
        )  # fmt: skip

    def losses(
        self, batch: Tensor, targets: list[tuple[Tensor, Tensor]], sizes: Sizes
    ) -> dict[str, Tensor]:
        objectness, deltas, features = self.raw(batch)
        boxes = self.anchors(features)
        first = self._proposal_losses(objectness.float(), deltas.float(), boxes, targets)
        regions, labels, moves = [], [], []
        for o, d, size, (objects, kinds) in zip(objectness, deltas, sizes, targets, strict=True):
            # Objects are regions, too: early proposals miss them.
            mine = torch.cat([self.regions(o, d, boxes, size), objects])
            matched = match(box_iou(objects, mine), 0.5, 0.5, low_quality=False)
            having, lacking = sample(matched, self.samples[1], 0.25, self.generator)
            regions.append(mine[torch.cat([having, lacking])])
            background = lacking.new_full((len(lacking),), self.num_classes)
            labels.append(torch.cat([kinds[matched[having]], background]))
            moves.append(encode_boxes(objects[matched[having]], mine[having], _ROI_STD))
        logits, found = self.look(features, regions)
        label = torch.cat(labels)
        having = label < self.num_classes
        count = max(len(label), 1)
        wrong = functional.smooth_l1_loss(found[having].float(), torch.cat(moves), reduction="sum")
        named = functional.cross_entropy(logits.float(), label, reduction="sum") / count
        return {**first, "roi_class": named, "roi_box": wrong / count}

    def _proposal_losses(
        self, objectness: Tensor, deltas: Tensor, boxes: Tensor,
        targets: list[tuple[Tensor, Tensor]],
    ) -> dict[str, Tensor]:  # fmt: skip
        told, moved, count = objectness.sum() * 0, deltas.sum() * 0, 0
        for logits, moves, (objects, _) in zip(objectness, deltas, targets, strict=True):
            matched = match(box_iou(objects, boxes), 0.7, 0.3, low_quality=True)
            having, lacking = sample(matched, self.samples[0], 0.5, self.generator)
            count += len(having) + len(lacking)
            chosen = torch.cat([logits[having], logits[lacking]])
            truth = torch.cat([torch.ones_like(logits[having]), torch.zeros_like(logits[lacking])])
            told = told + functional.binary_cross_entropy_with_logits(
                chosen, truth, reduction="sum"
            )
            wanted = encode_boxes(objects[matched[having]], boxes[having])
            moved = moved + functional.smooth_l1_loss(
                moves[having], wanted, reduction="sum", beta=1 / 9
            )
        return {"rpn_objectness": told / max(count, 1), "rpn_box": moved / max(count, 1)}
