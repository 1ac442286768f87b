"""How the collecting of demonstrations shows on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paragone.lab import format as fmt
from paragone.lab.live_line import JobLine

if TYPE_CHECKING:
    from paragone.multimodal.agent.collecting import Collected

__all__ = ["CollectingProgress", "described"]


def described(event: Collected) -> str:
    """One event as a line."""
    parts = [f"{event.samples}/{event.asked} samples", f"{event.episodes} exercises"]
    if event.failures:
        parts.append(f"{len(event.failures)} failed")
    rate = event.fresh / max(event.seconds, 1e-9)
    parts.append(f"{rate:.1f} a second")
    if rate and event.samples < event.asked:
        parts.append(f"ETA {fmt.seconds(round((event.asked - event.samples) / rate))}")
    return "  ".join(parts)


class CollectingProgress(JobLine):
    """Shows a run; give it as `progress` and use it as a context."""

    before = "starting browsers"

    def described(self, event: Collected) -> str:
        """One event as a line."""
        return described(event)

    def share(self, event: Collected) -> float:
        """Samples of those that are wanted."""
        return min(event.samples / max(event.asked, 1), 1.0)
