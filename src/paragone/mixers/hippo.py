r"""HiPPO: a linear ODE whose state is the best polynomial (or Fourier) summary of the past.

Fix a measure on the past of time t (a window, a decay, or everything so far) and its orthonormal
basis $g_n$. The coefficients of the projection of f obey an ODE that needs no memory of f,

$$ c_n(t) = \int f\, g_n\, d\mu^{(t)}, \qquad
   \dot c(t) = A\, c(t) + B f(t) \quad\text{or, for LegS,}\quad
   \dot c(t) = \tfrac1t A\, c(t) + \tfrac1t B f(t), $$

so a discretised step $c_k = \bar A c_{k-1} + \bar B f_k$ compresses a stream online, and
$f(s) \approx \sum_n c_n g_n(s)$ gives the past back. What is particular here: A is stable with its
sign (nothing has to be negated), LegS steps count from k = 1, and one LegS step costs O(N): with
$r_n = \sqrt{2n+1}$ its matrix is $-(r_n r_m)$ below the diagonal, so products and solves are
running sums.

Measures: "legt" (uniform on a window of length theta), "lagt" (exponential decay), "legs"
(uniform on all the past; no time scale), "fout" (window, Fourier basis; also called "fourier"),
"foud" (its decaying relative).

References:
    Gu et al. (2020), HiPPO, arXiv:2008.07669, appendix D (eq. 1-4 for LegT, LagT, LegS; LegS
    discretised with steps from 1 in section 3).
    Voelker, Kajic and Eliasmith (2019), Legendre memory units, eq. 2 (the LMU normalisation).
    Gu et al. (2022), How to train your HiPPO, arXiv:2206.12037, section 4 (FouT, FouD).
    Gu, Goel and Re (2022), S4, arXiv:2111.00396, theorem 1 and appendix C.1 (NPLR).

Shapes: N order (number of coefficients), D signals side by side, L samples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import laguerre, legendre
from scipy.linalg import expm

from paragone.mixers.ops.spaces.legs import legs_steps

__all__ = ["MEASURES", "METHODS", "Normal", "Projection", "discretize", "matrices", "nplr"]

MEASURES = ("legt", "lagt", "legs", "fout", "foud")
"""Names of the measures; "fourier" is another name of "fout"."""
METHODS = ("euler", "backward", "bilinear", "zoh", "alpha")
"""Names of the discretisations."""


def _checked(measure: str, order: int) -> str:
    measure = "fout" if measure == "fourier" else measure
    if measure not in MEASURES:
        raise ValueError(f"measure={measure!r} is none of {', '.join(MEASURES)}, fourier")
    if order < 1:
        raise ValueError(f"order={order} is no number of coefficients: use 1 and above")
    if measure in ("fout", "foud") and order % 2:
        raise ValueError(f"order={order} is odd, but {measure} has pairs of sine and cosine")
    return measure


def matrices(
    measure: str,
    order: int,
    *,
    theta: float = 1.0,
    normalization: str = "orthonormal",
    beta: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The ODE of a measure, stable as it stands: c' = A c + B f.

    Args:
        measure: One of `MEASURES`. For "legs" the ODE is c' = (A c + B f) / t.
        order: Coefficients N.
        theta: Length of the window ("legt", "fout") or unit of time ("lagt", "foud"); of no
            meaning for "legs", which has no time scale.
        normalization: "orthonormal", or for "legt" also "lmu": coefficients of the Legendre
            polynomials of the age, as in Legendre memory units.
        beta: For "lagt", the decay of the measure exp(-beta age): 1 is HiPPO's; 0 with the basis
            functions exp(-age / 2) L_n is the one whose matrix is normal plus rank one (S4).

    Returns:
        A (N, N) and B (N,), float64.

    Raises:
        ValueError: An unknown name, or an order or a theta that cannot be.

    Example:
        >>> matrices("legs", 3)[0][2].round(2).tolist()
        [-2.24, -3.87, -3.0]
    """
    measure = _checked(measure, order)
    if not theta > 0:
        raise ValueError(f"theta={theta} is no length of time: use a positive number")
    if normalization not in ("orthonormal", "lmu") or (
        normalization == "lmu" and measure != "legt"
    ):
        raise ValueError(
            f"normalization={normalization!r} for {measure}: 'orthonormal' serves all measures, "
            "'lmu' serves 'legt'"
        )
    n = np.arange(order, dtype=np.float64)
    root = np.sqrt(2 * n + 1)
    row, column = n[:, None], n[None, :]
    if measure == "legs":
        below = np.tril(root[:, None] * root[None, :], -1)
        return -below - np.diag(n + 1), root
    if measure == "legt":
        sign = np.where(row >= column, 1.0, (-1.0) ** (row - column))
        if normalization == "lmu":
            flip = (-1.0) ** n
            A = -sign * (2 * row + 1) * flip[:, None] * flip[None, :]
            return A / theta, flip * (2 * n + 1) / theta
        return -sign * root[:, None] * root[None, :] / theta, root / theta
    if measure == "lagt":
        A = -np.tril(np.ones((order, order)), -1) - (1 + beta) / 2 * np.eye(order)
        return A / theta, np.ones(order) / theta
    value, turn = _fourier(order)
    if measure == "fout":
        return (turn - 2 * np.outer(value, value)) / theta, 2 * value / theta
    return (turn - np.outer(value, value)) / theta, value / theta


def _fourier(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Basis 1, (0), sqrt 2 cos 2 pi k s, sqrt 2 sin 2 pi k s: its values and derivatives at 0."""
    value = np.zeros(order)
    value[0::2] = np.sqrt(2.0)
    value[0] = 1.0
    turn = np.zeros((order, order))
    even = np.arange(0, order, 2)
    turn[even, even + 1] = -np.pi * even
    turn[even + 1, even] = np.pi * even
    return value, turn


def discretize(
    A: np.ndarray, B: np.ndarray, dt: float, method: str = "zoh", alpha: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    r"""One step of length dt of c' = A c + B f, with f constant over the step.

    The generalised bilinear rule is
    $\bar A = (I - \alpha\, dt A)^{-1}(I + (1-\alpha)\, dt A)$,
    $\bar B = (I - \alpha\, dt A)^{-1} dt B$: Euler with $\alpha = 0$, backward Euler with 1,
    bilinear (Tustin) with 1/2. "zoh" is exact for f that is constant over a step.

    Args:
        A: (N, N).
        B: (N,) or (N, D).
        dt: Length of the step.
        method: One of `METHODS`.
        alpha: For method="alpha".

    Returns:
        The discrete matrices, of the shapes of A and B.

    Example:
        >>> A_step, B_step = discretize(*matrices("legt", 4, theta=10.0), dt=1.0)
        >>> A_step.shape, B_step.shape
        ((4, 4), (4,))
    """
    A, B = np.asarray(A, np.float64), np.asarray(B, np.float64)
    if A.ndim != 2 or A.shape[0] != A.shape[1] or B.shape[:1] != A.shape[:1] or B.ndim > 2:
        raise ValueError(f"A has shape {A.shape}, B {B.shape}; (N, N) and (N,) are expected")
    order = len(A)
    if method == "zoh":
        columns = B.reshape(order, -1)
        joint = np.zeros((order + columns.shape[1],) * 2)
        joint[:order, :order], joint[:order, order:] = A * dt, columns * dt
        grown = expm(joint)
        return grown[:order, :order], grown[:order, order:].reshape(B.shape)
    implicit = _implicitness(method, alpha)
    left = np.eye(order) - implicit * dt * A
    return np.linalg.solve(left, np.eye(order) + (1 - implicit) * dt * A), np.linalg.solve(
        left, dt * B
    )


def _implicitness(method: str, alpha: float) -> float:
    if method not in METHODS:
        raise ValueError(f"method={method!r} is none of {', '.join(METHODS)}")
    if method == "alpha" and not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} is not between 0 (Euler) and 1 (backward Euler)")
    return {"euler": 0.0, "backward": 1.0, "bilinear": 0.5}.get(method, alpha)


class Normal(NamedTuple):
    """A = V (diag(poles) - P P*) V*, V unitary: a normal matrix plus low rank.

    Attributes:
        poles: (N,) complex eigenvalues of the normal part, by rising imaginary part; conjugate
            pairs stand in mirrored places, with conjugate columns of V.
        P: (R, N) complex, the low-rank part in the basis of V.
        B: (N,) complex, the input vector in the basis of V.
        V: (N, N) complex.
    """

    poles: np.ndarray
    P: np.ndarray
    B: np.ndarray
    V: np.ndarray


def nplr(measure: str, order: int, *, theta: float = 1.0) -> Normal:
    """Splits a HiPPO matrix into a normal one, diagonal in a unitary basis, and rank 1 or 2.

    The diagonalisation of A itself has entries that grow like 2^(4N/3); this one has condition 1.

    Args:
        measure: One of `MEASURES`; "lagt" with beta = 0.
        order: Coefficients N.
        theta: As in `matrices`.

    Example:
        >>> poles, P, B, V = nplr("legs", 4)
        >>> np.allclose(V @ (np.diag(poles) - P.T @ P.conj()) @ V.conj().T, matrices("legs", 4)[0])
        True
    """
    measure = _checked(measure, order)
    A, B = matrices(measure, order, theta=theta, beta=0.0)
    n = np.arange(order)
    if measure == "legs":
        P = np.sqrt(n + 0.5)[None]
    elif measure == "lagt":
        P = np.full((1, order), np.sqrt(0.5 / theta))
    elif measure == "legt":
        root = np.sqrt((2 * n + 1) / theta)
        P = np.stack([np.where(n % 2 == 0, root, 0.0), np.where(n % 2 == 1, root, 0.0)])
    else:
        value, _ = _fourier(order)
        P = value[None] * np.sqrt((2.0 if measure == "fout" else 1.0) / theta)
    normal = A + P.T @ P
    decay = np.mean(np.diag(normal))
    skew = (normal - normal.T) / 2
    frequency, V = _paired(skew)
    return Normal(decay + 1j * frequency, P @ V.conj(), B @ V.conj(), V)


def _paired(skew: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and unitary eigenvectors of a real skew matrix, in exact conjugate pairs."""
    frequency, V = np.linalg.eigh(-1j * skew)
    half, odd = divmod(len(skew), 2)
    frequency[half : half + odd] = 0.0
    if not odd and half and frequency[half] < 1e-9 * max(1.0, frequency[-1]):
        plane = V[:, half - 1 : half + 1]
        real = np.linalg.svd(np.concatenate([plane.real, plane.imag], axis=1))[0][:, :2]
        V[:, half], frequency[half] = (real[:, 0] + 1j * real[:, 1]) / np.sqrt(2), 0.0
    if odd:
        middle = V[:, half]
        V[:, half] = np.real(middle * np.exp(-1j * np.angle(middle[np.argmax(abs(middle))])))
    V[:, :half] = V[:, half + odd :][:, ::-1].conj()
    frequency[:half] = -frequency[half + odd :][::-1]
    return frequency, V


class Projection:
    r"""Online projection of a stream, and its reconstruction.

    Prefer it to a buffer when the past is long and smooth: N numbers stand for all of it. Prefer
    "legt" or "fout" where only a window counts (delays, filters), "legs" where everything does
    and the time scale is unknown, "lagt" for a fading memory.

    Args:
        measure: One of `MEASURES`.
        order: Coefficients N.
        theta: Length of the window or unit of time; needed by all measures but "legs".
        dt: Time from sample to sample.
        method: One of `METHODS`. For "legs", "zoh" is exact for a signal that is constant
            between samples and takes O(N^3) a step; the others take O(N).
        alpha: For method="alpha".

    Attributes:
        coefficients: (N,), or (D, N) for D signals side by side.
        count: Samples seen.

    Example:
        >>> memory = Projection("legs", 8)
        >>> _ = memory.push(np.linspace(0.0, 1.0, 1000) ** 2)
        >>> bool(np.abs(memory.reconstruct([250.0, 750.0]) - [0.0625, 0.5625]).max() < 2e-3)
        True
    """

    def __init__(
        self,
        measure: str,
        order: int,
        *,
        theta: float | None = None,
        dt: float = 1.0,
        method: str = "bilinear",
        alpha: float = 0.5,
    ) -> None:
        self.measure, self.order, self.dt, self.method = _checked(measure, order), order, dt, method
        if theta is None and self.measure != "legs":
            raise ValueError(f"{measure} has a time scale: give theta, in the unit of dt={dt}")
        if not dt > 0:
            raise ValueError(f"dt={dt} is no step of time: use a positive number")
        self.theta = 1.0 if theta is None else float(theta)
        self._alpha = _implicitness(method, alpha)
        self._A, self._B = matrices(self.measure, order, theta=self.theta)
        if self.measure != "legs":
            self._A, self._B = discretize(self._A, self._B, dt, method, alpha)
        self.coefficients = np.zeros(order)
        self.count = 0

    @property
    def time(self) -> float:
        """Time that has passed: `count` times `dt`."""
        return self.count * self.dt

    def update(self, x: float | np.ndarray) -> np.ndarray:
        """Takes one sample, a number or (D,); returns the coefficients."""
        return self.push(np.asarray(x, np.float64)[None])

    def push(self, values: Any) -> np.ndarray:
        """Takes samples in order, (L,) or (L, D); returns the coefficients.

        Raises:
            ValueError: The number of signals differs from that of the samples before.
        """
        values = np.ascontiguousarray(values, np.float64)
        if values.ndim not in (1, 2) or (
            self.count and values.shape[1:] != self.coefficients.shape[:-1]
        ):
            raise ValueError(
                f"values has shape {values.shape}; (L,) or (L, D) is expected, with D as before "
                f"(coefficients have shape {self.coefficients.shape})"
            )
        c = np.zeros((*values.shape[1:], self.order)) if not self.count else self.coefficients
        if self.measure != "legs":
            for value in values:
                c = c @ self._A.T + value[..., None] * self._B
        elif self.method == "zoh":
            c = self._exact(c, values)
        else:
            c = c.copy()
            columns = values[:, None] if values.ndim == 1 else values
            legs_steps(c.reshape(-1, self.order), columns, self.count + 1, self._alpha)
        self.coefficients, self.count = c, self.count + len(values)
        return c

    def _exact(self, c: np.ndarray, values: np.ndarray) -> np.ndarray:
        """LegS is autonomous in log t; before the first sample it has forgotten everything."""
        for k, value in enumerate(values, self.count + 1):
            still = np.zeros_like(c)
            still[..., 0] = value
            keep = expm(self._A * np.log(k / (k - 1))) if k > 1 else np.zeros_like(self._A)
            c = still + (c - still) @ keep.T
        return c

    def reconstruct(self, points: int | Any | None = None) -> np.ndarray:
        """What the coefficients say about the past.

        Args:
            points: Times, in the unit of dt, counted from the start; or a number of equal
                stretches of the remembered past, of which the middles are taken; or None: the
                middles of the remembered samples (sample k lasts from (k - 1) dt to k dt).

        Returns:
            (points,) or (points, D).

        Raises:
            ValueError: For "foud", whose basis has no closed form, or for a time outside.
        """
        span = self.time if self.measure == "legs" else min(self.theta, self.time)
        span = self.time if self.measure == "lagt" else span
        start = self.time - span
        if points is None or isinstance(points, int):
            count = round(span / self.dt) if points is None else points
            at = start + (np.arange(count) + 0.5) * (span / max(count, 1))
        else:
            at = np.asarray(points, np.float64)
        limit = 1e-9 * max(self.time, 1.0)
        if at.ndim != 1 or (
            len(at) and not (start - limit <= at.min() <= at.max() <= self.time + limit)
        ):
            raise ValueError(
                f"points reach from {at.min()} to {at.max()}; {self.measure} remembers "
                f"{start} to {self.time}"
            )
        return self.basis(self.time - at) @ self.coefficients.T

    def basis(self, age: np.ndarray) -> np.ndarray:
        """Basis functions at these ages (time before now), (points,) to (points, N)."""
        root = np.sqrt(2 * np.arange(self.order) + 1)
        if self.measure == "legs":
            return legendre.legvander(1 - 2 * age / max(self.time, self.dt), self.order - 1) * root
        age = age / self.theta
        if self.measure == "legt":
            return legendre.legvander(1 - 2 * age, self.order - 1) * root
        if self.measure == "lagt":
            return laguerre.lagvander(age, self.order - 1)
        if self.measure == "foud":
            raise ValueError("foud has no closed basis: reconstruct with fout or legt instead")
        found = np.zeros((len(age), self.order))
        phase = 2 * np.pi * age[:, None] * np.arange(self.order // 2)
        found[:, 0::2], found[:, 1::2] = np.sqrt(2) * np.cos(phase), np.sqrt(2) * np.sin(phase)
        found[:, 0] = 1.0
        return found
