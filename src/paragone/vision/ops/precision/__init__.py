"""Kernels of average precision: ranking, matching, accumulation, resampling, and JSON."""

__all__: list[str] = []
