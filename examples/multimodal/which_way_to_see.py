"""
Which way to see?
=================

An encoder before the language model, codes of a codebook, or raw patches: three models read the
same handwritten digits, and a trap of judging what they draw is shown. The study that compares
them at equal weights and CPU time, with heads, small text and your own pictures, is
`paragone compare vision_language --data FOLDER`.
"""

import time

import numpy as np
import torch

from paragone.lab.tasks.vision_language import apart
from paragone.language import Tokenizer
from paragone.multimodal import (
    Chameleon,
    Document,
    ImageTokenizer,
    KimiVL,
    LosslessTransformer,
    digits_with_captions,
)

torch.set_num_threads(1)
torch.manual_seed(0)
two = ("a handwritten zero", "a handwritten one")
train, test = (
    [(one.picture, "01"[one.caption == two[1]]) for one in digits_with_captions(part)
     if one.caption in two]
    for part in ("train", "test")
)  # fmt: skip
print(f"{len(train)} zeros and ones to learn from, {len(test)} held out")

# %%
# What a picture becomes. A codebook is a bottleneck that can be counted: 16 cells of 128 codes
# hold 112 bits, and 64 pixels of 17 levels 262. Raw patches keep them all.
small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
codebook = ImageTokenizer.from_config("digits", base_channels=8)
models = {
    "encoder (Kimi-VL)": KimiVL.from_config(
        "digits", vision_config={**small, "num_hidden_layers": 1}, text_config={
            "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
            "num_hidden_layers": 1, "first_k_dense_replace": 1}),
    "codes (Chameleon)": Chameleon.from_config("digits", image_tokenizer=codebook, **small),
    "raw patches": LosslessTransformer.from_config(
        "digits", tokenizer=Tokenizer.train([], 258), **small),
}  # fmt: skip
codes = codebook.encode([train[0][0]])
print(f"codes of a digit: {codes[0].tolist()}, {codes.numel() * np.log2(128):.0f} bits")

# %%
# Each reads for forty steps: the caption after the picture is what is learned.
for name, model in models.items():
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    began, draws = time.process_time(), np.random.default_rng(0)
    for _ in range(40):
        rows = [train[i] for i in draws.integers(0, len(train), 16)]
        found = model.losses([Document(pair, (False, True)) for pair in rows])
        optimizer.zero_grad()
        (found.total / found.count).backward()
        optimizer.step()
    took = time.process_time() - began
    told = model.describe([pixels for pixels, _ in test[:40]], max_new_tokens=2)
    right = np.mean([a == b for a, (_, b) in zip(told, test[:40], strict=True)])
    print(f"{name:18s} {sum(p.numel() for p in model.parameters()):7,d} weights, {took:.2f} s of "
          f"CPU time, {right:.0%} of held-out digits read")  # fmt: skip

# %%
# A trap of judging drawings: the mean of all zeros looks like a zero to any classifier, and is no
# picture that anyone has written. The energy distance tells means from samples.
zeros = np.stack([pixels for pixels, word in train if word == "0"])
half, other = zeros[::2], zeros[1::2]
means = np.repeat(half.mean(0)[None], len(half), 0)
for name, some in (("other real zeros", half), ("their mean", means)):
    print(f"{name}: {apart(some, other):.3f} from real zeros")
