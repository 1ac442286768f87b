"""How a self-instruct run shows on a terminal: rows, requests, cost and the time that is left."""

from __future__ import annotations

from paragone.lab import format as fmt
from paragone.lab.live_line import JobLine
from paragone.language.self_instruct import Asked

__all__ = ["InstructProgress", "described"]


def described(event: Asked) -> str:
    """One event as a line.

    Example:
        >>> described(Asked(requests=2, rows=12, count=30, cost=None, seconds=4.0, left=6.0))
        '12/30 rows  2 requests  ETA 6.0 s'
    """
    parts = [f"{event.rows}/{event.count} rows", f"{event.requests} requests"]
    if event.cost is not None:
        parts.append(f"cost {event.cost:.4f}")
    if event.left:
        parts.append(f"ETA {fmt.seconds(round(event.left))}")
    return "  ".join(parts)


class InstructProgress(JobLine):
    """Shows a run; give it as `progress` and use it as a context."""

    before = "asking the teacher"

    def described(self, event: Asked) -> str:
        """One event as a line."""
        return described(event)

    def share(self, event: Asked) -> float:
        """Rows of those that are wanted."""
        return min(event.rows / max(event.count, 1), 1.0)
