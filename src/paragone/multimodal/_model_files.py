"""What all models' folders need: a `config.json` that is read strictly, and weights that fit.

Everything that does not fit is said in one message.

References:
    The safetensors format (huggingface/safetensors, README).

Shapes: those of the parameters.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["changed", "checked_weights", "read_json"]

_MOST_LINES = 12


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: The file.
        expected: What it belongs to, for the message, such as "the folder of a Kimi-VL".

    Raises:
        ValueError: No such file, no JSON, or JSON that is no object.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {expected} is expected")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON object ({error})") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    return raw


def checked_weights(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], source: Path | str
) -> None:
    """Refuses tensors that are not those of a model.

    Args:
        wanted: The model's own, by name.
        given: Those of its files.
        source: The files' folder, for the message.

    Raises:
        ValueError: Names, shapes or types that do not fit, all of them in one message.
    """
    found = [f"{name}: missing" for name in wanted if name not in given]
    found += [f"{name}: the model has no such parameter" for name in given if name not in wanted]
    for name in wanted.keys() & given.keys():
        have, want = given[name], wanted[name]
        if have.shape != want.shape:
            found.append(f"{name}: shape {tuple(have.shape)}, expected {tuple(want.shape)}")
        elif want.is_floating_point() and not have.is_floating_point():
            found.append(f"{name}: {have.dtype}, expected floats")
    if found:
        more = len(found) - _MOST_LINES
        lines = [*sorted(found)[:_MOST_LINES], *([f"and {more} more"] if more > 0 else [])]
        raise ValueError(
            f"{source}: {len(found)} tensors do not fit the configuration:\n  " + "\n  ".join(lines)
        )


def changed(config: Any, changes: Mapping[str, Any], where: str) -> Any:
    """A copy of a configuration of two halves with other values.

    Args:
        config: A dataclass with `vision_config` and `text_config`, dataclasses as well.
        changes: By field; a mapping changes some fields of a half.
        where: Name of the model, for the message.

    Raises:
        ValueError: A field that is not known, or values that do not fit.
    """
    changes = dict(changes)
    for name in ("vision_config", "text_config"):
        if isinstance(changes.get(name), Mapping):
            _known(changes[name], getattr(config, name), name)
            changes[name] = dataclasses.replace(getattr(config, name), **changes[name])
    _known(changes, config, where)
    return dataclasses.replace(config, **changes)


def _known(changes: Mapping[str, Any], config: Any, where: str) -> None:
    names = [field.name for field in dataclasses.fields(config)]
    for name in changes:
        if name not in names:
            raise ValueError(f"{where} has no field {name!r}; there are {', '.join(names)}")
