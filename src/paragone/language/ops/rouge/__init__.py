"""Longest common subsequences of words, one against a pool: bit-parallel, and by definition."""

__all__: list[str] = []
