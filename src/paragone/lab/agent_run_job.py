"""`agent run`: an agent at work, as the shell calls it.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

__all__ = ["run"]


def run(agent: str, *, out: str | None = None) -> None:
    """Leads an agent through a page."""
    raise NotImplementedError
