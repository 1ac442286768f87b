r"""The noncentral t law: skewed and heavy-tailed, with a likelihood that costs 30 ns a value.

$$ f(z) = \frac{\nu^{\nu/2}\, e^{-\nu \delta^2 / (2 q)}}{\sqrt\pi\, \Gamma(\nu/2)\, 2^{(\nu-1)/2}\,
   q^{(\nu+1)/2}}\; I_\nu(m), \quad q = z^2 + \nu, \quad m = \delta z / \sqrt q, \quad
   I_\nu(m) = \int_0^\infty y^\nu e^{-(y - m)^2 / 2} dy . $$

For one $\nu$ the integral is a function of m alone, and m lies within $\pm \delta$ whatever the
data. So $J = \log I$ is integrated at nodes at most 1/2 apart only (trapezoid rule in log y, which
converges geometrically), with the means and covariances of log y that are its derivatives in
$\nu$. Between the nodes it is a Taylor polynomial, whose coefficients follow from Riccati's
equation for $r = J_m$ and its derivatives in $\nu$:

$$ r' = \nu - m r - r^2, \qquad r_\nu' = 1 - m r_\nu - 2 r r_\nu, \qquad
   r_{\nu\nu}' = -m r_{\nu\nu} - 2 r_\nu^2 - 2 r r_{\nu\nu} . $$

Relative error about 1e-13. Cost: some microseconds a node a pass, then polynomials of degree 12.

References:
    Johnson, Kotz and Balakrishnan (1995), "Continuous univariate distributions 2", eq. 31.15.
    NIST Digital Library of Mathematical Functions, 12.2.2 and 12.5.1 (the integral is a parabolic
    cylinder function).
    Trefethen and Weideman (2014), "The exponentially convergent trapezoidal rule", section 5.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from paragone.estimation._elementary import log
from paragone.estimation._optimize import maximise
from paragone.estimation._special import digamma, lgamma, normal_cdf, normal_logcdf, trigamma
from paragone.estimation.families._family import Data
from paragone.estimation.families._location_scale import LocationScale
from paragone.estimation.families._parameter import Parameter, positive
from paragone.estimation.families._quantiles import invert_real
from paragone.estimation.families._statistics import mean_and_deviation, quantiles
from paragone.kernels.jit import njit

__all__ = ["FAMILIES", "NoncentralT"]

_DEGREE = 13
_FAR = 30.0
_MOST = 1e10
_HALF_LOG_PI = 0.5723649429247001
_LOG_2 = 0.6931471805599453


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _node(nu, m, out):
    """Taylor coefficients of J, J_nu, J_nunu about m into out (3, 13)."""
    y = 0.5 * (m + math.sqrt(m * m + 4.0 * (nu + 1.0)))
    centre, peak = math.log(y), (nu + 1.0) * math.log(y) - 0.5 * (y - m) ** 2
    step = min(0.5 / math.sqrt(y * (2.0 * y - m)), 0.12)
    mass = s1 = s2 = y1 = ys = yss = 0.0
    for side in range(2):
        k = side
        while True:
            t = (k if side else -k) * step
            at = y * math.exp(t)
            power = (nu + 1.0) * (centre + t) - 0.5 * (at - m) ** 2 - peak
            if power < -42.0:
                break
            p = math.exp(power)
            mass += p
            s1 += p * t
            s2 += p * t * t
            y1 += p * (at - y)
            ys += p * (at - y) * t
            yss += p * (at - y) * t * t
            k += 1
    s1, s2, y1, ys, yss = s1 / mass, s2 / mass, y1 / mass, ys / mass, yss / mass
    r, a, b = out[0], out[1], out[2]
    r[0], a[0], b[0] = peak + math.log(mass * step), centre + s1, s2 - s1 * s1
    r[1], a[1] = y + y1 - m, ys - s1 * y1
    b[1] = yss - 2.0 * s1 * ys + (2.0 * s1 * s1 - s2) * y1
    # out[., j + 1] holds the j-th coefficient of r until the end.
    for k in range(_DEGREE - 2):
        f, fa, fb = (nu, 1.0, 0.0) if k == 0 else (-r[k], -a[k], -b[k])
        f, fa, fb = f - m * r[k + 1], fa - m * a[k + 1], fb - m * b[k + 1]
        for i in range(k + 1):
            j = k - i + 1
            f -= r[i + 1] * r[j]
            fa -= 2.0 * r[i + 1] * a[j]
            fb -= 2.0 * (a[i + 1] * a[j] + r[i + 1] * b[j])
        r[k + 2], a[k + 2], b[k + 2] = f / (k + 1), fa / (k + 1), fb / (k + 1)
    for k in range(2, _DEGREE):
        r[k], a[k], b[k] = r[k] / k, a[k] / k, b[k] / k


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _table(nu, delta, z_most):
    """(spacing, nodes): Taylor coefficients (nodes, 3, 13) for |z| up to z_most.

    An error in r grows like exp(-t sqrt(m^2 + 4 nu)) at the distance t from its node, so the
    nodes lie the closer, the larger nu.
    """
    spacing = min(0.5, 6.0 / math.sqrt(delta * delta + 4.0 * nu))
    reach = abs(delta) * (z_most / math.sqrt(z_most * z_most + nu) if z_most < 1e150 else 1.0)
    half = int(reach / spacing + 0.5) + 1
    table = np.empty((2 * half + 1, 3, _DEGREE))
    for node in range(-half, half + 1):
        _node(nu, spacing * node, table[node + half])
    return spacing, table


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _most(x, loc, scale):
    most = 0.0
    for i in range(len(x)):
        most = max(most, abs(x[i] - loc))
    return most / scale


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
def _jet(z, nu, delta, spacing, table):
    q = z * z + nu
    i = 1.0 / q
    root = math.sqrt(i)
    m = delta * z * root
    half = (len(table) - 1) // 2
    node = int(np.rint(m / spacing))
    c = table[node + half]
    t = m - spacing * node
    j = c[0, _DEGREE - 1]
    ja, jaa = c[1, _DEGREE - 1], c[2, _DEGREE - 1]
    r = ra = 0.0
    for k in range(_DEGREE - 2, -1, -1):
        r, ra = r * t + j, ra * t + ja
        j, ja, jaa = j * t + c[0, k], ja * t + c[1, k], jaa * t + c[2, k]
    rm = nu - m * r - r * r
    # Derivatives of m in z, nu (a) and delta (b).
    cube = root * i
    mz, ma, mb = delta * nu * cube, -0.5 * m * i, z * root
    mzz, mza = -3.0 * mz * z * i, delta * cube * (1.0 - 1.5 * nu * i)
    maa, mzb, mab = 0.75 * m * i * i, nu * cube, -0.5 * z * cube
    d2, z2 = delta * delta, z * z * i
    log_q, k1 = log(q), nu + 1.0
    return (
        -0.5 * nu * d2 * i - 0.5 * k1 * log_q + j,
        (nu * d2 * i - k1) * z * i + r * mz,
        nu * d2 * i * i * (1.0 - 4.0 * z2) - k1 * i * (1.0 - 2.0 * z2) + rm * mz * mz + r * mzz,
        -0.5 * (d2 * z2 * i + log_q + k1 * i) + r * ma + ja,
        z * i * (d2 * i * (1.0 - 2.0 * nu * i) - 1.0 + k1 * i)
        + rm * mz * ma + r * mza + ra * mz,
        d2 * z2 * i * i - i + 0.5 * k1 * i * i + rm * ma * ma + r * maa + 2.0 * ra * ma + jaa,
        -nu * delta * i + r * mb,
        2.0 * nu * delta * z * i * i + rm * mz * mb + r * mzb,
        -delta * z2 * i + rm * ma * mb + r * mab + ra * mb,
        -nu * i + rm * mb * mb,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _sums(x, logs, w, shapes, loc, scale, out):
    nu, delta = shapes[0], shapes[1]
    spacing, table = _table(nu, delta, _most(x, loc, scale))
    out[:] = 0.0
    for i in range(len(x)):
        z = (x[i] - loc) / scale
        h, hz, hzz, ha, hza, haa, hb, hzb, hab, hbb = _jet(z, nu, delta, spacing, table)
        v = w[i]
        out[0] += v * h
        out[1] += v * hz
        out[2] += v * hz * z
        out[3] += v * hzz
        out[4] += v * hzz * z
        out[5] += v * hzz * z * z
        out[6] += v * ha
        out[7] += v * hza
        out[8] += v * hza * z
        out[9] += v * hb
        out[10] += v * hzb
        out[11] += v * hzb * z
        out[12] += v * haa
        out[13] += v * hab
        out[14] += v * hbb


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _jets(z, shapes, out):
    spacing, table = _table(shapes[0], shapes[1], _most(z, 0.0, 1.0))
    for i in range(len(z)):
        (
            out[i, 0], out[i, 1], out[i, 2], out[i, 3], out[i, 4], out[i, 5], out[i, 6],
            out[i, 7], out[i, 8], out[i, 9],
        ) = _jet(z[i], shapes[0], shapes[1], spacing, table)  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _constants(nu):
    """What of log f depends on nu alone, with two derivatives."""
    value = 0.5 * nu * math.log(nu) - _HALF_LOG_PI - lgamma(0.5 * nu) - 0.5 * (nu - 1.0) * _LOG_2
    first = 0.5 * (math.log(nu) + 1.0 - digamma(0.5 * nu) - _LOG_2)
    return value, first, 0.5 / nu - 0.25 * trigamma(0.5 * nu)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _log_tails(z, nu, delta, sign, out):
    """Log P(sign Z <= sign z): the mean of Phi(z y / sqrt(nu) - delta) over a chi variable y."""
    centre, step = 0.5 * math.log(nu), min(0.35 / math.sqrt(nu), 0.06)
    reach_low = int(min(45.0 / nu + 12.0 / math.sqrt(nu), 700.0) / step) + 2
    reach_high = int(math.log1p(12.0 / math.sqrt(nu)) / step) + 8
    count = reach_low + reach_high + 1
    y, weight = np.empty(count), np.empty(count)
    total = 0.0
    for k in range(count):
        s = centre + (k - reach_low) * step
        y[k] = math.exp(s - centre)
        weight[k] = nu * (s - centre) - 0.5 * nu * (y[k] * y[k] - 1.0)
        total += math.exp(weight[k])
    powers, shares = np.empty(count), np.exp(weight) / total
    for i in range(len(z)):
        mean = 0.0
        for k in range(count):
            mean += shares[k] * normal_cdf(sign * (z[i] * y[k] - delta))
        if mean > 1e-290:
            out[i] = math.log(mean)
            continue
        most = -np.inf
        for k in range(count):
            powers[k] = weight[k] + normal_logcdf(sign * (z[i] * y[k] - delta))
            most = max(most, powers[k])
        for k in range(count):
            mean += math.exp(powers[k] - most)
        out[i] = most + math.log(mean) - math.log(total)


class NoncentralT(LocationScale):
    """Noncentral t: `df` (degrees of freedom), `nc` (noncentrality), `loc`, `scale`."""

    name, title, scipy = "noncentral_t", "Noncentral t", "nct"
    aliases = ("nct",)
    kernels = (_sums, _jets)
    shapes = (positive("df"), Parameter("nc", -_FAR, _FAR))

    def constant(self, *shapes: float) -> tuple[float, np.ndarray, np.ndarray]:
        value, first, second = _constants(shapes[0])
        return value, np.array([first, 0.0]), np.diag([second, 0.0])

    def start(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Tail and skewness from quantiles, then Newton with centre and deviation.

        The law hardly moves where loc and scale nc, or scale and nc^2 / df, change against each
        other: in its own parameters the likelihood is a long bent ridge.
        """
        low, first, middle, third, high = quantiles(x, w, (0.05, 0.25, 0.5, 0.75, 0.95))
        spread = max(third - first, 1e-12 * (1.0 + abs(middle)))
        _, deviation = mean_and_deviation(x, w)
        spread = spread if spread > 1e-9 * deviation else deviation
        skew = (high + low - 2.0 * middle) / max(high - low, 1e-300)
        df = 3.0 if high - low > 3.2 * spread else 10.0
        nc = float(np.clip(5.0 * skew, -2.0, 2.0))
        data = self.prepare(Data(x, w))

        def theta_of(u: np.ndarray) -> tuple[np.ndarray, float]:
            df, nc = math.exp(min(u[0], 40.0)), _FAR * math.tanh(u[1])
            scale = math.exp(u[3]) / math.sqrt(1.0 + 0.5 * nc * nc / df)
            return np.array([df, nc, u[2] - scale * nc, scale]), _FAR * (1.0 - math.tanh(u[1]) ** 2)

        def objective(u: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            theta, slope = theta_of(u)
            df, nc, _, scale = theta
            value, score, hessian = self.terms(data, theta)
            # First in log df, nc, the centre and log scale.
            chain = np.diag([df, 1.0, 1.0, scale])
            chain[2, 1], chain[2, 3] = -scale, -scale * nc
            bend = np.diag([df * score[0], 0.0, 0.0, scale * score[3] - scale * nc * score[2]])
            bend[1, 3] = bend[3, 1] = -scale * score[2]
            score, hessian = chain.T @ score, chain.T @ hessian @ chain + bend
            # log scale = log deviation - r / 2 with r = log(1 + nc^2 / 2 df); nc = 30 tanh.
            t = 0.5 * nc * nc / df
            q, r1 = t / (1.0 + t), nc / df / (1.0 + t)
            second = np.zeros((4, 4))
            second[0, 0], second[1, 1] = q * (1.0 - q), 1.0 / (df * (1.0 + t)) - r1 * r1
            second[0, 1] = second[1, 0] = -r1 / (1.0 + t)
            chain = np.eye(4)
            chain[3, 0], chain[3, 1] = 0.5 * q, -0.5 * r1
            hessian = chain.T @ hessian @ chain - 0.5 * score[3] * second
            score = chain.T @ score
            outer = np.array([1.0, slope, 1.0, 1.0])
            hessian = hessian * np.outer(outer, outer)
            hessian[1, 1] -= 2.0 * math.tanh(u[1]) * slope * score[1]
            return value, score * outer, hessian

        begin = np.array([math.log(df), math.atanh(nc / _FAR), middle, math.log(spread / 1.4)])
        return theta_of(maximise(objective, begin, data.total, most=60).u)[0]

    def terms(self, data: Data, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        # Beyond, the law is the normal to ten digits, and sums of order df have none left.
        p = len(theta)
        if theta[0] > _MOST:
            return -math.inf, np.zeros(p), np.zeros((p, p))
        return super().terms(data, theta)

    def windows(self, lower: np.ndarray, upper: np.ndarray, theta: np.ndarray) -> Any:
        m, p = len(lower), len(theta)
        if theta[0] > _MOST:
            return np.full(m, -math.inf), np.zeros((m, p)), np.zeros((m, p, p))
        return super().windows(lower, upper, theta)

    def _tails(self, z: np.ndarray, shapes: Any, sign: float) -> np.ndarray:
        flat = np.ascontiguousarray(z, np.float64).ravel()
        out = np.empty_like(flat)
        _log_tails(flat, float(shapes[0]), float(shapes[1]), sign, out)
        return out.reshape(np.shape(z))

    def standard_logcdf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return self._tails(z, shapes, 1.0)

    def standard_logsf(self, z: np.ndarray, *shapes: float) -> np.ndarray:
        return self._tails(z, shapes, -1.0)

    def standard_ppf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return invert_real(self, p, False, shapes)

    def standard_isf(self, p: np.ndarray, *shapes: float) -> np.ndarray:
        return invert_real(self, p, True, shapes)

    def standard_sample(self, random: Any, size: Any, *shapes: float) -> np.ndarray:
        chi = np.sqrt(random.chisquare(shapes[0], size) / shapes[0])
        return (random.standard_normal(size) + shapes[1]) / chi

    def standard_mean(self, *shapes: float) -> float:
        df, nc = shapes
        if df <= 1.0:
            return math.nan
        return (
            nc
            * math.sqrt(0.5 * df)
            * math.exp(math.lgamma(0.5 * (df - 1.0)) - math.lgamma(0.5 * df))
        )

    def standard_var(self, *shapes: float) -> float:
        df, nc = shapes
        if df <= 2.0:
            return math.inf
        return df * (1.0 + nc * nc) / (df - 2.0) - self.standard_mean(df, nc) ** 2


FAMILIES = (NoncentralT(),)
