"""The command line: thin, generated from the signatures of `paragone.lab.api`."""

__all__: list[str] = []
