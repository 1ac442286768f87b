"""
Loss scaling, and whether it is needed
======================================

One net learns digits as one share of a very large batch. Its gradients are then so small that
half-precision floats round many of them to zero; a factor on the loss brings them back.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from paragone.training import AdamW, MixedPrecision, UnderflowRecorder, formats

torch.manual_seed(0)
x, y = load_digits(return_X_y=True)
x, y = torch.tensor(x / 8 - 1, dtype=torch.float32), torch.tensor(y)
learn, judge = slice(0, 1500), slice(1500, None)
SHARE = 2.0**-20  # a batch of many million rows, of which this process sees 64


def make():
    """The net, with the same weights every time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(),
                         nn.Linear(96, 10))  # fmt: skip


def batches(steps):
    """The same batches of 64 rows every time."""
    random = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(0, 1500, (64,), generator=random)
        yield x[learn][rows], y[learn][rows]


# %%
# What the formats can hold: fp16 ends at 2^-24, and gradients do not.

print(formats.table())
print(formats.cast(torch.tensor([1e-7, 1e-8, 7e4]), "fp16"))

# %%
# Before fp16 is tried, a few steps in float32 with a recorder on tell what would be lost,
# and which constant scale would save it.

model = make()
recorder = UnderflowRecorder(model, every=1)
for inputs, targets in batches(5):
    recorder.begin()
    (nn.functional.cross_entropy(model(inputs), targets) * SHARE).backward()
print(recorder.histogram().text("fp16", width=40))

# %%
# Training: fp32, then fp16 (simulated here, since a CPU has none) without a scale, with the
# recommended one, and with one that finds itself.


def train(precision, loss_scale=None, steps=100):
    """Share of right answers, and what trained them."""
    model = make()
    mixed = MixedPrecision(
        model, AdamW(model.parameters(), lr=3e-3), precision, loss_scale=loss_scale,
        growth_interval=10,
    )  # fmt: skip
    for inputs, targets in batches(steps):
        with mixed.autocast():
            loss = nn.functional.cross_entropy(model(inputs).float(), targets)
        mixed.backward(loss * SHARE)
        mixed.step()
        mixed.zero_grad()
    with torch.no_grad():
        right = (model(x[judge]).argmax(1) == y[judge]).float().mean().item()
    return right, mixed


scale = recorder.histogram().recommend("fp16")
for words, precision, loss_scale in (
    ("float32", "fp32", None),
    ("fp16, no scale", "fp16", 1.0),
    (f"fp16, scale {scale:g}", "fp16", scale),
    ("fp16, dynamic scale", "fp16", "dynamic"),
):
    right, mixed = train(precision, loss_scale)
    lost = "" if words == "float32" else f", {mixed.underflow:.1%} of the gradients vanished"
    print(f"{words:24} {right:6.1%} right, {mixed.skipped} steps skipped{lost}")
