"""Sequence mixers: attention and its rivals under one contract."""

__all__: list[str] = []
