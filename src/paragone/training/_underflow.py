r"""What a format would lose of the gradients of a run: exact histograms of their exponents.

Each number x counts in the bin $k = \lfloor \log_2 |x| \rfloor$, powers of two apart, so that for
any scale $2^j$ and any format the share that rounds to zero,

$$ |x| \, 2^j \le \tfrac12 \cdot 2^{1 - b - m} \quad (\text{the tie goes to the even zero}), $$

is exact afterwards, without a second run. Only some steps are looked at, and of large tensors
some of the elements, at a stride that changes its phase from step to step.

Cost: one in `every` steps reads at most `most` numbers a tensor; the others one Python call a
module.

References:
    Micikevicius et al. (2018), "Mixed precision training", arXiv:1710.03740, figure 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paragone.training import formats
from paragone.training._cast_kernels import exponents

__all__ = ["Histogram", "UnderflowRecorder"]

Kind = Literal["activation", "activation gradient", "weight gradient"]
_LEAST, _BINS = -149, 277
_ZERO, _INFINITE, _NAN = 2 * _BINS, 2 * _BINS + 1, 2 * _BINS + 2


@dataclass(frozen=True)
class Histogram:
    """Counts of numbers by exponent.

    Attributes:
        counts: (557,) int64: exact powers of two 2^-149 ... 2^127, numbers above each of them
            and below the next, then zeros, infinities, NaNs.
    """

    counts: np.ndarray

    @property
    def exponents(self) -> tuple[np.ndarray, np.ndarray]:
        """(k, number of values with 2^k <= |x| < 2^(k+1)), from the least to the largest k."""
        total = self.counts[:_BINS] + self.counts[_BINS:_ZERO]
        filled = np.flatnonzero(total)
        if not len(filled):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        inside = slice(filled[0], filled[-1] + 1)
        return np.arange(_LEAST, _LEAST + _BINS)[inside], total[inside]

    @property
    def size(self) -> int:
        """How many finite numbers that are not zero were counted."""
        return int(self.counts[:_ZERO].sum())

    @property
    def zeros(self) -> int:
        """How many zeros were counted."""
        return int(self.counts[_ZERO])

    @property
    def not_finite(self) -> int:
        """How many infinities and NaNs were counted."""
        return int(self.counts[_INFINITE] + self.counts[_NAN])

    def lost(self, format: str, scale: float = 1.0) -> float:
        """Share of the numbers (zeros apart) that the format rounds to zero.

        Args:
            format: Name of a format.
            scale: Power of two by which they are multiplied before.
        """
        found = formats.find(format)
        # 2^(1 - b - m) / 2, as an exponent; it is lost itself, what is above it is not.
        tie = -found.bias - found.mantissa - _power(scale)
        exact, between = self.counts[:_BINS], self.counts[_BINS:_ZERO]
        at = min(max(tie - _LEAST, -1), _BINS - 1)
        return float(exact[: at + 1].sum() + between[: max(at, 0)].sum()) / max(self.size, 1)

    def coarse(self, format: str, scale: float = 1.0) -> float:
        """Share that falls below the normal numbers, with fewer bits or none left."""
        found = formats.find(format)
        at = min(max(1 - found.bias - _power(scale) - _LEAST, 0), _BINS)
        return float(self._both[:at].sum()) / max(self.size, 1)

    def overflow(self, format: str, scale: float = 1.0) -> float:
        """Share beyond the format's highest binade."""
        found = formats.find(format)
        at = min(max(found.top + 1 - _power(scale) - _LEAST, 0), _BINS)
        return float(self._both[at:].sum()) / max(self.size, 1)

    @property
    def _both(self) -> np.ndarray:
        return self.counts[:_BINS] + self.counts[_BINS:_ZERO]

    def recommend(self, format: str = "fp16", margin: int = 3) -> float:
        """Returns the largest power of two that leaves the largest number `margin` binades.

        Args:
            format: Name of a format.
            margin: Factors of two kept free above the largest number seen.
        """
        k, _ = self.exponents
        if not len(k):
            return 1.0
        return 2.0 ** min(formats.find(format).top - int(k[-1]) - margin, 120)

    def text(self, format: str = "fp16", width: int = 50) -> str:
        """Returns the histogram as lines to print, with what the format makes of it."""
        k, counts = self.exponents
        found, scale = formats.find(format), self.recommend(format)
        lines = []
        for exponent, count in zip(k.tolist(), counts.tolist(), strict=True):
            kind = _place(found, exponent)
            bar = "#" * math.ceil(width * count / max(int(counts.max()), 1))
            lines.append(f"2^{exponent:<5}{count / max(self.size, 1):>8.3%} {kind:<6} {bar}")
        return "\n".join([*lines, self.verdict(format), f"largest safe scale: {scale:g}"])

    def verdict(self, format: str = "fp16") -> str:
        """Says in one sentence what the format loses, and what scaling saves."""
        scale = self.recommend(format)
        return (
            f"{format} loses {self.lost(format):.2%} of {self.size:,} numbers, and bits of "
            f"{self.coarse(format) - self.lost(format):.2%}; scaled by {scale:g} it loses "
            f"{self.lost(format, scale):.2%}"
        )

    def svg(self, format: str = "fp16") -> str:
        """Returns the histogram as a picture, with the format's range behind it."""
        k, counts = self.exponents
        found = formats.find(format)
        if not len(k):
            return '<svg xmlns="http://www.w3.org/2000/svg" width="0" height="0"/>'
        low = min(int(k[0]), -found.bias - found.mantissa) - 1
        high = max(int(k[-1]), found.top) + 2
        step, height = 720 / (high - low), 220

        def x(exponent: float) -> float:
            return 40 + step * (exponent - low)

        zones = ((1 - found.bias - found.mantissa, 1 - found.bias, "#f3d9a4", "subnormal"),
                 (1 - found.bias, found.top + 1, "#bfe3c5", f"{found.name} normal"))  # fmt: skip
        parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="800" height="{height + 60}" '
                 'font-family="sans-serif" font-size="11">']  # fmt: skip
        for start, stop, colour, words in zones:
            parts.append(f'<rect x="{x(start):.1f}" y="20" width="{x(stop) - x(start):.1f}" '
                         f'height="{height}" fill="{colour}"/>'
                         f'<text x="{x(start) + 3:.1f}" y="16">{words}</text>')  # fmt: skip
        for exponent, count in zip(k.tolist(), (counts / counts.max()).tolist(), strict=True):
            tall = count * (height - 10)
            place = f'x="{x(exponent):.1f}" y="{height + 20 - tall:.1f}"'
            wide = f'width="{step - 0.5:.1f}" height="{tall:.1f}"'
            parts.append(f'<rect {place} {wide} fill="#30598c"/>')
        for exponent in range(-(-low // 8) * 8, high, 8):
            parts.append(f'<text x="{x(exponent):.1f}" y="{height + 36}">2^{exponent}</text>')
        words = self.verdict(format)
        return "".join([*parts, f'<text x="40" y="{height + 54}">{words}</text></svg>'])


class UnderflowRecorder:
    """Hooks on a model that count the exponents of what flows through it.

    Use it in a run of float32 or bf16, before fp16 is tried: it says what would be lost, and
    which constant scale is right. In a run that is scaled it takes the scale out.

    Args:
        model: The model; every module without children is watched, and every parameter.
        every: One in so many steps is looked at.
        most: Numbers of a tensor that are looked at.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> recorder = UnderflowRecorder(model)
        >>> recorder.begin(); (model(torch.ones(4, 3)) * 2.0**-30).sum().backward()
        >>> recorder.histogram("activation gradient").lost("fp16")
        1.0
    """

    def __init__(self, model: nn.Module, *, every: int = 16, most: int = 65536) -> None:
        for name, value in (("every", every), ("most", most)):
            if value != int(value) or value < 1:
                raise ValueError(f"{name}={value} is no count: use 1 and above")
        self.every, self.most = int(every), int(most)
        self.steps, self.active, self._shift = 0, False, 0
        self._counts: dict[tuple[Kind, str], np.ndarray] = {}
        self._handles: list[Any] = []
        for name, module in model.named_modules():
            if next(module.children(), None) is None:
                self._handles.append(module.register_forward_hook(self._watch(name)))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._handles.append(
                    parameter.register_post_accumulate_grad_hook(self._weight(name))
                )

    def begin(self, scale: float = 1.0) -> None:
        """Says that a step begins, before its forward pass.

        Args:
            scale: Scale of the loss in this step, a power of two.
        """
        self._shift = _power(scale)
        self.active = self.steps % self.every == 0
        self.steps += 1

    def _watch(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not self.active:
                return
            for part in output if isinstance(output, tuple | list) else (output,):
                if isinstance(part, Tensor) and part.is_floating_point():
                    self._count("activation", name, part, 0)
                    if part.requires_grad:
                        part.register_hook(
                            lambda g: self._count("activation gradient", name, g, self._shift)
                        )

        return hook

    def _weight(self, name: str) -> Any:
        def hook(parameter: Tensor) -> None:
            if self.active and parameter.grad is not None:
                self._count("weight gradient", name, parameter.grad, self._shift)

        return hook

    @torch.no_grad()
    def _count(self, kind: Kind, name: str, x: Tensor, shift: int) -> None:
        flat = x.detach().reshape(-1)
        stride = -(-flat.numel() // self.most) | 1
        if stride > 1:
            flat = flat[self.steps % stride :: stride]
        numbers = flat.float().cpu().contiguous().numpy().view(np.uint32)
        counts = self._counts.get((kind, name))
        if counts is None:
            counts = self._counts[kind, name] = np.zeros(2 * _BINS + 3, np.int64)
        exponents(numbers, shift, counts)

    def histogram(self, kind: Kind | None = None, name: str | None = None) -> Histogram:
        """Returns the counts, summed over all that is not named.

        Args:
            kind: "activation", "activation gradient", "weight gradient"; None: both gradients.
            name: A module or parameter; None: all.
        """
        total = np.zeros(2 * _BINS + 3, np.int64)
        for (this, where), counts in self._counts.items():
            if (this == kind or (kind is None and this != "activation")) and name in (None, where):
                total += counts
        return Histogram(total)

    def table(self, format: str = "fp16") -> str:
        """Returns a line for each tensor: largest and least exponent, and what is lost."""
        scale = self.histogram().recommend(format)
        lines = [f"{'tensor':<44}{'2^k from':>9}{'to':>6}{'lost':>9}{f'x {scale:g}':>12}"]
        for (kind, name), counts in sorted(self._counts.items()):
            one = Histogram(counts)
            k, _ = one.exponents
            span = (f"{k[0]:>9}{k[-1]:>6}") if len(k) else f"{'--':>9}{'--':>6}"
            after = one.lost(format, 1.0 if kind == "activation" else scale)
            lines.append(f"{f'{kind} {name}'[:43]:<44}{span}{one.lost(format):>9.2%}{after:>12.2%}")
        return "\n".join(lines)

    def remove(self) -> None:
        """Takes the hooks away; what was counted stays."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _power(scale: float) -> int:
    mantissa, exponent = math.frexp(scale)
    if mantissa != 0.5:
        near = 2.0 ** round(math.log2(scale)) if scale > 0 else 1.0
        raise ValueError(f"scale={scale} is no power of two, which histograms need: use {near:g}")
    return exponent - 1


def _place(format: formats.Format, exponent: int) -> str:
    if exponent < -format.bias - format.mantissa:
        return "lost"
    if exponent > format.top:
        return "over"
    return "" if exponent >= 1 - format.bias else "coarse"
