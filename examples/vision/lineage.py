"""
From Inception to ShuffleNet: taking a convolution apart
========================================================

A full convolution looks for patterns in space and between channels at once. Ten years of light
networks took the two apart, step by step. Here each step is counted on the same map, measured on
a photograph, and then met again in the networks that it made.
"""

import time

import numpy as np
import torch
from sklearn.datasets import load_sample_image

from paragone.vision import backbone, inception, lineage

photo = load_sample_image("china.jpg")
image = torch.from_numpy(photo[100:324, 200:424].copy()).permute(2, 0, 1)[None] / 255
print(f"a crop of {image.shape[2]} x {image.shape[3]} px, {image.shape[1]} channels")

# %%
# All blocks turn 192 channels into 192 channels on a map of 28 x 28. Squeezing channels
# (bottleneck, Inception, Fire) saves the square of the squeeze; separating space from channels
# turns a product, 9 x 192, into a sum, 9 + 192. What is left is nearly all pointwise, and that is
# what ShuffleNet cuts into groups. MobileNetV2's "inverted" block is dear here, because it is made
# for maps that are passed on with a sixth of the channels.
blocks = lineage(192, (28, 28))
print("block       year   multiply-adds  parameters   of the full one")
for block in blocks:
    share = f"1/{1 / block.ratio:.1f}"
    print(
        f"{block.name:11} {block.year} {block.multiply_adds:15,} {block.parameters:11,} {share:>9}"
        f"   {block.idea}"
    )

# %%
# The one identity to remember: separable = depthwise + pointwise, to the last multiply-add.
cost = {block.name: block.multiply_adds for block in blocks}
assert cost["separable"] == cost["depthwise"] + cost["pointwise"]
print(f"depthwise is {cost['depthwise'] / cost['separable']:.0%} of a separable convolution")

# %%
# Multiply-adds are not time. The map here is the photograph behind a random stem; the same map
# goes through every block, channels last, in turns. A depthwise filter does a two-hundredth of
# the work in nowhere near a two-hundredth of the time: it waits for memory.
torch.manual_seed(0)
stem = torch.nn.Conv2d(3, 192, 8, 8)
with torch.inference_mode():
    x = stem(image).repeat(2, 1, 1, 1).contiguous(memory_format=torch.channels_last)
    nets = {b.name: b.build().eval().to(memory_format=torch.channels_last) for b in blocks}
    seconds = {name: [] for name in nets}
    for turn in range(4):
        for name, net in nets.items():
            begin = time.perf_counter()
            net(x)
            if turn:
                seconds[name].append(time.perf_counter() - begin)
print("block        work    time, both over the full convolution's")
whole = np.median(seconds["full"])
for block in blocks:
    print(f"{block.name:11} {block.ratio:5.3f}   {np.median(seconds[block.name]) / whole:5.3f}")

# %%
# The same ideas as networks, each counted at the size of its paper. No weights are made: they
# stand on the "meta" device.
print("network          million parameters   million multiply-adds   at")
for name in ("resnet18", "googlenet", "inception_v3", "xception", "squeezenet_1_1",
             "shufflenet_v1", "shufflenet_v2", "snet49"):  # fmt: skip
    net = backbone(name, device="meta")
    millions = net.parameter_count() / 1e6, net.macs() / 1e6
    print(f"{name:16} {millions[0]:18.2f} {millions[1]:23.1f}   {net.image_size[0]} px")

# %%
# And the photograph through the lightest of them, map by map: each stride halves the sides and
# widens the channels.
with torch.inference_mode():
    for stride, found in backbone("snet49").eval().feature_maps(image).items():
        print(
            f"stride {stride:2}: {found.shape[1]:4} channels of {found.shape[2]} x {found.shape[3]}"
        )

# %%
# An Inception network is one call as well; here on the meta device, for ten classes.
net = inception("v3", num_classes=10, device="meta")
print(f"inception v3: {net.parameter_count() / 1e6:.1f} million parameters for ten classes")
