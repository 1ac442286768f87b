"""Pictures of language models: runs of a small one that has read the standard library."""

import copy
import functools
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from chart import lines

from paragone import language, mixers

SOURCE = Path(json.__file__).with_name("decoder.py").read_text(encoding="utf-8")
PIECES = [SOURCE[at : at + 600] for at in range(0, 6000, 600)]
# A template that adds nothing: what is learned is a continuation.
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content + "
    "eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


@functools.cache
def small():
    """A model that knows part of json/decoder.py, its tokenizer, a module for one more token."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    with tempfile.TemporaryDirectory() as folder:
        language.train(
            PIECES, folder, model=sizes, vocab_size=400, length=96, tokens=60_000, ahead=1,
            lr=6e-3, precision="fp32",
        )  # fmt: skip
        model, tokenizer = language.load(folder)
        return model, tokenizer, language.MultiTokenPrediction.load(folder, model)


def tokens_per_step(drafter, draft) -> float:
    """Tokens of a pass, over four texts of 200 tokens that begin as the source does."""
    model, tokenizer, _ = small()
    options = {"max_new_tokens": 200, "temperature": 0.0, "seed": 0}
    texts = [
        language.generate(model, tokenizer, start, **options, speculate=drafter, draft=draft)
        for start in ("def ", "class ", "if ", "return ")
    ]
    return float(np.mean([text.tokens_per_step for text in texts]))


def llama():
    """What the cache of a context holds."""
    x, tokens = torch.zeros(1, 4096, 512), (64, 128, 256, 512, 1024, 2048, 4096)
    curves = {}
    for groups in (8, 2, 1):
        layer = mixers.GroupedQueryAttention(512, 8, kv_heads=groups).eval()
        with torch.no_grad():
            caches = [layer(x[:, :t])[1] for t in tokens]
        sizes = [(cache.keys.nbytes + cache.values.nbytes) / 1e6 for cache in caches]
        curves[f"{groups} heads of keys"] = tokens, sizes
    return lines("Keys and values of a layer", curves, "tokens of context", "MB", log="xy")


def alpaca():
    """How near each seed is to its nearest other."""
    from paragone.language._instruct_seeds import SEEDS

    texts = [row["instruction"] for row in SEEDS]
    near = sorted(max(language.rouge_l(a, b).fmeasure for b in texts if b is not a) for a in texts)
    curves = {
        "nearest other seed": (range(1, len(near) + 1), near),
        "limit 0.7": ((1, len(near)), (0.7, 0.7)),
    }
    return lines("ROUGE-L among the seeds", curves, "seed, in order", "ROUGE-L")


def dpo():
    """How far pairs are told apart, by beta."""
    start, tokenizer, _ = small()
    rows = [row.strip() for row in SOURCE.splitlines() if len(row.strip()) > 8]
    pairs = [
        {"prompt": a, "chosen": b, "rejected": b[::-1]} for a, b in itertools.pairwise(rows[::4])
    ]
    curves = {}
    for beta in (0.05, 0.2, 1.0):
        run = language.dpo(
            copy.deepcopy(start), tokenizer, pairs, beta=beta, epochs=15, batch=16, lr=5e-4,
            template=TEMPLATE, cache=None, schedule="constant",
        )  # fmt: skip
        history = run.history
        curves[f"beta {beta}"] = (
            [line["step"] for line in history], [line["margin"] / beta for line in history],
        )  # fmt: skip
    return lines("Chosen over rejected", curves, "steps", "nats apart")


def medusa():
    """Tokens a pass by nodes of the tree."""
    model, tokenizer, _ = small()
    heads = language.Medusa.train(
        model, tokenizer, PIECES, heads=4, samples=8_000, length=96, steps=100, batch=8, lr=6e-3
    )
    nodes = (1, 2, 4, 8, 16, 32)
    chains = [tokens_per_step(heads, language.Plan(n, n)) for n in nodes[:3]]
    trees = [tokens_per_step(heads, language.Plan(n, min(n, 4), 8)) for n in nodes]
    curves = {"chains": (nodes[:3], chains), "trees": (nodes, trees)}
    return lines("Tokens of a pass", curves, "tokens drafted", "tokens a pass", log="x")


def multi_token_prediction():
    """Tokens a pass by length of draft."""
    _, _, module = small()
    drafted = range(9)
    seen = [1.0, *(tokens_per_step(module, n) for n in drafted[1:])]
    worth = [tokens / (1 + n / 10) for n, tokens in zip(drafted, seen, strict=True)]
    curves = {
        "tokens a pass": (drafted, seen),
        "if a drafted token costs a tenth of a pass": (drafted, worth),
    }
    return lines("Tokens of a pass", curves, "tokens drafted", "times plain decoding")
