"""
Adam or AdamW: where weight decay goes
======================================

The same network on handwritten digits, the same weight decay, twice: inside the gradient (Adam)
and beside it (AdamW). A pixel that is never inked has no gradient of its own, so its weights are
moved by the decay alone; a pixel in the middle has large gradients. Watch which weights shrink.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits

from paragone.training import Adam, AdamW

digits = load_digits()
x = torch.tensor(digits.data / 16, dtype=torch.float32)
y = torch.tensor(digits.target)
train, test = slice(0, 1300), slice(1300, None)


def network():
    """One hidden layer, the same each time."""
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator) / 8
    return model


def fit(optimizer_of, epochs=15):
    """Returns the trained network and the share of test digits that it gets right."""
    model, generator = network(), torch.Generator().manual_seed(1)
    optimizer = optimizer_of(model.parameters())
    for _ in range(epochs):
        for rows in torch.randperm(1300, generator=generator).split(65):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[train][rows]), y[train][rows]).backward()
            optimizer.step()
    with torch.no_grad():
        right = (model(x[test]).argmax(dim=1) == y[test]).float().mean().item()
    return model, right


# %%
# Decay inside the gradient is divided by the root of v like everything else. Weights of pixels
# with small gradients shrink fast, those with large ones hardly; decoupled decay takes the same
# share from all of them.
ink = x[train].abs().mean(dim=0)
for kind, decay in ((Adam, 0.01), (AdamW, 0.3)):
    model, right = fit(lambda p, kind=kind, decay=decay: kind(p, lr=3e-3, weight_decay=decay))
    size = model[0].weight.detach().norm(dim=0)
    share = float(size[ink < 0.02].mean() / size[ink > 0.4].mean())
    print(f"{kind.__name__:6s} {right:.1%} right; unused pixels have {share:.2f} of the weight")

# %%
# `exact=True` is PyTorch's for-loop bit for bit; without it one kernel call steps everything.
models = [fit(optimizer, epochs=2)[0] for optimizer in (
    lambda p: AdamW(p, weight_decay=0.1, exact=True),
    lambda p: torch.optim.AdamW(p, weight_decay=0.1, foreach=False),
    lambda p: AdamW(p, weight_decay=0.1),
)]  # fmt: skip
weights = [torch.nn.utils.parameters_to_vector(m.parameters()).detach().numpy() for m in models]
print(f"exact equals PyTorch: {np.array_equal(weights[0], weights[1])}")
print(f"one pass differs by at most {np.abs(weights[2] - weights[1]).max():.1e}")

# %%
# Clipping, skipping and 16-bit weights belong to the step: the masters are 32-bit, the model
# that computes gradients is bf16, and `stepped` says whether the step was taken.
model = network().bfloat16()
masters = [p.detach().float() for p in model.parameters()]
optimizer = AdamW(masters, lr=3e-3, weight_decay=0.1, max_norm=1.0, copy_to=model.parameters())
for _ in range(100):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x[train].bfloat16()).float(), y[train])
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}, norm of the gradient {optimizer.grad_norm:.3f}")
next(model.parameters()).grad.fill_(torch.inf)
optimizer.step()
print(f"after an infinite gradient: stepped is {optimizer.stepped}")
