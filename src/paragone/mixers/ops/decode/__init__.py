"""Attention of a few queries to a long cache: the inner loop of decoding."""

__all__: list[str] = []
