"""Mixing of neighbourhoods by a kernel for each pixel: definition, Numba and Triton kernels."""

__all__: list[str] = []
