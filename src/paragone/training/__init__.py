"""Training systems: optimizers, precision, memory, collectives."""

__all__: list[str] = []
