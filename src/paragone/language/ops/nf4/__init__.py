"""Weights of four bits (NF4): one operation, several back ends."""

__all__: list[str] = []
