"""
A detector from its parts, trained in seconds
=============================================

Handwritten digits on pieces of photographs, and a two-stage detector that has to find them. Where
does its cost go, how well do its anchors cover what is to be found, what does pooling by position
see, and what does suppression do to its answers?
"""

import numpy as np
import torch

from paragone.vision import NanoDet, ThunderNet, backbone, box_iou, nms, ps_roi_align, soft_nms
from paragone.vision.samples import digit_scenes

torch.manual_seed(0)
for name in ("snet49", "snet146"):
    cost = ThunderNet(name, num_classes=20, device="meta").macs((320, 320))
    print(f"ThunderNet on {name}: {cost / 1e6:.0f} M multiply-adds at 320 px")
rival = NanoDet("shufflenet_v2_1.0", num_classes=20, device="meta").macs((320, 320))
print(f"NanoDet on ShuffleNet V2: {rival / 1e6:.0f} M")

# %%
# Anchors are boxes that the network moves. Each object should overlap one of them by half or more.
scenes = digit_scenes(12, 96, classes=(3,), digits=(1, 2), scale=(0.25, 0.5), validation=0.5).train
images = torch.stack([torch.from_numpy(s.image).permute(2, 0, 1) for s in scenes]).float() / 255
targets = [
    {"boxes": torch.from_numpy(s.boxes).float(), "labels": torch.from_numpy(s.labels)}
    for s in scenes
]
boxes = torch.cat([t["boxes"] for t in targets])
for scales in ((64, 128, 256), (16, 24, 32, 48)):
    trunk = backbone("shufflenet_v2", width=0.5, depth=0.25, last_channels=0, num_classes=0)
    net = ThunderNet(
        trunk, 1, scales=scales, region_samples=64, candidates=(300, 100), proposals=(200, 50),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    with torch.no_grad():
        best = box_iou(boxes, net.anchors(net.raw(images[:1])[2])).amax(1)
    print(f"anchors of {scales} px: objects overlap the best one by {best.mean():.2f}")

# %%
# Some steps by heart: both stages learn together, from the sum of four losses. In so few steps the
# running statistics of batch norms must follow faster than usual.
for part in net.modules():
    if isinstance(part, torch.nn.BatchNorm2d):
        part.momentum = 0.3
optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
for step in range(36):
    losses = net(images, targets)
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    if step in (0, 35):
        print(f"step {step}:", ", ".join(f"{k} {v.item():.2f}" for k, v in losses.items()))

with torch.no_grad():
    found = net.eval()(images)
hits = [
    (box_iou(t["boxes"], d["boxes"][d["scores"] > 0.5]) >= 0.5).any(1)
    for t, d in zip(targets, found, strict=True)
]
print(f"{torch.cat(hits).float().mean():.0%} of the digits are found with a score above 0.5")

# %%
# Position-sensitive pooling: 7 x 7 bins, each with channels of its own. On a map that knows only
# its columns, the bins of a region tell where they stand.
columns = torch.arange(20.0).expand(1, 49, 20, 20)
region = torch.tensor([[0.0, 32, 32, 256, 256]])
bins = ps_roi_align(columns, region, 7, spatial_scale=1 / 16)[0, 0]
print("columns that the bins of a row see:", np.round(bins[3].numpy(), 1))

# %%
# The first answers overlap. Hard suppression takes them away, the soft one lowers them, which
# keeps a second object that stands close.
regions = torch.tensor([[10.0, 10, 40, 60], [12, 10, 43, 60], [26, 10, 56, 60]])
scores = torch.tensor([0.9, 0.8, 0.7])
print("overlaps with the best:", box_iou(regions[:1], regions)[0].numpy().round(2))
print("hard:", nms(regions, scores, 0.3).tolist())
rows, lowered = soft_nms(regions, scores, threshold=0.3)
print("soft:", rows.tolist(), lowered.numpy().round(2))
