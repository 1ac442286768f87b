"""Linear state spaces against plain torch: CPU time, interleaved, median of five, one thread.

    python benchmarks/state_spaces.py [lengths]

Peers are what one writes without kernels: the kernel as a sum over a tensor of all powers or
fractions, convolution by torch.fft, LegS with a solve for each sample. Both sides compute the same
numbers from the same parameters (checked by the tests); 256 channels, 64 states, one row.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.linalg import solve_triangular

from paragone.mixers import LRU, S4, S4D, hippo
from paragone.mixers.ops.spaces import chunked, reference
from paragone.mixers.ops.spaces.cauchy import cauchy
from paragone.mixers.ops.spaces.scan import scan
from paragone.mixers.ops.spaces.vandermonde import vandermonde

WIDTH, MODES = 256, 32


def clocked(call: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def show(name: str, peer: Callable[[], Any], ours: Callable[[], Any], rounds: int = 5) -> None:
    """Prints both medians and their ratio."""
    peer(), ours()
    both = [(clocked(peer), clocked(ours)) for _ in range(rounds)]
    one, two = (sorted(times)[rounds // 2] * 1e3 for times in zip(*both, strict=True))
    print(f"{name:34s} {one:9.2f} ms {two:8.2f} ms {one / two:7.1f} x", flush=True)


def backward(call: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """The call with gradients of the sum of its output."""
    return lambda: call().sum().backward()


def legs() -> None:
    """One LegS step, with solves in a loop and by running sums."""
    A, B = hippo.matrices("legs", 64)
    values, eye = np.random.default_rng(0).normal(size=400), np.eye(64)

    def loop() -> None:
        c = np.zeros(64)
        for k, value in enumerate(values, 1):
            right = (eye + A / (2 * k)) @ c + B / k * value
            c = solve_triangular(eye - A / (2 * k), right, lower=True)

    show("LegS, order 64, 400 samples", loop, lambda: hippo.Projection("legs", 64).push(values))


def operations(length: int) -> None:
    """Kernels and scans."""
    rate = torch.stack([-0.05 * torch.rand(WIDTH, MODES) - 1e-4, torch.randn(WIDTH, MODES)], dim=1)
    weight = torch.randn(WIDTH, 2, MODES)
    half = torch.arange(length // 2 + 1) * (math.pi / length)
    x, y, values = 2 * half.sin(), half.cos(), torch.randn(4, WIDTH, 2, MODES)
    given, pole, first = torch.randn(1, length, 2, WIDTH), rate[:, :, 0].T, torch.zeros(1, 2, WIDTH)
    pole = pole.contiguous()
    show(f"Vandermonde kernel, {length}", lambda: reference.vandermonde(rate, weight, length),
         lambda: vandermonde(rate, weight, length))  # fmt: skip
    show(f"four Cauchy sums, {length}", lambda: reference.cauchy(values, rate, x, y),
         lambda: cauchy(values, rate, x, y))  # fmt: skip
    show(f"complex scan, {length} (log2 T passes)", lambda: chunked.doubling(given, pole, first),
         lambda: scan(given, pole, first))  # fmt: skip
    rate.requires_grad_()
    show(f"Vandermonde with gradients, {length}",
         backward(lambda: reference.vandermonde(rate, weight, length)),
         backward(lambda: vandermonde(rate, weight, length)))  # fmt: skip


def layers(length: int) -> None:
    """S4D, S4 and LRU without their output maps, against kernel and FFT in plain torch."""
    plain: dict[str, Any] = {"activation": None, "output": None, "skip": False}
    x = torch.randn(1, length, WIDTH)
    for kind in (S4D, S4):
        layer = kind(WIDTH, **plain)
        slow = kind(WIDTH, backend="torch", **plain)

        def peer(slow: Any = slow) -> torch.Tensor:
            system = slow._system(0)
            if isinstance(slow, S4D):
                kernel = reference.vandermonde(system.rate, system.weight, length)
            else:
                kernel = system.kernel(length)
            return chunked.convolve(x, kernel)

        def ours(layer: Any = layer) -> torch.Tensor:
            return layer(x)[0]

        kept = layer._system(0).kernel(length).detach()
        with torch.no_grad():
            show(f"{kind.__name__}, {length}", peer, ours)
            show(f"{kind.__name__}, {length}, peer's FFTs alone",
                 lambda kept=kept: chunked.convolve(x, kept), ours)  # fmt: skip
        show(f"{kind.__name__} with gradients, {length}", backward(peer), backward(ours))
    unit, other = LRU(WIDTH, **plain), LRU(WIDTH, form="convolution", backend="torch", **plain)
    with torch.no_grad():
        show(f"LRU, {length}, against FFTs", lambda: other(x), lambda: unit(x))


def main() -> None:
    """Runs all."""
    torch.set_num_threads(1)
    legs()
    for length in [int(each) for each in sys.argv[1:]] or [512, 2048]:
        operations(length)
        layers(length)


if __name__ == "__main__":
    main()
