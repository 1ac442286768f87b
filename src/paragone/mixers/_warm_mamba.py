"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CALLS"]


def _mamba() -> None:
    import torch

    from paragone.mixers import Mamba, Mamba2

    for mixer in (Mamba(32), Mamba2(32, head_size=16, state_size=16)):
        x = torch.zeros(1, 2, 32, requires_grad=True)
        mixer(x)[0].sum().backward()
        with torch.no_grad():
            mixer.step(x[:, 0], None)


CALLS: tuple[Callable[[], None], ...] = (_mamba,)
"""Small calls that lead through every compiled kernel of this room, for `paragone warmup`."""
