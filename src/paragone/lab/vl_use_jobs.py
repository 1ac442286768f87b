"""`caption`, `ask` and `draw`: a trained model of texts and pictures in the shell.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError

__all__ = ["Described", "Drawn", "ask", "caption", "draw", "picture_files"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_AT_ONCE = 32


@dataclass(frozen=True)
class Described:
    """What a model says of pictures.

    Attributes:
        texts: A text for each picture that could be read.
        skipped: What could not be read, and why.
        alone: Whether one picture was asked for: its text stands without the file's name.
    """

    texts: dict[str, str]
    skipped: tuple[str, ...] = ()
    alone: bool = False

    @property
    def exit_code(self) -> int:
        return 1 if self.skipped else 0

    def json(self) -> str:
        found = [{"image": image, "text": text} for image, text in self.texts.items()]
        return json.dumps({"captions": found, "skipped": self.skipped}, ensure_ascii=False)

    def __str__(self) -> str:
        lines = [text if self.alone else f"{image}: {text}" for image, text in self.texts.items()]
        return "\n".join([*lines, *(f"left out: {line}" for line in self.skipped)])


@dataclass(frozen=True)
class Drawn:
    """Pictures that a model has drawn.

    Attributes:
        text: What was asked for.
        files: One each.
        grid: All of them side by side, enlarged.
    """

    text: str
    files: tuple[str, ...]
    grid: str

    def json(self) -> str:
        return json.dumps({"text": self.text, "files": self.files, "grid": self.grid})

    def __str__(self) -> str:
        first, last = self.files[0], self.files[-1]
        some = first if first == last else f"{first} to {Path(last).name}"
        return f"{len(self.files)} drawn: {some}\nall of them: {self.grid}"


def picture_files(images: Sequence[str]) -> list[Path]:
    """Files of pictures; a folder stands for those in it.

    Raises:
        UsageError: No file, or one that is not there.
    """
    found: list[Path] = []
    for image in images:
        path = Path(image)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
            if not inside:
                raise UsageError(f"{image}: no picture in this folder")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"{image}: no such file or folder")
    if not found:
        raise UsageError("name at least one picture, or a folder of them")
    return found


def _opened(model: str | os.PathLike[str], device: str, threads: int | None) -> Any:
    import torch

    from paragone.lab.language_models import place_of
    from paragone.multimodal.contract import open_model

    if threads is not None:
        torch.set_num_threads(threads)
    found = open_model(model, device=place_of(device)).eval()
    if found.tokenizer is None:
        raise UsageError(f"{model}: no tokenizer beside the model")
    return found


def _described(
    model: str | os.PathLike[str], files: Sequence[Path], question: str, max_tokens: int,
    temperature: float, top_p: float, seed: int, device: str, threads: int | None,
) -> Described:  # fmt: skip
    from paragone.multimodal._captions_files import FileImage

    try:
        network = _opened(model, device, threads)
        pictures, skipped = {}, []
        for file in files:
            try:
                pictures[str(file)] = FileImage(file)()
            except (ValueError, OSError) as error:
                skipped.append(str(error))
        options: dict[str, Any] = {
            "question": question, "max_new_tokens": max_tokens, "temperature": temperature,
            "top_p": top_p,
        }  # fmt: skip
        names, texts = list(pictures), {}
        for at in range(0, len(names), _AT_ONCE):
            part = names[at : at + _AT_ONCE]
            try:
                told = network.describe([pictures[x] for x in part], seed=seed + at, **options)
                texts |= dict(zip(part, told, strict=True))
            except ValueError:
                # One of them does not fit into the model: which?
                for name in part:
                    try:
                        texts |= {name: network.describe([pictures[name]], seed=seed, **options)[0]}
                    except ValueError as error:
                        skipped.append(f"{name}: {error}")
    except UsageError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    if not texts:
        raise UsageError(skipped[0])
    return Described(texts, tuple(skipped), len(files) == 1)


def caption(
    model: str,
    *images: str,
    max_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
) -> Described:
    """Says what pictures show.

    Args:
        model: A model's folder, such as runs/chameleon-digits.
        images: Pictures, or folders of them.
        max_tokens: Most tokens of a caption.
        temperature: 0 takes the likeliest token.
        top_p: Share of the probability to draw from.
        seed: Seed of the draws.
        threads: Threads of torch.
        device: Where it runs.
    """
    files = picture_files(images)
    return _described(model, files, "", max_tokens, temperature, top_p, seed, device, threads)


def ask(
    model: str,
    image: str,
    question: str,
    *,
    max_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
) -> Described:
    """Answers a question about a picture; the model must have learned to answer.

    Args:
        model: A model's folder.
        image: A picture.
        question: The question, as training had them.
        max_tokens: Most tokens of the answer.
        temperature: 0 takes the likeliest token.
        top_p: Share of the probability to draw from.
        seed: Seed of the draws.
        threads: Threads of torch.
        device: Where it runs.
    """
    if not question.strip():
        raise UsageError("the question is empty; paragone caption needs none")
    files = picture_files([image])
    return _described(model, files, question, max_tokens, temperature, top_p, seed, device, threads)


def draw(
    model: str,
    text: str,
    *,
    count: int = 9,
    out: str = "drawn",
    guidance: float | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    size: str = "",
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
) -> Drawn:
    """Draws pictures of a text, as PNG files and side by side.

    Args:
        model: A model's folder.
        text: What is to be drawn, as training had captions: 'a handwritten seven'.
        count: Pictures.
        out: Folder that they are written to.
        guidance: How much the text counts; without it, as the model has it.
        temperature: Of the draws.
        top_p: Share of the probability to draw from.
        size: Rows and columns of pixels, such as 32x48; without it, the model's own.
        seed: Seed of the draws.
        threads: Threads of torch.
        device: Where it runs.
    """
    if count < 1:
        raise UsageError(f"--count {count}: at least 1")
    shape = _shape(size)
    from paragone.multimodal._pictures_out import grid, save_png

    try:
        network = _opened(model, device, threads)
        if not network.draws:
            raise UsageError(f"{model}: a {network.arch} reads pictures and does not draw them")
        pictures: list[Any] = []
        for at in range(0, count, _AT_ONCE):
            pictures += network.draw(
                [text] * min(_AT_ONCE, count - at), guidance=guidance, temperature=temperature,
                top_p=top_p, size=shape, seed=seed + at,
            )  # fmt: skip
        stem = re.sub(r"[^\w]+", "-", text).strip("-")[:48] or "picture"
        files = [save_png(one, Path(out) / f"{stem}-{number}.png")
                 for number, one in enumerate(pictures, 1)]  # fmt: skip
        page = save_png(grid(pictures), Path(out) / f"{stem}-all.png")
    except UsageError:
        raise
    except (ValueError, FileNotFoundError, NotADirectoryError, FileExistsError) as error:
        raise UsageError(str(error)) from error
    return Drawn(text, tuple(map(str, files)), str(page))


def _shape(size: str) -> tuple[int, int] | None:
    if not size:
        return None
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", size.strip().lower())
    if found is None or not int(found[1]):
        raise UsageError(f"--size {size!r} is not understood; write rows x columns like 32x48")
    return int(found[1]), int(found[2] or found[1])
