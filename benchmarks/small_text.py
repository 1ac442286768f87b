"""Small text read from raw patches and from codes of patches, at equal size and training.

    python benchmarks/small_text.py [--steps 1500] [--codes 512] [--letters 3,4] [--ways raw,vq]

Random strings are set at 11 pixels, somewhere in a grey picture of 16 x 32 pixels. One
`LosslessTransformer` reads the patches themselves, the other the nearest of so many codes, which
k-means found on the patches of all training pictures; nothing else differs: weights, first weights,
order of the batches, optimizer and steps are the same. Exact match is that of whole words of the
standard library's sources, none of which training saw. `--learn words` trains on other words of
these sources in place of strings; they are few, and soon known by heart.

"vq" has codes of patches (as `head="vq"`), "tokenizer" the pictures as `ImageTokenizer` gives them
back after a training of its own: what Chameleon would see.
"""

import argparse
import json
import time
from string import ascii_lowercase

import numpy as np
import torch

from paragone.language import Tokenizer
from paragone.multimodal import Document, LosslessTransformer
from paragone.multimodal.captions import rendered_words
from paragone.training.by_name import make_optimizer

SHAPE = (16, 32)


def made(way: str, asked: argparse.Namespace) -> LosslessTransformer:
    """The reader; the head "mse" is not trained, and only there because there must be one."""
    tokenizer = Tokenizer.train([ascii_lowercase], 260)
    head = ("vq", {"codes": asked.codes}) if way == "vq" else ("mse", {"hidden": 8, "depth": 1})
    return LosslessTransformer.from_config(
        "digits", tokenizer=tokenizer, head=head[0], head_options=head[1], patch_size=asked.patch,
        image_size=SHAPE, hidden_size=asked.width, num_hidden_layers=asked.layers,
        intermediate_size=3 * asked.width, generator=torch.Generator().manual_seed(asked.seed),
    )  # fmt: skip


def passed_through(way: str, asked: argparse.Namespace, *parts: list) -> list[list]:
    """Pictures as the reader gets them."""
    if way != "tokenizer":
        return list(parts)
    from paragone.multimodal import ImageTokenizer, ImageTokenizerConfig

    config = ImageTokenizerConfig.make("digits").replace(resolution=16, num_embeddings=asked.codes)
    tokenizer = ImageTokenizer(config)
    halves = [[one[:, :16] for one in parts[0]], [one[:, 16:] for one in parts[0]]]
    tokenizer.fit(np.stack(halves[0] + halves[1]), steps=asked.tokenizer_steps, seed=asked.seed)
    found = []
    for pictures in parts:
        sides = [
            tokenizer.decode(tokenizer.encode(np.stack([one[:, span] for one in pictures])))
            for span in (slice(0, 16), slice(16, 32))
        ]
        found.append(list(np.concatenate(sides, 2)))
    return found


def random_strings(count: int, low: int, high: int, seed: int) -> list[str]:
    """Strings of letters, all equally likely."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(low, high + 1, count)
    return ["".join(generator.choice(list(ascii_lowercase), length)) for length in lengths]


def trained(model: LosslessTransformer, pictures: list, texts: list[str], asked) -> float:
    """CPU seconds of so many steps."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(not name.startswith("head."))
    optimizer = make_optimizer(model, asked.optimizer, lr=asked.lr, weight_decay=0.01)
    rates = [group["lr"] for group in optimizer.param_groups]
    order, begun = np.random.default_rng(asked.seed), time.process_time()
    lost = 0.0
    for step in range(asked.steps):
        share = min(1.0, (step + 1) / 50) * (1 - step / asked.steps)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        rows = order.integers(len(pictures), size=asked.batch)
        losses = model.losses([Document((pictures[i], texts[i]), (False, True)) for i in rows])
        (losses.total / losses.count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        lost += float(losses.total.detach()) / losses.count
        if (step + 1) % asked.tell == 0:
            spent = time.process_time() - begun
            print(f"  step {step + 1}: {lost / asked.tell:.3f} nats, {spent:.0f} s", flush=True)
            lost = 0.0
    return time.process_time() - begun


def main() -> None:
    """Trains each way and prints its exact matches."""
    parse = argparse.ArgumentParser(description=__doc__)
    for name, value in (
        ("steps", 1500), ("batch", 64), ("codes", 512), ("patch", 8), ("width", 96), ("layers", 3),
        ("train", 12000), ("test", 500), ("seed", 0), ("tell", 200), ("tokenizer-steps", 600),
    ):  # fmt: skip
        parse.add_argument(f"--{name}", type=int, default=value)
    parse.add_argument("--lr", type=float, default=0.01)
    parse.add_argument("--optimizer", default="muon")
    parse.add_argument("--letters", default="3,4")
    parse.add_argument("--ways", default="raw,vq")
    parse.add_argument("--learn", default="strings", choices=("strings", "words"))
    asked = parse.parse_args()
    low, high = (int(one) for one in asked.letters.split(","))
    real = rendered_words(asked.test, "test", shape=SHAPE, letters=(low, high), seed=asked.seed)
    words = None
    if asked.learn == "strings":
        strings = set(random_strings(asked.train, low, high, asked.seed))
        words = sorted(strings - {one.caption for one in real})
    drawn = rendered_words(
        asked.train, words=words, unseen=words is None, letters=(low, high), shape=SHAPE,
        seed=asked.seed,
    )  # fmt: skip
    parts = [drawn, real]
    texts = [[one.caption for one in part] for part in parts]
    kinds = [len(set(part)) for part in texts]
    print(f"{kinds[0]} strings to learn from, {kinds[1]} words to read", flush=True)
    for way in asked.ways.split(","):
        pictures = passed_through(way, asked, *([one.picture for one in part] for part in parts))
        model, error = made(way, asked), 0.0
        if way == "vq":
            patches = torch.cat([model.patches(one)[0] for one in pictures[0]])
            error = model.head.fit(patches) / float(patches.var())
        elif way == "tokenizer":
            real = np.stack([one.picture for one in parts[1]]) / 255
            error = float(np.square(np.stack(pictures[1]) / 255 - real).mean() / real.var())
        seconds = trained(model, pictures[0], texts[0], asked)
        read = model.describe(pictures[1], max_new_tokens=high + 2)
        letters = [
            a == b
            for found, true in zip(read, texts[1], strict=True)
            for a, b in zip(found.ljust(len(true)), true, strict=False)
        ]
        exact = np.mean([a == b for a, b in zip(read, texts[1], strict=True)])
        size = sum(w.numel() for n, w in model.named_parameters() if not n.startswith("head."))
        row = {"way": way, "exact": float(exact), "letters": float(np.mean(letters)), "lost": error,
               "parameters": size, "cpu_seconds": seconds}  # fmt: skip
        print(json.dumps({name: round(x, 3) if isinstance(x, float) else x
                          for name, x in row.items()}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
