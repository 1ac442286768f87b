"""
Digits as sixteen words
=======================

A language model reads and draws what is a row of words. A tokenizer of pictures makes such words:
convolutions shrink a digit of 8 x 8 pixels to 4 x 4 vectors, and each is replaced by the nearest of
64 learned codes. How much of a digit is left in sixteen of them?
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from paragone.multimodal import ImageTokenizer, ImageTokenizerConfig

digits = load_digits()
pictures = np.rint(digits.images * 255 / 16).astype(np.uint8)
order = np.random.default_rng(0).permutation(len(pictures))
train, test = order[300:], order[:300]
bits = 16 * np.log2(64)
print(f"{len(train)} digits to learn from, {len(test)} held out; 512 bits become {bits:.0f}")

# %%
# A narrow network and few steps, so that this page takes seconds; the preset "digits" is better.
config = ImageTokenizerConfig.make("digits", base_channels=8, num_embeddings=64)
trained = ImageTokenizer.fit(
    pictures[train], config, steps=80, batch=16, lr=8e-3, validation=pictures[test]
)
tokenizer, found = trained.tokenizer, trained.metrics
print(f"reconstructions are at {found['psnr']:.1f} dB")
print(f"{found['usage']:.0%} of the codes occur, as many as {found['perplexity']:.0f} equal ones")

# %%
# A digit as words, and what is drawn from them.
ids = tokenizer.encode(pictures[test])
drawn = tokenizer.decode(ids)[..., 0]
print(ids[0].numpy())
for before, after in zip(pictures[test[0]], drawn[0], strict=True):
    print(*("".join(" .:*#"[v // 52] for v in line) for line in (before, after)), sep="    ")

# %%
# A classifier that learned from real digits reads most of the drawn ones, too. With the preset and
# 600 steps, half a minute, it reads as many of them as of the real ones.
judge = SVC(gamma=0.001).fit(digits.data[train], digits.target[train])
real = judge.score(digits.data[test], digits.target[test])
again = judge.score(drawn.reshape(len(test), -1) * (16 / 255), digits.target[test])
print(f"read as what they are: {real:.1%} of the real digits, {again:.1%} of the drawn ones")
