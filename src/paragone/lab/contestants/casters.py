"""Casts behind one call: `(x, format) -> narrow array`, for the study `cast_speed`.

Shapes: x (n,) float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone._core.lazy import resolve

__all__ = ["numbers", "ours", "truth", "with_ml_dtypes", "with_torch"]

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}


def numbers(rows: int, format: str, seed: int = 0) -> tuple[np.ndarray, str]:
    """Returns normal numbers, none of which overflows, and the name of the format."""
    x = np.random.default_rng(seed).standard_normal(rows, dtype=np.float32)
    return x, format


def truth(x: np.ndarray, format: str) -> np.ndarray:
    """Returns the nearest values of the format by float64 arithmetic on fractions of a unit."""
    found = resolve("paragone.training.formats:find")(format)
    exact = x.astype(np.float64)
    exponent = np.maximum(np.frexp(exact)[1] - 1, 1 - found.bias)
    unit = np.ldexp(1.0, exponent - found.mantissa)
    return np.rint(exact / unit) * unit


def ours(x: np.ndarray, format: str) -> Any:
    """Paragone's `formats.cast`, to torch's type."""
    cast = resolve("paragone.training.formats:cast")
    return _wide(cast(resolve("torch:from_numpy")(x), format, storage=True))


def with_torch(x: np.ndarray, format: str) -> Any:
    """PyTorch's `Tensor.to`."""
    return _wide(resolve("torch:from_numpy")(x).to(resolve(f"torch:{_DTYPES[format]}")))


def with_ml_dtypes(x: np.ndarray, format: str) -> Any:
    """`ndarray.astype` with the types of ml_dtypes; NumPy's own for fp16."""
    if format == "fp16":
        return x.astype(np.float16)
    return _Read(x.astype(resolve(f"ml_dtypes:{_DTYPES[format]}")))


class _Read:
    """A narrow result that becomes float64 only when it is compared."""

    def __init__(self, narrow: Any) -> None:
        self.narrow = narrow

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        wide = self.narrow.float().numpy() if hasattr(self.narrow, "float") else self.narrow
        return np.asarray(wide).astype(np.float64)


def _wide(tensor: Any) -> _Read:
    return _Read(tensor)
