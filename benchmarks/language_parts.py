r"""Figures of the parts of a language model: experts, packed rows, the body of a decoder.

    python benchmarks/language_parts.py experts [--tokens 1024]
    python benchmarks/language_parts.py packed
    python benchmarks/language_parts.py body

experts: a training step of 8 experts, 2 of a token, over one of a dense feed-forward of as much
arithmetic, the router included.

packed: tokens a second of training 15 M weights on eight documents in one row, where rows stay
packed, where they are padded, and where they are four full rows.

body: tokens a second of training everything but the head at 15 M weights, over transformers.

One thread, CPU time, medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from paragone.language import Llama, LlamaConfig, MixtureOfExperts
from paragone.language._moe_feed import FeedForward
from paragone.language.config import PRESETS
from paragone.mixers import GroupedQueryAttention
from paragone.mixers.contract import Mixer

ROUNDS = 9
LENGTHS = (300, 20, 50, 254, 100, 60, 40, 200)


def timed(calls: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """CPU seconds of each call, median of rounds in turn; the first is not counted."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            spent[name].append(time.process_time() - start)
    return {name: statistics.median(times[1:]) for name, times in spent.items()}


def experts(tokens: int) -> None:
    """Prints the ratio for three sizes."""
    for width, inner in ((128, 352), (288, 768), (768, 2048)):
        config = LlamaConfig(
            hidden_size=width, num_attention_heads=4, moe_intermediate_size=inner,
            n_routed_experts=8, num_experts_per_tok=2,
        )  # fmt: skip
        x = torch.randn(1, tokens, width, requires_grad=True)
        pair = {"experts": MixtureOfExperts(config).train(), "dense": FeedForward(width, 2 * inner)}

        def step(module: Any, x: torch.Tensor = x) -> None:
            module.zero_grad(set_to_none=True)
            module(x).sum().backward()

        spent = timed({name: lambda m=module: step(m) for name, module in pair.items()})
        ratio = spent["experts"] / spent["dense"]
        print(f"width {width}, {inner} units: {1e3 * spent['experts']:.1f} ms, {ratio:.2f}x dense")


def packed() -> None:
    """Prints tokens a second."""
    model = Llama(LlamaConfig(vocab_size=4096, **PRESETS["15m"])).train()
    lengths = torch.tensor(LENGTHS)
    count = int(lengths.sum())
    ids = torch.randint(0, 4096, (1, count))
    own = GroupedQueryAttention._packed

    def step(form: Any, ids: torch.Tensor, lengths: torch.Tensor | None) -> None:
        GroupedQueryAttention._packed = form
        model.zero_grad(set_to_none=True)
        model(ids, lengths=lengths, logits=False).hidden.square().mean().backward()

    spent = timed({
        "packed": lambda: step(own, ids, lengths),
        "padded": lambda: step(Mixer._packed, ids, lengths),
        "four full rows": lambda: step(own, ids.view(4, -1), None),
    })  # fmt: skip
    for name, seconds in spent.items():
        print(f"{name}: {count / seconds:.0f} tokens a CPU second")


def body() -> None:
    """Prints tokens a second, and the ratio."""
    from paragone.lab.torchvision_cpu import prepare

    prepare()
    import transformers

    sizes = PRESETS["15m"] | {"vocab_size": 4096}
    ours = Llama(LlamaConfig(**sizes)).train()
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).train()
    ids = torch.randint(0, 4096, (4, 256))

    def step(model: Any, hidden: Callable[[], torch.Tensor]) -> None:
        model.zero_grad(set_to_none=True)
        hidden().square().mean().backward()

    spent = timed({
        "ours": lambda: step(ours, lambda: ours(ids, logits=False).hidden),
        "transformers": lambda: step(theirs, lambda: theirs.model(ids).last_hidden_state),
    })  # fmt: skip
    for name, seconds in spent.items():
        print(f"{name}: {ids.numel() / seconds:.0f} tokens a CPU second")
    print(f"ratio {spent['transformers'] / spent['ours']:.2f}")


def main() -> None:
    """Runs the part that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("experts", "packed", "body"))
    parser.add_argument("--tokens", type=int, default=1024)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part == "experts":
        experts(given.tokens)
    else:
        {"packed": packed, "body": body}[given.part]()


if __name__ == "__main__":
    main()
