"""A training step of any `nn.Module` without its numbers: what is alive, byte for byte.

The module runs forward and backward on fake tensors: shapes, dtypes and lifetimes are real, the
numbers do not exist, so a model that fits no machine is traced on any. Every storage is counted
when an operation returns it and given back when its last reference goes, as an allocator would.

What a kernel allocates for itself inside one operation is not seen, nor how an allocator rounds.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from paragone.training._model_shapes import Weight

__all__ = ["Trace", "buffers", "trace", "weights"]


@dataclass(frozen=True)
class Trace:
    """Bytes of a step beside parameters, buffers and inputs.

    Attributes:
        saved: Kept for the backward pass when the forward pass ends (each storage once).
        peak: Most that was alive at once, gradients of parameters included.
        gradients: Gradients of parameters among `peak`.
        peak_activations: Most that was alive at once without gradients of parameters.
        forward_peak: Most during the forward pass.
    """

    saved: int
    peak: int
    gradients: int
    peak_activations: int
    forward_peak: int


def weights(model: nn.Module) -> list[Weight]:
    """Every parameter once (tied ones count once), with the layer that it belongs to.

    Layers are the members of the largest `nn.ModuleList` or `nn.Sequential`, as `fully_shard`
    would be applied.
    """
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
    blocks = max(lists, key=_elements, default=nn.ModuleList())
    unit = {id(p): i for i, block in enumerate(blocks) for p in block.parameters()}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return [
        Weight("embedding" if id(p) in tables else name, tuple(p.shape), 1, int(id(p) in unit),
               unit.get(id(p), 0), p.element_size(), p.requires_grad)
        for name, p in model.named_parameters()
    ]  # fmt: skip


def _elements(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def buffers(model: nn.Module) -> int:
    """Bytes of the module's buffers, shared storages once."""
    found = {id(b): b for b in model.buffers()}
    return sum(b.numel() * b.element_size() for b in found.values())


class _Ledger(TorchDispatchMode):
    """Counts storages as operations return them, until their last reference goes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.held = self.at_peak = self.peak_free = 0
        self.known: dict[int, weakref.ref[Any]] = {}
        self.gradients: set[int] = set()

    def ignore(self, tensor: Tensor) -> None:
        """Leaves a storage out: a parameter, a buffer, an input."""
        self.known[tensor.untyped_storage()._cdata] = weakref.ref(tensor.untyped_storage())

    def gradient(self, tensor: Tensor) -> None:
        """Marks a storage as a parameter's gradient."""
        key = tensor.untyped_storage()._cdata
        if key in self.known and key not in self.gradients:
            self.gradients.add(key)
            self.held += tensor.untyped_storage().nbytes()

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return

        def gone(_: Any) -> None:
            del self.known[key]
            self.now -= size
            if key in self.gradients:
                self.gradients.discard(key)
                self.held -= size

        self.known[key] = weakref.ref(storage, gone)
        self.now += size
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, self.held
        self.peak_free = max(self.peak_free, self.now - self.held)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return found


def _total(output: Any) -> Tensor:
    """The sum of all floating outputs: a loss that allocates nothing of its own."""
    leaves = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()]
    if not leaves:
        raise ValueError("the model returned no floating tensor; give a loss(output)")
    return torch.stack([leaf.sum() for leaf in leaves]).sum()


def _empty(tensor: Tensor, dtype: torch.dtype | None, grad: bool) -> Tensor:
    kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=kind, device="cpu")
    return made.requires_grad_(grad and kind.is_floating_point)


def trace(
    model: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any], *,
    loss: Callable[[Any], Tensor] | None = None, dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None, attention: str = "flash",
) -> Trace:  # fmt: skip
    """Runs one step on fake tensors.

    Args:
        model: Any module, on any device (also meta); it is not changed.
        inputs: Positional inputs; tensors of any device, of which only the shape is read.
        keywords: Keyword inputs.
        loss: From the output to a scalar; the sum of all floating outputs without it.
        dtype: Dtype that weights and floating inputs are cast to; as built without it.
        autocast: Dtype of `torch.autocast`.
        attention: "math" writes the scores out; "flash" takes the CPU's fused kernel.
    """
    fake, ledger = FakeTensorMode(allow_non_fake_inputs=True), _Ledger()
    kept: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(fake)
        for name, tensor in (*model.named_parameters(remove_duplicate=False),
                             *model.named_buffers(remove_duplicate=False)):  # fmt: skip
            if id(tensor) not in kept:
                kept[id(tensor)] = _empty(tensor, dtype, tensor.requires_grad)
                ledger.ignore(kept[id(tensor)])
            state[name] = kept[id(tensor)]
        args, kwargs = tree_map_only(
            Tensor, lambda t: _empty(t, dtype, False), (inputs, dict(keywords))
        )
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                ledger.ignore(leaf)
        for tensor in kept.values():
            if tensor.requires_grad:
                tensor.register_post_accumulate_grad_hook(
                    lambda p: ledger.gradient(p.grad) if p.grad is not None else None
                )
        if attention == "math":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(ledger)
        saved: dict[int, int] = {}
        outside = set(ledger.known)
        alive: list[Any] = []

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in outside and storage._cdata not in saved:
                saved[storage._cdata] = storage.nbytes()
                alive.append(weakref.ref(storage, lambda _, k=storage._cdata: saved.pop(k, 0)))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
                found = torch.func.functional_call(model, state, args, kwargs)
                value = (loss or _total)(found)
            del found
        if value.dim() != 0:
            raise ValueError(f"the loss has shape {tuple(value.shape)}; a scalar is expected")
        kept_bytes, forward = sum(saved.values()), ledger.peak
        value.backward()
        del value
    return Trace(kept_bytes, ledger.peak, ledger.at_peak, ledger.peak_free, forward)
