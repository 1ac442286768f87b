"""Models for a run: built from a preset, taken over, or opened; a Chameleon's first stage.

A Chameleon predicts codes, and codes must mean something before they are predicted: the image
tokenizer is trained first, on the same pictures, in a folder of its own, so that it goes on and is
kept like the second stage.

References:
    Chameleon Team (2024), arXiv:2405.09818, section 2.1 (the tokenizer is trained before).

Shapes: none.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.language._train_setup import free_memory
from paragone.language.fitting import Progressed
from paragone.language.tokenizer import Tokenizer
from paragone.multimodal.captions import Captioned, Captions
from paragone.multimodal.contract import ARCHITECTURES, VisionLanguage, open_model
from paragone.training.run_folder import seeded

__all__ = ["STAGE_ONE", "Stage", "built", "described", "usual_preset"]

STAGE_ONE = "image_tokenizer"
"""Folder of the first stage within that of the run."""

_VOCABULARY = {"digits": 320, "tiny": 1024}
"""Tokens of a tokenizer that is learned for a preset."""

_SMALL, _LOOKED_AT = 12, 64

_SHARE = 0.2
"""Of a budget in seconds, what the first stage takes."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a first stage is made with.

    Args:
        records: Whose pictures it learns from.
        folder: Of the run, or None.
        seconds: Budget of the whole run, or None.
        image_tokenizer: A trained one, its folder, or options of `ImageTokenizer.fit`.
        vocab_size: Tokens of the tokenizer of texts (None: by the preset).
        seed: Of weights and order.
        device: Where it runs.
        tell: Called with notes.
        progress: Called with its events.
    """

    records: Captions
    folder: Path | None
    seconds: float | None
    image_tokenizer: Any
    vocab_size: int | None
    seed: int
    device: str
    tell: Callable[[str], None]
    progress: Callable[[Progressed], None] | None


def usual_preset(records: Captions) -> str:
    """The preset that fits the pictures: "digits" for tiny ones, else "tiny"."""
    some = [one for one in records if isinstance(one, Captioned)][:_LOOKED_AT]
    sides = sorted(max(one.picture.shape[:2]) for one in some)
    return "digits" if sides and sides[len(sides) // 2] <= _SMALL else "tiny"


def described(model: Any) -> Any:
    """A model as the identity of a run knows it."""
    if model is None or isinstance(model, str):
        return model
    if isinstance(model, Mapping):
        return dict(model)
    if isinstance(model, VisionLanguage):
        return f"a {model.arch} of {sum(p.numel() for p in model.parameters())} weights"
    return str(model)


def built(
    arch: str, preset: str, model: Any, options: Mapping[str, Any], stage: Stage
) -> VisionLanguage:
    """The model of a run, on its device.

    Args:
        arch: A key of `ARCHITECTURES`.
        preset: A name that the model's `from_config` knows.
        model: None, changes to the preset, a model, or a folder.
        options: Further changes; None is none.
        stage: What a first stage needs.

    Raises:
        ValueError: An option that the model does not have, or one for a model that is given.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if given and (model is not None and not isinstance(model, Mapping)):
        raise ValueError(
            f"{', '.join(given)}: the model that is given has its own; change them in a new one"
        )
    if isinstance(model, VisionLanguage):
        return model.to(stage.device)
    if model is not None and not isinstance(model, Mapping):
        return open_model(model, device=stage.device)
    if given and arch != "lossless":
        raise ValueError(f"{', '.join(given)}: options of arch='lossless', not of {arch!r}")
    kind = resolve(ARCHITECTURES[arch][1])
    changes: dict[str, Any] = {**(model or {}), **given}
    if arch == "chameleon":
        return _chameleon(kind, preset, changes, stage)
    words = _words(stage.records, preset, stage.vocab_size)
    with seeded(stage.seed):
        return kind.from_config(preset, tokenizer=words, device=stage.device, **changes)


def _words(records: Captions, preset: str, size: int | None) -> Tokenizer:
    """A tokenizer of the texts that are learned, the same for the same records."""
    texts: list[str] = []
    for one in records:
        if isinstance(one, Captioned):
            texts += [one.caption, *filter(None, [one.question])]
        else:
            texts += [part for part in one.parts if isinstance(part, str)]
    return Tokenizer.train(texts, size or _VOCABULARY.get(preset, 4096))


def _chameleon(kind: Any, preset: str, changes: dict[str, Any], stage: Stage) -> VisionLanguage:
    config = resolve("paragone.multimodal.chameleon:ChameleonConfig").make(preset, **changes)
    tokenizer = _image_tokenizer(config.vq_config, stage)
    words = _words(stage.records, preset, stage.vocab_size)
    with seeded(stage.seed):
        return kind.from_config(
            preset, tokenizer=words, image_tokenizer=tokenizer, device=stage.device, **changes
        )


def _image_tokenizer(config: Any, stage: Stage) -> Any:
    """The trained first stage: given, opened, or trained now."""
    kind = resolve("paragone.multimodal.image_tokenizer:ImageTokenizer")
    given = stage.image_tokenizer
    if isinstance(given, kind):
        return given
    if isinstance(given, str | os.PathLike):
        return kind.from_pretrained(given, device=stage.device)
    pictures = _pictures(stage.records, config)
    stage.tell(f"first stage: an image tokenizer of {len(pictures)} pictures")
    options: dict[str, Any] = {"seed": stage.seed, "device": stage.device, **(given or {})}
    if stage.seconds is not None and "steps" not in options:
        options.setdefault("seconds", _SHARE * stage.seconds)
    folder = None if stage.folder is None else stage.folder / STAGE_ONE

    def tell(event: Progressed) -> None:
        if event.kind != "end" and stage.progress is not None:
            stage.progress(event)

    done = kind.fit(pictures, config, folder=folder, progress=tell, **options)
    told = ", ".join(f"{name} {value:.3g}" for name, value in done.metrics.items())
    stage.tell(f"image tokenizer: {told}, on held-out pictures")
    return done.tokenizer


def _pictures(records: Captions, config: Any) -> list[np.ndarray]:
    """Every picture once, as a square of the tokenizer's size; at most what memory has room for."""
    processor = resolve("paragone.multimodal.chameleon_image_processor:ChameleonImageProcessor")(
        config.resolution, config.in_channels
    )
    free = free_memory("cpu") or 1 << 32
    most = max(1, free // 4 // (config.resolution**2 * config.in_channels))
    sources: dict[str, Any] = {}
    for one in records:
        if isinstance(one, Captioned):
            sources[one.digest] = one.source
        else:
            found = [part for part in one.parts if not isinstance(part, str)]
            sources |= {f"{one.digest} {at}": part for at, part in enumerate(found)}
    chosen = list(sources.values())
    if len(chosen) > most:
        chosen = [chosen[at * len(chosen) // most] for at in range(most)]
    return [processor.squared(one() if callable(one) else one) for one in chosen]
