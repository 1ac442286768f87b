"""
A stream remembered in a few numbers
====================================

HiPPO keeps the coefficients of the best polynomial for a stream's past and updates them sample by
sample. First a row of a photograph is read and written down again from its coefficients; then the
same idea as a layer (S4D, S4) reads handwritten digits pixel by pixel.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_image
from torch import nn
from torch.nn import functional

from paragone.mixers import S4, S4D, hippo
from paragone.mixers.s4d import parameter_groups

row = load_sample_image("flower.jpg").mean(axis=2)[200] / 255
print(f"a row of {len(row)} pixels, brightness {row.min():.2f} to {row.max():.2f}")

# %%
# LegS weighs all of the past alike. With more coefficients, finer detail comes back; the error is
# that of the best polynomial of this degree, though no pixel was looked at twice.
middles = np.arange(len(row)) + 0.5
for order in (8, 32, 128):
    memory = hippo.Projection("legs", order)
    memory.push(row)
    error = np.sqrt(np.mean((memory.reconstruct() - row) ** 2))
    best = np.polynomial.Legendre.fit(middles, row, order - 1)
    floor = np.sqrt(np.mean((best(middles) - row) ** 2))
    print(f"{order:4d} coefficients: error {error:.4f}, best polynomial {floor:.4f}")

# %%
# A window (LegT) forgets what is older than theta and spends all its coefficients on the rest.
window = hippo.Projection("legt", 32, theta=100.0)
window.push(row)
everything = hippo.Projection("legs", 32)
everything.push(row)
last = np.arange(len(row) - 100, len(row)) + 0.5
for name, memory in (("LegT, window of 100", window), ("LegS", everything)):
    error = np.sqrt(np.mean((memory.reconstruct(last) - row[-100:]) ** 2))
    print(f"last 100 pixels from 32 coefficients of {name}: error {error:.4f}")

# %%
# LegS has no time scale: the same row, played three times slower, leaves the same coefficients.
held = hippo.Projection("legs", 16, method="zoh")
slow = hippo.Projection("legs", 16, method="zoh")
difference = np.abs(held.push(row[:60]) - slow.push(np.repeat(row[:60], 3))).max()
print(f"largest difference after slowing down: {difference:.1e}")

# %%
# As a layer, the ODE is learned. Digits arrive as 64 pixels in a line, and the state after the last
# one must know which digit it was. Poles and step sizes get their own rate and no decay.
torch.manual_seed(0)
torch.set_num_threads(1)  # more would only wait for each other on a model this small
digits = load_digits()
pixels = torch.tensor(digits.data / 16, dtype=torch.float32)[..., None]
labels = torch.tensor(digits.target)
train, test = slice(0, 1000), slice(1000, None)


class Reader(nn.Module):
    """Two state spaces one after the other, and the mean of what they say."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(1, 32)
        self.layers = nn.ModuleList([S4D(32, 16, init="legs"), S4D(32, 16, init="legs")])
        self.leave = nn.Linear(32, 10)

    def forward(self, x):
        h = self.enter(x)
        for layer in self.layers:
            h = h + layer(h)[0]
        return self.leave(h.mean(dim=1))


model = Reader()
optimizer = torch.optim.AdamW(parameter_groups(model, lr=3e-3, weight_decay=0.01), lr=2e-2)
for epoch in range(3):
    for part in torch.randperm(1000).split(50):
        loss = functional.cross_entropy(model(pixels[part]), labels[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = (model(pixels[test]).argmax(1) == labels[test]).float().mean()
    print(f"epoch {epoch + 1}: loss {loss:.3f}, {right:.1%} of unseen digits right")

# %%
# The same layer is a convolution, a scan or a step. Here S4 reads a prefix by FFT, hands its state
# over, and goes on pixel by pixel; nothing is lost.
layer, x = S4(32, 16), torch.randn(1, 64, 32)
with torch.no_grad():
    whole, _ = layer(x)
    layer.form = "convolution"
    y, state = layer(x[:, :40])
    for t in range(40, 64):
        y_t, state = layer.step(x[:, t], state)
    print(f"last output, whole row and steps: difference {(y_t - whole[:, -1]).abs().max():.1e}")
