"""Operations with kernels, beside the models that use them."""

__all__: list[str] = []
