"""Float32 copies of narrow weights, which take the place of the weights during a step.

The parameter objects stay the same, so that an optimizer's state belongs to them throughout; only
the memory behind them is exchanged: narrow for the model, float32 for the optimizer. That memory
has a fixed place, and a change of the weights by others (`load_state_dict`, an initialiser) is
seen by the parameter's version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paragone.training import formats
from paragone.training._simulate import PRODUCTS, Rounding

__all__ = ["Masters"]


@dataclass
class _Pair:
    """One narrow parameter: its memory for the model, and for the optimizer if it has a master."""

    name: str
    parameter: Tensor
    low: Tensor
    format: formats.Format
    master: Tensor | None
    version: int = 0


class Masters:
    """All narrow parameters of a model that the optimizers step.

    Args:
        model: The model, for names.
        parameters: What the optimizers step.
        rounding: Simulated format, or None: then narrow is what is stored in 16 bits.
        master: Whether there are float32 copies.
        stochastic: Whether a weight without one is rounded at random (simulated formats).
        seed: Seed of that.
    """

    def __init__(
        self, model: nn.Module, parameters: Sequence[Tensor], rounding: Rounding | None,
        master: bool, stochastic: bool, seed: int,
    ) -> None:  # fmt: skip
        names = {id(p): name for name, p in model.named_parameters()}
        self._chance, self._seed, self._wide = stochastic, seed, False
        policy = rounding.policy if rounding else None
        narrow = formats.find(policy.weight) if policy else formats.find("fp32")
        products = {id(p) for m in model.modules() if isinstance(m, PRODUCTS)
                    for p in m.parameters(recurse=False) if p.dim() > 1}  # fmt: skip
        self._pairs: list[_Pair] = []
        for number, p in enumerate(parameters):
            if p.dtype in (torch.float16, torch.bfloat16):
                format = formats.find(p.dtype)
            elif p.dtype == torch.float32 and (narrow.bits > 8 or id(p) in products):
                format = narrow
            else:
                continue
            if format.mantissa == 23:
                continue
            copy = p.detach().to(torch.float32, copy=True) if master else None
            name = names.get(id(p), f"optimizer.{number}")
            self._pairs.append(_Pair(name, p, p.data, format, copy, p._version))
        self._write(0)

    @torch.no_grad()
    def widen(self) -> None:
        """Puts masters, and float32 gradients, where the optimizer finds them."""
        if self._wide:
            return
        self._wide = True
        for pair in self._pairs:
            p, master = pair.parameter, pair.master
            if master is None:
                continue
            if p._version != pair.version:
                master.copy_(pair.low)
            grad, p.grad = p.grad, None
            p.data = master
            p.grad = None if grad is None else grad.to(torch.float32)

    @torch.no_grad()
    def narrow(self, *, changed: bool, step: int) -> None:
        """Gives the model its narrow weights back, rounded anew if they `changed`."""
        for pair in self._pairs:
            p = pair.parameter
            if pair.master is not None and self._wide:
                grad, p.grad = p.grad, None
                p.data = pair.low
                p.grad = grad if grad is not None and grad.dtype == p.dtype else None
        if changed:
            self._write(step)
        self._wide = False

    def _write(self, step: int) -> None:
        """Rounds the masters, or the weights themselves, into the model's memory."""
        for number, pair in enumerate(self._pairs):
            saturate = pair.format.bits == 8
            if pair.low.dtype != torch.float32:
                if pair.master is not None:
                    pair.low.copy_(formats.cast(pair.master, pair.format, storage=True))
            elif self._chance and pair.master is None:
                pair.low.copy_(formats.cast(
                    pair.low, pair.format, rounding="stochastic", saturate=saturate,
                    seed=self._seed + number, step=step,
                ))  # fmt: skip
            else:
                if pair.master is not None:
                    pair.low.copy_(pair.master)
                formats.round_(pair.low, pair.format, saturate)
            pair.version = pair.parameter._version

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the float32 weights by the names of the parameters."""
        return {pair.name: pair.master.clone() for pair in self._pairs if pair.master is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes float32 weights back and rounds them into the model.

        Raises:
            ValueError: Other names or shapes than here.
        """
        if not state:
            return
        pairs = {pair.name: pair for pair in self._pairs if pair.master is not None}
        if set(pairs) != set(state):
            odd = sorted(set(pairs) ^ set(state))[:3]
            raise ValueError(f"master weights differ at {', '.join(odd)}: load the same model")
        for name, pair in pairs.items():
            if pair.master is not None:
                if pair.master.shape != state[name].shape:
                    shapes = tuple(pair.master.shape), tuple(state[name].shape)
                    raise ValueError(
                        f"{name} has shape {shapes[0]}, the state {shapes[1]}: load the same model"
                    )
                pair.master.copy_(state[name])
        self._write(0)

    def remove(self) -> None:
        """Leaves the float32 values in the parameters that are stored so."""
        for pair in self._pairs:
            if pair.master is not None and pair.low.dtype == torch.float32:
                pair.low.copy_(pair.master)
        self._pairs.clear()
