"""Durations and sizes as people type them: `10m`, `2ms`, `1.5h`, `1GB`, `512MiB`."""

from __future__ import annotations

import math
import re

from paragone._core.errors import UsageError

__all__ = ["repeats", "seconds", "size"]

_TIMES = {
    "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0,
    "d": 86400.0, "": 1.0,
}  # fmt: skip
_SIZES = {"b": 1, "": 1} | {
    f"{letter}{end}": base ** (power + 1)
    for power, letter in enumerate("kmgt")
    for end, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-zµ]*)\s*", re.IGNORECASE)


def _parse(text: str | float, units: dict[str, float], name: str, example: str) -> float:
    found = _PATTERN.fullmatch(str(text))
    unit = found.group(2).lower() if found else ""
    if found is None or unit not in units:
        raise UsageError(f"{name}: {text!r} is not understood; write it like {example}")
    value = float(found.group(1)) * units[unit]
    if not math.isfinite(value) or value <= 0:
        raise UsageError(f"{name}: {text!r} must be greater than 0; write it like {example}")
    return value


def seconds(text: str | float | None, name: str = "duration") -> float | None:
    """Returns a duration in seconds; plain numbers are seconds.

    Example:
        >>> seconds("10m"), seconds("2ms"), seconds(3)
        (600.0, 0.002, 3.0)
    """
    return None if text is None else _parse(text, _TIMES, name, "90s, 10m, 1.5h or 2ms")


def size(text: str | float | None, name: str = "size") -> int | None:
    """Returns a size in bytes; plain numbers are bytes.

    Example:
        >>> size("1GB"), size("512MiB")
        (1000000000, 536870912)
    """
    return None if text is None else round(_parse(text, dict(_SIZES), name, "512MB or 1GiB"))


def repeats(text: str | int) -> int | tuple[int, int] | None:
    """Returns blocks a workload: None for "auto", n, or (least, most) from "5-20".

    Example:
        >>> repeats("auto"), repeats("8"), repeats("5-20")
        (None, 8, (5, 20))
    """
    if text == "auto":
        return None
    ends = [part for part in str(text).split("-") if part.isdigit()]
    if "-".join(ends) != str(text) or not 1 <= len(ends) <= 2 or int(ends[0]) < 1:
        raise UsageError(f"--repeats: {text!r} is not understood; write auto, 8, or 5-20")
    if len(ends) == 1:
        return int(ends[0])
    least, most = int(ends[0]), int(ends[1])
    if least > most:
        raise UsageError(f"--repeats: {text!r} goes down; write the smaller number first")
    return least, most
