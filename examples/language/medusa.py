"""
Heads that guess ahead
======================

A small model learns the head of Python files from the standard library. Then three heads on its
last stream learn from what it writes itself to guess the tokens behind the next one, and it says
the same text in fewer passes.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from paragone.language import Llama, LlamaConfig, Medusa, Plan, Tokenizer, generate

files = sorted(Path(os.__file__).parent.glob("*.py"))[:30]
texts = [path.read_text(encoding="utf-8", errors="ignore")[:1500] for path in files]
tokenizer = Tokenizer.train(texts, 320, kind="bpe")
ids = torch.tensor([token for text in texts for token in tokenizer.encode(text)])
model = Llama(
    LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    ),
    generator=torch.Generator().manual_seed(0),
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
source = torch.Generator().manual_seed(0)
for _ in range(60):
    at = torch.randint(len(ids) - 65, (8,), generator=source)[:, None] + torch.arange(65)
    logits = model(ids[at[:, :-1]]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[at[:, 1:]].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"a model of {sum(p.numel() for p in model.parameters()):,} weights, loss {loss.item():.2f}")

# %%
# The heads see no text but the model's own: it goes on from beginnings of the files. The model
# itself stays as it is, and lends the heads its matrix over the vocabulary.
heads = Medusa.train(
    model, tokenizer, texts, heads=3, samples=8_000, length=96, steps=60, batch=8, lr=6e-3
)
for number, ranks in enumerate(heads.accuracies, 2):
    print(
        f"{number} ahead: first guess right in {ranks[0]:.0%}, one of five in {ranks[:5].sum():.0%}"
    )

# %%
# A tree of guesses is checked in one pass. What is known of the heads tells which tree is best: it
# is wide where they err, and deep where they do not.
for plan in (Plan(1, 1), Plan(4, 3, 4), Plan(16, 3, 10)):
    expected = 1 + np.cumprod(heads.chances(plan)).sum()
    print(f"{plan.nodes} nodes: {expected:.2f} tokens a step expected on what it samples")

# %%
# The text is that of plain decoding, token by token, also where tokens are drawn.
for temperature in (0.0, 0.8):
    options = {"max_new_tokens": 60, "temperature": temperature, "seed": 3}
    plain = generate(model, tokenizer, "import ", **options)
    quick = generate(model, tokenizer, "import ", **options, speculate=heads, draft=Plan(8, 3, 8))
    print(f"temperature {temperature}: {quick.tokens_per_step:.2f} tokens a step, "
          f"the same text: {quick.tokens == plain.tokens}")  # fmt: skip

# %%
# Heads are kept as safetensors, with what was measured, and a digest of the model.
with tempfile.TemporaryDirectory() as folder:
    size = sum(path.stat().st_size for path in heads.save(folder).iterdir())
    again = Medusa.load(folder, model)
    print(f"{size / 1e3:.0f} kB, and the heads are back: {len(again.heads)}")
