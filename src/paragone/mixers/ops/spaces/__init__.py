"""Linear state spaces: their kernels, scans and responses, each with a reference and Numba code.

Complex numbers travel as real tensors with a plane for the real and one for the imaginary part,
(..., 2, n), so that every operation is one of floats. Modes are given by their rate z (the pole
is e^z): powers e^(z l) then keep their phase over thousands of steps, where powers of a rounded
pole drift.
"""

__all__: list[str] = []
