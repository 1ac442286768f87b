"""`agent train`: training of an agent as the shell calls it.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

__all__ = ["train"]


def train(*, out: str | None = None) -> None:
    """Trains an agent on tasks. The same call continues, also after Ctrl-C."""
    raise NotImplementedError
