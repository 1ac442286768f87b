"""Nearest code of a codebook: definition, Numba kernel, and the choice between them."""

__all__: list[str] = []
