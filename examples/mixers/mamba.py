"""
Reading Python with a selective state space
===========================================

The standard library's own sources, one character after the other: Mamba and Mamba-2 learn to tell
the next one. What they remember is a state of fixed size, so that a character costs the same after
ten as after ten thousand.
"""

import time
import tokenize
from pathlib import Path

import torch

from paragone.mixers import Mamba, Mamba2, SequenceModel

sources = [
    Path(tokenize.__file__).with_name(f"{name}.py") for name in ("tokenize", "textwrap", "bisect")
]
text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
letters = sorted(set(text))
codes = torch.tensor([letters.index(letter) for letter in text])
print(f"{len(text)} characters of {len(sources)} modules, {len(letters)} different ones")

# %%
# Two mixers of the same width. Mamba has one decay for every state and channel, Mamba-2 one for
# every head; its larger states cost little, because it works in products of matrices.
torch.manual_seed(0)
models = {name: SequenceModel(len(letters), 48, 1, mixer=name) for name in ("mamba", "mamba2")}
for name, model in models.items():
    begun = time.perf_counter()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    for _ in range(24):
        starts = torch.randint(len(codes) - 129, (8,))
        batch = torch.stack([codes[start : start + 129] for start in starts])
        logits, _ = model(batch[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bits = loss.item() / 0.6931
    print(f"{name:7} {bits:.2f} bits a character after {time.perf_counter() - begun:.1f} s")

# %%
# The state after a text goes on from it: the next characters need nothing else.
model = models["mamba"]
with torch.no_grad():
    _, state = model(codes[None, :500])
    whole, _ = model(codes[None, :600])
    rest, _ = model(codes[None, 500:600], state=state)
numbers = sum(part.numel() for layer in state if layer is not None for part in layer)
print(f"state of {numbers} numbers; going on differs by {(whole[:, 500:] - rest).abs().max():.1e}")

# %%
# Whatever trains a model must leave some parameters alone: the decays, the first step sizes, D.
mixer = Mamba(64)
decayed, kept = mixer.parameter_groups(weight_decay=0.1)
print("with decay", len(decayed["params"]), "without", len(kept["params"]))

# %%
# Published weights load by name. A folder from Hugging Face or state-spaces has the names
# backbone.layers.N.mixer.*; here such names stand in for one.
published = {f"backbone.layers.0.mixer.{key}": value for key, value in mixer.state_dict().items()}
loaded = Mamba.from_state_dict(published, prefix="backbone.layers.0.mixer.")
x = torch.randn(1, 1000, 64)
print("the same output:", torch.equal(loaded(x)[0], mixer(x)[0]))

# %%
# A character at a time or all at once, the forms agree.
second = Mamba2(64, state_size=32)
with torch.no_grad():
    at_once, _ = second(x[:, :50])
    state, single = None, []
    for t in range(50):
        y, state = second.step(x[:, t], state)
        single.append(y)
print(f"steps differ from chunks by {(torch.stack(single, 1) - at_once).abs().max():.1e}")
