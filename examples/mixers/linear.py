"""
Memories of fixed size, and what they can recall
================================================

Linear attention keeps one matrix a head, however long the text is. What separates its variants is
how they write into it: `LinearAttention` adds, `Retention` fades at a fixed pace,
`GatedLinearAttention` lets the input choose the pace, `DeltaNet` corrects what a key recalls, and
`GatedDeltaNet` does both. The text here is a source file of Python's standard library.
"""

import inspect
import textwrap
import time

import torch

from paragone.mixers import (
    DeltaNet,
    GatedDeltaNet,
    GatedLinearAttention,
    LinearAttention,
    Retention,
    SequenceModel,
)
from paragone.mixers.linear_attention import linear_attention

torch.manual_seed(0)
text = inspect.getsource(textwrap)
letters = sorted(set(text))
tokens = torch.tensor([letters.index(letter) for letter in text])
print(f"{len(tokens)} letters, {len(letters)} different ones")

# %%
# One matrix, written in two ways. Each letter is a key, and the letter after it the value. Adding
# mixes all that ever followed a letter; the delta rule (beta = 1) keeps what followed it last.
one_hot = torch.eye(len(letters))
k, v = one_hot[tokens[:-1]][None, None], one_hot[tokens[1:]][None, None]
_, added = linear_attention(k, k, v)
_, corrected = linear_attention(k, k, v, beta=torch.ones(1, 1, len(tokens) - 1))
for letter in "e(":
    row = letters.index(letter)
    counts = added.memory[0, 0, row]
    last = corrected.memory[0, 0, row]
    print(f"after {letter!r}: {int((counts > 0).sum())} letters by adding, "
          f"{int((last > 0.5).sum())} by correcting")  # fmt: skip

# %%
# Layers on the same engine. Each is a whole sequence mixer: it returns a state, and goes on from
# it one token at a time, to the same outputs.
layers = {
    "adds": LinearAttention(width=64, heads=4),
    "fades": Retention(width=64, heads=4),
    "chooses": GatedLinearAttention(width=64, heads=4),
    "corrects": DeltaNet(width=64, heads=4),
    "both": GatedDeltaNet(width=64, heads=4),
}
x = torch.randn(len(letters), 64)[tokens[:4096]][None]
with torch.no_grad():
    for name, layer in layers.items():
        begin = time.perf_counter()
        whole, _ = layer(x)
        took = time.perf_counter() - begin
        _, state = layer(x[:, :4000])
        step, state = layer.step(x[:, 4000], state)
        error = (step - whole[:, 4000]).abs().max()
        size = sum(part.numel() for part in state) * 4
        print(f"{type(layer).__name__:21} {name:9} {took * 1e3:6.1f} ms for 4096 letters, "
              f"{size / 1024:5.1f} KiB of state, step off by {error:.0e}")  # fmt: skip

# %%
# Do they learn? Small models of one layer read windows of the text for a few steps.
windows = tokens[: 128 * (len(tokens) // 128)].view(-1, 128)
for name in ("linear", "gated_deltanet"):
    torch.manual_seed(0)
    model = SequenceModel(len(letters), 48, 1, mixer=name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(30):
        batch = windows[torch.arange(8) * 17 % len(windows) - step % 5]
        logits, _ = model(batch[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{name}: {loss.item():.2f} nats a letter after 30 steps")
