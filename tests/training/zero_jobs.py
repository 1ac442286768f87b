"""What the ranks of `test_zero.py` do. The reference is one process over all micro-batches.

Every job is called by the members of a group and returns plain data, the same kind on all ranks.
"""

import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from paragone.training._zero_norm import clip_factor, largest, level_sums, norm_of
from paragone.training.zero import Zero

ADAMW = {"lr": 0.05, "weight_decay": 0.1, "foreach": False}


class Net(nn.Module):
    """Odd sizes; a shared, a frozen, a sometimes used and a never used parameter; a buffer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(7, 13)
        self.norm = nn.LayerNorm(13)
        self.tied = nn.Linear(13, 13, bias=False)
        self.again = nn.Linear(13, 13)
        self.again.weight = self.tied.weight
        self.frozen = nn.Linear(13, 13).requires_grad_(False)
        self.sometimes = nn.Linear(13, 13)
        self.never = nn.Parameter(torch.ones(5))
        self.last = nn.Linear(13, 3)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x, extra):
        x = self.norm(torch.tanh(self.first(x)))
        x = torch.tanh(self.again(torch.tanh(self.tied(x))))
        x = self.frozen(x)
        if extra:
            x = x + self.sometimes(x)
        return self.last(x)


def net(seed=0, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net().to(dtype)


def loss_of(model, step, micro, dtype=torch.float32, extra=None):
    """The loss of one micro-batch; `sometimes` is used in even steps."""
    generator = torch.Generator().manual_seed(1000 * step + micro)
    x = torch.randn(5, 7, generator=generator).to(dtype)
    return model(x, step % 2 == 0 if extra is None else extra).float().square().sum()


def two_groups(model):
    """Groups whose order is not the model's."""
    named = dict(model.named_parameters())
    small = [p for name, p in named.items() if "bias" in name]
    large = [p for name, p in named.items() if "bias" not in name]
    return [{"params": large}, {"params": small, "weight_decay": 0.0, "lr": 0.02}]


def clip(params, most):
    """Clips as `Zero` says it does, with the norm of all gradients; returns the norm."""
    grads = [p.grad for p in params if p.grad is not None]
    count = sum(p.numel() for p in params)
    norm = norm_of([level_sums(grads, largest(grads), count)])
    factor = clip_factor(norm, most)
    if factor < 1:
        for grad in grads:
            grad.mul_(factor)
    return norm


def reference(n, steps, make=torch.optim.AdamW, options=None, most=None, groups=two_groups,
              start=0, model=None, optimizer=None, decay=None, extra=None):  # fmt: skip
    """One process: gradients of n micro-batches added up, divided by n, clipped, stepped."""
    model = net() if model is None else model
    if optimizer is None:
        optimizer = make(groups(model), **(ADAMW if options is None else options))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, decay) if decay else None
    params = [p for p in model.parameters() if p.requires_grad]
    for step in range(start, start + steps):
        optimizer.zero_grad()
        for micro in range(n):
            loss_of(model, step, micro, extra=extra and extra(step, micro)).backward()
        for param in params:
            if param.grad is not None:
                param.grad.div_(n)
        if most is not None:
            clip(params, most)
        optimizer.step()
        if schedule:
            schedule.step()
    return model, optimizer


def train(zero, model, rank, steps, start=0, decay=None, extra=None):
    schedule = torch.optim.lr_scheduler.StepLR(zero, 2, decay) if decay else None
    for step in range(start, start + steps):
        loss_of(model, step, rank, extra=extra and extra(step, rank)).backward()
        zero.step()
        if schedule:
            schedule.step()


def gap(zero, model, other):
    """Largest difference of any parameter; all must be compared."""
    with zero.gathered():
        ours, theirs = list(model.parameters()), list(other.parameters())
        assert len(ours) == len(theirs) > 5
        return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def state_gap(zero, optimizer):
    """Largest difference of the joined state to the plain optimizer's."""
    full = zero.full_state_dict(everywhere=True)["optimizer"]
    plain = optimizer.state_dict()
    assert full["state"].keys() == plain["state"].keys()
    assert len(plain["state"]) > 5
    worst = 0.0
    for number, state in plain["state"].items():
        assert state.keys() == full["state"][number].keys()
        for key, value in state.items():
            worst = max(worst, float((full["state"][number][key] - value).abs().max()))
    ours = [{k: v for k, v in g.items()} for g in full["param_groups"]]
    assert [g["params"] for g in ours] == [g["params"] for g in plain["param_groups"]]
    assert [g["lr"] for g in ours] == [g["lr"] for g in plain["param_groups"]]
    return worst


def parity(group, rank, n, stage, offload, steps=5):
    """Trajectory, state and clipping against one process, bit by bit."""
    model = net(seed=rank)  # ranks start apart: rank 0's parameters count
    zero = Zero(model, torch.optim.AdamW, stage=stage, params=two_groups(model), offload=offload,
                group=group, max_norm=0.5, bucket_mb=0.001, **ADAMW)  # fmt: skip
    train(zero, model, rank, steps, decay=0.5)
    other, optimizer = reference(n, steps, most=0.5, decay=0.5)
    return gap(zero, model, other), state_gap(zero, optimizer)


def suite(rank, world, jobs):
    """Runs jobs [(name, ranks, arguments)] one after another; traceback texts for failures."""
    groups = {n: dist.new_group(list(range(n)), timeout=timedelta(seconds=60)) for n in (1, 2, 3)}
    groups[world] = dist.new_group(list(range(world)), timeout=timedelta(seconds=60))
    answers = []
    for name, n, arguments in jobs:
        answer = None
        if rank < n:
            try:
                answer = globals()[name](groups[n], rank, n, *arguments)
            except Exception:
                answer = traceback.format_exc()
        answers.append(answer)
    return answers

