"""Pictures of the study `upsampling`: enlarged crops, masks, what is printed, side by side.

Each function is called in a process of its own, with the study's folder and the file to write.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from paragone._core.lazy import resolve
from paragone.lab.contestants.upsampling import contestants
from paragone.lab.outcome import Summary
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import Board
from paragone.lab.sequences import drawn_from
from paragone.lab.summary import summarize

__all__ = ["enlarged", "masks", "printed"]

COLUMNS, SIDE, GAP = 5, 168, 12
STYLE = """
text{font:12px system-ui,sans-serif;fill:#333}image{image-rendering:pixelated}
@media (prefers-color-scheme:dark){text{fill:#ddd}}
"""


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _sheet(path: str, title: str, shown: Mapping[str, np.ndarray]) -> None:
    """Pictures with their names in rows of `COLUMNS`."""
    if not shown:
        raise SystemExit(f"{title}: nothing to draw")
    rows = -(-len(shown) // COLUMNS)
    height = SIDE + 34
    board = Board(width=COLUMNS * (SIDE + GAP) + GAP, height=rows * height + GAP, title=title)
    board.add("style", STYLE)
    for i, (name, pixels) in enumerate(shown.items()):
        x, y = GAP + i % COLUMNS * (SIDE + GAP), GAP + i // COLUMNS * height
        board.text(x, y + 12, name)
        board.add("image", x=x, y=y + 20, width=SIDE, height=SIDE, href=_png(pixels))
    Path(path).write_text(standalone(board.svg()), encoding="utf-8")


def _arrays(summary: Summary, folder: str, part: str) -> dict[str, dict[str, np.ndarray]]:
    """Contestant to the arrays of its first run on the first workload of that part."""
    place = next((w.id for w in summary.workloads if w.facts.get("part") == part), None)
    titles = {c.id: c.title for c in summary.contestants}
    found: dict[str, dict[str, np.ndarray]] = {}
    for record in summary.records:
        name, files = record["contestant"], record.get("artifacts", {})
        if record["workload"] == place and name in titles and name not in found:
            kept = {k: np.load(Path(folder) / f) for k, f in files.items() if f.endswith(".npy")}
            if "shown" in kept:
                found[name] = kept
    return {titles[name]: found[name] for name in titles if name in found}


def enlarged(folder: str, path: str) -> None:
    """The truth, bicubic interpolation, and what each made of the same small crop."""
    found = _arrays(summarize(folder), folder, "super")
    shown: dict[str, np.ndarray] = {}
    for name, arrays in found.items():
        if not shown:
            shown = {"the photograph": arrays["truth"], "bicubic, shrunk": arrays["bicubic"]}
        shown[name] = arrays["shown"]
    _sheet(path, "One crop, enlarged by each", {k: v[24:-24, 24:-24] for k, v in shown.items()})


def masks(folder: str, path: str) -> None:
    """The image, its true mask, and the masks found."""
    found = _arrays(summarize(folder), folder, "segment")
    shown: dict[str, np.ndarray] = {}
    for name, arrays in found.items():
        scale = 255 // max(1, int(arrays["truth"][arrays["truth"] < 255].max(initial=1)))
        if not shown:
            shown = {"image": arrays["image"], "true mask": arrays["truth"] * scale}
        shown[name] = (arrays["shown"] * scale).astype(np.uint8)
    _sheet(path, "One mask, found by each", shown)


def printed(folder: str, path: str) -> None:
    """A corner of each way's output on constant input, as it starts, stretched to full contrast."""
    known = {c.id for c in summarize(folder).contestants}
    shown = {}
    made = resolve("paragone.lab.tasks.dense:made")
    for contestant in contestants():
        if contestant.id not in known or contestant.id == "carafe_unfold":
            continue
        if contestant.params.get("method") == "unpool":
            y = torch.zeros(1, 1, 24, 24)
            y[:, :, ::2, ::2] = 1
        else:
            with drawn_from(0), torch.no_grad():
                step = made(contestant, channels=8, out_channels=4, scale=2, kernel_size=1)
                y = step(torch.ones(1, 8, 12, 12))
        image = y[0, 0, :20, :20].double().numpy()
        span = image.max() - image.min()
        even = span < 1e-5 * max(abs(image).max(), 1e-30)
        grey = np.full(image.shape, 0.5) if even else (image - image.min()) / span
        shown[contestant.title] = (grey * 255).round().astype(np.uint8)
    _sheet(path, "What each prints on constant input, before training", shown)
