r"""The step of Adam and AdamW over a table of addresses: one call, one pass over memory.

`advance` counts the steps and turns each row's options into eleven numbers; one of `STEPS` walks
through chunks of rows. With $c$ for unscaling, clipping and the sign of `maximize`:

$$ g' = c\,g + \lambda_2\,\theta, \quad m \leftarrow m + (1 - \beta_1)(g' - m), \quad
   v \leftarrow \beta_2 v + (1 - \beta_2)\,g'^2, \quad
   \theta \leftarrow k\,\theta - \frac{s\,m}{\sqrt{v} / r + \epsilon} , $$

in which every form of Adam and AdamW is a choice of $\lambda_2, k, s, r$. A loop over 32-bit
floats, and one over bf16, read and write memory directly; everything else (16-bit gradients
of 32-bit parameters, fp16, AMSGrad, 8-bit blocks) is widened into small buffers that stay in the
nearest cache, stepped there, and narrowed again. Each is a kernel of its own, so that a process
compiles what its model needs.

Columns of a table: parameter, gradient, copy, m, v, step, max v, scales of m, scales of v.
Kinds: 0 fp32, 1 bf16, 2 fp16, 3 blocks of 8 bits, -1 nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, types  # pyright: ignore[reportPrivateImportUsage]
from numba.extending import intrinsic

from paragone.kernels.jit import njit
from paragone.kernels.narrow import (
    bf16_nearest,
    bf16_stochastic,
    bf16_wide,
    bits_of,
    fp16_nearest,
    fp16_stochastic,
    fp16_wide,
    random_key,
    random_word,
    single_of,
)  # fmt: skip
from paragone.training._low_bit import BLOCK, decode, encode_signed, encode_unsigned

__all__ = ["COLUMNS", "HYPER", "STEPS", "advance", "squares", "ways"]

COLUMNS = 6
"""Columns for states: m, v, step, max v, scales of m, scales of v."""
HYPER = (
    "lr", "beta1", "beta2", "eps", "weight_decay", "lr_of_decay", "l2", "hat", "maximize",
    "stochastic",
)  # fmt: skip
"""Numbers of a group, in the order in which `advance` reads them."""
TILE = 1024


@intrinsic
def _memory(typing_context, address):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@intrinsic
def _fused(typing_context, a, b, c):
    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


fused: Any = _fused
"""(a, b, c): a b + c in float32, rounded once."""
memory: Any = _memory
"""(address): a pointer that `numba.carray` makes an array of."""


@njit(nogil=True, error_model="numpy")
def advance(addresses, groups, hyper, factor, coefficients):
    """Counts the steps; writes (rows, 11): keep, c, l2, 1-b1, b2, 1-b2, r, 1/r, eps, s, t."""
    for row in range(len(groups)):
        if addresses[row, 1] == 0:
            continue
        step = carray(memory(addresses[row, 5]), (1,), np.float32)
        step[0] += np.float32(1)
        t = np.float64(step[0])
        lr, beta1, beta2, eps, decay, lr_of_decay, l2, hat, maximize = hyper[groups[row], :9]
        first, second = 1.0 - beta1**t, np.sqrt(1.0 - beta2**t)
        out = coefficients[row]
        out[0] = 1.0 if l2 else 1.0 - lr_of_decay * decay
        out[1] = -factor if maximize else factor
        out[2] = decay if l2 else 0.0
        out[3], out[4], out[5] = 1.0 - beta1, beta2, 1.0 - beta2
        out[6] = 1.0 if hat else second
        out[7] = np.float32(1.0) / np.float64(out[6])
        out[8] = eps
        out[9] = lr * second / first if hat else lr / first
        out[10] = t


@njit(nogil=True, error_model="numpy")
def _moment(m, grad, w1, w1_less_1):
    """PyTorch's `lerp`: from the nearer end."""
    difference = grad - m
    near, far = fused(w1, difference, m), fused(w1_less_1, difference, grad)
    return near if w1 < np.float32(0.5) else far


@njit(nogil=True, error_model="numpy")
def _denominator(v, root, r, eps):
    """sqrt(v) / root + eps, with the quotient correctly rounded though nothing is divided.

    r is 1 / root; the remainder of the product corrects it (Markstein's theorem).
    """
    s = np.sqrt(v)
    q = s * r
    q = fused(fused(-q, root, s), r, q)
    return (q if s < np.float32(np.inf) else s) + eps


@njit(nogil=True, error_model="numpy")
def _singles(p, g, m, v, count, c):
    """32-bit floats, in PyTorch's order of roundings; the arrays may be memory or buffers.

    Moments come out as PyTorch's, bit for bit; its vector library rounds the root its own way.
    """
    keep, factor, l2, w1, b2, w2 = c[0], c[1], c[2], c[3], c[4], c[5]
    root, r, eps, size = c[6], c[7], c[8], c[9]
    for i in range(count):
        x = p[i]
        grad = fused(l2, x, factor * g[i])
        first = _moment(m[i], grad, w1, w1 - np.float32(1))
        second = fused(w2 * grad, grad, b2 * v[i])
        m[i], v[i] = first, second
        p[i] = keep * x - size * first / _denominator(second, root, r, eps)


@njit(nogil=True, error_model="numpy")
def _singles_with_maximum(p, g, m, v, most, count, c):
    """The same with the largest v so far in the denominator (AMSGrad), in two loops."""
    factor, l2, w1, b2, w2 = c[1], c[2], c[3], c[4], c[5]
    for i in range(count):
        grad = fused(l2, p[i], factor * g[i])
        m[i] = _moment(m[i], grad, w1, w1 - np.float32(1))
        v[i] = fused(w2 * grad, grad, b2 * v[i])
    keep, root, r, eps, size = c[0], c[6], c[7], c[8], c[9]
    for i in range(count):
        # A NaN in v stays one: it is not below anything.
        most[i] = most[i] if most[i] >= v[i] else v[i]
        p[i] = keep * p[i] - size * m[i] / _denominator(most[i], root, r, eps)


@njit(nogil=True, error_model="numpy", forceinline=True)
def _near(bits):
    """The nearest bf16 of what arithmetic on bf16 gave: its NaN end in 16 zeros, and stay NaN."""
    return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + np.uint32((bits >> 16) & 1)) >> 16)


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def _halves(p, g, m, v, count, c, stochastic, key, start):
    """bf16 throughout: widened, stepped and narrowed in registers.

    Roundings are those of `kernels.narrow`, without its care for NaN and infinity: here both end
    in 16 zeros, to which nothing that is added carries over.
    """
    keep, factor, l2, w1, b2 = c[0], c[1], c[2], c[3], c[4]
    w2, r, eps, size = c[5], c[7], c[8], c[9]
    for i in range(count):
        x, first = single_of(bf16_wide(p[i])), single_of(bf16_wide(m[i]))
        grad = factor * single_of(bf16_wide(g[i])) + l2 * x
        first = first + w1 * (grad - first)
        second = b2 * single_of(bf16_wide(v[i])) + w2 * grad * grad
        x = keep * x - size * (first / (r * np.sqrt(second) + eps))
        m[i] = _near(bits_of(first))
        if stochastic:
            word = random_word(key, np.uint32(start + i))
            p[i] = np.uint32(bits_of(x) + np.uint32(word & np.uint32(0xFFFF))) >> 16
            v[i] = np.uint32(bits_of(second) + np.uint32(word >> 16)) >> 16
        else:
            p[i], v[i] = _near(bits_of(x)), _near(bits_of(second))


@njit(nogil=True, error_model="numpy")
def _singles_at(address, kind, start, count, buffer):
    """Elements from `start` on as fp32: the memory itself, or widened into the buffer."""
    if kind == 0:
        return carray(memory(address + 4 * start), (count,), np.float32)
    halves = carray(memory(address + 2 * start), (count,), np.uint16)
    if kind == 1:
        for i in range(count):
            buffer[i] = single_of(bf16_wide(halves[i]))
    else:
        for i in range(count):
            buffer[i] = single_of(fp16_wide(halves[i]))
    return buffer


@njit(nogil=True, error_model="numpy")
def _narrowed(values, address, kind, start, count):
    """Writes fp32 values back, rounded to the nearest."""
    if kind <= 0:
        if kind == 0:
            out = carray(memory(address + 4 * start), (count,), np.float32)
            for i in range(count):
                out[i] = values[i]
        return
    halves = carray(memory(address + 2 * start), (count,), np.uint16)
    if kind == 1:
        for i in range(count):
            halves[i] = bf16_nearest(bits_of(values[i]))
    else:
        for i in range(count):
            halves[i] = fp16_nearest(bits_of(values[i]))


@njit(nogil=True, error_model="numpy")
def _narrowed_by_chance(values, address, kind, start, count, key, at, shift):
    """Writes fp32 values back, rounded at random; `shift` chooses which half of a word leads."""
    halves = carray(memory(address + 2 * start), (count,), np.uint16)
    if kind == 1:
        for i in range(count):
            word = np.uint32(random_word(key, np.uint32(at + i)) >> np.uint32(shift))
            halves[i] = bf16_stochastic(bits_of(values[i]), word)
    else:
        for i in range(count):
            word = random_word(key, np.uint32(at + i))
            turned = np.uint32(
                (word >> np.uint32(shift)) | np.uint32(word << np.uint32(32 - shift))
            )
            word = turned if shift else word
            halves[i] = fp16_stochastic(bits_of(values[i]), word)


@njit(nogil=True, error_model="numpy")
def _part(position, count, key):
    """(count, lower 32 bits, key): a part within which loops may count in 32 bits.

    The upper bits of the position go into the key, where `random_word` would put them.
    """
    at = np.uint64(position)
    far = np.uint32(np.uint32(at >> np.uint64(32)) * np.uint32(0x9E3779B9))
    low = np.int64(at & np.uint64(0xFFFFFFFF))
    near = np.uint64(key ^ (np.uint64(far) << np.uint64(32)))
    return min(count, np.int64(1 << 32) - low), low, near


@njit(nogil=True, error_model="numpy")
def step_singles(addresses, kinds, chunks, first, last, starts, coefficients, chance, seed):
    """Updates the chunks first ... last - 1 of parameters that are fp32 with all they have."""
    for number in range(first, last):
        row, begin, end = chunks[number]
        place, count = addresses[row], end - begin
        _singles(
            carray(memory(place[0] + 4 * begin), (count,), np.float32),
            carray(memory(place[1] + 4 * begin), (count,), np.float32),
            carray(memory(place[3] + 4 * begin), (count,), np.float32),
            carray(memory(place[4] + 4 * begin), (count,), np.float32),
            count, coefficients[row],
        )  # fmt: skip


@njit(nogil=True, error_model="numpy")
def step_halves(addresses, kinds, chunks, first, last, starts, coefficients, chance, seed):
    """The same for parameters that are bf16 with all they have."""
    for number in range(first, last):
        row, start, end = chunks[number]
        place, c = addresses[row], coefficients[row]
        key = random_key(seed, np.int64(c[10]))
        while start < end:
            count, low, near = _part(starts[row] + start, end - start, key)
            _halves(
                carray(memory(place[0] + 2 * start), (count,), np.uint16),
                carray(memory(place[1] + 2 * start), (count,), np.uint16),
                carray(memory(place[3] + 2 * start), (count,), np.uint16),
                carray(memory(place[4] + 2 * start), (count,), np.uint16),
                count, c, chance[row], near, np.uint32(low),
            )  # fmt: skip
            start += count


@njit(nogil=True, error_model="numpy")
def _narrowed_parameter(p, place, kind, start, count, chance, key, at):
    """Writes the parameter and its copy."""
    if kind[0] > 0 and chance:
        _narrowed_by_chance(p, place[0], kind[0], start, count, key, at, 0)
    elif kind[0] > 0:
        _narrowed(p, place[0], kind[0], start, count)
    if kind[2] >= 0:
        _narrowed(p, place[2], kind[2], start, count)


@njit(nogil=True, error_model="numpy")
def step_mixed(addresses, kinds, chunks, first, last, starts, coefficients, chance, seed):
    """The same for any mixture of fp32, bf16 and fp16, with copies and AMSGrad."""
    buffers = np.empty((5, TILE), np.float32)
    for number in range(first, last):
        row, start, end = chunks[number]
        place, kind, c = addresses[row], kinds[row], coefficients[row]
        key = random_key(seed, np.int64(c[10]))
        while start < end:
            count, at, near = _part(starts[row] + start, min(TILE, end - start), key)
            p = _singles_at(place[0], kind[0], start, count, buffers[0])
            g = _singles_at(place[1], kind[1], start, count, buffers[1])
            m = _singles_at(place[3], kind[3], start, count, buffers[2])
            v = _singles_at(place[4], kind[4], start, count, buffers[3])
            if kind[6] >= 0:
                most = _singles_at(place[6], kind[6], start, count, buffers[4])
                _singles_with_maximum(p, g, m, v, most, count, c)
                if kind[6] > 0:
                    _narrowed(most, place[6], kind[6], start, count)
            else:
                _singles(p, g, m, v, count, c)
            if kind[3] > 0:
                _narrowed(m, place[3], kind[3], start, count)
            if kind[4] > 0 and chance[row]:
                _narrowed_by_chance(v, place[4], kind[4], start, count, near, at, 16)
            elif kind[4] > 0:
                _narrowed(v, place[4], kind[4], start, count)
            _narrowed_parameter(p, place, kind, start, count, chance[row], near, at)
            start += count


@njit(nogil=True, error_model="numpy")
def step_blocks(addresses, kinds, chunks, first, last, starts, coefficients, chance, seed):
    """The same for moments in blocks of 8 bits."""
    buffers = np.empty((4, BLOCK), np.float32)
    for number in range(first, last):
        row, begin, end = chunks[number]
        place, kind, c = addresses[row], kinds[row], coefficients[row]
        key = random_key(seed, np.int64(c[10]))
        for start in range(begin, end, BLOCK):
            count, block = min(BLOCK, end - start), start // BLOCK
            p = _singles_at(place[0], kind[0], start, count, buffers[0])
            g = _singles_at(place[1], kind[1], start, count, buffers[1])
            m, v = buffers[2], buffers[3]
            m_codes = carray(memory(place[3] + start), (count,), np.uint8)
            v_codes = carray(memory(place[4] + start), (count,), np.uint8)
            scales = carray(memory(place[7] + 4 * block), (1,), np.float32)
            squares = carray(memory(place[8] + 4 * block), (1,), np.float32)
            decode(m_codes, scales[0], True, m)
            decode(v_codes, squares[0], False, v)
            _singles(p, g, m, v, count, c)
            scales[0], squares[0] = encode_signed(m, m_codes), encode_unsigned(v, v_codes)
            _, at, near = _part(starts[row] + start, count, key)
            _narrowed_parameter(p, place, kind, start, count, chance[row], near, at)


STEPS: tuple[Any, ...] = (step_singles, step_halves, step_mixed, step_blocks)
"""Kernels by the number that `ways` gives."""


def ways(kinds: np.ndarray) -> np.ndarray:
    """Number of the kernel in `STEPS` for each row, -1 for a row without a gradient."""
    p, g, copy, m, v, most = (kinds[:, column] for column in (0, 1, 2, 3, 4, 6))
    alike = (p == g) & (p == m) & (p == v) & (copy < 0) & (most < 0) & (p < 2)
    way = np.where(alike, p, np.where(m == 3, 3, 2))
    return np.where(g < 0, -1, way)


@njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _squares_of(values, count):
    total = 0.0
    for i in range(count):
        x = np.float64(values[i])
        total += x * x
    return total


@njit(nogil=True, error_model="numpy")
def squares(addresses, kinds, chunks, first, last, sums):
    """Writes each chunk's sum of squared gradients, in float64."""
    buffer = np.empty(TILE, np.float32)
    for number in range(first, last):
        row, begin, end = chunks[number]
        total = 0.0
        if addresses[row, 1] != 0:
            for start in range(begin, end, TILE):
                count = min(TILE, end - start)
                grad = _singles_at(addresses[row, 1], kinds[row, 1], start, count, buffer)
                total += _squares_of(grad, count)
        sums[number] = total
