"""Selective scan of Mamba with softplus, skip and gate in one pass, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from paragone.kernels.choice import choose, register
from paragone.kernels.launch import serves
from paragone.mixers.ops.scan import reference
from paragone.mixers.ops.scan.registration import selective_scan as _numba

__all__ = ["selective_scan"]

_STORED = (torch.float32, torch.bfloat16, torch.float16)


def _cpu(device: str, dtype: torch.dtype, named: str = "auto") -> str | None:
    if device != "cpu":
        return f"runs on the CPU, and the tensors are on {device}"
    return None if dtype in _STORED else f"works in float32, and the tensors are {dtype}"


register("selective_scan", {
    "triton": serves, "numba": _cpu, "torch": lambda device, dtype, named="auto": None,
})  # fmt: skip


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    softplus: bool = True,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Runs x through a diagonal linear system that each token sets anew.

    Prefer it to an associative scan in torch, which keeps D x N numbers a token; here the states
    live in registers and are computed again on the way back, from one kept every 32 tokens.

    Args:
        x: (B, T, D) input; slices of wider rows are not copied, here and below.
        dt: (B, T, D) step sizes, before softplus and bias.
        A: (D, N), negative for a system that forgets.
        B: (B, T, N) how a token enters the states.
        C: (B, T, N) how they are read.
        D: (D,) what of x goes past the states, or None.
        z: (B, T, D) gate; the output is multiplied by its silu. None: no gate.
        dt_bias: (D,) or None.
        softplus: Whether step sizes are softplus(dt + bias), else dt + bias as they are.
        state: (B, D, N) before the first token; None: zeros.
        lengths: (B,) tokens of each row; later ones change nothing and give 0.
        backend: "auto", "triton", "numba" or "torch".

    Returns:
        (B, T, D) of x's dtype, and the float32 state (B, D, N) after each row's last token.

    Raises:
        ValueError: Shapes that do not fit, or a back end that cannot serve.

    Example:
        >>> one = torch.ones(1, 4, 1)
        >>> selective_scan(one, one, torch.zeros(1, 1), one, one, softplus=False)[0].flatten()
        tensor([1., 2., 3., 4.])
    """
    _check(x, dt, A, B, C, D, z, dt_bias, state, lengths)
    taken = choose("selective_scan", backend, device=x.device.type, dtype=x.dtype, named=backend)
    form = _numba if taken == "numba" else reference.selective_scan
    if taken == "triton":
        from paragone.mixers.ops.scan.scan_triton import selective_scan as form
    return form(x, dt, A, B, C, D, z, dt_bias, state, lengths, softplus)


def _check(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *others: Tensor | None) -> None:
    if x.ndim != 3 or A.ndim != 2:
        raise ValueError(
            f"selective_scan: x {tuple(x.shape)} and A {tuple(A.shape)}; (B, T, D) and (D, N) are "
            "expected"
        )
    (rows, time, width), count = x.shape, A.shape[1]
    D, z, dt_bias, state, lengths = others
    for name, value, wanted in (
        ("dt", dt, (rows, time, width)), ("A", A, (width, count)), ("B", B, (rows, time, count)),
        ("C", C, (rows, time, count)), ("D", D, (width,)), ("z", z, (rows, time, width)),
        ("dt_bias", dt_bias, (width,)), ("state", state, (rows, width, count)),
        ("lengths", lengths, (rows,)),
    ):  # fmt: skip
        if value is not None and tuple(value.shape) != wanted:
            raise ValueError(
                f"selective_scan: {name} has shape {tuple(value.shape)}; {wanted} is expected"
            )
