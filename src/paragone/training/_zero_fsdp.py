"""FSDP2 as the engine of stage 3: `Zero`'s calls over `torch.distributed.fsdp.fully_shard`.

Every parameter becomes a `DTensor` cut along its first dimension, gathers are prefetched and
reductions overlap with backward. What is given up: the order of sums (torch averages with the
back end's), and optimizers that look at whole matrices. 16-bit models keep fp32 parameters and
compute in 16 bits. Checkpoints are torch's distributed ones, which reshard too.

References:
    PyTorch documentation, "torch.distributed.fsdp.fully_shard" and "Distributed checkpoint".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
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
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from paragone.training._zero_comm import Ranks, bits_of, float_of
from paragone.training._zero_reading import PlainPlanner, PlainReader
from paragone.training._zero_shards import LOW, Policy
from paragone.training._zero_store import like_before, plain_groups, spans

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


def _whole(value: Any) -> Any:
    """A sharded tensor joined, on the CPU; other values as they are."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def _shard_like(value: Tensor, param: Any) -> Any:
    """A whole tensor, equal on all ranks, cut as the parameter is."""
    place = value.to(param.device_mesh.device_type)
    cut = distribute_tensor(place, param.device_mesh, param.placements, src_data_rank=None)
    return cut.to(param.device)


def full_state(zero: Zero, everywhere: bool) -> dict[str, Any]:
    """See `Zero.full_state_dict`."""
    model = {name: _whole(value) for name, value in zero.model.state_dict().items()}
    state = {
        number: {key: _whole(value) for key, value in one.items()}
        for number, one in zero.inner.state_dict()["state"].items()
    }
    if not everywhere and zero.ranks.rank:
        return {}
    groups = zero.inner.state_dict()["param_groups"]
    return {"model": model, "optimizer": {"state": state, "param_groups": groups}}


@torch.no_grad()
def load_full_state(zero: Zero, given: dict[str, Any]) -> None:
    """See `Zero.load_full_state_dict`."""
    given = {"optimizer": given} if "param_groups" in given else given
    weights = {**given.get("model", {}), **given.get("master", {})}
    own = {**dict(zero.model.named_parameters()), **dict(zero.model.named_buffers())}
    for name, target in own.items() if weights else ():
        if name not in weights or weights[name].shape != target.shape:
            raise ValueError(f"{name} is missing or not of shape {tuple(target.shape)}")
        value = weights[name]
        target.copy_(_shard_like(value, target) if isinstance(target, DTensor) else value)
    if "optimizer" in given:
        plain = given["optimizer"]
        params = [p for group in zero.param_groups for p in group["params"]]
        order = [number for group in plain["param_groups"] for number in group["params"]]
        if len(order) != len(params):
            raise ValueError(f"the state is of {len(order)} parameters, not of {len(params)}")
        by_number = dict(zip(order, params, strict=True))
        state = {
            number: {
                key: _shard_like(value, by_number[number])
                if spans(key, value, by_number[number].shape)
                else value
                for key, value in one.items()
            }
            for number, one in plain["state"].items()
        }
        zero.inner.load_state_dict({**plain, "state": state})
        zero.take_options()
    zero.zero_grad()


def _named(zero: Zero) -> dict[Tensor, str]:
    return {p: name for name, p in zero.model.named_parameters()}


def _parts(zero: Zero) -> dict[str, Any]:
    """Flat: `model||name`, `state|key|name`, and the groups."""
    names = _named(zero)
    parts: dict[str, Any] = {f"model||{n}": v for n, v in zero.model.state_dict().items()}
    for param, one in zero.inner.state.items():
        parts |= {f"state|{key}|{names[param]}": value for key, value in one.items()}
    return {**parts, "groups": json.dumps(plain_groups(zero))}


def save(zero: Zero, directory: str | os.PathLike[str]) -> None:
    """See `Zero.save`; the format is torch's distributed checkpoint."""
    save_parts(_parts(zero), checkpoint_id=os.fspath(directory), process_group=zero.ranks.group)


@torch.no_grad()
def load(zero: Zero, directory: str | os.PathLike[str]) -> None:
    """See `Zero.load`."""
    path = os.fspath(directory)
    try:
        known = PlainReader(path).read_metadata().state_dict_metadata
    except OSError as error:
        raise ValueError(f"{path} holds no complete checkpoint: {error}") from error
    params = dict(zero.model.named_parameters())
    parts: dict[str, Any] = {f"model||{n}": v for n, v in zero.model.state_dict().items()}
    parts["groups"] = ""
    for key, found in known.items():
        kind, slot, name = [*key.split("|", 2), "", ""][:3]
        if kind == "state" and isinstance(found, TensorStorageMetadata):
            like, dtype = params[name], found.properties.dtype
            whole = slot != "step" and found.size == like.shape
            parts[key] = (
                torch.empty_like(like, dtype=dtype)
                if whole
                else torch.empty(found.size, dtype=dtype)
            )
        elif kind == "state":
            parts[key] = None
    load_parts(
        parts, storage_reader=PlainReader(path), planner=PlainPlanner(),
        process_group=zero.ranks.group,
    )  # fmt: skip
    zero.model.load_state_dict(
        {key.split("|", 2)[2]: v for key, v in parts.items() if key.startswith("model|")}
    )
    _take_parts(zero, parts)


def _take_parts(zero: Zero, parts: dict[str, Any]) -> None:
    names = _named(zero)
    order = [names[p] for group in zero.param_groups for p in group["params"]]
    number = {name: i for i, name in enumerate(order)}
    state: dict[int, dict[str, Any]] = {}
    for key, value in parts.items():
        if key.startswith("state|"):
            _, slot, name = key.split("|", 2)
            state.setdefault(number[name], {})[slot] = value
    groups = zero.inner.state_dict()["param_groups"]
    for theirs, ours in zip(json.loads(parts["groups"]), groups, strict=True):
        if theirs.pop("params") != [order[i] for i in ours["params"]]:
            raise ValueError("the checkpoint has other parameter groups: build Zero with those")
        ours.update({key: like_before(value, ours.get(key)) for key, value in theirs.items()})
    zero.inner.load_state_dict({"state": state, "param_groups": groups})
    zero.take_options()
    zero.zero_grad()


def local_state(zero: Zero) -> dict[str, Any]:
    """See `Zero.state_dict`: sharded tensors under flat names."""
    return tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), _parts(zero))


@torch.no_grad()
def load_local_state(zero: Zero, given: dict[str, Any]) -> None:
    """See `Zero.load_state_dict`."""
    zero.model.load_state_dict(
        {key.split("|", 2)[2]: v for key, v in given.items() if key.startswith("model|")}
    )
    _take_parts(zero, given)
