"""
Gated attention: one layer instead of two
=========================================

A gated attention unit is attention and feed-forward at once; FLASH makes it linear in length. Both
learn to write Python here, a character at a time, from the standard library's own source.
"""

import json
import pathlib
import time

import torch
from torch.nn import functional

from paragone.mixers import FLASH, GatedAttentionUnit, SequenceModel

torch.manual_seed(0)
text = pathlib.Path(json.__file__).with_name("encoder.py").read_text(encoding="utf-8")
alphabet = sorted(set(text))
codes = torch.tensor([alphabet.index(letter) for letter in text])
print(f"{len(codes)} characters, {len(alphabet)} different ones")

# %%
# Two units have the parameters of one block of attention and feed-forward.
unit = GatedAttentionUnit(128)
parameters = sum(p.numel() for p in unit.parameters())
print(f"two units: {2 * parameters:,} parameters; attention and feed-forward: {12 * 128**2:,}")

# %%
# Weights are divided by the number of keys that a token sees, not by the length of the input, so
# that a prefix stays what it was.
x = torch.randn(1, 96, 128)
with torch.no_grad():
    whole, prefix = unit(x)[0][:, :40], unit(x[:, :40])[0]
print(f"a prefix differs from the whole by {(whole - prefix).abs().max():.1e}")

# %%
# FLASH is linear in length: quadratic inside chunks, one matrix for all that lies before.
flash = FLASH(64, chunk=128, key_size=32)
with torch.no_grad():
    for length in (1024, 2048, 4096):
        x = torch.randn(1, length, 64)
        flash(x)
        start = time.perf_counter()
        _, state = flash(x)
        spent = time.perf_counter() - start
        kept = state.sums.numel() + state.running.numel()
        print(f"{length:6d} tokens: {1e6 * spent / length:.1f} us a token, {kept} numbers kept")

# %%
# One block of each, trained on the same text.
for name, options in {"gau": {"key_size": 32}, "flash": {"key_size": 32, "chunk": 32}}.items():
    model = SequenceModel(len(alphabet), 48, 1, mixer=name, options=options)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(25):
        starts = torch.randint(len(codes) - 97, (8,))
        rows = codes[starts[:, None] + torch.arange(97)]
        logits, _ = model(rows[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    written = model.generate(codes[None, :40], 30)[0]
    print(f"{name}: loss {loss:.2f}, writes {''.join(alphabet[code] for code in written)!r}")
