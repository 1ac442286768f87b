"""How one run is performed: supervised learning, size sweeps, learning races, step counts."""

__all__: list[str] = []
