"""Small nets on real data, on which precisions meet: pictures, letters, patches of a photograph.

All of it comes with scikit-learn: the digits, its own documentation as text, and one photograph.
A problem is arrays and a model; weights and batches come from the seed alone.

    digits   8x8 pictures to ten classes; two hidden layers; cross entropy of a batch
    share    the same as one of 65,536 shares of a batch of four million rows, as large
             language models take: its loss is that part of the mean
    text     the last 16 letters to the next one; cross entropy over 512 places of a text
    detail   6x6 colour patches to what a 12x12 patch has beyond them, as for enlarging a
             photograph; mean square error over all pixels

The losses are means, so that the gradient of one number is small where a batch holds many: in the
last it is that of 110,592 small differences.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["SHARE", "batches", "load", "loss", "make_model", "right"]

CONTEXT, LETTERS, PATCH = 16, 64, 12
SHARE = {"share": 1.0 / 65536}
"""Part of a larger batch's mean that the loss of a problem is, where it is one."""

BATCH = {"digits": 64, "share": 64, "text": 512, "detail": 256}
_MOST = {"digits": 10_000, "share": 10_000, "text": 40_000, "detail": 6_000}


def load(problem: str, path: str = "") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns inputs and targets to learn from, and those to judge by.

    Args:
        problem: "digits", "text" or "detail".
        path: A text of the user's for "text".
    """
    make = {"digits": _digits, "share": _digits, "text": lambda: _text(path), "detail": _detail}[
        problem
    ]
    x, y = make()
    order = np.random.default_rng(7).permutation(len(x))[: _MOST[problem]]
    if problem == "text":
        # Places of one text overlap, so that the last tenth of it is kept apart.
        order = np.sort(order)
    cut = len(order) * 9 // 10
    learn, judge = order[:cut], order[cut:]
    return x[learn], y[learn], x[judge], y[judge]


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 8.0 - 1.0).astype(np.float32), y.astype(np.int64)


def _text(path: str) -> tuple[np.ndarray, np.ndarray]:
    if path:
        words = Path(path).read_text(encoding="utf-8", errors="replace")
    else:
        import sklearn.datasets

        folder = Path(sklearn.datasets.__file__).parent / "descr"
        words = "".join(p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.rst")))
    letters = [letter for letter, _ in _counted(words)[: LETTERS - 1]]
    codes = {letter: i + 1 for i, letter in enumerate(letters)}
    line = np.array([codes.get(letter, 0) for letter in words], np.int64)
    rows = np.lib.stride_tricks.sliding_window_view(line, CONTEXT + 1)
    return rows[:, :-1].copy(), rows[:, -1].copy()


def _counted(words: str) -> list[tuple[str, int]]:
    return sorted(((c, words.count(c)) for c in set(words)), key=lambda pair: (-pair[1], pair[0]))


def _detail() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_sample_image

    picture = load_sample_image("china.jpg").astype(np.float32) / 255.0
    windows = np.lib.stride_tricks.sliding_window_view(picture, (PATCH, PATCH, 3))
    sharp = windows[::5, ::5, 0].reshape(-1, PATCH // 2, 2, PATCH // 2, 2, 3)
    small = sharp.mean(axis=(2, 4), keepdims=True)
    detail = (sharp - small).reshape(len(sharp), -1)
    return 4.0 * small.reshape(len(sharp), -1) - 2.0, detail


def make_model(problem: str, seed: int) -> nn.Module:
    """Returns the net of a problem with weights drawn from the seed."""
    pixels = PATCH * PATCH * 3
    layers: dict[str, list[nn.Module]] = {
        "digits": [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
                   nn.Linear(128, 10)],
        "text": [nn.Embedding(LETTERS, 16), nn.Flatten(), nn.Linear(CONTEXT * 16, 192), nn.ReLU(),
                 nn.LayerNorm(192), nn.Linear(192, 192), nn.ReLU(), nn.Linear(192, LETTERS)],
        "detail": [nn.Linear(pixels // 4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
                   nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, pixels)],
    }  # fmt: skip
    model = nn.Sequential(*layers["digits" if problem == "share" else problem])
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Linear):
                spread = math.sqrt(2.0 / module.in_features)
                module.weight.normal_(0.0, spread, generator=random)
                module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, 1.0, generator=random)
        if problem == "detail":
            # A net that adds detail begins near none, as those for enlarging do.
            list(model.parameters())[-2].mul_(0.02)
    return model


def loss(problem: str, output: Tensor, target: Tensor) -> Tensor:
    """Returns the mean loss of a batch, in float32."""
    if problem == "detail":
        return nn.functional.mse_loss(output.float(), target)
    return nn.functional.cross_entropy(output.float(), target)


def right(problem: str, output: Tensor, target: Tensor) -> float:
    """Share of right answers; of details the share of the variance that is explained."""
    if problem == "detail":
        return float(1.0 - (output.float() - target).square().mean() / target.var())
    return float((output.argmax(1) == target).float().mean())


def batches(problem: str, x: np.ndarray, y: np.ndarray, steps: int, seed: int) -> Any:
    """Yields `steps` batches (inputs, targets) as tensors."""
    rng, size = np.random.default_rng(seed), BATCH[problem]
    for _ in range(steps):
        rows = rng.integers(0, len(x), size)
        yield torch.from_numpy(x[rows]), torch.from_numpy(y[rows])
