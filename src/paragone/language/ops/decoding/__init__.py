"""One step of a decoder on the CPU, from tokens to scores, and the loop around it."""

__all__: list[str] = []
