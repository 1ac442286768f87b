"""Products of a few rows with a matrix that is kept in the order in which it is read."""

__all__: list[str] = []
