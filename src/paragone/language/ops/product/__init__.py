"""Products of float32 matrices on a CPU, and the layers of a decoder that are made of them."""

__all__: list[str] = []
