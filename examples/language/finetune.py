"""
A model that answers, and learns when to stop
=============================================

A small LLaMA reads the Python standard library's docstrings, then is tuned on questions about them:
only the answers are learned, their end included. The same rows go through low-rank matrices, whose
folder PEFT reads, and over weights of four bits.
"""

import inspect
import json
import os
import tempfile
import textwrap

import torch

from paragone.language import Llama, LlamaConfig, Tokenizer, finetune, load_adapter
from paragone.language.lora import adapted

functions = [
    (f"{module.__name__}.{name}", inspect.getdoc(value))
    for module in (json, textwrap)
    for name, value in inspect.getmembers(module, inspect.isfunction)
    if inspect.getdoc(value)
]
rows = [
    {"instruction": f"What does {name} do?", "output": doc.split(".")[0][:40] + "."}
    for name, doc in functions
]
tokenizer = Tokenizer.train([doc for _, doc in functions], vocab_size=500)
print(f"{len(rows)} questions, such as {rows[0]['instruction']!r}")

# %%
# All weights. What was cut off, what share is learned and how the loss falls is told on the way.
config = LlamaConfig(
    vocab_size=tokenizer.vocab_size, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=128, tie_word_embeddings=True,
)  # fmt: skip
model = Llama(config, generator=torch.Generator().manual_seed(0))
told = []
tuned = finetune(
    model, tokenizer, rows, epochs=25, template="chatml", batch=4, lr=8e-3,
    progress=lambda event: told.append(event.text),
)  # fmt: skip
print(told[0])
print(f"new tokens {tuned.new_tokens}, loss {tuned.history[0]['loss']:.2f} to {tuned.loss:.2f}")

# %%
# A token that ends answers is one of the model's ends now: decoding stops by itself.
text = tokenizer.chat_template.render([{"role": "user", "content": rows[0]["instruction"]}], True)
ids = tokenizer.encode(text)
with torch.no_grad():
    while ids[-1] not in model.config.eos and len(ids) < 128:
        ids.append(int(model(torch.tensor([ids]), logits="last").logits.argmax()))
print(repr(tokenizer.decode(ids)), "stopped" if ids[-1] in model.config.eos else "went on")

# %%
# LoRA: matrices of rank 4 beside frozen weights, here of four bits, for other answers. The folder
# is PEFT's own; merging tells what it changed and what rounding cost.
shouted = [{**row, "output": row["output"].upper()} for row in rows]
with tempfile.TemporaryDirectory() as folder:
    lora = finetune(
        model, tokenizer, shouted, epochs=4, batch=4, lora_rank=4, quantize="nf4", lr=4e-3,
        out=folder,
    )  # fmt: skip
    print(lora.merged)
    again = Llama(model.config)
    load_adapter(again, os.path.join(folder, "adapter"))
    print(f"{len(adapted(again))} maps adapted, loss {lora.loss:.2f}")
