"""Bytes that a rank really holds, counted from the storages of live tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Held", "expected_bytes", "held"]


@dataclass(frozen=True)
class Held:
    """Bytes of one rank, as they are at the moment of the call.

    Attributes:
        parameters: Parameters, or in stage 3 the resting shares and what is gathered now.
        gradients: Gradients of parameters and of shares.
        master: fp32 (or offloaded) copies that the optimizer works on.
        state: What the optimizer keeps for its pieces.
        host: How much of all this was moved to the host by `offload`.
    """

    parameters: int
    gradients: int
    master: int
    state: int
    host: int = 0

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.master + self.state

    @property
    def device(self) -> int:
        return self.total - self.host


def _bytes(tensors: Iterable[Tensor], seen: set[int]) -> int:
    total = 0
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # pyright: ignore
        storage = local.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total


def held(
    tensors: Mapping[str, list[Tensor]], state: Iterable[Tensor], rest: list[Tensor] | None
) -> Held:
    """Counts each storage once.

    Args:
        tensors: Under "parameters", "gradients", "master".
        state: Tensors of the optimizer's state.
        rest: Tensors that lie on the host because of `offload`; None where nothing does.
    """
    state, seen = list(state), set()
    counts = {kind: _bytes(tensors[kind], seen) for kind in ("parameters", "gradients", "master")}
    return Held(**counts, state=_bytes(state, seen), host=_bytes(rest or (), set()))


def expected_bytes(
    count: int, stage: int, ranks: int, *, low: bool, master: bool, state: int = 8
) -> float:
    r"""What the paper's formulas give for one rank.

    Args:
        count: Parameters P.
        stage: 0, 1, 2 or 3.
        ranks: N.
        low: Whether parameters and gradients have 16 bits.
        master: Whether there is an fp32 copy of the parameters.
        state: Bytes of state a parameter; 8 for Adam.

    Example:
        >>> [round(expected_bytes(7_500_000_000, s, 64, low=True, master=True) / 1e9, 2)
        ...  for s in (0, 1, 2, 3)]
        [120.0, 31.41, 16.64, 1.88]
    """
    width = 2 if low else 4
    share = [1, ranks, ranks, ranks][stage]
    parameters = width / (ranks if stage == 3 else 1)
    gradients = width / (ranks if stage >= 2 else 1)
    return count * (parameters + gradients + (state + (4 if master else 0)) / share)
