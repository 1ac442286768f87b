r"""Episodes as files: episode.json, and screens as PNG files named by what they show.

A screen's name is the beginning of the SHA-256 of its size and pixels, so equal screens are one
file, and a file never has to be written twice:

$$ \text{name} = \lfloor \text{SHA-256}(H, W, \text{pixels}) / 16^{32} \rfloor . $$

Screens are written first, episode.json last and in one piece; what the old episode alone needed is
removed then.

References:
    W3C (2003), "Portable Network Graphics (PNG) specification", section 4.

Shapes: H rows and W columns of pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Screen

if TYPE_CHECKING:
    from paragone.multimodal.agent.loop import Episode, Step

__all__ = ["load_episode", "png", "save_episode", "screen_name"]

_VERSION = 1
_NAME = re.compile(r"[0-9a-f]{32}\.png")


def screen_name(screen: Screen) -> str:
    """A name that equal pixels share, and nothing else."""
    pixels = np.ascontiguousarray(screen.pixels, np.uint8)
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.data)
    return digest.hexdigest()[:32]


def png(pixels: np.ndarray) -> bytes:
    """Pixels of (H, W, 3) as a PNG file; a quick compression, since screens are many."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels, np.uint8)).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def save_episode(episode: Episode, folder: str | os.PathLike[str]) -> None:
    """Writes an episode; see `Episode.save`."""
    from paragone.training.run_folder import write_whole

    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise ValueError(f"{folder}: expected a folder for the episode, found a file")
    screens = place / "screens"
    screens.mkdir(parents=True, exist_ok=True)
    named: dict[int, dict[str, Any]] = {}

    def kept(screen: Screen) -> dict[str, Any]:
        if id(screen) not in named:
            file = f"{screen_name(screen)}.png"
            if not (screens / file).exists():
                write_whole(screens / file, png(screen.pixels))
            named[id(screen)] = {
                "file": file, "device_pixel_ratio": screen.device_pixel_ratio,
                "scroll": list(screen.scroll),
            }  # fmt: skip
        return named[id(screen)]

    told = {
        "version": _VERSION, "instruction": episode.instruction, "outcome": episode.outcome,
        "seconds": episode.seconds, "error": episode.error,
        "success": episode.success,
        "steps": [_step_told(step, kept) for step in episode.steps],
        "last": None if episode.last is None else kept(episode.last),
    }  # fmt: skip
    write_whole(place / "episode.json", json.dumps(told, indent=1).encode())
    needed = {one["file"] for one in named.values()}
    for file in screens.iterdir():
        if _NAME.fullmatch(file.name) and file.name not in needed:
            file.unlink(missing_ok=True)


def _step_told(step: Step, kept: Callable[[Screen], dict[str, Any]]) -> dict[str, Any]:
    return {
        "screen": kept(step.screen), "text": step.text, "changed": step.changed,
        "seconds": step.seconds, "error": step.error,
        "actions": [
            {**dataclasses.asdict(one), "arguments": dict(one.arguments)} for one in step.actions
        ],
    }  # fmt: skip


def load_episode(
    episode: type[Episode], step: type[Step], folder: str | os.PathLike[str]
) -> Episode:
    """Reads an episode; see `Episode.load`."""
    place = Path(folder)
    file = place / "episode.json"
    if not file.is_file():
        raise ValueError(f"{folder}: no episode.json in it; an episode's `save` writes one")
    try:
        told = json.loads(file.read_bytes())
        if told["version"] != _VERSION:
            raise ValueError(f"version {told['version']} is not known; expected {_VERSION}")
        read = _reader(place / "screens")
        return episode(
            told["instruction"], tuple(_steps_of(told["steps"], step, read)), told["outcome"],
            told["seconds"], None if told["last"] is None else read(told["last"]), told["error"],
            told.get("success"),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"{file}: a damaged episode ({error})") from error


def _steps_of(
    told: list[dict[str, Any]], step: type[Step], read: Callable[[Mapping[str, Any]], Screen]
) -> Iterator[Step]:
    for one in told:
        actions = tuple(_action_of(action) for action in one["actions"])
        yield step(
            read(one["screen"]), one["text"], actions, one["changed"], one["seconds"], one["error"]
        )


def _action_of(told: Mapping[str, Any]) -> Action:
    arguments = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in told["arguments"].items()
    }
    return Action(**{**told, "arguments": arguments})


def _reader(folder: Path) -> Callable[[Mapping[str, Any]], Screen]:
    pixels: dict[str, np.ndarray] = {}

    def read(told: Mapping[str, Any]) -> Screen:
        name = told["file"]
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a screen")
        if name not in pixels:
            with Image.open(folder / name, formats=["PNG"]) as image:
                pixels[name] = np.asarray(image.convert("RGB"))
        return Screen(pixels[name], told["device_pixel_ratio"], tuple(told["scroll"]))

    return read
