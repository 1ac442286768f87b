"""
Which mixer overtakes attention, and where
==========================================

Every mixer is built by name and called alike, so that one loop answers at which length another one
is ahead on this machine. `paragone compare mixers` does it for all of them, with noise floor,
memory and what each can learn; here are three in a few seconds.
"""

import time

import numpy as np
import torch

from paragone.lab import growth, sequences
from paragone.mixers import SequenceModel, build

LENGTHS = (128, 512, 1024)


def seconds(mixer, length):
    """The least of a few forward passes."""
    (x,) = sequences.noise(length, 128)
    found = []
    with torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            mixer(x)
            found.append(time.perf_counter() - start)
    return min(found)


torch.manual_seed(0)
torch.set_num_threads(1)
curves = {}
for name in ("mha", "linear", "s4d"):
    mixer = build(name, 128, heads=2)
    curves[name] = [(length, seconds(mixer, length)) for length in LENGTHS]
    told = ", ".join(f"{length}: {1e3 * value:.2f} ms" for length, value in curves[name])
    print(f"{name:7s} {told}")

# %%
# Between two lengths a curve is a straight line of logarithms, which gives the crossing.
for name in ("linear", "s4d"):
    at = growth.crossover(curves["mha"], curves[name])
    told = "not ahead at the longest length" if at is None else f"ahead of attention from {at:.0f}"
    print(f"{name}: {told}")

# %%
# What decoding keeps: a cache grows, a state does not.
for name in ("mha", "linear"):
    model = SequenceModel(50, 32, 1, mixer=name)
    _, state = model(torch.zeros(1, 200, dtype=torch.int64))
    logits, _ = model.step(torch.zeros(1, dtype=torch.int64), state)
    print(f"{name} decodes on after 200 tokens: scores of shape {tuple(logits.shape)}")

# %%
# A problem of the study: keys and values, and then keys whose values are due.
task = sequences.load("recall", length=16, pairs=3, tokens=8)
x, y = task.held_out("test", 1)
due = np.flatnonzero(y[0] != sequences.IGNORED)
print(f"tokens {x[0].tolist()}: at {due.tolist()} the answers are {y[0][due].tolist()}")
