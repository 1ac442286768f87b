r"""AdamW over a list of tensors in one Triton launch for each set of dtypes.

A model has hundreds of parameters, most of them small; a launch for each costs more than its
work. Here a table holds the addresses of every tensor, a second one cuts them into chunks of 1024
elements, and one launch walks through the chunks. The host computes nothing that depends on the
steps, so nothing waits for the GPU. With $c$ for unscaling and the sign of `maximize`:

$$ g' = c\,g + \lambda_2\,\theta, \quad m \leftarrow m + (1 - \beta_1)(g' - m), \quad
   v \leftarrow \beta_2 v + (1 - \beta_2)\,g'^2, \quad
   \theta \leftarrow k\,\theta - s\,\frac{m}{r\sqrt{v} + \epsilon} , $$

in which every form of Adam and AdamW is a choice of $\lambda_2, k, s, r$. Work is done in fp32;
bf16 is read and written as bits, rounded to the nearest or at random by the counter hash of
`kernels.narrow` (a function of seed, step and the element's position in all tensors end to end).

Cost: 28 bytes of traffic a parameter in fp32, 14 in bf16.

References:
    Loshchilov and Hutter (2019), arXiv:1711.05101, algorithm 2.
    Kingma and Ba (2015), arXiv:1412.6980, section 2 (the two places of epsilon).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from paragone.kernels.device import random_word

__all__ = ["BLOCK", "adamw_step"]

BLOCK = 1024
_COLUMNS = 5
_TYPES = (torch.float32, torch.bfloat16)
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


@triton.jit
def _place(address, half: tl.constexpr, aligned: tl.constexpr):
    pointer = address.to(tl.pointer_type(tl.uint16 if half else tl.float32))
    return tl.multiple_of(pointer, 16) if aligned else pointer


@triton.jit
def _read(address, i, mask, half: tl.constexpr, aligned: tl.constexpr):
    values = tl.load(_place(address, half, aligned) + i, mask=mask)
    if half:
        return (values.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return values.to(tl.float32)


@triton.jit
def _write(
    address, i, mask, values, words, half: tl.constexpr, chance: tl.constexpr,
    aligned: tl.constexpr,
):  # fmt: skip
    if half:
        bits = values.to(tl.uint32, bitcast=True)
        size = bits & 0x7FFFFFFF
        up = bits + ((words & 0xFFFF) if chance else (0x7FFF + ((bits >> 16) & 1)))
        special = (bits >> 16) | tl.where(size > 0x7F800000, 0x40, 0).to(tl.uint32)
        found = tl.where(size >= 0x7F800000, special, up >> 16).to(tl.uint16)
        tl.store(_place(address, half, aligned) + i, found, mask=mask)
    else:
        tl.store(_place(address, half, aligned) + i, values, mask=mask)


@triton.jit
def _number(c):
    return tl.load(c).to(tl.float32)


@triton.jit
def _update(
    place, c, key, origin, i, mask, half_p: tl.constexpr, half_g: tl.constexpr,
    half_s: tl.constexpr, copies: tl.constexpr, chance: tl.constexpr, aligned: tl.constexpr,
):  # fmt: skip
    at_p, at_g, at_copy = tl.load(place), tl.load(place + 1), tl.load(place + 4)
    at_m, at_v = tl.load(place + 2), tl.load(place + 3)
    x = _read(at_p, i, mask, half_p, aligned)
    m, v = _read(at_m, i, mask, half_s, aligned), _read(at_v, i, mask, half_s, aligned)
    grad = _number(c + 1) * _read(at_g, i, mask, half_g, aligned) + _number(c + 2) * x
    m = m + _number(c + 3) * (grad - m)
    v = _number(c + 4) * v + _number(c + 5) * grad * grad
    x = _number(c) * x - _number(c + 8) * (m / (_number(c + 6) * tl.sqrt(v) + _number(c + 7)))
    words = i.to(tl.uint32)
    if chance:
        words = random_word(tl.load(key).to(tl.int64), origin + i)
    _write(at_p, i, mask, x, words, half_p, chance, aligned)
    _write(at_m, i, mask, m, words, half_s, False, aligned)
    _write(at_v, i, mask, v, words >> 16, half_s, chance, aligned)
    if copies:
        _write(at_copy, i, mask, x, words, True, False, aligned)


@triton.jit
def _adamw(
    addresses, chunks, coefficients, keys, half_p: tl.constexpr, half_g: tl.constexpr,
    half_s: tl.constexpr, copies: tl.constexpr, chance: tl.constexpr, aligned: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    chunk = chunks + tl.program_id(0).to(tl.int64) * 4
    row = tl.load(chunk).to(tl.int64)
    start = tl.multiple_of(tl.load(chunk + 1).to(tl.int64), block)
    end, origin = tl.load(chunk + 2).to(tl.int64), tl.load(chunk + 3).to(tl.int64)
    i = start + tl.arange(0, block).to(tl.int64)
    place, c, key = addresses + row * 5, coefficients + row * 9, keys + row
    # Without a mask the compiler reads and writes 16 bytes at a time.
    if start + block <= end:
        _update(place, c, key, origin, i, None, half_p, half_g, half_s, copies, chance, aligned)
    else:
        _update(place, c, key, origin, i, i < end, half_p, half_g, half_s, copies, chance, aligned)


_TABLES: OrderedDict[tuple[object, ...], tuple[Tensor, Tensor]] = OrderedDict()
_KEPT = 16
_launch: Any = _adamw
_add: Any = getattr(torch, "_foreach_add_")  # noqa: B009


def _tables(
    columns: Sequence[Sequence[Tensor]], origins: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Addresses (rows, 5) and chunks (n, 4) on the device; the same as long as addresses are."""
    sizes = [p.numel() for p in columns[0]]
    addresses = [[t.data_ptr() for t in row] for row in zip(*columns, strict=True)]
    key = (device, tuple(sizes), tuple(map(tuple, addresses)), tuple(origins))
    found = _TABLES.get(key)
    if found is None:
        chunks = [
            [row, start, size, origins[row]]
            for row, size in enumerate(sizes)
            for start in range(0, size, BLOCK)
        ]
        padded = [row + [0] * (_COLUMNS - len(row)) for row in addresses]
        first, second = (torch.tensor(t, dtype=torch.int64).to(device) for t in (padded, chunks))
        found = first, second
        while len(_TABLES) >= _KEPT:
            _TABLES.popitem(last=False)
        _TABLES[key] = found
    _TABLES.move_to_end(key)
    return found


def _coefficients(
    t: Tensor, scale: Tensor | None, numbers: Sequence[float], decay: str, hat: bool,
    maximize: bool,
) -> Tensor:  # fmt: skip
    """(rows, 9), made in fp64 where t is: keep, c, l2, 1-b1, b2, 1-b2, r, eps, s."""
    lr, beta1, beta2, eps, weight_decay, schedule = numbers
    first, second = 1.0 - beta1**t, torch.sqrt(1.0 - beta2**t)
    out = torch.empty((len(t), 9), dtype=torch.float64, device=t.device)
    share = {"torch": lr, "paper": schedule, "l2": 0.0}[decay]
    out[:, 0] = 1.0 - share * weight_decay
    out[:, 1] = -1.0 if maximize else 1.0
    if scale is not None:
        out[:, 1] /= scale.to(torch.float64)
    out[:, 2] = weight_decay if decay == "l2" else 0.0
    out[:, 3], out[:, 4], out[:, 5] = 1.0 - beta1, beta2, 1.0 - beta2
    out[:, 6] = 1.0 if hat else 1.0 / second
    out[:, 7] = eps
    out[:, 8] = lr / first * (second if hat else 1.0)
    return out.to(torch.float32)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shifts to the right as if unsigned."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def _keys(seed: int, t: Tensor) -> Tensor:
    """`kernels.narrow.random_key` of each row: integers wrap as there."""
    x = (t.to(torch.int64) + 1) * _GOLDEN + seed
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


@torch.library.custom_op(
    "paragone::adamw_step", mutates_args=("params", "exp_avgs", "exp_avg_sqs", "steps", "copies")
)
def _step(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor], steps: list[Tensor], copies: list[Tensor],
    grad_scale: Tensor | None, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, schedule: float, decay: str, epsilon_hat: bool, maximize: bool,
    stochastic: bool, seed: int,
) -> None:  # fmt: skip
    if not params:
        return
    _add(steps, 1)
    device = params[0].device
    t = torch.stack([s.reshape(()) for s in steps]).to(device, torch.float64)
    numbers = (lr, beta1, beta2, eps, weight_decay, schedule)
    coefficients = _coefficients(t, grad_scale, numbers, decay, epsilon_hat, maximize)
    keys = _keys(seed, t) if stochastic else t.to(torch.int64)
    origins, total = [], 0
    for p in params:
        origins.append(total)
        total += p.numel()
    columns = [params, grads, exp_avgs, exp_avg_sqs, *([copies] if copies else [])]
    kinds = [tuple(c[i].dtype == torch.bfloat16 for c in columns[:3]) for i in range(len(params))]
    for kind in dict.fromkeys(kinds):
        rows = [i for i, each in enumerate(kinds) if each == kind]
        addresses, chunks = _tables(
            [[column[i] for i in rows] for column in columns], [origins[i] for i in rows], device
        )
        if len(chunks):
            part = slice(None) if len(rows) == len(params) else rows
            aligned = all(c[i].data_ptr() % 16 == 0 for c in columns for i in rows)
            _launch[(len(chunks),)](
                addresses, chunks, coefficients[part].contiguous(), keys[part].contiguous(), *kind,
                copies=bool(copies), chance=stochastic, aligned=aligned, block=BLOCK,
            )  # fmt: skip


@_step.register_fake
def _(
    params, grads, exp_avgs, exp_avg_sqs, steps, copies, grad_scale, lr, beta1, beta2, eps,
    weight_decay, schedule, decay, epsilon_hat, maximize, stochastic, seed,
):  # fmt: skip
    return None


def _dense(tensor: Tensor) -> bool:
    """Whether the elements fill one piece of memory, in some order."""
    left = sorted(zip(tensor.stride(), tensor.shape, strict=True))
    expected = 1
    for stride, size in left:
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _check(columns: dict[str, Sequence[Tensor]], steps: Sequence[Tensor]) -> None:
    params = columns["params"]
    for name, column in (*columns.items(), ("steps", steps)):
        if len(column) != len(params):
            raise ValueError(f"{len(params)} params but {len(column)} {name}; give one for each")
    for i, p in enumerate(params):
        if p.numel() and not _dense(p):
            raise ValueError(f"params[{i}] has holes (strides {p.stride()}); give a dense tensor")
        for name, column in columns.items():
            each = column[i]
            if each.dtype not in _TYPES:
                raise ValueError(f"{name}[{i}] is {each.dtype}; float32 or bfloat16 is expected")
            if each.shape != p.shape or each.device != params[0].device:
                raise ValueError(
                    f"{name}[{i}] is {tuple(each.shape)} on {each.device}, params[{i}] "
                    f"{tuple(p.shape)} on {params[0].device}; both must agree"
                )
            if name != "grads" and each.numel() and each.stride() != p.stride():
                raise ValueError(f"{name}[{i}] has strides {each.stride()}, params[{i}] has "
                                 f"{p.stride()}; make it with torch.empty_like")  # fmt: skip
        if columns["exp_avgs"][i].dtype != columns["exp_avg_sqs"][i].dtype:
            raise ValueError(f"exp_avgs[{i}] and exp_avg_sqs[{i}] differ in dtype; give one dtype")
        if "copies" in columns and columns["copies"][i].dtype != torch.bfloat16:
            raise ValueError(f"copies[{i}] is {columns['copies'][i].dtype}; bfloat16 is expected")


def adamw_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decay: Literal["torch", "paper", "l2"] = "torch",
    epsilon_hat: bool = False,
    grad_scale: Tensor | float | None = None,
    maximize: bool = False,
    copies: Sequence[Tensor] = (),
    stochastic: bool = False,
    seed: int = 0,
    schedule: float = 1.0,
) -> None:
    """Updates all parameters in place, and adds one to their steps.

    Prefer it to `torch.optim.AdamW(fused=True)` for bf16 parameters (stochastic rounding), for a
    16-bit copy in the same pass, and for the other places of epsilon and decay.

    Args:
        params: Parameters, float32 or bfloat16, dense, on one GPU.
        grads: Gradients of the same shapes; copied first where their strides differ.
        exp_avgs: Means m, with the strides of the parameters.
        exp_avg_sqs: Mean squares v, in the dtype of m.
        steps: Steps so far, one float32 number each, on the GPU or the CPU.
        lr: Learning rate.
        beta1: Decay of the mean.
        beta2: Decay of the mean square.
        eps: Epsilon.
        weight_decay: Decay of the weights.
        decay: "torch" (times lr), "paper" (times `schedule`), or "l2" (inside the gradient).
        epsilon_hat: Whether epsilon stands beside the uncorrected root, as in Adam's section 2.
        grad_scale: What the gradients were multiplied by.
        maximize: Whether to climb.
        copies: For each parameter a bfloat16 tensor that receives the new value, or none at all.
        stochastic: Whether bf16 parameters and mean squares, not copies, are rounded at random.
        seed: Seed of the random rounding.
        schedule: lr over the first lr, for "paper".

    Raises:
        ValueError: Lists, shapes, dtypes or strides do not agree.
        RuntimeError: The tensors are on the CPU, and Triton's interpreter is not switched on.
    """
    if decay not in ("torch", "paper", "l2"):
        raise ValueError(f"decay is {decay!r}; known are torch, paper and l2")
    columns: dict[str, Sequence[Tensor]] = {
        "params": params, "grads": grads, "exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs,
        **({"copies": copies} if len(copies) else {}),
    }  # fmt: skip
    _check(columns, steps)
    if not params:
        return
    device = params[0].device
    if device.type == "cpu" and not triton.knobs.runtime.interpret:
        raise RuntimeError("Triton needs a GPU; for a trial on the CPU set TRITON_INTERPRET=1")
    aligned = [
        g if g.stride() == p.stride() else torch.empty_like(p, dtype=g.dtype).copy_(g)
        for p, g in zip(params, grads, strict=True)
    ]
    scale = None
    if grad_scale is not None:
        scale = torch.as_tensor(grad_scale, dtype=torch.float32, device=device).reshape(())
    with torch.no_grad():
        _step(
            list(params), aligned, list(exp_avgs), list(exp_avg_sqs), list(steps), list(copies),
            scale, lr, beta1, beta2, eps, weight_decay, schedule, decay, epsilon_hat, maximize,
            stochastic, seed,
        )  # fmt: skip
