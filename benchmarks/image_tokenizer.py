r"""Figures of the picture tokenizer: what is left of digits and photographs, and the look-up.

    python benchmarks/image_tokenizer.py digits [--steps 600]
    python benchmarks/image_tokenizer.py photos [--seconds 600] [--critic 0.1]
    python benchmarks/image_tokenizer.py look-up

digits: the preset "digits" on 1,437 real digits; of the 360 others the error, the use of codes, and
how many of the reconstructions a classifier of real digits reads as what they are.

photos: the preset "tiny" on pieces of the left of scikit-learn's two photographs, measured on the
right of them; both are written before and after as `photos.png`. Beside it the error of painting
each cell of 4 x 4 pixels in its mean colour, which takes 24 bits a cell; a code takes 9.

look-up: CPU time of nearest codes, one thread, median of interleaved rounds, against cdist and
argmin, the expanded square as transformers has it, and the product of matrices alone; and how many
codes those choose otherwise.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from paragone.multimodal import ImageTokenizer
from paragone.multimodal.ops.codebook.call import nearest_code

ROUNDS = 15
SIZES = [(1024, 8192, 256), (4096, 512, 32), (1024, 128, 16)]


def expanded(z: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """|z|^2 + |e|^2 - 2 z e, in float32."""
    apart = z.square().sum(1, True) + codes.square().sum(1) - 2 * z @ codes.T
    return apart.argmin(1)


WAYS = {
    "paragone": nearest_code,
    "torch": lambda z, codes: nearest_code(z, codes, backend="torch"),
    "cdist": lambda z, codes: torch.cdist(z, codes).argmin(1),
    "expanded": expanded,
    "product": lambda z, codes: z @ codes.T,
}


def look_up() -> None:
    """Prints a line for each size."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for count, many, width in SIZES:
        z = torch.randn(count, width, generator=generator)
        codes = torch.randn(many, width, generator=generator)
        times: dict[str, list[float]] = {name: [] for name in WAYS}
        right = nearest_code(z, codes)
        wrong = {n: int((WAYS[n](z, codes) != right).sum()) for n in ("torch", "cdist", "expanded")}
        for _ in range(ROUNDS):
            for name, way in WAYS.items():
                begun = time.process_time()
                way(z, codes)
                times[name].append(time.process_time() - begun)
        own = float(np.median(times["paragone"]))
        shown = ", ".join(
            f"{name} {np.median(t) * 1e3:.2f} ms ({np.median(t) / own:.2f}x)"
            for name, t in times.items()
        )
        print(f"{count} vectors, {many} x {width}: {shown}; otherwise chosen {wrong}")


def report(trained, begun: float) -> None:
    """Prints what was measured."""
    steps = trained.history[-1]["step"]
    figures = ", ".join(f"{name} {value:.4g}" for name, value in trained.metrics.items())
    print(f"{figures}; {steps} steps, {time.process_time() - begun:.0f} s of CPU")


def digits(steps: int) -> None:
    """Trains on digits and asks the classifier."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    loaded = load_digits()
    pictures = np.rint(loaded.images * 255 / 16).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(pictures))
    test, train = order[:360], order[360:]
    begun = time.process_time()
    trained = ImageTokenizer.fit(pictures[train], "digits", steps=steps, validation=pictures[test])
    report(trained, begun)
    judge = SVC(gamma=0.001).fit(loaded.data[train], loaded.target[train])
    drawn = trained.tokenizer.decode(trained.tokenizer.encode(pictures[test]))
    again = judge.score(drawn.reshape(len(test), -1) * (16 / 255), loaded.target[test])
    print(
        f"read: {judge.score(loaded.data[test], loaded.target[test]):.1%} real, {again:.1%} drawn"
    )


def photos(seconds: float, critic: float) -> None:
    """Trains on the left of two photographs."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    whole = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    held = [
        one[top : top + 32, left : left + 32]
        for one in whole
        for top in range(0, one.shape[0] - 31, 32)
        for left in range(448, one.shape[1] - 31, 32)
    ]
    begun = time.process_time()
    trained = ImageTokenizer.fit(
        [one[:, :440] for one in whole], "tiny", seconds=seconds, validation=held, flip=True,
        critic=critic,
    )  # fmt: skip
    report(trained, begun)
    cells = (np.stack(held) / 127.5 - 1).reshape(-1, 8, 4, 8, 4, 3)
    error = np.square(cells - cells.mean((2, 4), keepdims=True)).mean()
    print(f"cells in their mean colour: {10 * np.log10(4 / error):.2f} dB")
    before = np.stack([one[:416, :640] for one in whole])
    after = trained.tokenizer.decode(trained.tokenizer.encode(before))
    rows = [np.concatenate(list(side), 1) for side in (before, after)]
    Image.fromarray(np.concatenate(rows)).save("photos.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("digits", "photos", "look-up"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--critic", type=float, default=0.0)
    given = parser.parse_args()
    if given.what == "look-up":
        look_up()
    elif given.what == "digits":
        digits(given.steps)
    else:
        photos(given.seconds, given.critic)
