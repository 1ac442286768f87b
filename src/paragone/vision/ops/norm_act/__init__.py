"""Batch norm and activation as one operation, several back ends."""

__all__: list[str] = []
