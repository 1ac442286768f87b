"""
Attention on the standard library's own text
============================================

The bytes of a Python source become vectors, and each attends to the bytes before it. `attention`
does it without ever holding the matrix of weights; `BlockMask` and `attention_packed` leave out
what need not be computed; `FlashAttention` is the same as a module that goes on from a state.
"""

import inspect
import textwrap
import time

import torch

from paragone.mixers import BlockMask, FlashAttention, attention, attention_packed

text = inspect.getsource(textwrap).encode()[:4096]
torch.manual_seed(0)
letters = torch.nn.functional.normalize(torch.randn(256, 64), dim=-1)
codes = torch.tensor(list(text))
x = letters[codes][None, None]  # one row, one head
q = k = 24 * x
print(f"{len(text)} bytes: all weights would take {len(text) ** 2 * 4 / 2**20:.0f} MiB")

# %%
# Sharp attention to equal bytes: the share that a byte gives to its own kind, e.g. spaces.
with torch.no_grad():
    out, lse = attention(q, k, x, causal=True, return_lse=True)
found = (out[0, 0] @ letters.T).argmax(-1)
print(f"{(found == codes).float().mean():.1%} of the outputs name the byte that asked")

# %%
# Time follows the area that is left: all, the past, the last 128, and the lines' own bytes.
line = torch.cumsum(codes == ord("\n"), 0)
lines = BlockMask.from_rule(lambda b, h, i, j: line[i] == line[j], len(text), len(text))
for name, more in {
    "all": {}, "causal": {"causal": True}, "window of 128": {"window": 128},
    "same line": {"mask": lines},
}.items():  # fmt: skip
    best = 1.0
    for _ in range(3):
        begun = time.perf_counter()
        with torch.no_grad():
            attention(q, k, x, **more)
        best = min(best, time.perf_counter() - begun)
    print(f"{name:>14}: {best * 1e3:6.1f} ms")
print(f"blocks that the lines' mask keeps: {lines.density:.1%}")

# %%
# Rows of unequal length need no padding: the same lines, one behind the other.
lengths = torch.bincount(line)
rows = (q[0].transpose(0, 1), k[0].transpose(0, 1), x[0].transpose(0, 1))
with torch.no_grad():
    packed = attention_packed(*rows, lengths)
    masked = attention(q, k, x, mask=lines)
far = (packed - masked[0, 0][:, None]).abs().max()
print(f"{len(lengths)} lines, packed or masked: they differ by {far:.0e}")

# %%
# As a module, with grouped heads, a window, and a state to go on from.
mixer = FlashAttention(64, heads=4, kv_heads=2, window=128)
with torch.no_grad():
    whole, _ = mixer(x[0, :, :512])
    _, state = mixer(x[0, :, :511])
    last, _ = mixer.step(x[0, :, 511], state)
far = (last - whole[:, -1]).abs().max()
print(f"one step after 511 tokens and 512 at once differ by {far:.0e}")
