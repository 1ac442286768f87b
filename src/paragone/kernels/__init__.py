"""Choice of back end and launch helpers for Numba and Triton; no method's maths."""

from paragone.kernels.backends import BACKENDS, why_not
from paragone.kernels.choice import backends, choose, explain

__all__ = ["BACKENDS", "backends", "choose", "explain", "why_not"]
