"""Studies, one file each: a question, and all that is needed to answer it."""

__all__: list[str] = []
