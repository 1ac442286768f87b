"""Position-sensitive RoI align: one operation, several back ends."""

__all__: list[str] = []
