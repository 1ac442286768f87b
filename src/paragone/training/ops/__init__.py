"""Kernels of the family for GPUs, one module each; imported only where a back end asks for them."""

__all__: list[str] = []
