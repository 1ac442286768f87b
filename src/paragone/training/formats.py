r"""Number formats of training, as data, and casts to them that are exact to the last bit.

A format with $e$ exponent bits, $m$ mantissa bits and bias $b$ spells

$$ (-1)^s \, 2^{E - b} \, (1 + M / 2^m) \quad (E > 0), \qquad
   (-1)^s \, 2^{1 - b} \, M / 2^m \quad (E = 0), $$

so that its values are even spaced by $2^{\max(k, 1 - b) - m}$ about $2^k$. A cast rounds to the
nearest of them, ties to the even $M$; or at random to one of the two neighbours, with the shares
that make the mean exact. What lies above the largest value becomes infinity where the format has
one, else NaN; or the largest value, if it is to saturate.

The cast is simulated by default: values of the format in the storage of the input, for
experiments where no hardware has the format. `storage=True` gives the narrow type itself.

Cost: one pass, 3 G numbers/s towards 16 bits on one core, 0.8 G towards 8.

References:
    IEEE Std 754-2019, section 3.
    Micikevicius et al. (2022), "FP8 formats for deep learning", arXiv:2209.05433, table 1:
    e4m3 (no infinity, NaN is S.1111.111) and e5m2.
    Noune et al. (2022), "8-bit numerical formats for deep neural networks", arXiv:2206.02915,
    for the kinds without minus zero (fnuz).
    Gupta et al. (2015), "Deep learning with limited numerical precision", arXiv:1502.02551,
    section 3, for stochastic rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from paragone.training import _cast_kernels as kernels
from paragone.training import _cast_reference as reference

__all__ = ["FORMATS", "Format", "cast", "decode", "find", "table"]

Specials = Literal["ieee", "fn", "fnuz"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One floating-point format.

    Attributes:
        name: Key, such as "e4m3".
        bits: Bits that a value takes in memory (TF32: 32, of which 19 count).
        exponent: Exponent bits e.
        mantissa: Mantissa bits m, without the hidden one.
        bias: Exponent bias b.
        specials: "ieee": the highest exponent is infinity and NaN; "fn": only its last code is
            NaN, and there is no infinity; "fnuz": as that, but the code of minus zero is the NaN.
        dtype: Name of the type in torch, "" where there is none.
        other: Further names.

    Example:
        >>> FORMATS["fp16"].max, FORMATS["fp16"].min_subnormal == 2.0**-24
        (65504.0, True)
    """

    name: str
    bits: int
    exponent: int
    mantissa: int
    bias: int
    specials: Specials = "ieee"
    dtype: str = ""
    other: tuple[str, ...] = ()

    @property
    def top(self) -> int:
        """Exponent k of the largest binade, [2^k, 2^(k+1))."""
        return 2**self.exponent - 1 - (self.specials == "ieee") - self.bias

    @property
    def max(self) -> float:
        """Largest finite value."""
        cut = 1 - self.mantissa if self.specials == "fn" else -self.mantissa
        return math.ldexp(2.0 - 2.0**cut, self.top)

    @property
    def min_normal(self) -> float:
        """Least positive value with all mantissa bits."""
        return math.ldexp(1.0, 1 - self.bias)

    @property
    def min_subnormal(self) -> float:
        """Least positive value."""
        return math.ldexp(1.0, 1 - self.bias - self.mantissa)

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next value."""
        return 2.0**-self.mantissa

    @property
    def infinity(self) -> bool:
        """Whether it has infinities."""
        return self.specials == "ieee"

    def spec(self, saturate: bool) -> np.ndarray:
        """The format as the compiled loops take it, uint32 (6,)."""
        above = np.inf if self.infinity else np.nan
        over = np.float32(self.max if saturate else above)
        wide = self.exponent == 8
        floats = np.array([self.max, over, self.min_normal, self.min_subnormal * 2.0**23],
                          np.float32).view(np.uint32)  # fmt: skip
        signed = 0xFFFFFFFF if self.specials != "fnuz" else 0
        return np.array([23 - self.mantissa, floats[0], floats[1], 0 if wide else floats[2],
                         0 if wide else floats[3], signed], np.uint32)  # fmt: skip


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format(name="fp32", bits=32, exponent=8, mantissa=23, bias=127, dtype="float32",
               other=("single",)),
        Format(name="tf32", bits=32, exponent=8, mantissa=10, bias=127),
        Format(name="bf16", bits=16, exponent=8, mantissa=7, bias=127, dtype="bfloat16"),
        Format(name="fp16", bits=16, exponent=5, mantissa=10, bias=15, dtype="float16",
               other=("half",)),
        Format(name="e5m2", bits=8, exponent=5, mantissa=2, bias=15, dtype="float8_e5m2"),
        Format(name="e4m3", bits=8, exponent=4, mantissa=3, bias=7, specials="fn",
               dtype="float8_e4m3fn", other=("e4m3fn",)),
        Format(name="e5m2fnuz", bits=8, exponent=5, mantissa=2, bias=16, specials="fnuz",
               dtype="float8_e5m2fnuz"),
        Format(name="e4m3fnuz", bits=8, exponent=4, mantissa=3, bias=8, specials="fnuz",
               dtype="float8_e4m3fnuz"),
    )
}  # fmt: skip
"""All formats by name, the widest first."""

_NAMES = {alias: f for f in FORMATS.values() for alias in (f.name, f.dtype, *f.other) if alias}


def find(name: str | torch.dtype | Format) -> Format:
    """Returns a format by its name, another name of it, or torch's type.

    Raises:
        ValueError: No such format.

    Example:
        >>> find("half").name, find(torch.float8_e4m3fn).name
        ('fp16', 'e4m3')
    """
    if isinstance(name, Format):
        return name
    key = str(name).removeprefix("torch.").lower()
    if key not in _NAMES:
        raise ValueError(f"format {name!r} is not known; take one of {', '.join(FORMATS)}")
    return _NAMES[key]


def table() -> str:
    """Returns all formats as a table to print: bits, range, spacing, what is special.

    Example:
        >>> print(table().splitlines()[5])
        e5m2         8  5+2    15       57344   6.1e-05   1.5e-05      0.25  inf, NaN
    """
    words = {"ieee": "inf, NaN", "fn": "NaN S.11..1, no inf", "fnuz": "NaN 10..0, no inf, no -0"}
    head = f"{'format':<9}{'bits':>5}  {'e+m':<5}{'bias':>4}{'max':>12}{'normal':>10}"
    rows = [f"{head}{'least':>10}{'epsilon':>10}  specials"]
    for f in FORMATS.values():
        split = f"{f.exponent}+{f.mantissa}"
        large = f"{f.max:g}" if f.max < 1e6 else f"{f.max:.2g}"
        rows.append(
            f"{f.name:<9}{f.bits:>5}  {split:<5}{f.bias:>4}{large:>12}{f.min_normal:>10.2g}"
            f"{f.min_subnormal:>10.2g}{f.epsilon:>10.2g}  {words[f.specials]}"
        )
    return "\n".join(rows)


def cast(
    x: Any,
    format: str | torch.dtype | Format,
    *,
    rounding: Literal["nearest", "stochastic"] = "nearest",
    saturate: bool = False,
    seed: int = 0,
    step: int = 0,
    storage: bool = False,
) -> Any:
    r"""Rounds to a format, exact to the last bit.

    Prefer it to `x.to(dtype)` for formats that the machine has not, for saturation, and for
    stochastic rounding, where the result depends on (seed, step, index of the element) alone:
    neither on threads nor on the device. Nearest without saturation is what ml_dtypes does, in
    less time; torch differs in NaNs' payloads and saturates finite numbers towards e4m3, and its
    `to` is the faster one where nothing else is wanted. Gradients pass unchanged.

    Args:
        x: Tensor or array of float32 or float64, or of a 16-bit float, any shape.
        format: Name, such as "bf16", "fp16", "e4m3"; or torch's type.
        rounding: "nearest" (ties to even) or "stochastic".
        saturate: Whether what lies above the largest value becomes that, infinity included.
        seed: First number of the random words.
        step: Second number; a training loop counts it up.
        storage: False: the values in the type of the input (16-bit floats come back as float32).
            True: the format's own type: torch's (float8_e4m3fn for "e4m3"), NumPy's float32
            and float16, else unsigned codes, which `decode` reads. TF32 is stored as float32.

    Returns:
        Contiguous tensor or array in the shape of `x`. A NaN stays one with its sign, without
        its payload.

    Raises:
        ValueError: `x` is not of a float type, or an argument is none of those above.

    Example:
        >>> cast(torch.tensor([0.1, 460.0, 1e-4]), "e4m3", saturate=True).tolist()
        [0.1015625, 448.0, 0.0]
    """
    found = find(format)
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"rounding={rounding!r} is none of 'nearest', 'stochastic'")
    chance = None if rounding == "nearest" else (_integer("seed", seed), _integer("step", step))
    if isinstance(x, Tensor):
        if x.requires_grad and torch.is_grad_enabled():
            if not storage:
                return _Through.apply(x, found, chance, saturate)
            raise ValueError("storage=True keeps no gradient: call it on x.detach()")
        return _cast_tensor(x.detach(), found, chance, saturate, storage)
    array = np.asarray(x)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise ValueError(f"x has type {array.dtype}; floats of 16, 32 or 64 bits can be cast")
    if found.bits == 8 and storage:
        return _codes(array, found, chance, saturate)
    out = _cast_tensor(torch.from_numpy(np.array(array)), found, chance, saturate, storage)
    return out.view(torch.uint16).numpy() if out.dtype == torch.bfloat16 else out.numpy()


def decode(codes: Any, format: str | torch.dtype | Format) -> np.ndarray:
    """Returns the float32 values of codes, as `cast(array, format, storage=True)` gives them.

    Args:
        codes: Unsigned integers of the format's bits, any shape.
        format: Name of a format of 8 or 16 bits.

    Raises:
        ValueError: Codes of another type, or a format of 32 bits.

    Example:
        >>> decode(np.array([0x7E, 0x7F, 1], np.uint8), "e4m3").tolist()
        [448.0, nan, 0.001953125]
    """
    found = find(format)
    kinds = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16)}
    codes = np.asarray(codes)
    if found.bits not in kinds or codes.dtype != kinds[found.bits]:
        raise ValueError(f"{codes.dtype} holds no codes of {found.name}: use uint{found.bits}, "
                         "and a format of 8 or 16 bits")  # fmt: skip
    stored = torch.from_numpy(np.array(codes)).view(getattr(torch, found.dtype))
    return stored.float().numpy()


def round_(x: Tensor, format: Format, saturate: bool = False) -> tuple[int, int, int]:
    """Rounds a float32 tensor in place, to the nearest.

    Returns:
        How many numbers became zero, how many were not zero before, and how many finite ones
        went beyond the largest.
    """
    if format.mantissa == 23:
        return 0, int(torch.count_nonzero(x)), 0
    spec = format.spec(saturate)
    if x.is_cpu and x.is_contiguous():
        words = _words(x.detach())
        return kernels.round_nearest(words, words, spec)
    rounded = reference.rounded(x, spec)
    alive = int(torch.count_nonzero(x))
    lost = alive - int(torch.count_nonzero(rounded))
    past = rounded.isfinite().logical_not() | ((rounded.abs() == format.max) & (x != rounded))
    beyond = int(torch.count_nonzero(past & x.isfinite() & (x.abs() > format.max)))
    x.copy_(rounded)
    return lost, alive, beyond


class _Through(torch.autograd.Function):
    """The cast, and its gradient passed straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, format: Format, chance: Any, saturate: bool) -> Tensor:
        return _cast_tensor(x.detach(), format, chance, saturate, False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None, None, None


def _integer(name: str, value: int) -> int:
    if int(value) != value or not 0 <= value < 2**63:
        raise ValueError(f"{name}={value!r} is no integer from 0 to 2^63 - 1")
    return int(value)


def _cast_tensor(
    x: Tensor, format: Format, chance: tuple[int, int] | None, saturate: bool, storage: bool
) -> Tensor:
    if x.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise ValueError(f"x has type {x.dtype}; floats of 16, 32 or 64 bits can be cast")
    narrow = getattr(torch, format.dtype or "float32") if storage else None
    if format.mantissa == 23:
        return x.to(torch.float32).to(narrow or _kept(x), copy=True).contiguous()
    single = reference.to_odd(x) if x.dtype == torch.float64 else x.float()
    single = single.contiguous()
    if not x.is_cpu:
        rounded = reference.rounded(single, format.spec(saturate), chance)
        return rounded.to(narrow or _kept(x))
    words = _words(single)
    if narrow is not None and chance is None and not saturate and format.bits == 16:
        halves = np.empty(words.size, np.uint16)
        (kernels.to_bf16 if narrow == torch.bfloat16 else kernels.to_fp16)(words, halves)
        return torch.from_numpy(halves).view(narrow).view(single.shape)
    if narrow is not None and format.bits == 8:
        codes = _encoded(words, format, chance, saturate)
        return torch.from_numpy(codes).view(narrow).view(single.shape)
    rounded = torch.empty_like(single)
    _round(words, _words(rounded), format.spec(saturate), chance)
    return rounded.to(narrow or _kept(x))


def _kept(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _words(single: Tensor) -> np.ndarray:
    return single.numpy().reshape(-1).view(np.uint32)


def _round(words: np.ndarray, out: np.ndarray, spec: np.ndarray, chance: Any) -> None:
    if chance is None:
        kernels.round_nearest(words, out, spec)
    else:
        kernels.round_stochastic(words, out, spec, *chance)


def _encoded(words: np.ndarray, format: Format, chance: Any, saturate: bool) -> np.ndarray:
    spec = format.spec(saturate)
    codes = np.empty(words.size, np.uint8)
    highest = (2**format.exponent - 1) << format.mantissa
    nan = {"ieee": highest | 1 << (format.mantissa - 1), "fn": 0x7F, "fnuz": 0x80}
    special = format.bias, highest, nan[format.specials]
    if chance is None:
        kernels.encode_nearest(words, codes, spec, *special)
        return codes
    rounded = np.empty_like(words)
    kernels.round_stochastic(words, rounded, spec, *chance)
    kernels.encode(rounded, codes, spec, *special)
    return codes


def _codes(array: np.ndarray, format: Format, chance: Any, saturate: bool) -> np.ndarray:
    out = _cast_tensor(torch.from_numpy(np.array(array)), format, chance, saturate, True)
    return out.view(torch.uint8).numpy()
