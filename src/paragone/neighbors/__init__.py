"""Neighbours: exact and approximate search in a k-d tree."""

from paragone._core.lazy import lazy_exports

_TARGETS = {"KDTree": "paragone.neighbors.kd_tree:KDTree"}

__getattr__, __dir__ = lazy_exports(__name__, _TARGETS)

__all__ = [*_TARGETS]  # pyright: ignore[reportUnsupportedDunderAll]
