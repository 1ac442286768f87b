"""
A model that reads pictures at their own size
=============================================

Kimi-VL cuts a picture into patches as it is, with no resizing to a square, lets four of them become
one token, and puts those before a language model of experts. Here: what the published model looks
like, what pictures cost it, and a small one that learns to read.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images

from paragone.multimodal import Document, KimiImageProcessor, KimiVL, MoonViT
from paragone.training.by_name import make_optimizer

# %%
# The published model has 16 billion weights. On the device "meta" they have names and shapes only,
# those of the published files.
whole = KimiVL.from_config("kimi-vl-a3b", device="meta")
sizes = {name: x.numel() for name, x in whole.named_parameters()}
for part, starts in whole.parts().items():
    count = sum(size for name, size in sizes.items() if name.startswith(tuple(starts)))
    print(f"{part}: {count / 1e6:,.0f} million weights")
print(f"such as {list(sizes)[3]}")

# %%
# A picture costs what its size is; only a very large one is shrunk. Strips stay strips.
photos = load_sample_images().images
processor = KimiImageProcessor()
for name, picture in {
    "a photograph": photos[0],
    "a part of it": photos[0][100:200, 100:200],
    "a strip, 50 to 1": np.zeros((20, 1000), np.uint8),
    "sixteen of them": np.tile(photos[0], (4, 4, 1)),
}.items():
    height, width = picture.shape[:2]
    rows, columns = processor.grid(height, width)
    tokens = processor.tokens(height, width)
    print(f"{name}, {width} x {height}: {columns} x {rows} patches, {tokens} tokens")

# %%
# Training is one loss over documents: a picture that is read, a text that is learned. Zeros and
# ones of eight by eight pixels, for a few seconds.
images, labels = load_digits(n_class=2, return_X_y=True)
pages = [
    Document((image.reshape(8, 8) / 16, ("zero", "one")[label]), (False, True))
    for image, label in zip(images, labels, strict=True)
]
learned, held_out = pages[:240], pages[240:300]
model = KimiVL.from_config("digits", generator=torch.Generator().manual_seed(0))
optimizer = make_optimizer(model, "adamw", lr=4e-3)
rng = np.random.default_rng(0)
for step in range(32):
    losses = model.losses([learned[at] for at in rng.integers(0, len(learned), 16)])
    optimizer.zero_grad()
    (losses.total / losses.count).backward()
    optimizer.step()
    busy = model.after_step()["expert_load"]
    if step % 10 == 0:
        print(f"step {step}: {float(losses.text.detach()) / losses.count:.3f} nats a token")
print(f"the busiest expert has {busy:.2f} times the mean load")

# %%
# Reading goes on from a picture, token by token; markers of pictures cannot be written.
read = model.describe([page.pictures[0] for page in held_out], max_new_tokens=6)
right = np.mean([text == page.text for text, page in zip(read, held_out, strict=True)])
print(f"{len(held_out)} pictures never seen: {right:.0%} read right, such as {read[:4]}")

# %%
# The eye alone is `MoonViT`. Pictures of different sizes lie in one row, and none sees another:
# a digit's features are the same alone and beside a strip of two, up to rounding.
eye = next(part for part in model.modules() if isinstance(part, MoonViT))
side = model.config.vision_config.patch_size
one, two = torch.rand(4, 1, side, side), torch.rand(8, 1, side, side)
with torch.no_grad():
    alone, beside = eye(one, [(2, 2)]), eye(torch.cat([one, two]), [(2, 2), (2, 4)])
apart = (alone - beside[:4]).abs().max()
print(f"{len(beside)} features, the first four {apart:.0e} apart at most")

# %%
# Parts can be frozen. Another base of the angles makes room for texts of four times the length;
# short ones are read as before.
model.freeze("vision", "language")
trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
print(f"{trained:,} weights are trained now: projector and head")
longer = model.lengthened(4)
again = longer.describe([page.pictures[0] for page in held_out], max_new_tokens=6)
same = np.mean([before == after for before, after in zip(read, again, strict=True)])
most = longer.config.text_config.max_position_embeddings
print(f"{most} tokens at most, {same:.0%} of the pictures are read as before")
