"""
What stood here before follows again
====================================

Texts repeat themselves: programs their names, answers their questions. Prompt look-up proposes what
followed the same tokens earlier, and one pass of the model checks the whole proposal. Here a small
model that has read some heads of Python files goes on with others.
"""

import os
from pathlib import Path

import torch

from paragone.language import Engine, Llama, LlamaConfig, Plan, PromptLookup, Tokenizer, generate

files = sorted(Path(os.__file__).parent.glob("*.py"))[:36]
texts = [path.read_text(encoding="utf-8", errors="ignore")[:1200] for path in files]
tokenizer = Tokenizer.train(texts, 320, kind="bpe")
ids = torch.tensor([token for text in texts[:30] for token in tokenizer.encode(text)])
model = Llama(
    LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
    ),
    generator=torch.Generator().manual_seed(0),
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
source = torch.Generator().manual_seed(0)
for _ in range(30):
    at = torch.randint(len(ids) - 65, (8,), generator=source)[:, None] + torch.arange(65)
    logits = model(ids[at[:, :-1]]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[at[:, 1:]].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
engine = Engine.make(model)
print(f"{len(ids)} tokens read; loss {loss.item():.2f}")

# %%
# Greedy texts with and without proposals are the same; what changes is how often the weights are
# read. A model as small as this one soon runs in circles, and circles are what look-up finds best.
prompts = [text[:400] for text in texts[30:]]
plain = generate(engine, tokenizer, prompts, max_new_tokens=60)
drafted = generate(engine, tokenizer, prompts, max_new_tokens=60, speculate="prompt-lookup",
                   draft=Plan(nodes=6, depth=6))  # fmt: skip
assert [str(one) for one in plain] == [str(one) for one in drafted]
for path, one in zip(files[30:], drafted, strict=True):
    shares = " ".join(f"{share:.2f}" for share in one.accepted_by_depth)
    print(f"{path.name:>14}: {one.tokens_per_step:.2f} tokens a step, agreed to by depth {shares}")

# %%
# Drawn texts are the same, too, for each seed; the hotter they are, the less they repeat.
for temperature in (0.3, 0.8, 1.3):
    options = {"max_new_tokens": 60, "temperature": temperature, "seed": 1}
    plain = generate(engine, tokenizer, prompts, **options)
    drafted = generate(engine, tokenizer, prompts, speculate=PromptLookup(longest=4),
                       draft=4, **options)  # fmt: skip
    assert [one.tokens for one in plain] == [one.tokens for one in drafted]
    mean = sum(one.tokens_per_step for one in drafted) / len(drafted)
    print(f"temperature {temperature}: {mean:.2f} tokens a step")

# %%
# Whether fewer steps are less time depends on what a step of several tokens costs on this machine.
# `draft="auto"`, the default, measures both as it goes, and drafts only where it pays.
found = generate(engine, tokenizer, prompts[0], max_new_tokens=60, speculate="prompt-lookup")
print(f"left to itself: {found.tokens_per_step:.2f} tokens a step")
