"""`agent run` and `agent score`: agents at work, as the shell calls them.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

__all__ = ["run", "score"]


def run(agent: str, *, out: str | None = None) -> None:
    """Leads an agent through a page."""
    raise NotImplementedError


def score(agent: str, *, out: str | None = None) -> None:
    """Says how often an agent succeeds."""
    raise NotImplementedError
