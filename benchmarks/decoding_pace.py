"""Does drafting by the controller ever end below plain decoding?

Several models, and drafters that are good, bad, cheap and dear: one that knows the text and tells
the truth with a given chance, after working for a given share of a plain step (`--drafters`), and
prompt look-up. Each text is decoded plain and with `draft="auto"` by turns, in one process with one
thread; CPU time, the ratio plain / drafted of each pair, their median and the least. Above 1 drafts
pay; the aim is that no median is below 0.97. Texts are checked to be equal.

Every pair of a row starts with what the controller has learned in those before it, as in use; the
column "first" is the very first text of a new engine.

Run it:  python benchmarks/decoding_pace.py [--models 260k,15m,110m] [--tokens 24,200]
         [--rounds 5] [--checkpoint FOLDER_OR_FILE] [--weights float32,int8]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from paragone.language import Draft, Drafter, Engine, Llama, LlamaConfig, Plan, generate
from paragone.language.drafting import Drafting

SHAPES = {
    "260k": (512, 64, 5, 8, 4, 172),
    "15m": (32000, 288, 6, 6, 6, 768),
    "110m": (32000, 768, 12, 12, 12, 2048),
}
NAMES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
         "num_key_value_heads", "intermediate_size")  # fmt: skip
DRAFTERS = {
    "true .75, cheap": (0.75, 0.75, 0.02),
    "true .75, dear": (0.75, 0.75, 0.3),
    "true .4": (0.4, 0.4, 0.03),
    "liar": (0.0, 0.8, 0.03),
    "dear liar": (0.0, 0.8, 0.5),
    "modest": (0.75, 0.05, 0.02),
}
"""Chance of the truth, promised chance, and plain steps that a drafted token takes."""


class Knowing(Drafter):
    """Knows the text, and tells the truth now and then."""

    def __init__(self, text: list[int], truth: float, said: float, seconds: float):
        self.text, self.truth, self.said, self.seconds = text, truth, said, seconds
        self.name, self.draws = "knowing", np.random.default_rng(0)

    def plans(self) -> list[Plan]:
        return [Plan(count, count) for count in (1, 2, 4, 8)]

    def chances(self, plan: Plan) -> np.ndarray:
        return np.full(plan.depth, self.said)

    def open(self, engine: Any) -> Drafting:
        return _Knowing(self)


class _Knowing(Drafting):
    def __init__(self, drafter: Knowing):
        self.drafter, self.known = drafter, {}

    def add(self, key: Any, tokens: Any, sampling: Any) -> None:
        self.known[key] = len(tokens)

    def observe(self, keys: Any, tokens: Any, hidden: Any) -> None:
        for key, some in zip(keys, tokens, strict=True):
            self.known[key] += len(some)

    def draft(self, keys: Any, plan: Plan) -> list[Draft]:
        own = self.drafter
        until = time.perf_counter() + own.seconds * plan.depth
        drafts = []
        for key in keys:
            tokens = own.text[self.known[key] : self.known[key] + plan.depth]
            lies = own.draws.random(len(tokens)) >= own.truth
            drafts.append(Draft.chain(
                [token ^ 1 if lie else token for token, lie in zip(tokens, lies, strict=True)]
            ))  # fmt: skip
        while time.perf_counter() < until:
            pass
        return drafts

    def drop(self, key: Any) -> None:
        del self.known[key]


def models(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Models by name."""
    if options.checkpoint:
        yield options.checkpoint.rsplit("/", 1)[-1], Llama.from_pretrained(options.checkpoint)
        return
    for name in options.models.split(","):
        sizes: dict[str, Any] = dict(zip(NAMES, SHAPES[name], strict=True))
        generator = torch.Generator().manual_seed(0)
        model = Llama(LlamaConfig(**sizes, max_position_embeddings=1024))
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(0, 0.05, generator=generator)
        yield name, model


def timed(engine: Engine, prompt: list[int], tokens: int, **options: Any) -> tuple[float, Any]:
    """CPU seconds, and what was generated."""
    began = time.process_time()
    made = generate(engine, None, prompt, max_new_tokens=tokens, **options)
    return time.process_time() - began, made


def row(model: Any, weights: str, tokens: int, drafter: str, rounds: int) -> str:
    """A line of the table."""
    engine = Engine.make(model, weights=weights, threads=1)
    prompt = [1 + at * 7 % 97 for at in range(24)]
    plain_seconds, plain = timed(engine, prompt, tokens)
    plain_seconds = min(plain_seconds, timed(engine, prompt, tokens)[0])
    if drafter in DRAFTERS:
        truth, said, share = DRAFTERS[drafter]
        known = prompt + plain.tokens
        speculate: Any = Knowing(known, truth, said, share * plain_seconds / tokens)
    else:
        speculate = drafter
    ratios, steps = [], []
    for _ in range(rounds):
        plain_seconds, _ = timed(engine, prompt, tokens)
        seconds, made = timed(engine, prompt, tokens, speculate=speculate)
        assert made.tokens == plain.tokens
        ratios.append(plain_seconds / seconds)
        steps.append(made.tokens_per_step)
    return (
        f"{ratios[0]:.2f} | {statistics.median(ratios[1:]):.2f} | {min(ratios):.2f} | "
        f"{statistics.median(steps):.2f} |"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="260k,15m,110m")
    parser.add_argument("--tokens", default="24,200")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", default="float32")
    parser.add_argument("--checkpoint")
    parser.add_argument("--drafters", default=";".join([*DRAFTERS, "prompt-lookup"]))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| Model | Weights | Tokens | Drafter | First | Median | Least | Tokens a step |")
    print("|---|---|---|---|---|---|---|---|")
    for name, model in models(options):
        for weights in options.weights.split(","):
            for tokens in map(int, options.tokens.split(",")):
                for drafter in options.drafters.split(";"):
                    line = row(model, weights, tokens, drafter, options.rounds)
                    print(f"| {name} | {weights} | {tokens} | {drafter} | {line}", flush=True)


if __name__ == "__main__":
    main()
