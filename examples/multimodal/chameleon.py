"""
One stream of text and pictures
===============================

A Chameleon learns to draw and to name three little figures, and its grammar keeps every picture
whole, whatever the logits say.
"""

# %%
# Rows of figures, as they are: four pictures of 8 x 8 pixels, and what they are called.
import numpy as np
import torch

from paragone.language import Tokenizer
from paragone.multimodal import Chameleon, Document, Grammar

ROWS = {
    "a cross": "#......# .#....#. ..#..#.. ...##... ...##... ..#..#.. .#....#. #......#",
    "a frame": "######## #......# #......# #......# #......# #......# #......# ########",
    "a stripe": "........ ........ ........ ######## ######## ........ ........ ........",
}
FIGURES = {
    name: np.array([[255 * (dot == "#") for dot in row] for row in rows.split()], np.uint8)[
        ..., None
    ]
    for name, rows in ROWS.items()
}

# %%
# The image tokenizer makes a picture sixteen words; here an untrained one, whose codes still tell
# the figures apart. In earnest it is trained first: `ImageTokenizer.fit(pictures, "digits")`.
model = Chameleon.from_config(
    "digits", tokenizer=Tokenizer.train(list(ROWS) * 9, 290), num_hidden_layers=2, hidden_size=64,
    intermediate_size=128, dropout=0.0, generator=torch.Generator().manual_seed(0),
)  # fmt: skip
weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
print(f"{weights:,} weights, {model.config.picture_tokens} words a picture")
codes = dict(zip(FIGURES, model.codes_of(list(FIGURES.values())), strict=True))
print("words of the cross:", codes["a cross"])

# %%
# Reading is a text after a picture, drawing a picture after a text; one loss learns both.
pages = [Document((figure, name), (False, True)) for name, figure in FIGURES.items()]
pages += [Document((name, figure), (False, True)) for name, figure in FIGURES.items()]
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.95))
model.train()
for step in range(45):
    losses = model.losses(pages)
    optimizer.zero_grad()
    (losses.total / losses.count).backward()
    optimizer.step()
    if step % 15 == 14:
        text = float(losses.text.detach()) / losses.text_count
        image = float(losses.image.detach()) / losses.image_count
        print(f"step {step + 1}: text {text:.3f}, codes {image:.3f} nats a token")
model.eval()

# %%
# What it says of the figures, and whether it draws the words that it was asked for.
print(dict(zip(FIGURES, model.describe(list(FIGURES.values()), max_new_tokens=8), strict=True)))
drawn = model.generate([(name,) for name in FIGURES], pictures="one")
for name, page in zip(FIGURES, drawn, strict=True):
    wanted = model.image_tokenizer.decode(np.array(codes[name]).reshape(1, 4, 4))[0]
    print(f"{name}: {(page.pictures[0] == wanted).mean():.0%} of the pixels as its own words give")

# %%
# Texts and pictures in one continuation: the model decides when to draw.
page = model.generate("a frame", max_new_tokens=40)
print([part if isinstance(part, str) else part.shape for part in page.parts])

# %%
# The grammar holds for any logits, here for noise: after the begin marker come exactly sixteen
# codes and the end marker, and no picture begins where it would not fit.
grammar: Grammar = model.grammar()
state = grammar.start("free", [18, 17])
fits = grammar.allowed(state)[:, grammar.begin].tolist()
print("may begin with 18 and with 17 tokens left:", fits)
print("sizes that grow before training diverges:", {
    name: round(value, 2) for name, value in model.watched(pages).items()
})  # fmt: skip
