r"""Small training problems on real data: digits, text, photographs, or what the user brings.

Each is an array of examples, cut into a part to train on, one to choose by and one to test on,
a model, and a loss:

- *digits*: 1,797 images of 8 x 8 pixels; a perceptron with two hidden layers;
- *text*: the manual pages that come with Python, cut into pieces of 64 characters; a causal
  transformer that predicts the next character. Whole stretches of it are held out;
- *photographs*: patches of 16 x 16 pixels of the two that ship with scikit-learn, with noise
  of a tenth; three convolutions that take the noise away;
- *table*: a user's, the columns standardized on the rows to train on; the same perceptron.

Models are drawn from a seed: every matrix normal with variance 1 / inputs, vectors zero, gains
one. So is the order of the batches, which all contestants share.

Shapes: n examples, b in a batch, t characters, v of them different, w width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paragone._core.errors import UsageError
from paragone.lab.tasks.splits import FOLDS, split

__all__ = ["Problem", "load", "read_text"]

LENGTH = 64
LEAST_CHARACTERS = 20_000
MOST_CHARACTERS = 400_000
_NOISE = 0.1
_PATCH = 16


@dataclass(kw_only=True)
class Problem:
    """Examples, their three parts, and how a model of them is made and judged.

    Attributes:
        x: Inputs (n, ...).
        y: Class codes (n,) or (n, t), or numbers (n, ...).
        classes: v, or 0 where numbers are predicted.
        parts: Row numbers of "train", "valid" and "test".
        kind: "table", "text" or "photographs".
        batch: b.
    """

    x: Tensor
    y: Tensor
    classes: int
    parts: dict[str, np.ndarray]
    kind: str
    batch: int

    def identity(self) -> tuple[Any, ...]:
        """Arrays that say whether two problems are the same."""
        return self.x, self.y, *self.parts.values()

    def model(self, seed: int) -> nn.Module:
        """A model whose weights are drawn from the seed."""
        if self.kind == "text":
            made: nn.Module = Characters(self.classes)
        elif self.kind == "photographs":
            made = Denoiser()
        else:
            made = perceptron(self.x.shape[1], self.classes or 1)
        return _drawn(made, seed)

    def batches(self, seed: int, steps: int, parts: tuple[str, ...]) -> Iterator[Any]:
        """Pairs (x, y) of b examples, shuffled anew each time round."""
        rows = np.concatenate([self.parts[name] for name in parts])
        rng, size = np.random.default_rng(seed), min(self.batch, len(rows))
        left = rng.permutation(rows)
        for _ in range(steps):
            if len(left) < size:
                left = rng.permutation(rows)
            chosen, left = torch.from_numpy(left[:size]), left[size:]
            yield self.x[chosen], self.y[chosen]

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy, or mean squared error."""
        told = model(x)
        if self.classes:
            return nn.functional.cross_entropy(told.reshape(-1, self.classes), y.reshape(-1))
        return nn.functional.mse_loss(told.reshape(y.shape), y)

    @torch.no_grad()
    def judge(self, model: nn.Module, part: str, most: int = 0) -> dict[str, float]:
        """The loss on a part, and the share of right answers where classes are predicted.

        With `most` on about that many examples, evenly spaced.
        """
        rows = torch.from_numpy(self.parts[part])
        rows = rows[:: max(1, len(rows) // most)] if most else rows
        total = right = 0.0
        for chosen in rows.split(256):
            x, y = self.x[chosen], self.y[chosen]
            share = len(chosen) / len(rows)
            total += share * float(self.loss(model, x, y))
            if self.classes:
                right += share * float((model(x).argmax(-1) == y).float().mean())
        return {"loss": total, **({"accuracy": right} if self.classes else {})}


def load(kind: str, split: int = 0, path: str = "", seed: int = 0) -> Problem:
    """Makes the problem.

    Args:
        kind: "digits", "text", "photographs" or "table".
        split: Number of the split.
        path: A text file, or the folder of a stored table; "" is what ships.
        seed: Of the splits of tables.
    """
    if kind == "text":
        return _text(read_text(path), split)
    if kind == "photographs":
        return _photographs(split)
    if kind == "table":
        return _table(path, split, seed)
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    parts = _parts(digits, split, seed, stratified=True)
    x = torch.from_numpy((images / 16).astype(np.float32))
    return Problem(x=x, y=torch.from_numpy(digits), classes=10, parts=parts, kind="table", batch=64)


def read_text(path: str = "") -> str:
    """The user's text, or Python's manual pages.

    Raises:
        UsageError: No such file, no UTF-8, or too short to learn from.
    """
    if not path:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))[:MOST_CHARACTERS]
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no text in UTF-8 that can be read ({error})") from error
    if len(text) < LEAST_CHARACTERS:
        raise UsageError(
            f"{path}: {len(text):,} characters; a language model needs {LEAST_CHARACTERS:,}"
        )
    return text[:MOST_CHARACTERS]


def _parts(target: np.ndarray, number: int, seed: int, stratified: bool) -> dict[str, np.ndarray]:
    rest, test = split(target, number, stratified=stratified, seed=seed)
    inner, valid = split(target[rest], number, stratified=stratified, seed=seed + 1)
    return {"train": rest[inner], "valid": rest[valid], "test": test}


def _text(text: str, number: int) -> Problem:
    known, codes = np.unique(np.array(list(text)), return_inverse=True)
    rows = len(codes) // (LENGTH + 1)
    pieces = torch.from_numpy(codes[: rows * (LENGTH + 1)].reshape(rows, LENGTH + 1))
    stretch = np.arange(rows) * 2 * FOLDS // rows
    first = (2 * number) % (2 * FOLDS)
    chosen = {"test": stretch == first, "valid": stretch == (first + 5) % (2 * FOLDS)}
    # Every other piece of a stretch is enough to judge by.
    parts = {name: np.flatnonzero(rows)[::2] for name, rows in chosen.items()}
    parts["train"] = np.flatnonzero(~(chosen["test"] | chosen["valid"]))
    x, y = pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()
    return Problem(x=x, y=y, classes=len(known), parts=parts, kind="text", batch=8)


def _photographs(number: int) -> Problem:
    from sklearn.datasets import load_sample_images

    patches = []
    for image in load_sample_images().images:
        high, wide = (size // _PATCH * _PATCH for size in image.shape[:2])
        cut = image[:high, :wide].reshape(high // _PATCH, _PATCH, wide // _PATCH, _PATCH, 3)
        patches.append(cut.transpose(0, 2, 4, 1, 3).reshape(-1, 3, _PATCH, _PATCH))
    clean = np.concatenate(patches).astype(np.float32) / 255
    noise = np.random.default_rng(0).normal(0.0, _NOISE, clean.shape).astype(np.float32)
    parts = _parts(np.zeros(len(clean)), number, 0, stratified=False)
    x, y = torch.from_numpy(clean + noise), torch.from_numpy(clean)
    return Problem(x=x, y=y, classes=0, parts=parts, kind="photographs", batch=16)


def _table(folder: str, number: int, seed: int) -> Problem:
    from paragone.lab import data

    table = data.load(folder)
    parts = _parts(table.target, number, seed, stratified=table.classes is not None)
    train, columns = parts["train"], []
    for j, texts in enumerate(table.categories):
        column = table.values[:, j]
        missing = np.isnan(column)
        if texts is not None:
            columns += [column == code for code in range(len(texts))]
        else:
            known = column[train][~missing[train]].astype(np.float64)
            spread = known.std() if len(known) else 0.0
            middle = known.mean() if len(known) else 0.0
            columns.append(np.where(missing, 0.0, (column - middle) / (spread or 1.0)))
        if missing.any():
            columns.append(missing)
    x = torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))
    if table.classes is not None:
        y, classes = torch.from_numpy(table.target.astype(np.int64)), len(table.classes)
    else:
        goal = table.target.astype(np.float64)
        goal = (goal - goal[train].mean()) / (goal[train].std() or 1.0)
        y, classes = torch.from_numpy(goal.astype(np.float32)), 0
    return Problem(x=x, y=y, classes=classes, parts=parts, kind="table", batch=64)


def perceptron(inputs: int, outputs: int) -> nn.Module:
    """Two hidden layers of 256 and 128."""
    return nn.Sequential(
        nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, outputs)
    )


class Denoiser(nn.Module):
    """Three convolutions whose output is added to the picture."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.middle = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (b, 3, h, w) without noise."""
        return x + self.last(nn.functional.relu(self.middle(nn.functional.relu(self.first(x)))))


class Block(nn.Module):
    """Causal attention and a perceptron, each after a norm and added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, w) to the same."""
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        mixed = nn.functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


class Characters(nn.Module):
    """A transformer of two blocks that predicts the next character."""

    def __init__(self, known: int, width: int = 64, blocks: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.symbols = nn.Embedding(known, width)
        self.places = nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, known, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Codes (b, t) to scores (b, t, v)."""
        h = self.symbols(x) + self.places(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


@torch.no_grad()
def _drawn(model: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for p in module.parameters(recurse=False):
            if p.ndim > 1:
                p.normal_(0.0, float(np.sqrt(p.shape[0] / p.numel())), generator=generator)
            else:
                p.zero_()
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
    return model
