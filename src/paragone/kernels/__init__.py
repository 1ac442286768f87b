"""Choice of back end and launch helpers for Numba and Triton; no method's maths."""

from paragone.kernels.backends import BACKENDS, why_not
from paragone.kernels.choice import choose, explain

__all__ = ["BACKENDS", "choose", "explain", "why_not"]
