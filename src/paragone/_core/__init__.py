"""What every layer may use: lazy names, errors, random state, the catalogue, data folders."""

__all__: list[str] = []
