"""
A small model drafts, a larger one decides
==========================================

Two models of one vocabulary read the same sources of Python. The small one guesses a few tokens
ahead, the large one checks them all in one pass, and the text is the large one's to the last token.
"""

import os
import time
from pathlib import Path

import torch

from paragone.language import DraftModel, Engine, Llama, LlamaConfig, Plan, Tokenizer, generate

files = sorted(Path(os.__file__).parent.glob("*.py"))[:36]
texts = [path.read_text(encoding="utf-8", errors="ignore")[:1200] for path in files]
tokenizer = Tokenizer.train(texts, 320, kind="bpe")
ids = torch.tensor([token for text in texts[:30] for token in tokenizer.encode(text)])


def trained(width: int, layers: int) -> Llama:
    """A model that has read the files for a moment."""
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    source = torch.Generator().manual_seed(0)
    model = Llama(config, generator=source)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    for _ in range(40):
        at = torch.randint(len(ids) - 49, (8,), generator=source)[:, None] + torch.arange(49)
        logits = model(ids[at[:, :-1]]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[at[:, 1:]].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights = sum(p.numel() for p in model.parameters())
    print(f"{weights:,} weights, loss {loss.item():.2f}")
    return model


large, small = trained(96, 4), trained(32, 1)

# %%
# Greedy texts are the same with any plan of drafts. Chains are made in one compiled call; trees
# hold second guesses, too, and bring more tokens a step for more work.
engine, drafter = Engine.make(large), DraftModel(small)
prompts = [text[:300] for text in texts[30:34]]
plain = generate(engine, tokenizer, prompts, max_new_tokens=48)
for plan in (Plan(2, 2), Plan(4, 4), Plan(8, 4, 2)):
    drafted = generate(
        engine, tokenizer, prompts, max_new_tokens=48, speculate=drafter, draft=plan
    )  # fmt: skip
    assert [one.tokens for one in drafted] == [one.tokens for one in plain]
    mean = sum(one.tokens_per_step for one in drafted) / len(drafted)
    print(f"{plan}: {mean:.2f} tokens a pass of the large model")

# %%
# Drawn texts: a chosen draft leaves each seed its text. Drafts that are drawn from the small
# model's distribution leave the large one's distribution as it is, and other texts for a seed.
options = {"max_new_tokens": 48, "temperature": 0.7, "seed": 1, "draft": 3}
plain = generate(engine, tokenizer, prompts[0], **{**options, "draft": "auto"})
for name, speculate in (("chosen", drafter), ("drawn", DraftModel(small, drawn=True))):
    drafted = generate(engine, tokenizer, prompts[0], speculate=speculate, **options)
    same = "the same text" if drafted == plain else "another text"
    print(f"{name}: {same}, {drafted.tokens_per_step:.2f} tokens a pass")

# %%
# Whether it pays is a question of the machine and of both sizes: left to itself (`draft="auto"`)
# a controller measures, and goes back to plain decoding where drafts do not pay.
for speculate in (None, drafter):
    began = time.perf_counter()
    generate(engine, tokenizer, prompts[0], max_new_tokens=150, speculate=speculate)
    print(f"{speculate and speculate.name}: {150 / (time.perf_counter() - began):.0f} tokens/s")
