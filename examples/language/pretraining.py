"""
A language model from raw text
==============================

The sources of Python's own library are text that every machine has. A tokenizer is learned from
it, a small LLaMA trained on it, and what lies in the folder afterwards opens like any model of
Hugging Face's layout.
"""

import tempfile
from pathlib import Path

from paragone.language import Llama, load, pack, train
from paragone.language.corpus import library_texts

corpus = library_texts(60_000)
print(f"{len(corpus.texts)} files, {corpus.bytes} bytes of the {corpus.name}")

# %%
# A small model and a small budget. `progress` is told notes, steps and validations; `out` would
# hold the run at every instant, and the same call would go on from it.
out = Path(tempfile.mkdtemp()) / "run"
done = train(
    corpus, out, tokens=8_000, vocab_size=320, length=64, precision="fp32",
    model={"hidden_size": 64, "num_hidden_layers": 2}, batch=8, lr=6e-3,
    progress=lambda event: event.kind == "note" and print(event.text),
)  # fmt: skip
print(f"{done.metrics['bits_per_byte']:.2f} bits a byte after {done.tokens} tokens")

# %%
# What it has learned so far is how letters follow each other.
model, tokenizer = load(out)
assert isinstance(model, Llama)
print(f"{sum(p.numel() for p in model.parameters())} weights, {tokenizer}")
for line in done.history[-2:]:
    print({name: round(value, 3) for name, value in line.items() if name != "seconds"})

# %%
# Training packs documents side by side in one row; none sees another.
rows = pack([tokenizer.encode(text)[:90] for text in ("def f(x):", "import os\n" * 9, "x = 1")], 64)
print(rows)
print([row.lengths.tolist() for row in rows])
