"""Pictures of the study `vision_language`: what was drawn and read, what codes lose, attention.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab.outcome import Summary
from paragone.lab.report import trends
from paragone.lab.report.charts import plain
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board
from paragone.lab.spec import Workload
from paragone.lab.studies._vision_language_findings import STABLE
from paragone.lab.summary import summarize

__all__ = ["attention", "drawn", "losses", "read", "rebuilt", "stability"]

_SHOWN, _THUMB, _LEFT = 10, 56, 250
_STYLE = "image{image-rendering:pixelated}text{font:12px system-ui,sans-serif;fill:#333}" \
    ".small{font-size:11px;fill:#666}@media (prefers-color-scheme:dark){text{fill:#ddd}" \
    ".small{fill:#aaa}}"  # fmt: skip


def _save(path: str, drawing: str, why: str) -> None:
    if not drawing:
        raise SystemExit(f"{why}: nothing to draw")
    Path(path).write_text(standalone(drawing), encoding="utf-8")


def _embedded(pixels: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    grey = pixels.ndim == 3 and pixels.shape[-1] == 1
    Image.fromarray(pixels[..., 0] if grey else pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _places(summary: Summary) -> list[Workload]:
    """Where models were trained, the one that they draw on first."""
    return [w for w in summary.workloads if w.facts.get("part") == "learn"]


def _arrays(
    summary: Summary, folder: str, place: str, names: tuple[str, ...]
) -> dict[str, list[np.ndarray]]:
    """Contestant to arrays of its first run that kept them all."""
    found: dict[str, list[np.ndarray]] = {}
    titles = [c.id for c in summary.contestants]
    for record in summary.records:
        name, files = record["contestant"], record.get("artifacts", {})
        if record["workload"] == place and name in titles and set(names) <= files.keys():
            found.setdefault(name, [np.load(Path(folder) / files[kind]) for kind in names])
    return {name: found[name] for name in titles if name in found}


def _scene(folder: str, place: Workload) -> Any:
    """The first split; a user's pictures may have moved with the study's folder."""
    params = dict(place.params)
    if "folder" in params and not Path(params["folder"]).exists():
        params["folder"] = str(Path(folder) / "data" / Path(params["folder"]).name)
    return resolve(place.load)(**params)


def _grid(title: str, rows: Mapping[str, Any], words: list[str] | None = None) -> str:
    """A row of thumbnails for each name: pictures, or pairs of a picture and a text below."""
    if not rows:
        return ""
    line = _THUMB + (22 if words is None else 10)
    board = Board(width=_LEFT + _SHOWN * (_THUMB + 8), height=int(34 + line * len(rows) + 24),
                  title=title)  # fmt: skip
    board.add("style", _STYLE)
    for number, (name, pictures) in enumerate(rows.items()):
        y = 12 + line * number
        board.text(14, y + _THUMB / 2 + 4, name)
        for k, one in enumerate(pictures[:_SHOWN]):
            pixels, below = one if isinstance(one, tuple) else (one, "")
            x = _LEFT + k * (_THUMB + 8)
            board.add("image", x=x, y=y, width=_THUMB, height=_THUMB, href=_embedded(pixels))
            if below:
                board.text(x + _THUMB / 2, y + _THUMB + 12, _short(below), "small", "middle")
    for k, word in enumerate((words or [])[:_SHOWN]):
        x = _LEFT + k * (_THUMB + 8) + _THUMB / 2
        board.text(x, 20 + line * len(rows), _short(word), "small", "middle")
    return board.svg()


def _short(text: str) -> str:
    """The last word, which is what captions differ in."""
    return (text.split() or [""])[-1][:10]


def drawn(folder: str, path: str) -> None:
    """Drawn pictures of each model, a column for each caption, under real ones."""
    summary = summarize(folder)
    titles = {c.id: c.title for c in summary.contestants}
    for place in _places(summary):
        found = _arrays(summary, folder, place.id, ("drawn", "asked"))
        if not found:
            continue
        scene = _scene(folder, place)
        first = next(iter(found.values()))[1][:_SHOWN]
        rows = {"real": [scene.pixels[i] for i in first]}
        rows |= {titles[name]: list(pixels) for name, (pixels, _) in found.items()}
        words = [scene.captions[i] for i in first]
        return _save(path, _grid(f"{place.title}: drawn", rows, words), "")
    return _save(path, "", "nothing was drawn")


def read(folder: str, path: str) -> None:
    """Held-out pictures, small text if there is some, with what each model read."""
    summary = summarize(folder)
    titles = {c.id: c.title for c in summary.contestants}
    for place in reversed(_places(summary)):
        found = _arrays(summary, folder, place.id, ("read", "shown"))
        if not found:
            continue
        scene, rows = _scene(folder, place), {}
        for name, (texts, numbers) in found.items():
            rows[titles[name]] = [
                (scene.pixels[i], str(text)) for text, i in zip(texts, numbers, strict=True)
            ]
        return _save(path, _grid(f"{place.title}: read", rows), "")
    return _save(path, "", "nothing was read")


def rebuilt(folder: str, path: str) -> None:
    """What codebooks give back of real pictures."""
    summary = summarize(folder)
    titles = {c.id: c.title for c in summary.contestants}
    rows: dict[str, Any] = {}
    for place in _places(summary):
        found = _arrays(summary, folder, place.id, ("rebuilt", "shown"))
        if found:
            scene, first = _scene(folder, place), next(iter(found.values()))[1]
            label = place.id
            rows[f"{label}: real"] = [scene.pixels[i] for i in first]
            rows |= {f"{label}: {titles[name]}": list(one) for name, (one, _) in found.items()}
    _save(path, _grid("Through a codebook and back", rows), "no codebook was trained")


def attention(folder: str, path: str) -> None:
    """Pictures, and how much each of their patches is attended to in the last block."""
    summary = summarize(folder)
    rows: dict[str, Any] = {}
    for place in _places(summary):
        for weights, numbers in _arrays(summary, folder, place.id, ("attention", "shown")).values():
            scene = _scene(folder, place)
            rows[f"{place.id}: pictures"] = [scene.pixels[i] for i in numbers]
            rows[f"{place.id}: attention"] = [_shaded(one) for one in weights]
    _save(path, _grid("Attention of the last block of the encoder", rows), "no encoder was trained")


def _shaded(weights: np.ndarray) -> np.ndarray:
    """(h, w) weights as a picture, dark for little."""
    low, high = float(weights.min()), float(weights.max())
    return np.rint(255 * (weights - low) / max(high - low, 1e-12)).astype(np.uint8)[..., None]


def _curves(
    summary: Summary, kind: str, place: Workload, names: Mapping[str, str], title: str,
    x_label: str, y_label: str,
) -> str:  # fmt: skip
    """One curve for each contestant: that of its first seed."""
    series: dict[str, trends.Series] = {}
    for name, where, what, xs, ys in summary.curves:
        if (where, what) == (place.id, kind) and name in names and name not in series:
            both = zip(xs, ys, strict=True)
            points = [(x, y) for x, y in both if x is not None and y is not None]
            series[name] = trends.Series(name=names[name], index=len(series), points=points)
    return trends.curves(list(series.values()), title=f"{place.title}: {title}", x_label=x_label,
                         y_label=y_label, show_x=plain, show_y=plain)  # fmt: skip


def losses(folder: str, path: str) -> None:
    """Training loss of captions over CPU seconds, a first stage included."""
    summary = summarize(folder)
    titles = {c.id: c.title for c in summary.contestants}
    for place in _places(summary):
        if drawing := _curves(summary, "text loss over CPU seconds", place, titles, "captions",
                              "CPU seconds", "training loss, nats a token"):  # fmt: skip
            return _save(path, drawing, "")
    return _save(path, "", "nothing was trained")


def stability(folder: str, path: str) -> None:
    """Loss at the highest rate, with and without what keeps training stable."""
    summary = summarize(folder)
    places = [w for w in summary.workloads if w.facts.get("part") == "stable"]
    for place in reversed(places):
        if drawing := _curves(summary, "loss over steps", place, STABLE, "QK-norm and z-loss",
                              "steps", "training loss, nats a token"):  # fmt: skip
            return _save(path, drawing, "")
    return _save(path, "", "stability was not tried")
