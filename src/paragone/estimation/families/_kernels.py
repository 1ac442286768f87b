r"""Compiled passes of location-scale families, made from one function of the standard density.

A family writes the logarithm of its standard density, $h(z; a, b)$ without the part that does
not depend on $z$, together with its first and second derivatives, as a `jet`:

    no shape     jet(z, log_z)       -> h, h_z, h_zz
    one shape    jet(z, log_z, a)    -> h, h_z, h_zz, h_a, h_za, h_aa
    two shapes   jet(z, log_z, a, b) -> h, h_z, h_zz, h_a, h_za, h_aa, h_b, h_zb, h_ab, h_bb

`passes(jet, shapes)` gives two kernels: the weighted sums that the log-likelihood with its score
and Hessian in location, scale and shapes is made of, in one pass; and the jets one by one.
What a jet computes from the shapes alone is hoisted out of the loop by the compiler. With
`exp`, `log` and `log1p` from `_elementary` the loop has no call and no branch and becomes SIMD.

Sums, with $z = (x - \mu) / \sigma$ and weights w:
    $\sum w h, \sum w h_z, \sum w z h_z, \sum w h_{zz}, \sum w z h_{zz}, \sum w z^2 h_{zz}$,
    then for each shape s $\sum w h_s, \sum w h_{zs}, \sum w z h_{zs}$,
    then $\sum w h_{aa}$, or $\sum w h_{aa}, \sum w h_{ab}, \sum w h_{bb}$.

Shapes: x, logs, w (n,); shapes (1,) or (2,); out (6,), (10,) or (15,) and (n, 3), (n, 6), (n, 10).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from paragone.estimation._elementary import log
from paragone.kernels.jit import njit

__all__ = ["logs_above", "passes"]

_SUMS = {"reassoc", "contract", "nsz"}


def passes(jet: Callable[..., Any], shapes: int = 0) -> tuple[Any, Any]:
    """Returns the kernels (sums, jets) of a jet with that many shapes."""
    return (_none, _one, _two)[shapes](jet)


@njit(cache=True, nogil=True, error_model="numpy")
def logs_above(x, loc, out):
    """log(x - loc), which must be positive, into out (n,)."""
    for i in range(len(x)):
        out[i] = log(x[i] - loc)


def _none(jet: Any) -> tuple[Any, Any]:
    @njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
    def sums(x, logs, w, shapes, loc, scale, out):
        s0 = s1 = s2 = s3 = s4 = s5 = 0.0
        inverse, shift = 1.0 / scale, math.log(scale)
        for i in range(len(x)):
            z = (x[i] - loc) * inverse
            h, hz, hzz = jet(z, logs[i] - shift)
            v = w[i]
            vz, vzz = v * hz, v * hzz
            s0 += v * h
            s1 += vz
            s2 += vz * z
            s3 += vzz
            s4 += vzz * z
            s5 += vzz * z * z
        out[0], out[1], out[2], out[3], out[4], out[5] = s0, s1, s2, s3, s4, s5

    @njit(cache=True, nogil=True, error_model="numpy")
    def jets(z, shapes, out):
        for i in range(len(z)):
            out[i, 0], out[i, 1], out[i, 2] = jet(z[i], math.log(abs(z[i])))

    return sums, jets


def _one(jet: Any) -> tuple[Any, Any]:
    @njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
    def sums(x, logs, w, shapes, loc, scale, out):
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = 0.0
        inverse, shift, a = 1.0 / scale, math.log(scale), shapes[0]
        for i in range(len(x)):
            z = (x[i] - loc) * inverse
            h, hz, hzz, ha, hza, haa = jet(z, logs[i] - shift, a)
            v = w[i]
            vz, vzz, vza = v * hz, v * hzz, v * hza
            s0 += v * h
            s1 += vz
            s2 += vz * z
            s3 += vzz
            s4 += vzz * z
            s5 += vzz * z * z
            s6 += v * ha
            s7 += vza
            s8 += vza * z
            s9 += v * haa
        out[0], out[1], out[2], out[3], out[4], out[5] = s0, s1, s2, s3, s4, s5
        out[6], out[7], out[8], out[9] = s6, s7, s8, s9

    @njit(cache=True, nogil=True, error_model="numpy")
    def jets(z, shapes, out):
        a = shapes[0]
        for i in range(len(z)):
            (out[i, 0], out[i, 1], out[i, 2], out[i, 3], out[i, 4], out[i, 5]) = jet(
                z[i], math.log(abs(z[i])), a
            )

    return sums, jets


def _two(jet: Any) -> tuple[Any, Any]:
    @njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
    def sums(x, logs, w, shapes, loc, scale, out):
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = s10 = s11 = s12 = s13 = s14 = 0.0
        inverse, shift, a, b = 1.0 / scale, math.log(scale), shapes[0], shapes[1]
        for i in range(len(x)):
            z = (x[i] - loc) * inverse
            h, hz, hzz, ha, hza, haa, hb, hzb, hab, hbb = jet(z, logs[i] - shift, a, b)
            v = w[i]
            vz, vzz, vza, vzb = v * hz, v * hzz, v * hza, v * hzb
            s0 += v * h
            s1 += vz
            s2 += vz * z
            s3 += vzz
            s4 += vzz * z
            s5 += vzz * z * z
            s6 += v * ha
            s7 += vza
            s8 += vza * z
            s9 += v * hb
            s10 += vzb
            s11 += vzb * z
            s12 += v * haa
            s13 += v * hab
            s14 += v * hbb
        out[0], out[1], out[2], out[3], out[4], out[5] = s0, s1, s2, s3, s4, s5
        out[6], out[7], out[8], out[9], out[10], out[11] = s6, s7, s8, s9, s10, s11
        out[12], out[13], out[14] = s12, s13, s14

    @njit(cache=True, nogil=True, error_model="numpy")
    def jets(z, shapes, out):
        a, b = shapes[0], shapes[1]
        for i in range(len(z)):
            (
                out[i, 0], out[i, 1], out[i, 2], out[i, 3], out[i, 4], out[i, 5], out[i, 6],
                out[i, 7], out[i, 8], out[i, 9],
            ) = jet(z[i], math.log(abs(z[i])), a, b)  # fmt: skip

    return sums, jets
