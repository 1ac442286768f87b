"""Building blocks of the light networks, one a file, each with the number of its multiply-adds."""

__all__: list[str] = []
