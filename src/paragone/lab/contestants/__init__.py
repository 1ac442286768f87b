"""Rival libraries as contestants, one module a family; imported only in a run's own process."""

__all__: list[str] = []
