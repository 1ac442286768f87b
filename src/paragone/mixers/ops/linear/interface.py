r"""`linear_attention`: checks a call, chooses its back end, and hands it on.

Shapes: B rows, H heads, T time, D key width, E value width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from paragone.kernels import choice
from paragone.kernels.launch import serves
from paragone.mixers.ops.linear.chunked import at_once, chunked
from paragone.mixers.ops.linear.reference import LinearState, recurrent

__all__ = ["FORMS", "FUSED", "linear_attention", "start"]

FORMS = ("auto", "parallel", "chunked", "recurrent")

FUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "elu1": lambda x: functional.elu(x) + 1,
    "relu": torch.relu,
}
"""Feature maps that a kernel computes on the way; their place is the kernel's number for them."""


def _triton(
    device: torch.device, dtype: torch.dtype, causal: bool, form: str, *, named: str = "auto",
    delta: bool = False, width: int = 0,
) -> str | None:  # fmt: skip
    if not causal or form not in ("auto", "chunked"):
        return "it has the chunked form of causal attention alone"
    if delta:
        return "it has no delta rule (beta)"
    return (
        f"keys are {width} wide, at most 256 are" if width > 256 else serves(device, dtype, named)
    )


def _numba(
    device: torch.device, dtype: torch.dtype, causal: bool, form: str, **_: object
) -> str | None:
    if device.type != "cpu":
        return f"it serves the CPU, not {device.type}"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it computes in float32, and {dtype} needs more"
    if not causal:
        return "the form that is not causal is two products, which torch does best"
    if form not in ("auto", "chunked"):
        return f"form={form!r} is there to be read, in plain torch; it has the chunked one"
    return None


choice.register(
    "linear_attention", {"triton": _triton, "numba": _numba, "torch": lambda **facts: None}
)


def start(
    rows: int, heads: int, keys: int, values: int, *, normalize: bool, like: Tensor
) -> LinearState:
    """The state before the first token: zeros, float64 for float64, else float32."""
    kind = torch.float64 if like.dtype == torch.float64 else torch.float32
    memory = like.new_zeros(rows, heads, keys, values, dtype=kind)
    return LinearState(memory, memory.new_zeros(rows, heads, keys if normalize else 0))


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    gate: Tensor | None = None,
    beta: Tensor | None = None,
    state: LinearState | None = None,
    normalize: bool = False,
    feature_map: str = "identity",
    scale: float = 1.0,
    causal: bool = True,
    lengths: Tensor | None = None,
    form: str = "auto",
    chunk: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, LinearState]:
    r"""Linear attention over features: plain, gated, by the delta rule, or both.

    Prefer it to `attention` when T is long and a memory of D x E numbers a head suffices.

    Args:
        q: Queries (B, H, T, D).
        k: Keys (B, H, T, D).
        v: Values (B, H, T, E).
        gate: Logarithm of the decay before each token's write, (B, H, T) a head or (B, H, T, D)
            a channel; at most 0. None: nothing decays.
        beta: Strength of the delta rule (B, H, T), 0 to 2 with keys of length 1. None: values
            are added, not corrected.
        state: To go on from, as returned; None: empty.
        normalize: Divide by the sum of the weights; features must not be negative.
        feature_map: What q and k go through first: "identity", "elu1" or "relu".
        scale: Factor c of the outputs; cancels if normalised.
        causal: Whether a query sees the keys up to its own alone. If not, neither gate, beta nor
            state is possible, and the state returned is empty.
        lengths: (B,) tokens of each row that count; outputs behind them are zero, and the state
            is that after the last one.
        form: "recurrent" (token by token), "chunked", "parallel" (one chunk), or "auto".
        chunk: Tokens of a chunk; changes the time, and the result by rounding.
        backend: "auto", or a name from `paragone.kernels.choice.backends("linear_attention")`.

    Returns:
        Outputs (B, H, T, E) of the dtype of v, and the `LinearState` after the last token, of
        float32 (float64 for float64).

    Raises:
        ValueError: Shapes, dtypes or options that do not fit.

    Example:
        >>> q, k, v = torch.rand(3, 1, 2, 5, 4)
        >>> o, state = linear_attention(q, k, v, normalize=True)
        >>> o.shape, torch.allclose(o[:, :, 0], v[:, :, 0])
        (torch.Size([1, 2, 5, 4]), True)
    """
    _check(q, k, v, gate, beta, state, normalize, form, chunk)
    if feature_map not in FUSED:
        raise ValueError(f"feature_map={feature_map!r} is none of {', '.join(FUSED)}")
    if not causal and (gate is not None or beta is not None or state is not None):
        raise ValueError("causal=False has no order: it takes no gate, beta or state")
    served = choice.choose(
        "linear_attention", backend, device=q.device, dtype=q.dtype, causal=causal, form=form,
        named=backend, delta=beta is not None, width=q.shape[3],
    )  # fmt: skip
    if state is None:
        sizes = (q.shape[0], q.shape[1], q.shape[3], v.shape[3])
        state = start(*sizes, normalize=normalize, like=q)
    if served == "triton":
        from paragone.mixers.ops.linear.chunk_triton import linear_attention_triton

        features = FUSED[feature_map]
        return linear_attention_triton(
            features(q), features(k), v, gate, lengths, state, normalize, chunk, scale
        )
    asked, kind = v.dtype, torch.float64 if q.dtype == torch.float64 else torch.float32
    inputs: list[Any] = [None if x is None else x.to(kind) for x in (q, k, v, gate, beta)]
    state = LinearState(state.memory.to(kind), state.norm.to(kind))
    options: tuple[Any, ...] = (normalize, list(FUSED).index(feature_map), chunk, scale)
    if served == "numba":
        o, *after = _by_numba(*inputs, lengths, *state, *options)
        return o.to(asked), LinearState(*after)
    q, k, v, gate, beta = inputs
    features = FUSED[feature_map]
    o, after = _by_torch(
        features(q), features(k), v, gate, beta, lengths, state, scale, chunk, causal, form
    )
    return o.to(asked), after


def _by_numba(*arguments: Any) -> tuple[Tensor, ...]:
    from paragone.mixers.ops.linear import _cpu

    tensors = [x for x in arguments if isinstance(x, Tensor)]
    plain = all(type(x) in (Tensor, torch.nn.Parameter) for x in tensors)
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if plain and not learns and not torch.compiler.is_compiling():
        detached: list[Any] = [x.detach() if isinstance(x, Tensor) else x for x in arguments]
        return _cpu.run(*detached)
    return _cpu.linear_attention_cpu(*arguments)


def _by_torch(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, beta: Tensor | None,
    lengths: Tensor | None, state: LinearState, scale: float, chunk: int, causal: bool, form: str,
) -> tuple[Tensor, LinearState]:  # fmt: skip
    beyond = None
    if lengths is not None:
        beyond = (torch.arange(q.shape[2], device=q.device) >= lengths[:, None])[:, None, :, None]
        k, v = k.masked_fill(beyond, 0), v.masked_fill(beyond, 0)
        if gate is not None:
            gate = gate.masked_fill(beyond if gate.ndim == 4 else beyond[..., 0], 0)
    if not causal:
        o = at_once(q, k, v, scale, state.norm.shape[-1] > 0)
    elif form == "recurrent" or (form == "auto" and q.shape[2] == 1):
        o, state = recurrent(q, k, v, gate, beta, state, scale)
    else:
        size = max(q.shape[2], 1) if form == "parallel" else chunk
        o, state = chunked(q, k, v, gate, beta, state, scale, size)
    return (o if beyond is None else o.masked_fill(beyond, 0)), state


def _check(q, k, v, gate, beta, state, normalize, form, chunk) -> None:
    name = "linear_attention"
    if q.ndim != 4 or k.shape != q.shape or v.ndim != 4 or v.shape[:3] != q.shape[:3]:
        raise ValueError(
            f"{name}: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}; expected are "
            "(B, H, T, D), the same, and (B, H, T, E)"
        )
    if not q.is_floating_point():
        raise ValueError(f"{name}: q is {q.dtype}; a floating-point tensor is expected")
    for label, x in (("k", k), ("v", v), ("gate", gate), ("beta", beta)):
        if x is not None and x.device != q.device:
            raise ValueError(f"{name}: {label} is on {x.device}, q on {q.device}; move one of them")
    for label, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype:
            raise ValueError(f"{name}: {label} is {x.dtype}, q is {q.dtype}; cast one of them")
    if gate is not None and gate.shape not in (q.shape[:3], q.shape):
        raise ValueError(
            f"{name}: gate has shape {tuple(gate.shape)}; {tuple(q.shape[:3])} (a head) or "
            f"{tuple(q.shape)} (a channel) is expected"
        )
    if beta is not None and beta.shape != q.shape[:3]:
        raise ValueError(
            f"{name}: beta has shape {tuple(beta.shape)}; {tuple(q.shape[:3])} is expected"
        )
    if beta is not None and normalize:
        raise ValueError(f"{name}: the delta rule (beta) has no normaliser; pass normalize=False")
    if form not in FORMS:
        raise ValueError(f"{name}: form={form!r} is none of {', '.join(FORMS)}")
    if chunk < 1:
        raise ValueError(f"{name}: chunk={chunk} holds no token; 64 or 128 are good sizes")
    if state is None:
        return
    memory = (*q.shape[:2], q.shape[3], v.shape[3])
    norm = (*q.shape[:2], q.shape[3] if normalize else 0)
    if tuple(state.memory.shape) != memory or tuple(state.norm.shape) != norm:
        raise ValueError(
            f"{name}: state has shapes {tuple(state.memory.shape)} and {tuple(state.norm.shape)}; "
            f"{memory} and {norm} are expected (normalize={normalize})"
        )
