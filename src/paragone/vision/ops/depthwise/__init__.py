"""Depthwise convolution, and the gradient of its filters."""

__all__: list[str] = []
