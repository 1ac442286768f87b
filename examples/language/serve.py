"""
A server for any OpenAI client, and many clients in one batch
=============================================================

A small model learns from docstrings of Python's standard library for a second, and is then
served on this machine. What follows talks to it over HTTP with nothing but the standard library;
the `openai` package does the same with `OpenAI(base_url=server.url + "/v1", api_key="none")`.
"""

import argparse
import ast
import inspect
import json
import textwrap
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch

from paragone.language import Llama, LlamaConfig, Tokenizer, serve

members = [getattr(m, name) for m in (argparse, ast, inspect, json, textwrap) for name in dir(m)]
text = "\n\n".join(sorted({inspect.getdoc(member) or "" for member in members}))
words = Tokenizer.train([text], 400)
ids = torch.tensor(words.encode(text))
model = Llama(LlamaConfig(400, 64, num_hidden_layers=2, num_attention_heads=4,
                          max_position_embeddings=128))  # fmt: skip
momenta = [torch.zeros_like(weight) for weight in model.parameters()]
for step in range(50):
    rows = ids[torch.randint(len(ids) - 65, (8, 1)) + torch.arange(65)]
    scores = model(rows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), rows[:, 1:].flatten())
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for weight, momentum, gradient in zip(
            model.parameters(), momenta, gradients, strict=True
        ):  # fmt: skip
            weight -= 0.006 * (1 - step / 50) * momentum.lerp_(gradient, 0.1).sign()
print(f"{len(ids)} tokens, loss {loss.item():.2f} nats a token")
server = serve(model, words, port=0, name="tiny", chat_template="plain", background=True)


def ask(path, **body):
    """The answer of one request."""
    data = json.dumps({"model": "tiny", **body}).encode()
    with urlopen(Request(f"{server.url}/v1/{path}", data)) as answer:
        return answer.read().decode()


# %%
# A completion. A low temperature keeps to likely tokens; `logprobs` tells how likely they were.
answer = json.loads(
    ask("completions", prompt="Return the ", temperature=0.6, seed=2, max_tokens=12, logprobs=1)
)
choice = answer["choices"][0]
print(
    repr("Return the " + choice["text"]), choice["finish_reason"], answer["usage"]["total_tokens"]
)
for token, log_prob in zip(choice["logprobs"]["tokens"][:4],
                           choice["logprobs"]["token_logprobs"], strict=False):  # fmt: skip
    print(f"  {token!r:10} {log_prob:.2f}")

# %%
# A stream of a chat: one event for each piece of text, and the numbers of tokens at the end.
events = ask("chat/completions", messages=[{"role": "user", "content": "What is it?"}], stream=True,
             max_tokens=6, seed=1, stream_options={"include_usage": True})  # fmt: skip
for line in events.strip().split("\n\n"):
    if line != "data: [DONE]":
        piece = json.loads(line.removeprefix("data: "))
        print(piece["choices"][0]["delta"] if piece["choices"] else piece["usage"])


# %%
# Eight clients at once share the steps of the engine. Each has a seed, and gets what it gets alone.
def drawn(seed):
    """A text that follows from its seed."""
    options = {"prompt": "If ", "max_tokens": 16, "seed": seed, "temperature": 1.0}
    return json.loads(ask("completions", **options))["choices"][0]["text"]


alone = [drawn(seed) for seed in range(8)]
with ThreadPoolExecutor(8) as clients:
    together = list(clients.map(drawn, range(8)))
print(f"{len(set(alone))} different texts; the same in company: {alone == together}")

# %%
# The beginning that prompts have in common is read once.
rules = "The rules of this house: " + "be brief, be right, be kind. " * 2
for question in ("first", "second"):
    usage = json.loads(ask("completions", prompt=rules + question, max_tokens=1))["usage"]
    known = usage["prompt_tokens_details"]["cached_tokens"]
    print(f"{question}: {known} of {usage['prompt_tokens']} tokens were known")

# %%
# What cannot be met is refused by name, and nobody else notices.
try:
    ask("completions", prompt="x", temperature=9)
except HTTPError as error:
    print(error.code, json.loads(error.read())["error"]["message"])
server.stop()
