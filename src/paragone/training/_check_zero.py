"""`torchrun … -m paragone.training.check zero`: trains twice, sharded and not, and compares."""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import Any

__all__ = ["add_arguments", "run"]

_STEPS, _LOOSE = 5, 1e-5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `zero` understands."""
    parser.add_argument("--stage", type=int, choices=(1, 2, 3), default=2)
    order = parser.add_mutually_exclusive_group()
    order.add_argument("--ordered", action="store_true", default=True, help="the default")
    order.add_argument("--fast", action="store_true", help="sums in the order of the back end")
    parser.add_argument("--offload", action="store_true", help="shares in host memory")
    parser.add_argument("--optimizer", default="AdamW", help="of torch.optim or paragone.training")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--engine", choices=("own", "fsdp2"), default="own")
    parser.add_argument("--width", type=int, default=257)


def _optimizer(name: str) -> Any:
    import torch

    import paragone.training

    own = name.removeprefix("paragone.")
    if own == name and hasattr(torch.optim, name):
        return getattr(torch.optim, name)
    if own in paragone.training.__all__ and own[0].isupper():
        return getattr(paragone.training, own)
    raise SystemExit(f"--optimizer {name} is neither in torch.optim nor in paragone.training")


def _model(width: int, device: str) -> Any:
    """A dense net without biases (Muon takes matrices only), the same on every rank."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(1)
    sizes = (31, width, width, 10)
    layers: list[Any] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after, bias=False), nn.GELU()]
        nn.init.normal_(layers[-2].weight, std=before**-0.5, generator=generator)
    return nn.Sequential(*layers[:-1]).to(device)


def _loss(model: Any, step: int, rank: int) -> Any:
    import torch

    weight = next(model.parameters())
    generator = torch.Generator().manual_seed(1000 * step + rank)
    x = torch.randn(16, 31, generator=generator).to(weight.device, weight.dtype)
    return model(x).float().square().mean()


def _alone(model: Any, make: Any, options: dict[str, Any], ranks: int) -> None:
    """The reference: micro-batches in order, their sum over N, the step on fp32 weights."""
    import torch

    params = list(model.parameters())
    master = [p.detach().float().clone() for p in params]
    optimizer = make(master, **options)
    for step in range(_STEPS):
        total: list[Any] = [0.0] * len(params)
        for rank in range(ranks):
            grads = torch.autograd.grad(_loss(model, step, rank), params)
            total = [t + g.float() for t, g in zip(total, grads, strict=True)]
        for weight, grad, param in zip(master, total, params, strict=True):
            weight.grad = (grad / ranks).to(param.dtype).float()
        optimizer.step()
        with torch.no_grad():
            for weight, param in zip(master, params, strict=True):
                param.copy_(weight)


def run(given: argparse.Namespace, device: str) -> bool:
    """Prints the comparison on rank 0 and returns whether it holds.

    Args:
        given: Arguments as `add_arguments` has them.
        device: Where the model lives.
    """
    import torch
    import torch.distributed as dist

    from paragone.training._zero_memory import expected_bytes
    from paragone.training.zero import Zero

    ranks, rank = dist.get_world_size(), dist.get_rank()
    make, low = _optimizer(given.optimizer), given.precision == "bf16"
    options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
    dtype = torch.bfloat16 if low else torch.float32
    model, other = (_model(given.width, device).to(dtype) for _ in range(2))
    count = sum(p.numel() for p in model.parameters())
    ordered = not given.fast and given.engine == "own"
    zero = Zero(
        model, make, stage=given.stage, offload="cpu" if given.offload else None, ordered=ordered,
        engine=given.engine, **options,
    )  # fmt: skip
    for step in range(_STEPS):
        _loss(model, step, rank).backward()
        held = zero.memory()
        zero.step()
    _alone(other, make, options, ranks)
    full = zero.full_state_dict(everywhere=True)["model"]
    theirs = other.state_dict()
    gaps = [float((full[n].float() - theirs[n].cpu().float()).abs().max()) for n in theirs]
    gap, limit = max(gaps), 0.0 if ordered else _LOOSE
    per_rank = [row[0] for row in zero.ranks.exchange([held.total], zero.engine.device, "bytes")]
    adam = given.optimizer.split(".")[-1] in ("Adam", "AdamW")
    master = low or (given.offload and given.stage < 3)
    paper = expected_bytes(count, given.stage, ranks, low=low, master=master)
    known = adam and given.engine == "own"
    fits = not known or max(abs(b / paper - 1) for b in per_rank) <= 0.01
    good = gap <= limit and fits
    if rank == 0:
        print(
            f"ZeRO stage {given.stage} on {ranks} ranks, {given.optimizer}, {given.precision}, "
            f"{'ordered' if ordered else 'fast'} sums, {count} parameters, {_STEPS} steps"
        )
        print(f"largest difference to one process: {gap:g} (allowed {limit:g})")
        print(
            f"bytes a rank: {', '.join(map(str, per_rank))}"
            + (f" (the paper's formula: {paper:.0f}, within 1 %)" if known else "")
        )
        print(
            f"of rank 0: parameters {held.parameters}, gradients {held.gradients}, master "
            f"{held.master}, state {held.state}; on the host {held.host}"
        )
        print("PASS" if good else "FAIL", flush=True)
    return good
