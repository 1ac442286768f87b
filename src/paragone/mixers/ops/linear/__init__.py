"""Linear attention, its gates and its delta rule: one operation, several back ends."""

__all__: list[str] = []
