r"""The selective scan by Triton kernels: one launch forward, one backward.

Softplus, skip and gate are computed on the way. Of a forward pass the state before each tile of
times is kept, B T D N / 16 numbers; the rest is computed again on the way back.

Cost: O(B T D N) time; traffic of x, dt, z and y once forward and twice backward.

References:
    Gu and Dao (2023), "Mamba", arXiv:2312.00752, algorithm 2, section 3.3.2.

Shapes: B rows, T time, D channels, N states of a channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paragone.kernels.launch import check, grid, interpreting, power_of_two, start
from paragone.mixers.ops.scan.scan_triton_kernels import backward_kernel, forward_kernel

__all__ = ["selective_scan"]

_ROWS, _COLUMNS = 16, 8


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, state: Tensor | None, lengths: Tensor | None, softplus: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns (B, T, D) of x's dtype and the float32 state (B, D, N) after each row's last token.

    Prefer `ops.scan.registration.selective_scan`, which checks its input and comes here on a GPU.

    Args:
        x: (B, T, D): float32, float16 or, on a GPU, bfloat16; strides are taken as they are.
        dt: (B, T, D).
        A: (D, N).
        B: (B, T, N).
        C: (B, T, N).
        D: (D,) or None.
        z: (B, T, D) or None.
        dt_bias: (D,) or None.
        state: (B, D, N) or None for zeros.
        lengths: (B,) or None.
        softplus: Whether step sizes are softplus(dt + dt_bias).

    Raises:
        ValueError: A device or dtype that no kernel takes.
        RuntimeError: The tensors are on the CPU, and Triton's interpreter is not switched on.
    """
    if state is None:
        state = x.new_zeros(x.shape[0], x.shape[2], A.shape[1], dtype=torch.float32)
    dt, B, C = (value.to(x.dtype) for value in (dt, B, C))
    z = None if z is None else z.to(x.dtype)
    learns = torch.is_grad_enabled() and any(
        v is not None and v.requires_grad for v in (x, dt, A, B, C, D, z, dt_bias, state)
    )
    return _scan(x, dt, A, B, C, D, z, dt_bias, state, lengths, softplus, learns)[:2]


@torch.library.custom_op("paragone::selective_scan_triton", mutates_args=())
def _scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, state: Tensor, lengths: Tensor | None, softplus: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    check("selective_scan", x=x, dt=dt, z=z, B=B, C=C)
    rows, time, width = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    final = state.to(torch.float32, copy=True).contiguous()
    tile_rows, meta = _meta(A, softplus, D=D, z=z, dt_bias=dt_bias, lengths=lengths)
    tiles = -(-time // tile_rows) if keep else 0
    kept = x.new_empty(rows, tiles, width, A.shape[1], dtype=torch.float32)
    size = grid("selective_scan", -(-width // meta["COLUMNS"]), rows)
    if y.numel():
        x, dt, B, C, z = (_last_dense(value) for value in (x, dt, B, C, z))
        start(
            forward_kernel, size, x, dt, A.contiguous(), B, C, _or(D, x), _or(z, x),
            _or(dt_bias, x), final.clone(), _or(lengths, x), y, kept, final,
            *(v.stride()[:2] for v in (x, dt, B, C, _or(z, x))), time, width, A.shape[1],
            KEEP=keep, **meta,
        )  # fmt: skip
    return y, final, kept


@_scan.register_fake
def _(x, dt, A, B, C, D, z, dt_bias, state, lengths, softplus, keep):
    rows, time, width = x.shape
    tiles = -(-time // _meta(A, softplus)[0]) if keep else 0
    kept = x.new_empty(rows, tiles, width, A.shape[1], dtype=torch.float32)
    return x.new_empty(x.shape), state.new_empty(state.shape, dtype=torch.float32), kept


@torch.library.custom_op("paragone::selective_scan_triton_backward", mutates_args=())
def _backward(
    dy: Tensor, dfinal: Tensor, kept: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor,
    C: Tensor, D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None, state: Tensor,
    lengths: Tensor | None, softplus: bool,
) -> list[Tensor]:  # fmt: skip
    (rows, time, width), count = x.shape, A.shape[1]
    _, meta = _meta(A, softplus, D=D, z=z, dt_bias=dt_bias, lengths=lengths)
    tiles = -(-width // meta["COLUMNS"])
    dx, ddt, dz = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for _ in range(3))
    by_row = {"dtype": torch.float32, "device": x.device}
    db, dc = (torch.zeros(tiles, rows, time, count, **by_row) for _ in range(2))
    da, dstart = (torch.zeros(rows, width, count, **by_row) for _ in range(2))
    dskip, dbias = (torch.zeros(rows, width, **by_row) for _ in range(2))
    if x.numel():
        dy, x, dt, B, C, z = (_last_dense(v) for v in (dy, x, dt, B, C, z))
        start(
            backward_kernel, grid("selective_scan", tiles, rows), dy,
            dfinal.to(torch.float32).contiguous(), x, dt, A.contiguous(), B, C, _or(D, x),
            _or(z, x), _or(dt_bias, x), _or(lengths, x), kept, dx, ddt, da, db, dc, dskip, dz,
            dbias, dstart, *(v.stride()[:2] for v in (dy, x, dt, B, C, _or(z, x))), time, width,
            count, **meta,
        )  # fmt: skip
    else:
        dstart = dfinal.to(torch.float32, copy=True)
    found = [dx, ddt, da.sum(0).to(A.dtype), db.sum(0).to(B.dtype), dc.sum(0).to(C.dtype)]
    found += [dskip.sum(0).to(x.dtype if D is None else D.dtype), dz]
    return [*found, dbias.sum(0).to(x.dtype if dt_bias is None else dt_bias.dtype), dstart]


@_backward.register_fake
def _(dy, dfinal, kept, x, dt, A, B, C, D, z, dt_bias, state, lengths, softplus):
    optional = [(x if v is None else v).new_empty(x.shape[2]) for v in (D, dt_bias)]
    plain = [v.new_empty(v.shape) for v in (x, dt, A, B, C)]
    last = state.new_empty(state.shape, dtype=torch.float32)
    return [*plain, optional[0], x.new_empty(x.shape), optional[1], last]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.softplus, _ = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(True)
    ctx.save_for_backward(output[2], *tensors)


def _derive(ctx: Any, dy: Tensor, dfinal: Tensor, _: Tensor) -> tuple[Any, ...]:
    kept, *tensors = ctx.saved_tensors
    grads = _backward(dy, dfinal, kept, *tensors, ctx.softplus)
    given = [None if value is None else grad for value, grad in zip(tensors, grads, strict=False)]
    given[8] = grads[8].to(tensors[8].dtype)
    return *given, None, None, None


_scan.register_autograd(_derive, setup_context=_keep)


def _last_dense(x: Any) -> Any:
    return x if x is None or x.shape[-1] <= 1 or x.stride(-1) == 1 else x.contiguous()


def _or(x: Tensor | None, other: Tensor) -> Tensor:
    return other if x is None else x


def _meta(A: Tensor, softplus: bool, **given: Tensor | None) -> tuple[int, dict[str, Any]]:
    rows, columns = (8, 4) if interpreting() else (_ROWS, _COLUMNS)
    there = {name: value is not None for name, value in given.items()}
    return rows, {
        "ROWS": rows, "COLUMNS": columns, "STATES": power_of_two(A.shape[1], 1),
        "SKIP": there.get("D", False), "GATE": there.get("z", False),
        "BIAS": there.get("dt_bias", False), "LENGTHS": there.get("lengths", False),
        "SOFTPLUS": softplus, "num_warps": 2, "num_stages": 1,
    }  # fmt: skip
