"""FSDP2 as the engine of stage 3: `Zero`'s calls over `torch.distributed.fsdp.fully_shard`.

Every parameter becomes a `DTensor` cut along its first dimension, gathers are prefetched and
reductions overlap with backward. What is given up: the order of sums (torch averages with the
back end's), and optimizers that look at whole matrices. 16-bit models keep fp32 parameters and
compute in 16 bits. Checkpoints are torch's distributed ones, which reshard too.

References:
    PyTorch documentation, "torch.distributed.fsdp.fully_shard" and "Distributed checkpoint".
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)

from paragone.training._zero_comm import Ranks, bits_of, float_of
from paragone.training._zero_shards import LOW, Policy

if TYPE_CHECKING:
    from paragone.training.zero import Zero

__all__ = [
    "Fsdp2Engine",
    "full_state",
    "load",
    "load_full_state",
    "load_local_state",
    "local_state",
    "save",
]


class Fsdp2Engine:
    """Applies `fully_shard` and answers as `OwnEngine` does.

    Args:
        model: The model; sharded in place.
        groups: Parameter groups; `self.groups` are the same with the sharded parameters.
        ranks: The group of processes.
        policy: Stage, master weights, offloading.
        units: Classes sharded as a unit; none takes the members of lists and sequences.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[dict[str, Any]],
        ranks: Ranks,
        policy: Policy,
        units: Sequence[type[nn.Module]],
    ) -> None:
        if policy.stage != 3 or policy.shard_by != "element" or ranks.ordered or ranks.alone:
            raise ValueError(
                "engine='fsdp2' is for stage=3, element-wise optimizers, ordered=False and a "
                "started process group: use engine='own' for anything else"
            )
        self.model, self.ranks, self.policy = model, ranks, policy
        self._norm: Any = None
        names = {p: name for name, p in model.named_parameters()}
        dtypes = {p.dtype for p in names}
        low = next((d for d in dtypes if d in LOW), None) if policy.master else None
        self.device = next(iter(names)).device
        if low is not None:
            model.float()
        mixed = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=policy.gradient_dtype)
        group: Any = ranks.group or dist.group.WORLD
        mesh = DeviceMesh.from_group(group, self.device.type)
        offload = CPUOffloadPolicy() if policy.rest is not None else OffloadPolicy()
        for module in _units(model, tuple(units)):
            fully_shard(module, mesh=mesh, mp_policy=mixed, offload_policy=offload)
        fully_shard(model, mesh=mesh, mp_policy=mixed, offload_policy=offload)
        fresh = dict(model.named_parameters())
        self.groups = [{**g, "params": [fresh[names[p]] for p in g["params"]]} for g in groups]

    def pieces_of(self, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [dict(group) for group in groups]

    def _gradients(self) -> list[Any]:
        found = [p.grad for group in self.groups for p in group["params"]]
        return [grad for grad in found if grad is not None]

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        modules = [m for m in self.model.modules() if isinstance(m, FSDPModule)]
        for module in modules:
            module.unshard()
        try:
            yield
        finally:
            for module in modules:
                module.reshard()

    def prepare(self, scale: float | None, overflow: bool) -> bool:
        """Unscales, and returns whether the gradients of all ranks are finite."""
        grads = self._gradients()
        if self._norm is None:
            if scale is not None:
                for grad in grads:
                    grad.mul_(1.0 / scale)
            squares = [
                torch.linalg.vector_norm(grad.to_local(), dtype=torch.float64).square()
                for grad in grads
            ]
            mine = math.nan if overflow else float(sum(squares))
            what = "adding up the norm"
            rows = self.ranks.exchange([bits_of(mine)], self.device, what)
            total = sum(float_of(row[0]) for row in rows)
            self._norm = math.sqrt(total) if math.isfinite(total) else math.inf
        return math.isfinite(self._norm)

    def norm(self) -> float:
        return self._norm

    def scale(self, factor: float) -> None:
        for grad in self._gradients():
            grad.mul_(factor)

    def hand_over(self) -> None:
        """The optimizer has the sharded parameters themselves."""

    def publish(self) -> None:
        """FSDP gathers anew for the next forward."""

    def discard(self) -> None:
        self._norm = None
        for param in self.model.parameters():
            param.grad = None

    def tensors(self) -> dict[str, list[Tensor]]:
        params = list(self.model.parameters())
        grads = [p.grad for p in params if p.grad is not None]
        return {"parameters": [p.detach() for p in params], "gradients": grads, "master": []}

    def resting(self, state: list[Tensor]) -> list[Tensor] | None:
        if self.policy.rest is None:
            return None
        held = self.tensors()
        locals_ = [t.to_local() for t in held["parameters"] + held["gradients"]]  # pyright: ignore
        return locals_ + [t.to_local() if hasattr(t, "to_local") else t for t in state]  # pyright: ignore

    def close(self) -> None:
        raise ValueError("fully_shard cannot be undone: build the model anew from full_state_dict")


def _units(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    """Modules to be sharded before the model itself, inner ones first."""
    if kinds:
        found = [m for m in model.modules() if isinstance(m, kinds) and m is not model]
    else:
        lists = [m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
        children = dict.fromkeys(child for one in lists for child in one)
        found = [m for m in children if any(True for _ in m.parameters(recurse=False))]
    owners: dict[nn.Parameter, set[nn.Module]] = {}
    for module in model.modules():
        for param in module.parameters(recurse=False):
            owners.setdefault(param, set()).add(module)
    # What shares a parameter with the outside stays with the model.
    alone = [m for m in found if all(owners[p] <= set(m.modules()) for p in m.parameters())]
    return alone[::-1]


def _by_number(zero: Zero, named: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state by names of parameters as one by numbers."""
    names = {p: name for name, p in zero.model.named_parameters()}
    order = [names[p] for group in zero.param_groups for p in group["params"]]
    number = {name: i for i, name in enumerate(order)}
    return {
        "state": {number[name]: state for name, state in named["state"].items() if state},
        "param_groups": [
            {**group, "params": [number[names[p]] for p in group["params"]]}
            for group in zero.param_groups
        ],
    }


def full_state(zero: Zero, everywhere: bool) -> dict[str, Any]:
    """See `Zero.full_state_dict`."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model, optimizer = get_state_dict(zero.model, zero.inner, options=options)
    if not everywhere and zero.ranks.rank:
        return {}
    return {"model": model, "optimizer": _by_number(zero, optimizer)}


def load_full_state(zero: Zero, given: dict[str, Any]) -> None:
    """See `Zero.load_full_state_dict`."""
    options = StateDictOptions(full_state_dict=True)
    if "param_groups" in given:
        given = {"optimizer": given}
    if "model" in given:
        set_model_state_dict(zero.model, {**given["model"], **given.get("master", {})},
                             options=options)  # fmt: skip
    if "optimizer" in given:
        names = {p: name for name, p in zero.model.named_parameters()}
        order = [names[p] for group in zero.param_groups for p in group["params"]]
        plain = given["optimizer"]
        named = {
            "state": {order[i]: state for i, state in plain["state"].items()},
            "param_groups": [
                {**group, "params": [order[i] for i in group["params"]]}
                for group in plain["param_groups"]
            ],
        }
        set_optimizer_state_dict(zero.model, zero.inner, named, options=options)
        zero.take_options()
    zero.zero_grad()


def _parts(zero: Zero) -> dict[str, Any]:
    model, optimizer = get_state_dict(zero.model, zero.inner)
    return {"model": model, "optimizer": optimizer}


def save(zero: Zero, directory: str | os.PathLike[str]) -> None:
    """See `Zero.save`; the format is torch's distributed checkpoint."""
    save_parts(_parts(zero), checkpoint_id=os.fspath(directory), process_group=zero.ranks.group)


def load(zero: Zero, directory: str | os.PathLike[str]) -> None:
    """See `Zero.load`."""
    parts = _parts(zero)
    load_parts(parts, checkpoint_id=os.fspath(directory), process_group=zero.ranks.group)
    set_state_dict(
        zero.model, zero.inner, model_state_dict=parts["model"],
        optim_state_dict=parts["optimizer"],
    )  # fmt: skip
    zero.take_options()
    zero.zero_grad()


def local_state(zero: Zero) -> dict[str, Any]:
    """See `Zero.state_dict`: sharded tensors, for `torch.distributed.checkpoint`."""
    return _parts(zero)


def load_local_state(zero: Zero, given: dict[str, Any]) -> None:
    """See `Zero.load_state_dict`."""
    set_state_dict(
        zero.model, zero.inner, model_state_dict=given["model"],
        optim_state_dict=given["optimizer"],
    )  # fmt: skip
    zero.take_options()
    zero.zero_grad()
