"""
Which backbone in a moment of training?
=======================================

What a network costs on paper (multiply-adds), what it costs here (seconds) and what it learns in
them order networks differently. Three of them get the same moment of a core on scikit-learn's
digits; ``paragone compare backbones`` asks that of all families, on your own images.
"""

import time

import numpy as np
import torch
from torch.nn import functional

from paragone.vision import efficientnet, resnet, shufflenet, xception
from paragone.vision.samples import digit_images

torch.set_num_threads(1)
SIZE, SECONDS = 32, 0.6
data = digit_images(SIZE)


def tensors(part):
    """Returns images around zero, channels last in memory, and their labels."""
    pixels = torch.from_numpy(np.stack(list(part.images))).permute(0, 3, 1, 2)
    x = pixels.float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last), torch.from_numpy(part.labels)


(images, labels), (unseen, truth) = tensors(data.train), tensors(data.validation)
print(f"{len(images)} digits of {SIZE} x {SIZE} px to learn from, {len(unseen)} to be told")


# %%
# The same moment for each: who is quicker sees more images. The clock is the processor's, so that
# other programs do not matter.
def learn(model):
    """Trains for `SECONDS` and returns how many images were seen."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    start, seen = time.process_time(), 0
    while time.process_time() - start < SECONDS:
        rows = torch.randint(len(images), (32,), generator=generator)
        loss = functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(rows)
    return seen


# %%
# After so few steps the running statistics of batch norms lag far behind, most of all where the
# momentum is 0.01, as EfficientNet's: a few batches more, without learning, set them right.
@torch.no_grad()
def right(model):
    """Returns the share of unseen digits that are told right."""
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.5
    for start in range(0, 192, 64):
        model(images[start : start + 64])
    return float((model.eval()(unseen).argmax(1) == truth).float().mean())


# %%
# The candidates, narrowed: found by search, made for phones, and the plain reference. The plain
# one has the most multiply-adds for its size, and learns most in the time: full convolutions are
# what a CPU is good at, and they need fewer steps.
candidates = {
    "EfficientNet-B0": efficientnet("b0", width=0.5, num_classes=10, dropout=0.0, drop_path=0.0),
    "ShuffleNetV2": shufflenet("v2", width=0.5, num_classes=10),
    "ResNet-18": resnet(18, width=0.25, num_classes=10),
}
print(f"{'':16}  multiply-adds    seen   right")
for name, model in candidates.items():
    model = model.to(memory_format=torch.channels_last)
    model(images[:32]).sum().backward()  # compiles and loads, off the clock
    seen = learn(model)
    print(f"{name:16} {model.macs((SIZE, SIZE)):14,} {seen:7,} {right(model):7.1%}")

# %%
# With larger images and more of them the order turns: what a step costs decides then.
for name, net in (("Xception", xception), ("EfficientNet-B0", efficientnet)):
    model = net(device="meta")
    print(f"{name}: {model.macs():,} multiply-adds at {model.image_size[0]} px")
