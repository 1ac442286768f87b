"""Everything that decides how a network is trained, with what is good for each task.

The defaults are those that reached their goal on small data sets and two cores; each number may be
given. A recipe is written to the run's `config.json`, and only the same recipe goes on from it.

References:
    Loshchilov and Hutter (2017), "SGDR", arXiv:1608.03983, eq. 5 (cosine).
    Goyal et al. (2017), arXiv:1706.02677, section 2.2 (warm-up).
    Szegedy et al. (2016), arXiv:1512.00567, section 7 (label smoothing).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from paragone.training.by_name import OPTIMIZERS, RATES
from paragone.vision._data_augment import Augmentation
from paragone.vision._data_sets import Task

__all__ = ["FIT", "Recipe", "rate", "usual_for"]

Fit = Literal["stretch", "letterbox", "cover", "native"]
FIT: dict[str, Fit] = {"classify": "cover", "segment": "native", "detect": "stretch"}
"""How a whole image meets the network: in validation and in use."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "classify": {"model": "snet49", "epochs": 40, "batch": 32, "size": 96, "optimizer": "adamw"},
    "segment": {"model": "unet", "epochs": 30, "batch": 4, "size": 128, "optimizer": "adamw"},
    "detect": {
        "model": "thundernet_snet49", "epochs": 12, "batch": 8, "size": 320, "optimizer": "adamw",
        "lr": 2e-3, "weight_decay": 0.05, "clip_norm": 10.0,
    },
}  # fmt: skip
_AUGMENTATIONS = {
    "classify": Augmentation(),
    "segment": Augmentation(scale=(0.7, 1.4)),
    "detect": Augmentation(),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train; see `paragone.vision.train` for the meaning of each."""

    task: Task
    model: str
    epochs: int | None
    budget: float | None
    batch: int
    size: int
    optimizer: str
    lr: float
    weight_decay: float
    warmup: float
    clip_norm: float | None
    label_smoothing: float
    ema: bool
    precision: str
    channels_last: bool
    progressive: float
    multi_scale: tuple[int, ...]
    augmentation: Augmentation
    fit: Fit
    freeze: tuple[str, ...]
    keep: str
    seed: int
    model_options: dict[str, Any]

    @staticmethod
    def make(task: Task, **given: Any) -> Recipe:
        """Fills in what is not given (None).

        Raises:
            ValueError: A number or name is out of range.
        """
        if task not in _DEFAULTS:
            raise ValueError(f"task {task!r} is none of {', '.join(_DEFAULTS)}")
        usual = _DEFAULTS[task]
        values: dict[str, Any] = {k: usual.get(k) if v is None else v for k, v in given.items()}
        if given["budget"] is not None and given["epochs"] is None:
            values["epochs"] = None
        values["augmentation"] = values["augmentation"] or usual_for(task)
        values["fit"] = values["fit"] or FIT[task]
        name = values["optimizer"]
        if name not in OPTIMIZERS:
            raise ValueError(f"optimizer {name!r} is none of {', '.join(OPTIMIZERS)}")
        same = name == usual["optimizer"] and "lr" in usual
        values["lr"] = values["lr"] or (usual["lr"] if same else RATES[name])
        if values["weight_decay"] is None:
            values["weight_decay"] = 1e-4 if name == "sgd" else 0.02
        if values["label_smoothing"] is None:
            values["label_smoothing"] = 0.1 if task == "classify" else 0.0
        recipe = Recipe(task=task, **values)
        recipe._check()
        return recipe

    def _check(self) -> None:
        fits = ("stretch", "letterbox", "cover", "native")
        for wrong, told in (
            (self.epochs is not None and self.epochs < 1, f"epochs={self.epochs}: at least 1"),
            (self.budget is not None and not self.budget > 0,
             f"budget={self.budget}: a positive number of seconds"),
            (self.batch < 1, f"batch={self.batch}: at least 1 image"),
            (self.size < 8, f"size={self.size}: at least 8 pixels"),
            (not self.lr > 0, f"lr={self.lr}: above 0"),
            (self.weight_decay < 0, f"weight_decay={self.weight_decay}: at least 0"),
            (not 0 <= self.warmup < 1, f"warmup={self.warmup}: a share of the run below 1"),
            (not 0.2 <= self.progressive <= 1, f"progressive={self.progressive}: from 0.2 to 1"),
            (not 0 <= self.label_smoothing < 1, f"label_smoothing={self.label_smoothing}"),
            (self.keep not in ("best", "last"), f"keep={self.keep!r} is none of 'best', 'last'"),
            (self.precision not in ("auto", "fp32", "bf16", "fp16"),
             f"precision={self.precision!r} is none of 'auto', 'fp32', 'bf16', 'fp16'"),
            (self.fit not in fits, f"fit={self.fit!r} is none of {', '.join(fits)}"),
            (self.fit == "native" and self.task != "segment",
             f"fit='native' with {self.task!r}: only segmenters take any size"),
            (self.fit == "cover" and self.task != "classify",
             f"fit='cover' with {self.task!r}: it cuts off what is at the border"),
            (self.seed < 0, f"seed={self.seed}: at least 0"),
            (any(s < 8 for s in self.multi_scale), f"multi_scale={self.multi_scale}: 8 and more"),
        ):  # fmt: skip
            if wrong:
                raise ValueError(told)

    def to_json(self) -> dict[str, Any]:
        """Returns it in plain numbers, lists and names."""
        plain = dataclasses.asdict(self)
        return {k: _plain(v) for k, v in plain.items()}


def usual_for(task: Task) -> Augmentation:
    """How much images vary if nothing is said."""
    return _AUGMENTATIONS[task]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def rate(recipe: Recipe, done: float) -> float:
    """The learning rate when a share of the run is done: a linear rise, then half a cosine.

    Args:
        recipe: Its `lr` is the peak and `warmup` the share of the rise.
        done: Share of the run from 0 to 1.
    """
    if done < recipe.warmup:
        return recipe.lr * max(done / recipe.warmup, 0.01)
    left = (done - recipe.warmup) / (1 - recipe.warmup)
    return recipe.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(left, 1.0))))
