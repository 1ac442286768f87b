"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CALLS"]


def _decode() -> None:
    import torch

    from paragone.mixers.ops.decode.call import decode_attention

    q, cache = torch.ones(1, 4, 1, 16), torch.ones(1, 2, 20, 16)
    decode_attention(q, cache, cache, torch.tensor([20]))


def _turn() -> None:
    import torch

    from paragone.mixers.rotary import Rotary

    rotary, x = Rotary(2), torch.ones(1, 1, 1, 2)
    rotary.turn_early(x, *rotary.table(0, 1, x, x.dtype))


CALLS: tuple[Callable[[], None], ...] = (_decode, _turn)
