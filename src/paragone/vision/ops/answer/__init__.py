"""What a network that only answers runs between oneDNN's convolutions."""

__all__: list[str] = []
