"""Choice of back end and launch helpers for Numba and Triton; no method's maths."""

from paragone.kernels.backends import BACKENDS, why_not

__all__ = ["BACKENDS", "why_not"]
