"""Operations of language models with kernels: a folder each, `reference.py` is the definition."""

__all__: list[str] = []
