"""`train-vision` and `detect`: jobs of `paragone.vision` as the shell calls them.

Words of the shell become arguments, errors of one's own data become one line, and a run tells how
it goes: on a terminal in a line at the bottom, elsewhere in plain lines with the time of day.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab import format as fmt
from paragone.lab import units
from paragone.lab.live_line import JobLine
from paragone.vision.training import (
    PRIMARY,
    Progressed,
    Training,
    models,
    train,
    usual_augmentation,
)

__all__ = [
    "Found", "JobProgress", "Trained", "described", "detect", "figures", "named_values", "numbers",
    "train_vision",
]  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A finished run; `str()` is what the shell prints."""

    training: Training

    def json(self) -> str:
        t = self.training
        weights = None if t.weights is None else str(t.weights)
        return json.dumps({
            "folder": str(t.folder), "metrics": t.metrics, "test": t.test,
            "seconds": round(t.seconds, 1), "weights": weights,
        })  # fmt: skip

    def __str__(self) -> str:
        t = self.training
        lines = [f"{t.folder}: {t.model.config['model']}, {fmt.seconds(t.seconds)}"]
        lines.append(f"validation  {figures(t.metrics)}, epoch {t.metrics.get('epoch')}")
        if t.test is not None:
            lines.append(f"test        {figures(t.test)}")
        if t.model.task == "detect":
            lines.append(f"next: paragone detect {t.folder} IMAGES --out FOLDER")
        else:
            lines.append(f"next: paragone.vision.load_model({str(t.folder)!r}).predict(images)")
        return "\n".join(lines)


@dataclass(frozen=True)
class Found:
    """What `detect` has found."""

    images: int
    boxes: int
    classes: dict[str, int]
    skipped: tuple[str, ...]
    folder: str | None

    @property
    def exit_code(self) -> int:
        return 1 if self.skipped else 0

    def json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.classes.items() if count)
        lines = [
            f"{self.boxes} objects in {self.images} images" + (f": {counts}" if counts else "")
        ]
        lines += [f"left out: {line}" for line in self.skipped]
        if self.folder is not None:
            lines.append(f"pictures and detections.json: {self.folder}")
        return "\n".join(lines)


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers of a text such as 240,320.

    Example:
        >>> numbers("240,320")
        (240, 320)
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdigit() for word in words):
        raise UsageError(f"{text!r} is not understood; write whole numbers like 240,320,400")
    return tuple(int(word) for word in words)


def named_values(text: str) -> dict[str, Any]:
    """Values by name of a text such as width=0.5,scales=16/32/64.

    Example:
        >>> named_values("width=0.5,scales=16/32,wiring=megvii")
        {'width': 0.5, 'scales': (16, 32), 'wiring': 'megvii'}
    """
    found = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, sign, value = part.partition("=")
        if not sign or not name.strip().isidentifier():
            raise UsageError(f"--options {part!r} is not understood; write NAME=VALUE")
        words = [_value(word) for word in value.split("/")]
        found[name.strip()] = tuple(words) if len(words) > 1 else words[0]
    return found


def _value(word: str) -> Any:
    known = {"true": True, "false": False, "none": None}
    if word.lower() in known:
        return known[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def figures(metrics: dict[str, Any]) -> str:
    """Metrics in words, the one that chooses first."""
    first = [k for k in PRIMARY.values() if k in metrics]
    rest = [k for k in metrics if k not in (*first, "epoch") and isinstance(metrics[k], float)]
    return ", ".join(f"{k} {metrics[k]:.4f}" for k in (*first, *rest)) or "none measured"


class JobProgress(JobLine):
    """Shows a run; give it as `progress` and use it as a context."""

    before = "reading the data"

    def described(self, event: Progressed) -> str:
        """One event as a line."""
        return described(event)


def described(event: Progressed) -> str:
    """One event as a line."""
    if event.kind == "note":
        return event.text
    if event.kind == "end":
        return f"done in {fmt.seconds(event.seconds)}"
    epoch = f"epoch {event.epoch}" + (f"/{event.epochs}" if event.epochs else "")
    parts = [epoch, f"loss {event.loss:.3f}"]
    if event.metrics:
        parts.append(figures(event.metrics))
    parts.append(f"{event.rate:.0f} images/s")
    if event.left is not None and event.kind == "step":
        parts.append(f"ETA {fmt.seconds(round(event.left))}")
    return "  ".join(parts)


_EMBEDDED: dict[str, dict[str, int]] = {
    "classify": {"size": 64, "epochs": 10}, "segment": {"size": 128, "epochs": 20},
    "detect": {"size": 160, "epochs": 20},
}  # fmt: skip
"""What is enough for embedded images, whose digits are coarse."""


def _is_embedded(data: Any) -> bool:
    return not data or (data in ("digits", "scenes") and not Path(data).exists())


def _data(task: str, data: Any, reading: dict[str, Any]) -> Any:
    from paragone.vision import samples
    from paragone.vision.data import read_images

    if not _is_embedded(data):
        return read_images(data, task, **reading)  # pyright: ignore
    name = data or ("digits" if task == "classify" else "scenes")
    shares = {"validation": reading["validation"], "test": reading["test"],
              "random_state": reading["random_state"]}  # fmt: skip
    if name == "digits":
        if task != "classify":
            raise UsageError(f"the embedded digits have no {task} targets; take scenes")
        return samples.digit_images(32, **shares)
    if task == "classify":
        raise UsageError("the embedded scenes have no class each; take digits")
    return samples.digit_scenes(400, 160, **shares).for_task(task)  # pyright: ignore


def train_vision(
    task: str,
    data: Any,
    *,
    options: dict[str, Any],
    reading: dict[str, Any],
    budget: str | float | None,
    mirror: str | None,
    out: Any,
    progress: Callable[[Any], None] | None,
) -> Trained:
    """Reads the data and trains; everything that the user can mend is a `UsageError`."""
    if task not in PRIMARY:
        raise UsageError(f"task {task!r} is none of {', '.join(PRIMARY)}")
    name = Path(str(data)).name.split(".")[0] if data else "scenes"
    name = "digits" if not data and task == "classify" else name
    folder = out or Path("runs") / f"{task}-{name}"
    model = options.get("model")
    if isinstance(model, str) and model not in models(task):  # pyright: ignore
        raise UsageError(f"--model {model!r} is none of {', '.join(models(task))}")  # pyright: ignore
    seconds = units.seconds(budget, "--budget")
    if _is_embedded(data):
        usual = _EMBEDDED[task]
        options["size"] = options.get("size") or usual["size"]
        if seconds is None:
            options["epochs"] = options.get("epochs") or usual["epochs"]
    try:
        images = _data(task, data, reading)
        if mirror is not None:
            varied = usual_augmentation(task, images)  # pyright: ignore
            options["augmentation"] = dataclasses.replace(varied, mirror=mirror)  # pyright: ignore
        done = train(
            task, images, budget=seconds, out=folder, progress=progress, **options  # pyright: ignore
        )  # fmt: skip
    except UsageError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return Trained(done)


def detect(
    model: Any, images: Any, *, out: Any, threshold: float, like: Any, batch: int, device: str,
    progress: Callable[[Any], None] | None,
) -> Found:  # fmt: skip
    """Finds objects; everything that the user can mend is a `UsageError`."""
    from paragone.vision.annotations import read_annotations
    from paragone.vision.detection import detect as find

    begun = time.monotonic()

    def tell(done: int, total: int) -> None:
        if progress is not None:
            seconds = time.monotonic() - begun
            progress(Progressed(
                "note", seconds=seconds,
                text=f"{done}/{total} images, {done / max(seconds, 1e-9):.0f} images/s",
            ))  # fmt: skip

    try:
        objects = None if like is None else read_annotations(like)
        found = find(
            model, images, out, threshold=threshold, like=objects, batch=batch, device=device,
            progress=tell,
        )  # fmt: skip
    except UsageError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    counts = dict.fromkeys(found.classes, 0)
    for one in found:
        for label in one["labels"]:
            counts[found.classes[label]] += 1
    return Found(
        len(found), sum(counts.values()), counts, tuple(found.skipped),
        None if found.folder is None else str(found.folder),
    )  # fmt: skip
