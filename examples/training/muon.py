"""
Muon for the matrices, AdamW for the rest
=========================================

A perceptron learns handwritten digits. Muon takes the hidden matrices and makes their updates
orthogonal; biases and the head go to AdamW, in the same optimizer. With the factor
"match_rms_adamw" both share one rate, so AdamW's own can be tried beside it.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from paragone.training import Muon
from paragone.training.muon import orthogonalize

torch.set_num_threads(1)
images, digits = load_digits(return_X_y=True)
x, y = torch.from_numpy((images / 16).astype(np.float32)), torch.from_numpy(digits)
train, test = slice(0, 1400), slice(1400, None)


def model(seed):
    """A perceptron with two hidden layers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


# %%
# What is stepped by whom: the last matrix is the head, unless `head=` names it.
net = model(0)
for group in Muon.split(net, lr=0.01):
    way = "AdamW" if group.get("adamw") else "Muon"
    print(f"{group['name']:<20} {way:<6} {[tuple(p.shape) for p in group['params']]}")

# %%
# A gradient has few large singular values. Five Newton-Schulz steps bring all of them near one,
# so that a step moves the matrix in all directions alike.
nn.functional.cross_entropy(net(x[train]), y[train]).backward()
gradient = net[2].weight.grad
for name, matrix in (("gradient", gradient), ("made orthogonal", orthogonalize(gradient))):
    s = torch.linalg.svdvals(matrix)
    print(f"{name:<16} the largest singular value is {s[0] / s[31]:.1f} times the 32nd")


# %%
# Forty steps of either with three rates, a cosine to zero, the same batches. Which one wins depends
# on the problem: `paragone compare optimizers` asks on three, with tuned rates.
def trained(make, lr):
    """Test loss after forty steps."""
    net = model(0)
    optimizer = make(net, lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    rng = np.random.default_rng(0)
    for _ in range(40):
        rows = torch.from_numpy(rng.integers(0, 1400, 64))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(net(x[test]), y[test]))


def muon(net, lr):
    """One rate for both, as the factor matches AdamW's updates."""
    return Muon(Muon.split(net, lr=lr), lr=lr, adjust="match_rms_adamw")


def adamw(net, lr):
    """The rival."""
    return torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.0, betas=(0.9, 0.95))


for name, make in (("AdamW", adamw), ("Muon", muon)):
    losses = {lr: trained(make, lr) for lr in (0.003, 0.01, 0.03)}
    print(f"{name:<6}" + ", ".join(f"rate {lr:g}: {loss:.3f}" for lr, loss in losses.items()))
