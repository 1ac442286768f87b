r"""The response of modes coupled by low rank, a system for each channel, in one pass over time.

$$ t_k = \mathrm{Re}(\mathrm{take}\, s_{k-1}), \quad
   s_k = (1 + \mathrm{gain}) \odot s_{k-1} + b\, u_k - \mathrm{give}\, t_k, \quad
   y_k = \mathrm{Re}(c\, s_k) : $$

S4's recurrence as it stands, without kernel, FFT or powers of a matrix; about 14 operations a mode
and step.

References:
    Gu, Goel and Re (2022), S4, arXiv:2111.00396, appendix C.2 (the step is of low rank, too).

Shapes: B rows, T time, H channels, n modes, R rank; planes of size 2 for real and imaginary parts.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.simd import WIDTH
from paragone.kernels.teams import share
from paragone.mixers.ops.spaces import _coupled as kernels
from paragone.mixers.ops.spaces._choose import declare
from paragone.mixers.ops.spaces.reference import single

__all__ = ["coupled", "reference"]

declare("spaces_coupled")


def coupled(
    u: Tensor, gain: Tensor, b: Tensor, give: Tensor, take: Tensor, c: Tensor, state: Tensor,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Runs coupled modes over time; Numba's back end ("spaces_coupled").

    Args:
        u: (B, T, H) float32 inputs on the CPU.
        gain: (H, 2, n) diagonal of the step, less 1.
        b: (H, 2, n) inputs.
        give: (R, H, 2, n), R = 1 or 2.
        take: (R, H, 2, n).
        c: (H, 2, n) outputs.
        state: (B, H, 2, n) states before the first input.
        lengths: (B,) inputs of each row that count; outputs after them are 0.

    Returns:
        (B, T, H) outputs and (B, H, 2, n) states after each row's last input.

    Raises:
        ValueError: Shapes that do not agree, or a rank above 2.
    """
    shape = (u.shape[2], *gain.shape[1:])
    alike = all(each.shape == shape for each in (gain, b, c, give[0], take[0]))
    if not alike or state.shape != (len(u), *shape) or give.shape != take.shape or len(give) > 2:
        raise ValueError(
            f"u has shape {tuple(u.shape)}, gain {tuple(gain.shape)}, b {tuple(b.shape)}, give "
            f"{tuple(give.shape)}, take {tuple(take.shape)}, c {tuple(c.shape)}, state "
            f"{tuple(state.shape)}; (B, T, H), (H, 2, n) and (R, H, 2, n) with R up to 2 are "
            "expected"
        )
    if lengths is None:
        lengths = torch.full((len(u),), u.shape[1])
    return _coupled(u, gain, b, give, take, c, state, lengths)


def reference(
    u: Tensor, gain: Tensor, b: Tensor, give: Tensor, take: Tensor, c: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, step by step."""
    gain, b, give, take, c, s = (single(each) for each in (gain, b, give, take, c, state))
    outputs = []
    for k in range(u.shape[1]):
        t = torch.einsum("rhn,bhn->rbh", take, s).real.to(s)
        s = s + gain * s + b * u[:, k, :, None] - torch.einsum("rbh,rhn->bhn", t, give)
        outputs.append((c * s).sum(-1).real)
    return torch.stack(outputs, dim=1), torch.stack([s.real, s.imag], dim=-2)


def _groups(pairs: Tensor, sign: float = 1.0) -> np.ndarray:
    """(..., H, 2, n) to (G, ..., n * 2 * lanes); sign -1 turns numbers into functionals."""
    array = pairs.detach().numpy()
    lead, (width, _, modes) = array.shape[:-3], array.shape[-3:]
    padded = np.zeros((*lead, -(-width // WIDTH) * WIDTH, 2, modes), np.float32)
    padded[..., :width, :, :] = array
    padded[..., 1, :] *= sign
    split = padded.reshape(*lead, -1, WIDTH, 2, modes)
    found = np.moveaxis(np.moveaxis(split, -3, -1), -4, 0)
    return np.ascontiguousarray(np.swapaxes(found, -3, -2)).reshape(len(found), -1)


def _states(state: Tensor) -> np.ndarray:
    """(B, H, 2, n) to (B, G, n * 2 * lanes)."""
    found = _groups(state)
    return np.ascontiguousarray(found.reshape(len(found), len(state), -1).swapaxes(0, 1))


def _back(groups: np.ndarray, like: Tensor, sign: float = 1.0) -> Tensor:
    """(G, ... * n * 2 * lanes) to the shape of `like`, (..., H, 2, n)."""
    *lead, width, _, modes = like.shape
    split = groups.reshape(len(groups), *lead, modes, 2, WIDTH)
    split = np.moveaxis(np.moveaxis(split, 0, -4), -1, -3).swapaxes(-1, -2)
    found = split.reshape(*lead, -1, 2, modes)[..., :width, :, :].copy()
    found[..., 1, :] *= sign
    return torch.from_numpy(found)


def _threads(work: int) -> int:
    return torch.get_num_threads() if work > 1 << 19 else 1


@torch.library.custom_op("paragone::spaces_coupled", mutates_args=())
def _coupled(
    u: Tensor, gain: Tensor, b: Tensor, give: Tensor, take: Tensor, c: Tensor, state: Tensor,
    lengths: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    y, states, grown = torch.empty(u.shape), _states(state), _groups(gain)
    share(kernels.coupled, len(u) * len(grown), len(give), u.contiguous().numpy(), grown,
          _groups(b), _groups(give), _groups(take, -1.0), _groups(c, -1.0), states,
          lengths.numpy(), y.numpy(), threads=_threads(u.numel() * gain.shape[2]))  # fmt: skip
    return y, _back(states.swapaxes(0, 1), state)


@_coupled.register_fake
def _(u, gain, b, give, take, c, state, lengths):
    return torch.empty_like(u, memory_format=torch.contiguous_format), torch.empty_like(state)


@torch.library.custom_op("paragone::spaces_coupled_backward", mutates_args=())
def _backward(
    u: Tensor, gain: Tensor, b: Tensor, give: Tensor, take: Tensor, c: Tensor, state: Tensor,
    lengths: Tensor, dy: Tensor, dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    du, dstate, grown = torch.empty(u.shape), _states(dlast), _groups(gain)
    part, wide = dstate.shape, (*dstate.shape[:2], dstate.shape[2] * len(give))
    dgain, db, dc = (
        np.zeros(part, np.float32),
        np.zeros(part, np.float32),
        np.zeros(part, np.float32),
    )
    dgive, dtake = np.zeros(wide, np.float32), np.zeros(wide, np.float32)
    share(kernels.coupled_backward, len(u) * len(grown), len(give), u.contiguous().numpy(), grown,
          _groups(b), _groups(give), _groups(take, -1.0), _groups(c, -1.0), _states(state),
          lengths.numpy(), dy.contiguous().numpy(), du.numpy(), dgain, db, dgive, dtake, dc,
          dstate, threads=_threads(u.numel() * gain.shape[2]))  # fmt: skip
    return (
        du, _back(dgain.sum(0), gain), _back(db.sum(0), b), _back(dgive.sum(0), give),
        _back(dtake.sum(0), take, -1.0), _back(dc.sum(0), c, -1.0),
        _back(dstate.swapaxes(0, 1), state),
    )  # fmt: skip


@_backward.register_fake
def _(u, gain, b, give, take, c, state, lengths, dy, dlast):
    return (
        torch.empty_like(u, memory_format=torch.contiguous_format),
        *(torch.empty_like(each) for each in (gain, b, give, take, c, state)),
    )


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _grad(ctx, dy, dlast):
    return *_backward(*ctx.saved_tensors, dy, dlast), None


_coupled.register_autograd(_grad, setup_context=_save)
