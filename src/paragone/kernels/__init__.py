"""Choice of back end and launch helpers for Numba and Triton; no method's maths."""

__all__: list[str] = []
