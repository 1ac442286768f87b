r"""How fast is a packed MoonViT beside transformers', beside one image at a time, beside padding?

    python benchmarks/moonvit.py [--width 384] [--layers 6] [--heads 6] [--threads 1] [--rounds 9]
                                 [--what answer,learn] [--how packed,one,padded]

Sixteen images of as many sizes, 5,020 patches of 14 x 14 in all, the largest of 32 x 32 patches.
Contestants have the same weights: ours, packed; transformers' tower of Kimi K2.5 (its attention is
`scaled_dot_product_attention`, image by image), packed; both with one image a call; both with every
image laid into the largest one's square, which is what a batch of one size costs. Learning is
forward and backward of a sum of squares.

All is interleaved: in each round every contestant works once, in random order. A rival's figure is
the median over the rounds of its time divided by ours in the same round; above 1 we are faster.
With one thread the time is the processor's (the machine may be shared), with more the clock's.
Compilation of kernels is warmed up and not part of any time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from paragone.multimodal import MoonViT

GRIDS = (
    (32, 32), (28, 28), (24, 24), (22, 22), (20, 22), (20, 20), (16, 20), (16, 16), (14, 16),
    (12, 14), (10, 14), (8, 10), (8, 8), (4, 8), (4, 6), (2, 2),
)  # fmt: skip


def built(width: int, layers: int, heads: int) -> tuple[MoonViT, torch.nn.Module]:
    """Ours and transformers', with the same random weights."""
    from paragone.lab.torchvision_cpu import prepare

    prepare()
    from transformers.models.kimi_k25.configuration_kimi_k25 import Kimi_K25VisionConfig
    from transformers.models.kimi_k25.modeling_kimi_k25 import Kimi_K25VisionModel

    config = Kimi_K25VisionConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    theirs = Kimi_K25VisionModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in theirs.parameters():
        weight.data.normal_(std=0.05, generator=generator)
    ours = MoonViT(config.to_dict()).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def contestants(
    ours: MoonViT, theirs: torch.nn.Module
) -> dict[str, tuple[torch.nn.Module, Callable[[], list[Tensor]]]]:
    """Name to the model and its features of all patches, in one piece or several."""
    generator = torch.Generator().manual_seed(1)
    grids = torch.tensor(GRIDS)
    sizes = grids.prod(1).tolist()
    side = max(max(grid) for grid in GRIDS)
    patches = torch.randn(sum(sizes), 3, 14, 14, generator=generator)
    square = torch.zeros(len(GRIDS) * side**2, 3, 14, 14)
    squares = torch.tensor([[side, side]] * len(GRIDS))
    images = list(zip(patches.split(sizes), grids.split(1), strict=True))

    def their(x: Tensor, grid: Tensor) -> Tensor:
        whole = torch.cat([torch.ones(len(grid), 1, dtype=torch.int64), grid], 1)
        return theirs(x, whole).last_hidden_state

    with torch.no_grad():
        apart = (ours(patches, grids) - their(patches, grids)).abs().max()
    print(f"{len(patches):,} patches; largest difference of features {apart:.1e}")
    return {
        "ours, packed": (ours, lambda: [ours(patches, grids)]),
        "transformers, packed": (theirs, lambda: [their(patches, grids)]),
        "ours, one by one": (ours, lambda: [ours(x, grid) for x, grid in images]),
        "transformers, one by one": (theirs, lambda: [their(x, grid) for x, grid in images]),
        "ours, padded": (ours, lambda: [ours(square, squares)]),
        "transformers, padded": (theirs, lambda: [their(square, squares)]),
    }


def answered(work: Callable[[], list[Tensor]]) -> None:
    """A forward pass."""
    with torch.no_grad():
        work()


def learned(work: Callable[[], list[Tensor]]) -> None:
    """A forward and a backward pass; images one by one are derived one by one, too."""
    for features in work():
        features.square().sum().backward()


def race(
    entries: dict[str, tuple[torch.nn.Module, Callable[[], list[Tensor]]]],
    call: Callable[[Callable[[], list[Tensor]]], None],
    rounds: int,
    clock: Callable[[], float],
) -> None:
    """Runs and prints all."""
    times: dict[str, list[float]] = {name: [] for name in entries}
    order = list(entries)
    for turn in range(rounds + 1):
        random.Random(turn).shuffle(order)
        for name in order:
            model, work = entries[name]
            start = clock()
            call(work)
            if turn:
                times[name].append(clock() - start)
            model.zero_grad(set_to_none=True)
    base = times["ours, packed"]
    for name, taken in times.items():
        ratios = sorted(a / b for a, b in zip(taken, base, strict=True))
        spread = f"{ratios[len(ratios) // 4]:.2f} to {ratios[-1 - len(ratios) // 4]:.2f}"
        print(
            f"  {name:26s}{statistics.median(taken):7.3f} s   "
            f"{statistics.median(ratios):5.2f} x  ({spread})"
        )


def main() -> None:
    """Reads the options and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--what", default="answer,learn")
    parser.add_argument("--how", default="packed,one,padded")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    entries = contestants(*built(options.width, options.layers, options.heads))
    hows = options.how.split(",")
    entries = {name: entry for name, entry in entries.items() if any(how in name for how in hows)}
    clock = time.process_time if options.threads == 1 else time.perf_counter
    calls = {"answer": answered, "learn": learned}
    for what in options.what.split(","):
        print(f"{what}, {options.rounds} rounds")
        race(entries, calls[what], options.rounds, clock)


if __name__ == "__main__":
    main()
