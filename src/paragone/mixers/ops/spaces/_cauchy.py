r"""Kernels of Cauchy sums over conjugate pairs of poles, with nodes across the lanes.

A pair of poles with $\tau = 2 \mathrm{Re} \lambda$, $\mu = |\lambda|^2$ and a pair of values
with $\alpha = 2 \mathrm{Re} v$, $\beta = 2 \mathrm{Re}(v \bar\lambda)$ make one real fraction,

$$ \frac{v}{ix - \lambda y} + \frac{\bar v}{ix - \bar\lambda y}
   = \frac{-\beta y + i \alpha x}{(\mu y^2 - x^2) - i \tau x y} , $$

whose denominator is shared by all R sums. $\mu y^2 - x^2$ is taken as a product of two factors, so
that nothing cancels near a resonance.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, fma, load, load_some, splat, store, store_some, total, zero

__all__ = ["cauchy", "cauchy_backward"]

_NODES = 32 * WIDTH


@njit(nogil=True, error_model="numpy")
def _fraction(x, y, tau, root):
    """Real and imaginary part of 1 / ((root y - x)(root y + x) - i tau x y)."""
    re, im = fma(root, y, -x) * fma(root, y, x), tau * (x * y)
    scale = splat(np.float32(1.0)) / fma(re, re, im * im)
    return re * scale, im * scale


@njit(nogil=True, error_model="numpy")
def cauchy(counter, units, tau, root, alpha, beta, x, y, out):
    """tau, root (H, n); alpha, beta (R, H, n); x, y (L'); out (R, H, 2, L) starts as 0.

    L' is L in whole vectors, with nodes in the rest at which no fraction is infinite.
    """
    sums, width, modes = alpha.shape
    nodes = out.shape[3]
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for first in range(0, nodes, _NODES):
            last = min(first + _NODES, nodes)
            for n in range(modes):
                t, m = splat(tau[unit, n]), splat(root[unit, n])
                for node in range(first, last, WIDTH):
                    left = nodes - node
                    xv, yv = load(x, node), load(y, node)
                    re, im = _fraction(xv, yv, t, m)
                    for r in range(sums):
                        at = (r * width + unit) * 2 * nodes + node
                        a = splat(alpha[r, unit, n]) * xv
                        b = splat(-beta[r, unit, n]) * yv
                        found = fma(b, re, fma(-a, im, load_some(out, at, left)))
                        store_some(out, at, found, left)
                        at += nodes
                        found = fma(b, im, fma(a, re, load_some(out, at, left)))
                        store_some(out, at, found, left)
        unit = fetch_add(counter, 0, 1)


@njit(nogil=True, error_model="numpy")
def cauchy_backward(
    counter, units, tau, root, alpha, beta, x, y, grad, dtau, dmu, dalpha, dbeta
):  # fmt: skip
    """Gradients of the four real numbers of each fraction; grad (R, H, 2, L)."""
    sums, width, modes = alpha.shape
    nodes = grad.shape[3]
    re, im = np.empty(_NODES, np.float32), np.empty(_NODES, np.float32)
    about = np.empty((sums, 2), np.float64)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for n in range(modes):
            t, m = splat(tau[unit, n]), splat(root[unit, n])
            about[:] = 0.0
            about_tau, about_mu = 0.0, 0.0
            for first in range(0, nodes, _NODES):
                last = min(first + _NODES, nodes)
                for node in range(first, last, WIDTH):
                    vr, vi = _fraction(load(x, node), load(y, node), t, m)
                    store(re, node - first, vr)
                    store(im, node - first, vi)
                ts, ms = zero(), zero()
                for r in range(sums):
                    alphas, betas = zero(), zero()
                    a, b = splat(alpha[r, unit, n]), splat(-beta[r, unit, n])
                    base = (r * width + unit) * 2 * nodes
                    for node in range(first, last, WIDTH):
                        left = nodes - node
                        xv, yv, vr, vi = (
                            load(x, node),
                            load(y, node),
                            load(re, node - first),
                            load(im, node - first),
                        )
                        gr = load_some(grad, base + node, left)
                        gi = load_some(grad, base + nodes + node, left)
                        # h = conj(1/D) g goes to the numerator, conj(N/D) h to the denominator.
                        hr, hi = fma(vr, gr, vi * gi), fma(vr, gi, -(vi * gr))
                        alphas, betas = fma(xv, hi, alphas), fma(yv, hr, betas)
                        nr, ni = b * yv, a * xv
                        fr, fi = fma(nr, vr, -(ni * vi)), fma(nr, vi, ni * vr)
                        pr, pi = fma(fr, hr, fi * hi), fma(fr, hi, -(fi * hr))
                        ts, ms = fma(xv * yv, pi, ts), fma(yv * yv, pr, ms)
                    about[r, 0] += total(alphas)
                    about[r, 1] -= total(betas)
                about_tau, about_mu = about_tau + total(ts), about_mu - total(ms)
            for r in range(sums):
                dalpha[r, unit, n], dbeta[r, unit, n] = about[r, 0], about[r, 1]
            dtau[unit, n], dmu[unit, n] = about_tau, about_mu
        unit = fetch_add(counter, 0, 1)
