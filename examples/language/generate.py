"""
Ways to go on with a text
=========================

A small model learns the head of Python files from the standard library for a few seconds, and then
goes on with one. How it chooses each token decides what comes out; what it computes is the same.
"""

import os
from pathlib import Path

import torch

from paragone.language import Engine, Llama, LlamaConfig, Sampling, Tokenizer, generate

files = sorted(Path(os.__file__).parent.glob("*.py"))[:30]
texts = [path.read_text(encoding="utf-8", errors="ignore")[:1500] for path in files]
tokenizer = Tokenizer.train(texts, 320, kind="bpe")
ids = torch.tensor([token for text in texts for token in tokenizer.encode(text)])
print(f"{len(texts)} files, {len(ids)} tokens of {tokenizer.vocab_size} kinds")

# %%
# Forty-five steps with batches of 8 pieces of 64 tokens: enough for words, not for programs.
model = Llama(
    LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    ),
    generator=torch.Generator().manual_seed(0),
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
source = torch.Generator().manual_seed(0)
for step in range(45):
    at = torch.randint(len(ids) - 65, (8,), generator=source)[:, None] + torch.arange(65)
    logits = model(ids[at[:, :-1]]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[at[:, 1:]].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 15 == 14:
        print(f"step {step + 1}: loss {loss.item():.2f}")

# %%
# The most likely token each time soon runs in circles; draws do not, and are repeatable by seed.
prompt = "import "
print(repr(generate(model, tokenizer, prompt, max_new_tokens=24)))
for seed in range(2):
    drawn = generate(model, tokenizer, prompt, max_new_tokens=24, temperature=0.9, min_p=0.05,
                     seed=seed)  # fmt: skip
    print(repr(drawn), f"(mean log-probability {sum(drawn.log_probs) / len(drawn.tokens):.2f})")
best = generate(model, tokenizer, prompt, max_new_tokens=24, beams=4)
print("four beams:", repr(best))

# %%
# Many texts at once are read with the same weights in one go, and come out as they would alone.
engine = Engine.make(model)
prompts = ["def ", "class ", "    return ", "from "]
options = {"max_new_tokens": 32, "temperature": 0.8, "seed": 7}
together = generate(engine, tokenizer, prompts, **options)
alone = [generate(engine, tokenizer, text, **options) for text in prompts]
print("the same texts:", [str(text) for text in together] == [str(text) for text in alone])
print(f"{together[0].tokens_per_second:,.0f} tokens a second together, "
      f"{alone[0].tokens_per_second:,.0f} alone, on {engine.backend}")  # fmt: skip

# %%
# What a sampler may draw can be looked at: here for the token after "import".
known = tokenizer.encode("import")
scores = engine.forward(engine.new_pool(1), known, [len(known)], [0], [[0]])[0]
for sampling in (Sampling(1.0), Sampling(1.0, top_p=0.5), Sampling(0.5, top_k=3)):
    p = sampling.probabilities(scores)
    likely = ", ".join(f"{tokenizer.decode([i])!r} {p[i]:.2f}" for i in p.argsort()[::-1][:3])
    print(f"{(p > 0).sum():4d} tokens left, first {likely}")
