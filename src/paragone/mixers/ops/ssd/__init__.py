"""State space duality of Mamba-2: a scalar decay for each head, in chunks, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from paragone.kernels.choice import choose, register
from paragone.mixers.ops.ssd import reference
from paragone.mixers.ops.ssd.registration import CHUNK
from paragone.mixers.ops.ssd.registration import ssd as _numba

__all__ = ["ssd"]

_STORED = (torch.float32, torch.bfloat16, torch.float16)


def _cpu(device: str, dtype: torch.dtype) -> str | None:
    if device != "cpu":
        return f"runs on the CPU, and the tensors are on {device}"
    return None if dtype in _STORED else f"works in float32, and the tensors are {dtype}"


register("ssd", {"numba": _cpu, "torch": lambda device, dtype: None})


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    chunk: int = CHUNK,
    form: str = "chunked",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Runs x through heads of linear attention that fade by one number a token.

    Prefer it to `selective_scan` when the state is large (N of 64 and more): its work is products
    of matrices, not one exponential a state.

    Args:
        x: (B, T, H, P) input; slices of wider rows are not copied, here and below.
        dt: (B, T, H) step sizes, zero or positive.
        A: (H,), negative for a system that forgets.
        B: (B, T, G, N) how a token enters the states; G divides H.
        C: (B, T, G, N) how they are read.
        D: (H,) what of x goes past the states, or None.
        state: (B, H, N, P) before the first token; None: zeros.
        lengths: (B,) tokens of each row; later ones change nothing.
        chunk: Tokens taken at once; the result does not depend on it, the time does.
        form: "chunked", or "scan": one token after the other, the definition.
        backend: "auto", "numba" or "torch", for chunks.

    Returns:
        (B, T, H, P) of x's dtype, and the float32 state (B, H, N, P) after each row's last token.

    Raises:
        ValueError: Shapes that do not fit, or a back end that cannot serve.

    Example:
        >>> one = torch.ones(1, 4, 1, 1)
        >>> ssd(one, one[..., 0], torch.zeros(1), one, one)[0].flatten()
        tensor([1., 2., 3., 4.])
    """
    _check(x, dt, A, B, C, D, state, lengths, chunk)
    rows, time, heads, size = x.shape
    work = torch.promote_types(x.dtype, torch.float32)
    dt, A = dt.to(work), A.to(work)
    if lengths is not None:
        beyond = (torch.arange(time, device=x.device) >= lengths[:, None])[..., None]
        dt = dt.masked_fill(beyond, 0)  # a step of no length leaves the state as it is
        x, B, C = (v.masked_fill(beyond[..., None], 0) for v in (x, B, C))
    before = x.new_zeros(rows, heads, B.shape[3], size, dtype=work) if state is None else state
    if form not in ("chunked", "scan"):
        raise ValueError(f"ssd: form={form!r} is neither 'chunked' nor 'scan'")
    taken = choose("ssd", backend, device=x.device.type, dtype=x.dtype)
    if form == "scan":
        y, after = reference.ssd_loop(x, dt, A, B, C, before.to(work))
    else:
        run = _numba if taken == "numba" else reference.ssd_chunked
        y, after = run(x, dt, A, B, C, before.to(work), chunk)
    y = y if D is None else y + D.to(work)[:, None] * x
    return y.to(x.dtype), after


def _check(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *others: Tensor | int | None):
    D, state, lengths, chunk = others
    if x.ndim != 4 or B.ndim != 4:
        raise ValueError(
            f"ssd: x {tuple(x.shape)} and B {tuple(B.shape)}; (B, T, H, P) and (B, T, G, N) are "
            "expected"
        )
    (rows, time, heads, size), (groups, count) = x.shape, B.shape[2:]
    if not groups or heads % groups:
        raise ValueError(f"ssd: {groups} groups do not divide {heads} heads")
    if not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"ssd: chunk={chunk}; at least 1 is expected")
    for name, value, wanted in (
        ("dt", dt, (rows, time, heads)), ("A", A, (heads,)), ("B", B, (rows, time, groups, count)),
        ("C", C, (rows, time, groups, count)), ("D", D, (heads,)),
        ("state", state, (rows, heads, count, size)), ("lengths", lengths, (rows,)),
    ):  # fmt: skip
        if isinstance(value, Tensor) and tuple(value.shape) != wanted:
            raise ValueError(f"ssd: {name} has shape {tuple(value.shape)}; {wanted} is expected")
