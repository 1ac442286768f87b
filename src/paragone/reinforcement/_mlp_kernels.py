r"""Small multilayer perceptrons in float32: forward, backward and Adam, compiled.

A layer of 64 units over a minibatch of 256 rows is 40 us of arithmetic; an autograd library spends
several times that on deciding what to do. Here a pass is one compiled call:

$$ h_0 = x, \qquad h_l = \sigma(h_{l-1} W_l + b_l), \qquad
   \bar W_l = h_{l-1}^\top \bar z_l, \quad \bar b_l = \textstyle\sum_b \bar z_l, \quad
   \bar h_{l-1} = \bar z_l W_l^\top, \quad \bar z_l = \bar h_l \odot \sigma'(h_l) . $$

All parameters lie in one vector, layer after layer, weights (in, out) before biases, so that Adam
is one loop. Sums may be taken in any order (`reassoc`) and fused; NaN and infinity are kept.

Cost: three products of B x in x out multiply-adds a layer, at some 50 GFLOP/s on one core.

References:
    Kingma and Ba (2015), "Adam: a method for stochastic optimization", arXiv:1412.6980, alg. 1.

Shapes: B rows, `sizes` (layers + 1,) the width of each layer, `buffer` B * sum(sizes[1:]) numbers.
"""

from __future__ import annotations

import math

import numpy as np

from paragone.kernels.jit import njit

__all__ = ["RELU", "TANH", "adam", "backward", "forward"]

TANH, RELU = 0, 1

_options = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}


@njit(**_options)
def _add_product(x, w, out):
    """`out += x @ w`, four rows by four columns of x at a time, vectorised along the rows of w."""
    rows, inner = x.shape
    columns = w.shape[1]
    four = inner - inner % 4
    b = 0
    while b + 4 <= rows:
        p, q, r, s = out[b], out[b + 1], out[b + 2], out[b + 3]
        for i in range(0, four, 4):
            p0, p1, p2, p3 = x[b, i], x[b, i + 1], x[b, i + 2], x[b, i + 3]
            q0, q1, q2, q3 = x[b + 1, i], x[b + 1, i + 1], x[b + 1, i + 2], x[b + 1, i + 3]
            r0, r1, r2, r3 = x[b + 2, i], x[b + 2, i + 1], x[b + 2, i + 2], x[b + 2, i + 3]
            s0, s1, s2, s3 = x[b + 3, i], x[b + 3, i + 1], x[b + 3, i + 2], x[b + 3, i + 3]
            for j in range(columns):
                w0, w1, w2, w3 = w[i, j], w[i + 1, j], w[i + 2, j], w[i + 3, j]
                p[j] += p0 * w0 + p1 * w1 + p2 * w2 + p3 * w3
                q[j] += q0 * w0 + q1 * w1 + q2 * w2 + q3 * w3
                r[j] += r0 * w0 + r1 * w1 + r2 * w2 + r3 * w3
                s[j] += s0 * w0 + s1 * w1 + s2 * w2 + s3 * w3
        for i in range(four, inner):
            for j in range(columns):
                w0 = w[i, j]
                p[j] += x[b, i] * w0
                q[j] += x[b + 1, i] * w0
                r[j] += x[b + 2, i] * w0
                s[j] += x[b + 3, i] * w0
        b += 4
    for row in range(b, rows):
        for i in range(inner):
            for j in range(columns):
                out[row, j] += x[row, i] * w[i, j]


@njit(**_options)
def _activate(kind, z):
    """The activation in place; tanh by its continued fraction at half the argument, to 2e-7."""
    if kind == RELU:
        for i in range(z.size):
            z[i] = max(z[i], np.float32(0))
        return
    one, two, three = np.float32(135135), np.float32(17325), np.float32(378)
    four, five, six = np.float32(62370), np.float32(3150), np.float32(28)
    for i in range(z.size):
        y = np.float32(0.5) * min(max(z[i], np.float32(-9)), np.float32(9))
        square = y * y
        above = y * (one + square * (two + square * (three + square)))
        below = one + square * (four + square * (five + square * six))
        z[i] = np.float32(2) * above * below / (below * below + above * above)


@njit(**_options)
def forward(theta, sizes, kind, x, buffer):
    """Fills the buffer with the outputs of all layers; the last B * sizes[-1] are the network's."""
    rows, place, start, inputs = len(x), 0, 0, x
    for layer in range(len(sizes) - 1):
        wide, out = sizes[layer], sizes[layer + 1]
        weights = theta[place : place + wide * out].reshape(wide, out)
        bias = theta[place + wide * out : place + wide * out + out]
        flat = buffer[start : start + rows * out]
        outputs = flat.reshape(rows, out)
        for b in range(rows):
            for j in range(out):
                outputs[b, j] = bias[j]
        _add_product(inputs, weights, outputs)
        if layer < len(sizes) - 2:
            _activate(kind, flat)
        inputs = outputs
        place += wide * out + out
        start += rows * out


@njit(**_options)
def backward(theta, sizes, kind, x, buffer, slope, grad):
    """Adds to `grad` the gradient that the outputs' gradient `slope` (B, k) gives.

    `buffer` holds what `forward` put there for the same `x`.
    """
    rows, place, start = len(x), len(theta), rows_of(sizes) * len(x)
    for layer in range(len(sizes) - 2, -1, -1):
        wide, out = sizes[layer], sizes[layer + 1]
        place -= wide * out + out
        start -= rows * out
        inputs = x
        if layer > 0:
            inputs = buffer[start - rows * wide : start].reshape(rows, wide)
        bias = grad[place + wide * out : place + wide * out + out]
        for b in range(rows):
            for j in range(out):
                bias[j] += slope[b, j]
        weights = grad[place : place + wide * out].reshape(wide, out)
        _add_product(inputs.T, slope, weights)
        if layer > 0:
            turned = np.empty((out, wide), np.float32)
            for i in range(wide):
                for j in range(out):
                    turned[j, i] = theta[place + i * out + j]
            below = np.zeros((rows, wide), np.float32)
            _add_product(slope, turned, below)
            for b in range(rows):
                for j in range(wide):
                    h = inputs[b, j]
                    if kind == RELU:
                        below[b, j] = below[b, j] if h > 0 else np.float32(0)
                    else:
                        below[b, j] *= np.float32(1) - h * h
            slope = below


@njit(**_options)
def rows_of(sizes):
    """Numbers of the buffer that one row needs."""
    total = 0
    for layer in range(1, len(sizes)):
        total += sizes[layer]
    return total


@njit(**_options)
def adam(theta, grad, first, second, step, rate, beta1, beta2, eps, most):
    """One step of Adam, number `step` from 1, the gradient's norm cut to `most`; returns the norm.

    A step with inf as `most` cuts nothing.
    """
    square = 0.0
    for i in range(len(grad)):
        square += np.float64(grad[i]) * np.float64(grad[i])
    norm = math.sqrt(square)
    scale = np.float32(min(1.0, most / (norm + 1e-6)))
    pace = np.float32(rate / (1 - beta1**step))
    root = np.float32(math.sqrt(1 - beta2**step))
    b1, b2, tiny = np.float32(beta1), np.float32(beta2), np.float32(eps)
    rest1, rest2 = np.float32(1 - beta1), np.float32(1 - beta2)
    for i in range(len(theta)):
        g = grad[i] * scale
        first[i] = b1 * first[i] + rest1 * g
        second[i] = b2 * second[i] + rest2 * g * g
        theta[i] -= pace * first[i] / (np.float32(math.sqrt(second[i])) / root + tiny)
    return norm
