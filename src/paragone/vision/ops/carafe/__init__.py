"""Mixing of neighbourhoods by a kernel for each pixel: definition, Numba and Triton kernels."""
