"""
Instructions from a few seeds
=============================

A dozen tasks written by people, three of them at a time, are shown to a teacher, who is asked for
more. Only what is new is kept. The teacher would be a server or a model of one's own; here it is a
function that reads the standard library's documentation aloud, and repeats itself, as teachers do.
"""

import inspect
import math
import os.path
import random
import re
import shutil
import statistics
import string
import textwrap

from paragone.language import ChatTemplate, Tokenizer, rouge_l, self_instruct
from paragone.language._instruct_seeds import SEEDS

MODULES = (math, os.path, random, shutil, statistics, string, textwrap)
FUNCTIONS = [
    (f"{module.__name__}.{name}", inspect.getdoc(value).split("\n\n")[0].replace("\n", " "))
    for module in MODULES
    for name, value in vars(module).items()
    if callable(value) and not name.startswith("_") and inspect.getdoc(value)
]


def teacher(prompt: str) -> str:
    """Goes on where the prompt breaks off: some numbered tasks, the first one without a head."""
    rng = random.Random(prompt)
    number = int(re.findall(r"(\d+)\. Instruction:", prompt)[-1])
    tasks = []
    for n in range(number, number + 8):
        name, says = rng.choice(FUNCTIONS)
        head = "" if n == number else f"###\n{n}. Instruction:"
        tasks.append(f"{head} {says}\n{n}. Input:\n<noinput>\n{n}. Output:\nCall {name}.\n")
    return "".join(tasks)


rows = self_instruct(SEEDS, teacher, count=80)
print(rows.told())
for row in rows[:4]:
    print(f"- {row['instruction']}")

# %%
# A row is dropped when too many of its words stand, in the same order, in one that is kept: with
# the paper's limit, when F exceeds 0.7. Here are pairs of functions that are told apart, or not.
texts = dict(FUNCTIONS)
for one, other in (("math.sin", "math.cos"), ("math.ceil", "math.floor"), ("math.exp", "math.gcd")):
    score = rouge_l(texts[one], texts[other])
    verdict = "new" if score.fmeasure <= 0.7 else "not new"
    print(f"{one} beside {other}: F = {score.fmeasure:.2f}, {verdict}")

# %%
# The rows have the format that `finetune` reads. What it learns are the answers alone: here are
# their places in the text, and the tokens that they become.
tokenizer = Tokenizer.train([row["instruction"] for row in rows], 400)
template = ChatTemplate.named("alpaca").for_tokenizer(tokenizer)
row = rows[0]
chat = [
    {"role": "user", "content": row["instruction"]},
    {"role": "assistant", "content": row["output"]},
]
text, spans = template.render_with_spans(chat)
ids, places = tokenizer.encode_with_offsets(text)
learned = sum(any(start < e and end > s for s, e in spans) for start, end in places)
print(f"answer: {text[slice(*spans[0])]!r}")
print(f"{len(text)} characters, {len(ids)} tokens, {learned} of them learned")
