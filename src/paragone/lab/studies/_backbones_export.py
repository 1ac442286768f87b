"""The winner of the study `backbones`, trained on all images: a folder for `load_model`.

The training is that of the study: the same seconds or steps' worth, rate, batch and size, but on
the test images too, of which a tenth are looked at again to say how it went.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve
from paragone.lab.export import Exported
from paragone.lab.spec import Contestant, Workload
from paragone.lab.studies._backbones_pictures import moved
from paragone.vision.registry import BACKBONES

__all__ = ["write"]

_FALLBACK = 40.0


def write(study: Any, place: Workload, contestant: Contestant, folder: Path) -> Exported:
    """Trains a contestant on all images of a workload and writes it.

    Args:
        study: The finished study.
        place: Whose images; one where something was learnt.
        contestant: One of our registry.
        folder: To write.

    Raises:
        UsageError: Another library's network, or a workload without images to learn from.
    """
    name = str(contestant.params.get("name", ""))
    if contestant.origin != "paragone" or name not in BACKBONES:
        raise UsageError(
            f"{contestant.id}: only paragone's own networks are written; choose one with --pick"
        )
    if place.facts.get("part") != "learn":
        raise UsageError(f"{place.title}: nothing was learnt there; choose another workload")
    images = resolve(place.load)(**{**place.params, **moved(str(study.folder), place.params)})
    data, facts = _all_of(images, place.title), place.facts
    width = float(facts.get("width", 1.0))
    model_options = {"width": width} if width != 1.0 else {}
    done = resolve("paragone.vision:train")(
        "classify", data, name, budget=float(facts.get("seconds") or _FALLBACK),
        batch=int(facts["batch"]), size=int(facts["size"]), optimizer="adamw",
        lr=float(facts["rates"][0]), keep="last", out=folder, resume=False,
        seed=int(study.content["request"]["seed"]), device="cpu", model_options=model_options,
    )  # fmt: skip
    return Exported(
        folder=folder, contestant=contestant.title, model=done,
        use=f'paragone.vision.load_model("{folder.name}").predict(images)',
    )  # fmt: skip


def _all_of(images: Any, title: str) -> Any:
    """All images to train on, a tenth of them to look at again."""
    sets = resolve("paragone.vision._data_sets:ImageSet")
    some = np.arange(0, len(images.labels), 10)
    names = [f"image-{i}" for i in range(len(images.labels))]
    whole = sets(list(images.pixels), names, labels=images.labels)
    again = sets([images.pixels[i] for i in some], [names[i] for i in some],
                 labels=images.labels[some])  # fmt: skip
    return resolve("paragone.vision._data_sets:ImageData")(
        "classify", tuple(images.classes), whole, again, name=title
    )
