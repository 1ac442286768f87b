"""The blocks that light networks are made of, one a file, from the inception module on."""

__all__: list[str] = []
