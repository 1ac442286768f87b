"""`agent record` and `agent generate`: what agents learn from, as the shell asks for it.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

__all__ = ["generate", "record"]


def record(url: str, *, out: str | None = None) -> None:
    """Records a browser session."""
    raise NotImplementedError


def generate(*, out: str | None = None) -> None:
    """Generates tasks and demonstrations of them."""
    raise NotImplementedError
