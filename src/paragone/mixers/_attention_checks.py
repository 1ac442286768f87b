"""What `attention` is given, checked: errors that name the value, the limit and the remedy."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from paragone.mixers.ops.attention.block_mask import BlockMask
from paragone.mixers.ops.attention.call import Extras
from paragone.mixers.ops.attention.lengths import facts
from paragone.mixers.ops.attention.rule import Rule

__all__ = ["checked_extras", "checked_rule", "checked_tensors"]


def checked_tensors(q: Tensor, k: Tensor, v: Tensor, packed: bool) -> None:
    """Shapes, types and devices of queries, keys and values."""
    layout = "(tokens, heads, width)" if packed else "(B, heads, T, width)"
    time, heads = (0, 1) if packed else (2, 1)
    shapes = ", ".join(f"{n} {tuple(x.shape)}" for n, x in zip("qkv", (q, k, v), strict=True))
    if any(x.ndim != (3 if packed else 4) for x in (q, k, v)):
        raise ValueError(f"{shapes}: q, k and v are expected as {layout}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"{shapes}: queries and keys have different widths")
    if k.shape[time] != v.shape[time] or k.shape[heads] != v.shape[heads]:
        raise ValueError(f"{shapes}: keys and values differ in length or heads")
    if not packed and not q.shape[0] == k.shape[0] == v.shape[0]:
        raise ValueError(f"{shapes}: the numbers of rows differ")
    if q.shape[heads] and (not k.shape[heads] or q.shape[heads] % k.shape[heads]):
        raise ValueError(
            f"{shapes}: the {q.shape[heads]} heads of q are no multiple of the "
            f"{k.shape[heads]} of k"
        )
    if not q.is_floating_point() or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}; one floating-point type for all "
            "three is expected"
        )
    if not q.device == k.device == v.device:
        raise ValueError(
            f"q, k and v are on {q.device}, {k.device} and {v.device}; move them to one device"
        )


def checked_rule(
    q: Tensor, causal: bool, alignment: str, window: Any, softcap: float | None,
    scale: float | None, dropout: float, seed: int | None, generator: torch.Generator | None,
) -> Rule:  # fmt: skip
    """The numbers of a call; draws the seed if there is dropout and none was given."""
    if alignment not in ("bottom-right", "top-left"):
        raise ValueError(f"alignment={alignment!r} is neither 'bottom-right' nor 'top-left'")
    left, right = _span(window)
    if causal:
        right = 0
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap={softcap}; give a number above 0, or None for no cap")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}; a share from 0 to below 1 is expected")
    if scale is None:
        scale = 1 / math.sqrt(max(q.shape[-1], 1))
    if not math.isfinite(scale):
        raise ValueError(f"scale={scale} is not finite")
    if dropout and seed is None:
        seed = int(torch.randint(2**62, (), generator=generator))
    return Rule(
        float(scale), float(softcap or 0.0), left, right, alignment == "bottom-right",
        float(dropout), int(seed or 0),
    )  # fmt: skip


def _span(window: Any) -> tuple[int, int]:
    if window is None:
        return -1, -1
    ends = (window - 1, 0) if isinstance(window, int) else tuple(window)
    if len(ends) != 2 or any(end is not None and end < 0 for end in ends):
        raise ValueError(
            f"window={window!r}; a number of keys from 1 on, or a pair (left, right) of numbers "
            "from 0 on or None, is expected"
        )
    left, right = (-1 if end is None else int(end) for end in ends)
    return left, right


def checked_extras(
    q: Tensor, k: Tensor, v: Tensor, lengths: Any, packed: Any, mask: Any, bias: Tensor | None,
    alibi: Tensor | bool | None,
) -> Extras:  # fmt: skip
    """Lengths, mask, bias and slopes, brought into one form."""
    rows, heads = (len(packed[0]) if packed is not None else q.shape[0]), q.shape[1]
    shape = (rows, heads, q.shape[2], k.shape[2])
    pair = None
    if packed is not None:
        pair = _ends(packed, rows, (q.shape[2], k.shape[2]), q.device, total=True)
    elif lengths is not None:
        if isinstance(lengths, Tensor) or len(lengths) != 2 or not isinstance(lengths[0], Tensor):
            known = torch.as_tensor(lengths)
            whole = torch.full_like(known, q.shape[2])
            lengths = (known if q.shape[2] == k.shape[2] else whole, known)
        pair = _ends(lengths, rows, (q.shape[2], k.shape[2]), q.device, total=False)
    if mask is not None and (isinstance(mask, BlockMask) or mask.dtype != torch.bool):
        if not isinstance(mask, BlockMask):
            raise ValueError(
                f"mask is {mask.dtype}; bool is expected, True where a query may see a key. Give "
                "numbers that are added to the scores as `bias`"
            )
        _fits("mask", mask.shape, shape, exact=2)
    elif mask is not None:
        mask = mask if mask.ndim == 4 else mask[(None,) * (4 - mask.ndim)]
        _fits("mask", mask.shape, shape)
    if bias is not None:
        if not bias.is_floating_point():
            raise ValueError(f"bias is {bias.dtype}; floats are expected (bool goes to `mask`)")
        bias = bias if bias.ndim == 4 else bias[(None,) * (4 - bias.ndim)]
        _fits("bias", bias.shape, shape)
    for name, x in (("mask", mask), ("bias", bias)):
        device = x.table.device if isinstance(x, BlockMask) else None if x is None else x.device
        if device is not None and device != q.device:
            raise ValueError(f"{name} is on {device}, q on {q.device}; move it there")
    return Extras(pair, packed is not None, mask, bias, _slopes(alibi, rows, heads, q))


def _fits(name: str, found: Any, shape: tuple[int, ...], exact: int = 0) -> None:
    """Whether a shape broadcasts to `shape`; its last `exact` sizes must be the same."""
    strict = [False] * (4 - exact) + [True] * exact
    if len(found) == 4 and all(
        a == b or (a == 1 and not s) for a, b, s in zip(found, shape, strict, strict=True)
    ):
        return
    raise ValueError(f"{name} has shape {tuple(found)}, which does not broadcast to {shape}")


def _ends(
    pair: Any, rows: int, most: tuple[int, int], device: torch.device, total: bool
) -> tuple[Tensor, Tensor]:
    found = []
    for name, n, limit in zip(("queries", "keys"), pair, most, strict=True):
        n = torch.as_tensor(n)
        if n.shape != (rows,) or n.is_floating_point() or n.dtype == torch.bool:
            raise ValueError(
                f"lengths of {name} are {n.dtype} of shape {tuple(n.shape)}; integers of shape "
                f"({rows},) are expected"
            )
        n = n.to(device=device, dtype=torch.int64)
        known = facts(n)
        if known.least < 0:
            raise ValueError(f"lengths of {name} have {known.least}; no row is shorter than 0")
        if total and known.total != limit:
            raise ValueError(
                f"lengths of {name} have the sum {known.total}, but there are {limit} tokens"
            )
        if not total and known.most > limit:
            raise ValueError(f"lengths of {name} have {known.most}, but a row has {limit}")
        found.append(n)
    return found[0], found[1]


def _slopes(alibi: Tensor | bool | None, rows: int, heads: int, q: Tensor) -> Tensor | None:
    if alibi is None or alibi is False:
        return None
    if alibi is True:
        at = torch.arange(1, heads + 1, device=q.device, dtype=torch.float64)
        alibi = torch.exp2(-8 * at / heads).to(torch.promote_types(q.dtype, torch.float32))
    assert isinstance(alibi, Tensor)
    if alibi.shape not in ((heads,), (rows, heads)) or not alibi.is_floating_point():
        raise ValueError(
            f"alibi is {alibi.dtype} of shape {tuple(alibi.shape)}; float slopes of shape "
            f"({heads},) or ({rows}, {heads}) are expected"
        )
    return alibi[None] if alibi.ndim == 1 else alibi
