"""Stage 3: parameters are whole only while their module runs, forward and backward.

A *unit* is a module whose parameters are gathered together: before its forward, and again when
the gradient of one of its outputs arrives; they are released after the one, and after the other
when the gradients of its inputs are there (no node is added to the graph). Storage is emptied
and filled in place, so what autograd has saved of it stays valid. Between, a parameter keeps its
shape and reads as NaN, and a gradient for a parameter whose module did not run is an error.

Every rank must run the same modules in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.utils._pytree import tree_leaves

from paragone.training._zero_shards import Bucket

__all__ = ["Unit", "Units", "split_into_units"]

# These read the weights of their children without calling them.
_WHOLE = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def split_into_units(
    model: nn.Module, whole: Sequence[type[nn.Module]]
) -> tuple[list[tuple[str, list[nn.Parameter]]], dict[nn.Module, list[int]]]:
    """Cuts a model into units.

    Args:
        model: The model.
        whole: Classes whose modules are one unit with all below them; other modules with
            parameters of their own are a unit each.

    Returns:
        Name and parameters of each unit (a shared parameter is in the first only), and for each
        module to be hooked the units that it needs.
    """
    kinds = (*_WHOLE, *whole)
    units: list[tuple[str, list[nn.Parameter]]] = []
    owner: dict[nn.Parameter, int] = {}
    home: dict[nn.Module, nn.Module] = {}

    def visit(name: str, module: nn.Module) -> None:
        entire = isinstance(module, kinds)
        own = [p for p in module.parameters(recurse=entire) if p not in owner]
        for p in own:
            owner[p] = len(units)
        if own:
            units.append((name or type(module).__name__, own))
        for below in module.modules() if entire else (module,):
            home.setdefault(below, module)
        if not entire:
            for key, child in module.named_children():
                visit(f"{name}.{key}".lstrip("."), child)

    visit("", model)
    hooked: dict[nn.Module, list[int]] = {}
    for module in model.modules():
        for param in module.parameters(recurse=False):
            needs = hooked.setdefault(home[module], [])
            if owner[param] not in needs:
                needs.append(owner[param])
    return units, hooked


class Unit:
    """Buckets that are gathered together, and what holds them at the moment."""

    def __init__(self, name: str, buckets: list[Bucket]) -> None:
        self.name, self.buckets = name, buckets
        self.held = 0
        self.in_backward = False
        self.visited = False
        self.here = False

    def gather(self) -> None:
        if not self.here:
            for bucket in self.buckets:
                bucket.gather()
            self.here = True

    def release(self) -> None:
        if self.here and not self.held and not self.in_backward:
            for bucket in self.buckets:
                bucket.release()
            self.here = False


def _requires_grad(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


class Units:
    """Hooks that gather and release.

    Args:
        units: All of them.
        hooked: Each module with the numbers of the units that must be whole while it runs.
        queue_end: Asks for a call of `end_backward` when the running backward is over.
    """

    def __init__(
        self,
        units: list[Unit],
        hooked: dict[nn.Module, list[int]],
        queue_end: Callable[[], None],
    ) -> None:
        self.units, self._queue_end = units, queue_end
        self._handles: list[Any] = []
        for module, needs in hooked.items():
            before, after = self._hooks([units[i] for i in needs])
            self._handles += [
                module.register_forward_pre_hook(before, with_kwargs=True),
                module.register_forward_hook(after, always_call=True),
            ]

    def _hooks(self, units: list[Unit]) -> tuple[Callable[..., Any], Callable[..., Any]]:
        def enter_backward(grad: Tensor) -> None:
            self._queue_end()
            for unit in units:
                unit.in_backward = True
                unit.gather()

        def leave_backward(grads: Any) -> None:
            for unit in units:
                unit.in_backward = False
                unit.release()

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            for unit in units:
                unit.held += 1
                unit.visited = True
                unit.gather()
            if not torch.is_grad_enabled():
                return
            inputs = [x for x in tree_leaves((args, kwargs)) if _requires_grad(x)]
            if inputs:
                register_multi_grad_hook(inputs, leave_backward)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            for leaf in filter(_requires_grad, tree_leaves(output)):
                leaf.register_hook(enter_backward)
            for unit in units:
                unit.held -= 1
                unit.release()

        return before, after

    def end_backward(self) -> None:
        """Releases what the backward still holds (units whose input needs no gradient)."""
        for unit in self.units:
            unit.in_backward = False
            unit.release()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        for unit in self.units:
            unit.held += 1
            unit.gather()
        try:
            yield
        finally:
            for unit in self.units:
                unit.held -= 1
                unit.release()

    def remove(self) -> None:
        """Takes the hooks off and leaves the parameters whole."""
        for unit in self.units:
            unit.gather()
        for handle in self._handles:
            handle.remove()
