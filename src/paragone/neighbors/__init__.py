"""Neighbours: exact and approximate search in a k-d tree."""

__all__: list[str] = []
