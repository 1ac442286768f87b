"""Operations of the mixers with more than one back end: a reference, Numba, Triton."""

__all__: list[str] = []
