"""Numbers as people read them: one helper for the terminal, the page, Markdown and sentences.

A number shows as many digits as it deserves: four significant ones for a quality, as many as
the interval is sure of for a difference, two or three for a time or a size. Nothing here
knows about colour or columns. This module loads the standard library alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from paragone.lab.outcome import Cell, Difference
from paragone.lab.spec import Measure

__all__ = [
    "NOTHING", "arrow", "bounds", "cell", "column", "count", "decimals", "difference", "join",
    "number", "p_value", "percent", "ratio", "seconds", "size", "value", "word",
]  # fmt: skip

NOTHING = "--"
"""What stands where nothing was measured."""

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def _short(scaled: float) -> str:
    """Two decimals below 1, one below 100, none above: 0.31, 3.1, 11.8, 310."""
    size = abs(scaled)
    if size >= 99.95:
        return f"{scaled:,.0f}"
    return f"{scaled:.1f}" if size >= 0.995 else f"{scaled:.2f}"


def seconds(amount: float | None) -> str:
    """Formats a duration given in seconds.

    Example:
        >>> seconds(3.14), seconds(0.0019), seconds(754), seconds(None)
        ('3.1 s', '1.9 ms', '12 min 34 s', '--')
    """
    if amount is None or not math.isfinite(amount):
        return NOTHING
    if amount < 0:
        return f"-{seconds(-amount)}"
    if amount >= 600:
        minutes, rest = divmod(round(amount), 60)
        if minutes < 120:
            return f"{minutes} min {rest} s" if rest else f"{minutes} min"
        return f"{amount / 3600:.1f} h" if amount < 1e10 else f"{amount / 3600:.1e} h"
    for scale, unit in _TIMES:
        if amount >= 0.9995 * scale:
            return f"{_short(amount / scale)} {unit}"
    return "0 s" if amount == 0 else f"{amount / 1e-9:.2f} ns"


def size(amount: float | None) -> str:
    """Formats a number of bytes, with decimal units (1 MB = 10^6 B).

    Example:
        >>> size(212_300_000), size(1.24e9), size(17)
        ('212 MB', '1.2 GB', '17 B')
    """
    if amount is None or not math.isfinite(amount):
        return NOTHING
    for scale, unit in _SIZES:
        if abs(amount) >= 0.9995 * scale:
            scaled = amount / scale
            if abs(scaled) >= 1e6:
                return f"{scaled:.1e} {unit}"
            places = 0 if abs(scaled) >= 9.95 or unit == "B" else 1
            return f"{scaled:.{places}f} {unit}"
    return f"{amount:.0f} B"


def count(amount: float | None) -> str:
    """Formats a whole number with separators, other numbers with four digits.

    Example:
        >>> count(24310), count(0.5)
        ('24,310', '0.5')
    """
    if amount is None or not math.isfinite(amount):
        return NOTHING
    whole = float(amount).is_integer() and abs(amount) < 1e15
    return f"{amount:,.0f}" if whole else f"{amount:,.4g}"


def decimals(amounts: Iterable[float | None], significant: int = 4) -> int:
    """Decimals that give the middle one of several numbers so many significant digits.

    Example:
        >>> decimals([41.2, 44.0, 39.9]), decimals([0.873]), decimals([48123.0])
        (2, 4, 0)
    """
    sizes = sorted(abs(x) for x in amounts if x is not None and math.isfinite(x) and x != 0)
    if not sizes:
        return 2
    digits_before = math.floor(math.log10(sizes[len(sizes) // 2])) + 1
    return min(max(significant - digits_before, 0), 8)


def number(amount: float | None, places: int | None = None, *, sign: bool = False) -> str:
    """Formats a quality.

    Args:
        amount: The number.
        places: Decimals; None chooses four significant digits.
        sign: Whether a plus sign is shown.

    Example:
        >>> number(0.87312), number(41.2), number(0.5, 1, sign=True)
        ('0.8731', '41.20', '+0.5')
    """
    if amount is None or not math.isfinite(amount):
        return NOTHING
    places = decimals([amount]) if places is None else places
    if amount != 0 and not 1e-6 <= abs(amount) < 1e15:
        return f"{amount:{'+' if sign else ''}.1e}"
    text = f"{amount:{'+' if sign else ''},.{places}f}"
    return text.replace("-", "", 1) if text.startswith("-") and not text.strip("-0.,") else text


def percent(share: float | None, *, sign: bool = False) -> str:
    """Formats a share as per cent.

    Example:
        >>> percent(0.042, sign=True), percent(0.5), percent(0.0031)
        ('+4.2 %', '50 %', '0.31 %')
    """
    if share is None or not math.isfinite(share):
        return NOTHING
    scaled = 100 * share
    if not math.isfinite(scaled):
        return NOTHING
    places = 0 if abs(scaled) >= 9.95 or scaled == 0 else 1 if abs(scaled) >= 0.995 else 2
    return f"{number(scaled, places, sign=sign)} %"


def ratio(amount: float | None) -> str:
    """Formats a ratio.

    Example:
        >>> ratio(1.253), ratio(0.081), ratio(14.2)
        ('1.25x', '0.081x', '14x')
    """
    if amount is None or not math.isfinite(amount):
        return NOTHING
    if abs(amount) >= 1e6 or 0 < abs(amount) < 1e-3:
        return f"{amount:.1e}x"
    places = max(0, 2 - max(0, math.floor(math.log10(amount)))) if amount >= 0.995 else 3
    return f"{amount:,.{0 if amount >= 9.95 else places}f}x"


def p_value(p: float | None) -> str:
    """Formats a p-value.

    Example:
        >>> p_value(0.0312), p_value(2e-9)
        ('p = 0.031', 'p < 0.0001')
    """
    if p is None or not math.isfinite(p):
        return NOTHING
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def _is_time(measure: Measure) -> bool:
    return measure.unit in ("s", "sec", "seconds")


def _is_size(measure: Measure) -> bool:
    return measure.unit in ("B", "bytes")


def value(amount: float | None, measure: Measure, places: int | None = None) -> str:
    """Formats a measured number by its measure's unit.

    Args:
        amount: The number.
        measure: Its measure.
        places: Decimals for units other than seconds and bytes, so that a column lines up.
    """
    if amount is None or not math.isfinite(amount):
        return NOTHING
    if _is_time(measure):
        return seconds(amount)
    if _is_size(measure):
        return size(amount)
    if measure.role == "count":
        return count(amount)
    text = number(amount, places)
    return f"{text} {measure.unit}" if measure.unit else text


def cell(found: Cell | None, measure: Measure, places: int | None = None) -> str:
    """Formats a cell's value."""
    return NOTHING if found is None else value(found.value, measure, places)


def column(cells: Sequence[Cell | None], measure: Measure) -> list[str]:
    """Formats a whole column, all numbers with the same decimals.

    Example:
        >>> rmse = Measure(name="rmse", title="RMSE", better="lower", role="quality", margin=0.01)
        >>> column([Cell(value=41.234), Cell(value=None), Cell(value=9.5)], rmse)
        ['41.23', '--', '9.50']
    """
    places = decimals([c.value for c in cells if c is not None and c.value is not None])
    return [cell(c, measure, places) for c in cells]


def _spread_places(low: float | None, high: float | None, estimate: float | None) -> int:
    """Decimals that show the interval's half-width with two digits."""
    half = abs(high - low) / 2 if low is not None and high is not None else abs(estimate or 0.0)
    if half <= 0 or not math.isfinite(half):
        return decimals([estimate])
    return min(max(1 - math.floor(math.log10(half)), 0), 8)


def bounds(low: float | None, high: float | None, measure: Measure | None = None) -> str:
    """Formats an interval of plain values; empty without one.

    Example:
        >>> bounds(-0.21, 0.52)
        '[-0.21, +0.52]'
    """
    if low is None or high is None:
        return ""
    if measure is not None and (_is_time(measure) or _is_size(measure)):
        return f"[{value(low, measure)}, {value(high, measure)}]"
    places = _spread_places(low, high, None)
    signed = measure is None
    return f"[{number(low, places, sign=signed)}, {number(high, places, sign=signed)}]"


def difference(found: Difference | None, *, interval: bool = True) -> str:
    """Formats a paired difference: "+0.10 [-0.20, +0.50]" or, for ratios, "+25 % [+18 %, +33 %]".

    Ratios beyond a factor of two are written as such: "3.1x [2.8x, 3.4x]".

    Example:
        >>> difference(Difference(a="x", b="y", measure="fit_s", estimate=1.25, ratio=True))
        '+25 %'
    """
    if found is None or found.estimate is None:
        return NOTHING
    if found.ratio:
        far = not 0.5 <= found.estimate <= 2

        def show(r: float) -> str:
            return ratio(r) if far else percent(r - 1, sign=True)
    else:
        places = _spread_places(found.low, found.high, found.estimate)

        def show(r: float) -> str:
            return number(r, places, sign=True)

    text = show(found.estimate)
    if interval and found.low is not None and found.high is not None:
        text += f" [{show(found.low)}, {show(found.high)}]"
    return text


def word(found: Difference, measure: Measure) -> str:
    """How `a` stands to `b`, in the measure's own words.

    Example:
        >>> fit = Measure(name="f", title="fit", better="lower", role="time", margin=0.05, unit="s")
        >>> word(Difference(a="x", b="y", measure="f", word="same"), fit)
        'same within 5 %'
    """
    if found.word == "same":
        margin = f"{100 * measure.margin:g} %" if measure.relative else f"{measure.margin:g}"
        return f"same within {margin}"
    if measure.role == "time":
        return {"better": "faster", "worse": "slower"}.get(found.word, found.word)
    if measure.role == "memory":
        return {"better": "smaller", "worse": "larger"}.get(found.word, found.word)
    return found.word


def arrow(measure: Measure) -> str:
    """An arrow that says which direction wins: "↓" for lower, "↑" for higher."""
    return "↓" if measure.better == "lower" else "↑"


def join(names: Sequence[str], last: str = "and") -> str:
    """Joins names as in a sentence.

    Example:
        >>> join(["a", "b", "c"])
        'a, b and c'
    """
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {last} {names[-1]}"
