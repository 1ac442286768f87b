"""Non-maximum suppression, hard and soft: kernels beside their reference."""

__all__: list[str] = []
