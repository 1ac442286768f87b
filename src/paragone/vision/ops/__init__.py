"""Kernels of this family, each beside its reference."""

__all__: list[str] = []
