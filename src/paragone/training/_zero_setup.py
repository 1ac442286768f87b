"""What a `Zero` is built from: groups, the way of sharding, buckets, a description to compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from paragone.training._zero_comm import Ranks
from paragone.training._zero_shards import Bucket, Entry, Policy

__all__ = ["described", "in_groups", "make_buckets", "spread", "way_of_sharding"]

_BY_TENSOR = ("Muon", "Adafactor")
_NOT_SHARDED = {
    "LBFGS": "its line search needs all gradients at once",
    "SparseAdam": "its gradients are sparse",
}


def way_of_sharding(optimizer: Callable[..., Any], asked: str | None) -> str:
    """Returns "element" or "tensor": as asked, as the optimizer says, or by its name.

    Example:
        >>> way_of_sharding(torch.optim.AdamW, None), way_of_sharding(torch.optim.Adafactor, None)
        ('element', 'tensor')
    """
    if asked not in (None, "element", "tensor"):
        raise ValueError(f"shard_by={asked!r} is none of 'element', 'tensor'")
    while isinstance(optimizer, partial):
        optimizer = optimizer.func
    name = getattr(optimizer, "__name__", "")
    if name in _NOT_SHARDED:
        raise ValueError(f"{name} cannot be sharded: {_NOT_SHARDED[name]}; take another optimizer")
    wanted = getattr(optimizer, "shard_by", None) or ("tensor" if name in _BY_TENSOR else "element")
    if asked == "element" and wanted == "tensor":
        raise ValueError(f"shard_by='element' would change {name}: it needs whole matrices")
    return asked or wanted


def in_groups(model: nn.Module, params: Iterable[Any] | None) -> list[dict[str, Any]]:
    """Parameter groups as dicts with a list of parameters each, checked against the model."""
    known = dict.fromkeys(model.parameters())
    if not known:
        raise ValueError("the model has no parameters: there is nothing to shard")
    devices = {p.device for p in known}
    if len(devices) > 1 or next(iter(devices)).type == "meta":
        names = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"parameters are on {names}: move the model to one device, not meta")
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError("the model is wrapped in DistributedDataParallel: give model.module")
    for p in known:
        if p.untyped_storage().nbytes() < p.numel() * p.element_size():
            raise ValueError("the model is sharded by another Zero: call its close() first")
    given: list[Any] = [p for p in known if p.requires_grad] if params is None else list(params)
    if given and not isinstance(given[0], dict):
        given = [{"params": given}]
    groups, seen = [], set()
    for group in given:
        own = group["params"]
        own = [own] if isinstance(own, torch.Tensor) else list(own)
        for param in own:
            if param not in known:
                raise ValueError(
                    f"a parameter of shape {tuple(param.shape)} is not in the model: pass "
                    "parameters of the model given first"
                )
            if param in seen:
                raise ValueError("a parameter is in two groups: name it once")
            if param.requires_grad and not param.dtype.is_floating_point:
                raise ValueError(f"parameters of {param.dtype} are not sharded: use real floats")
            seen.add(param)
        groups.append({**group, "params": own})
    if not any(p.requires_grad for p in seen):
        raise ValueError("no parameter requires a gradient: there is nothing to train")
    return groups


def described(
    model: nn.Module, groups: Sequence[dict[str, Any]], options: Sequence[Any]
) -> list[str]:
    """One line a parameter and one for the rest, equal on ranks that fit together."""
    group_of = {p: i for i, group in enumerate(groups) for p in group["params"]}
    lines = [
        f"{name} {tuple(p.shape)} {p.dtype} trained={p.requires_grad} group={group_of.get(p)}"
        for name, p in model.named_parameters()
    ]
    return [*lines, f"options {list(options)}"]


def spread(tensors: Iterable[tuple[str, torch.Tensor]], ranks: Ranks) -> None:
    """Every rank begins with the buffers and frozen parameters of rank 0."""
    for name, tensor in tensors:
        if ranks.size > 1 and tensor.numel():
            data = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
            ranks.broadcast(data, f"spreading {name}")
            tensor.detach().copy_(data.view(tensor.dtype).view(tensor.shape))


def make_buckets(
    names: dict[nn.Parameter, str],
    trained: set[nn.Parameter],
    units: Sequence[Sequence[nn.Parameter]] | None,
    ranks: Ranks,
    policy: Policy,
    most: float,
) -> list[list[Bucket]]:
    """Buckets in the order in which backward fills them, one list a unit.

    Args:
        names: All parameters of the model in its order.
        trained: Those of the optimizer.
        units: Parameters of each unit of stage 3; None cuts the trained ones by size.
        ranks: The group.
        policy: How the buckets are kept.
        most: Bytes of a bucket of stages 1 and 2.
    """
    number = {p: i for i, p in enumerate(names)}
    loads = [0] * ranks.size
    parts: list[list[list[nn.Parameter]]] = []
    if units is None:
        open_parts: dict[torch.dtype, tuple[list[nn.Parameter], list[int]]] = {}
        parts.append([])
        for param in reversed(names):
            if param not in trained:
                continue
            size = param.numel() * param.element_size()
            row, bytes_ = open_parts.get(param.dtype, ([], [0]))
            if not row or bytes_[0] + size > most:
                row, bytes_ = [], [0]
                open_parts[param.dtype] = (row, bytes_)
                parts[0].append(row)
            row.append(param)
            bytes_[0] += size
    else:
        for unit in units:
            kinds: dict[Any, list[nn.Parameter]] = {}
            for param in unit:
                if param.numel():
                    kinds.setdefault((param.dtype, param in trained), []).append(param)
            parts.append(list(kinds.values()))
    made: list[list[Bucket]] = []
    for unit_parts in reversed(parts) if units is not None else parts:
        made.append([])
        for row in unit_parts:
            entries = [Entry(number[p], names[p], p, p.shape) for p in row]
            made[-1].append(Bucket(entries, ranks, policy, loads, row[0] in trained))
    return made[::-1] if units is not None else made
