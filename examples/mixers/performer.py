"""
Three cheaper attentions on real text
=====================================

Python's own standard library as characters: how well do random features (Performer), mixed keys
(Linformer) and a fixed pattern (SparseAttention) stand in for softmax attention, and when do they
fail? Errors first, then the same small task for all of them.
"""

import json
import pathlib

import torch
from torch.nn import functional

from paragone.mixers import Linformer, Performer, SparseAttention
from paragone.mixers.performer import approximation_error, feature_rank

torch.manual_seed(0)
text = pathlib.Path(json.__file__).with_name("decoder.py").read_text(encoding="utf-8")
codes = torch.tensor([min(ord(letter), 127) for letter in text])
print(f"{len(codes)} characters of json/decoder.py")

# %%
# Queries and keys of a layer at its start: embedded characters, projected. Random features are
# good when those are small and useless when they are large; the mean of all values, which knows
# nothing, is the measure. At unit scale no affordable number of features beats it.
embedded = torch.randn(128, 64)[codes[:256]]
q, k = (embedded @ torch.randn(64, 64) / 8 for _ in range(2))
for scale in (0.1, 0.3, 1.0):
    report = approximation_error(scale * q, scale * k, 256, draws=4)
    paired = approximation_error(scale * q, scale * k, 256, "softmax-optimal", draws=4)
    print(
        f"scale {scale}: error {report.relative.mean():.3f}, with optimal pairs "
        f"{paired.relative.mean():.3f}; the plain mean {report.baseline:.3f}"
    )

# %%
# Another price is rank: 64 features make a matrix of rank 64 at most, whatever the features are.
# The plain exponential of queries and keys ("exp") is a feature map, too, and no worse in this.
random_q, random_k = torch.randn(2, 256, 64)
exact, estimated = feature_rank(random_q, random_k, features=64)
_, plain = feature_rank(random_q, random_k, kernel="exp")
print(f"rank of 256 x 256 weights: softmax {exact}, 64 random features {estimated}, exp {plain}")

# %%
# No output knows the future, to the bit: the keys' stabiliser is a maximum that runs on.
mixer = Performer(64, heads=4).eval()
x = torch.randn(1, 300, 64)
changed = x.clone()
changed[:, 200:] *= 10
with torch.no_grad():
    same = torch.equal(mixer(x)[0][:, :200], mixer(changed)[0][:, :200])
print(f"outputs before a changed token are the same bits: {same}")

# %%
# Which character stood 16 places before? Attention must look at one place and at no other, which
# is the worst case for features of low rank and for mixtures of all keys, and the best case for a
# pattern that has just that column.
LENGTH, DISTANCE = 64, 16


class Model(torch.nn.Module):
    """Embedding, one mixer, and a reading of each place."""

    def __init__(self, mixer):
        super().__init__()
        self.embed = torch.nn.Embedding(128, 32)
        self.places = torch.nn.Parameter(0.5 * torch.randn(LENGTH, 32))
        self.mixer, self.norm = mixer, torch.nn.RMSNorm(32)
        self.read = torch.nn.Linear(32, 128)

    def forward(self, tokens):
        h = self.embed(tokens) + self.places
        return self.read(self.norm(h + self.mixer(h)[0]))


for name, mixer in {
    "SparseAttention": SparseAttention(32, 2, "strided", stride=DISTANCE),
    "Performer": Performer(32, 2, kernel="softmax-optimal", seed=1),
    "Linformer": Linformer(32, 2, length=LENGTH, rank=32),
}.items():
    model = Model(mixer)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        starts = torch.randint(len(codes) - LENGTH, (8,))
        tokens = codes[starts[:, None] + torch.arange(LENGTH)]
        scores = model(tokens)[:, DISTANCE:]
        loss = functional.cross_entropy(scores.flatten(0, 1), tokens[:, :-DISTANCE].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = (scores.argmax(-1) == tokens[:, :-DISTANCE]).float().mean()
    print(f"{name}: {right:.0%} right after 40 steps, loss {loss:.2f}")
