"""Which back end an operation takes here, and why not another one.

An operation lists its back ends in the order of preference, each with a predicate that looks at
what the call is about (device, dtype, sizes) and says None, or why it cannot serve. "auto" takes
the first that can. One that was asked for by name and cannot serve raises with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paragone.kernels.backends import BACKENDS, why_not

__all__ = ["backends", "choose", "explain", "register"]

Predicate = Callable[..., str | None]

_OPS: dict[str, dict[str, Predicate]] = {}


def register(op: str, candidates: dict[str, Predicate]) -> None:
    """Names the back ends of an operation, the preferred one first.

    Args:
        op: Name of the operation.
        candidates: Back end (a key of `BACKENDS`) to its predicate, which gets the facts of a
            call as keywords and returns None if it can serve, else the reason why not.

    Raises:
        ValueError: A back end of unknown name.
    """
    for name in candidates:
        if name not in BACKENDS:
            raise ValueError(f"{op}: back end {name!r} is none of {', '.join(BACKENDS)}")
    _OPS[op] = dict(candidates)


def backends(op: str) -> list[str]:
    """Returns the names of an operation's back ends, the preferred one first.

    Raises:
        ValueError: No operation of that name has been registered.
    """
    return list(_candidates(op))


def choose(op: str, asked: str = "auto", **facts: Any) -> str:
    """Returns the back end that serves this call.

    Args:
        op: Name of the operation.
        asked: "auto" or a back end's name.
        facts: What the predicates look at, e.g. `device`, `dtype`.

    Raises:
        ValueError: The one asked for cannot serve, or none can; the text says why.
    """
    candidates = _candidates(op)
    if asked != "auto" and asked not in candidates:
        raise ValueError(f"{op}: backend={asked!r} is none of auto, {', '.join(candidates)}")
    reasons = []
    for name in candidates if asked == "auto" else (asked,):
        reason = candidates[name](**facts) or why_not(name)
        if reason is None:
            return name
        reasons.append(f"{name}: {reason}")
    raise ValueError(f"{op}: no back end can serve this call ({'; '.join(reasons)})")


def explain(op: str, **facts: Any) -> str:
    """Tells in one line a back end which one a call would take, and why not the others.

    Example:
        >>> register("halve", {"numba": lambda size: None if size > 9 else "too small",
        ...                    "torch": lambda size: None})
        >>> print(explain("halve", size=3))
        numba: no, too small
        torch: yes, and would be taken
    """
    lines, taken = [], False
    for name, predicate in _candidates(op).items():
        reason = why_not(name) or predicate(**facts)
        answer = f"no, {reason}" if reason else "yes"
        if not reason and not taken:
            answer, taken = "yes, and would be taken", True
        lines.append(f"{name}: {answer}")
    return "\n".join(lines)


def _candidates(op: str) -> dict[str, Predicate]:
    if op not in _OPS:
        known = ", ".join(sorted(_OPS)) or "none; import the family first"
        raise ValueError(f"no operation is called {op!r}; known: {known}")
    return _OPS[op]
