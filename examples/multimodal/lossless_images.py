"""
Raw patches in a language model
===============================

One Transformer that reads and draws pictures without a codebook: patches come in by one linear map
and come out of noise. Places are points of the plane, and a text alone is that of a plain language
model, bit for bit.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_image

from paragone.language import Tokenizer
from paragone.multimodal import Document, LosslessTransformer, patchify, positions, unpatchify

photo = load_sample_image("flower.jpg")[:416, :640]
patches = patchify(photo, 16)
print(f"{photo.shape} pixels as {patches.shape[0]} patches of {patches.shape[1]} numbers")
print("joined again:", np.array_equal(unpatchify(patches, 26, 40, 16), photo))

# %%
# Where things stand: a text of three tokens, a picture of 2 x 3 patches, and text again. The
# picture lies in the middle of a gap as wide as it has patches.
for scheme in ("1d", "m-rope", "rope-tie", "rope-tv"):
    places = positions(scheme, [("text", 3), ("image", 2, 3), ("text", 2)])
    print(f"{scheme:9s}", " ".join(f"({x:g},{y:g})" for x, y in places[2:-1].tolist()))

# %%
# A small model of the digits 0 and 1: half of the documents are read, half are drawn.
digits = load_digits(n_class=2)
pictures = (digits.images * 255 / 16).round().astype(np.uint8)[..., None]
captions = ["a zero", "a one"]
tokenizer = Tokenizer.train(captions * 9, 266)
generator = torch.Generator().manual_seed(0)
model = LosslessTransformer.from_config(
    "digits", tokenizer=tokenizer, generator=generator, hidden_size=64, intermediate_size=128,
    num_hidden_layers=2, patch_size=4, head_options={"copies": 2, "steps": 10},
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
seen = np.zeros(4)
for step in range(40):
    chosen = torch.randint(len(pictures), (12,), generator=generator).tolist()
    documents = [
        Document((pictures[i], captions[digits.target[i]]), (False, True))
        if place % 2
        else Document((captions[digits.target[i]], pictures[i]), (False, True))
        for place, i in enumerate(chosen)
    ]
    losses = model.losses(documents, seeds=range(12 * step, 12 * step + 12))
    (losses.total / losses.count).backward()
    optimizer.step()
    optimizer.zero_grad()
    text, image = float(losses.text.detach()), float(losses.image.detach())
    seen += text, losses.text_count, image, losses.image_count
    if step % 10 == 9:
        text, image = seen[0] / seen[1], seen[2] / seen[3]
        print(f"step {step + 1}: {text:.2f} nats a token, {image:.2f} a patch")
        seen[:] = 0

# %%
# What it says of pictures, and what it draws, of so little training.
said = model.describe(list(pictures[:4]), max_new_tokens=6)
print([f"{text} ({target})" for text, target in zip(said, digits.target[:4], strict=True)])
for line in np.concatenate([one[..., 0] for one in model.draw(captions)], axis=1):
    print("".join(" .:-=+*#%@"[int(level) // 26] for level in line))

# %%
# A text alone goes the way of the plain language model within.
batch, _ = model.lay([Document(("a zero or a one",))])
with torch.no_grad():
    plain = model.language(batch.ids, logits=False).hidden
    print("bit for bit a language model:", torch.equal(model(batch), plain))
