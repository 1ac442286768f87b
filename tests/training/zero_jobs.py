"""What the ranks of `test_zero.py` do. The reference is one process over all micro-batches.

Every job is called by the members of a group and returns plain data, the same kind on all ranks.
"""

import contextlib
import copy
import io
import os
import time
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from paragone.training._zero_comm import Pending, Ranks
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


def parity(group, rank, n, stage, offload, steps=3):
    """Trajectory, state and clipping against one process, bit by bit."""
    model = net(seed=rank)  # ranks start apart: rank 0's parameters count
    zero = Zero(model, torch.optim.AdamW, stage=stage, params=two_groups(model), offload=offload,
                group=group, max_norm=0.5, bucket_mb=0.001, **ADAMW)  # fmt: skip
    train(zero, model, rank, steps, decay=0.5)
    other, optimizer = reference(n, steps, most=0.5, decay=0.5)
    return gap(zero, model, other), state_gap(zero, optimizer)


def accumulated(group, rank, n, stage):
    """Three micro-steps, reduced each time (order micro-step, rank) or once by `no_sync`."""
    found = []
    for held_back in (False, True):
        model, other = net(), net()
        zero = Zero(model, torch.optim.AdamW, stage=stage, group=group, bucket_mb=0.001, **ADAMW)
        optimizer = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad], **ADAMW)
        for step in range(2):
            for k in range(3):
                if held_back and k < 2:
                    with zero.no_sync():
                        loss_of(model, step, 10 * k + rank).backward()
                else:
                    loss_of(model, step, 10 * k + rank).backward()
            zero.step()
            locally = held_back or stage == 1
            if locally:
                rows = []
                for r in range(n):
                    optimizer.zero_grad()
                    for k in range(3):
                        loss_of(other, step, 10 * k + r).backward()
                    rows.append([p.grad for p in other.parameters()])
                for param, *grads in zip(other.parameters(), *rows, strict=True):
                    used = [g for g in grads if g is not None]
                    param.grad = sum(used[1:], used[0].clone()) if used else None
            else:
                optimizer.zero_grad()
                for k in range(3):
                    for r in range(n):
                        loss_of(other, step, 10 * k + r).backward()
            for param in other.parameters():
                if param.grad is not None:
                    param.grad.div_(n)
            optimizer.step()
        found.append(gap(zero, model, other))
    return found


def used_by_some(group, rank, n, stage):
    """A parameter that only some ranks use in a step is stepped; one that none uses is not."""

    def extra(step, micro):
        return step == 1 and micro == n - 1

    model = net()
    zero = Zero(model, torch.optim.AdamW, stage=stage, params=two_groups(model), group=group,
                bucket_mb=0.001, **ADAMW)  # fmt: skip
    train(zero, model, rank, 3, extra=extra)
    other, optimizer = reference(n, 3, extra=extra)
    steps = [float(s["step"]) for s in optimizer.state_dict()["state"].values()]
    return gap(zero, model, other), state_gap(zero, optimizer), sorted(set(steps))


def not_finite(group, rank, n, stage, bad):
    """One rank's gradient is inf or NaN: nobody steps, and training goes on after."""
    model = net()
    zero = Zero(model, torch.optim.AdamW, stage=stage, group=group, max_norm=1.0, **ADAMW)
    train(zero, model, rank, 1)
    assert zero.stepped
    before = zero.full_state_dict(everywhere=True)
    (loss_of(model, 1, rank) * (bad if rank == n - 1 else 1.0)).backward()
    zero.step()
    after = zero.full_state_dict(everywhere=True)
    same = all(torch.equal(before["model"][k], after["model"][k]) for k in before["model"])
    skipped, norm = zero.stepped, zero.grad_norm
    loss_of(model, 2, rank).backward()
    zero.step(grad_scale=1.0)
    return same, skipped, norm, zero.stepped


def other_optimizers(group, rank, n, stage):
    """Element-wise ones, and those that need a whole matrix."""
    import paragone.training as own

    def matrices(model):
        return [p for p in model.parameters() if p.ndim == 2 and p.requires_grad]

    def everything(model):
        return [p for p in model.parameters() if p.requires_grad]

    cases = [
        ("our adamw", own.AdamW, {"lr": 0.01, "weight_decay": 0.1, "exact": True}, everything),
        ("muon", torch.optim.Muon, {"lr": 0.01}, matrices),
        ("adafactor", torch.optim.Adafactor, {"lr": 0.01}, everything),
        ("sgd", torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}, everything),
        ("lion", own.Lion, {"lr": 0.001, "weight_decay": 0.1}, everything),
        ("our muon", own.Muon, {"lr": 0.01}, own.Muon.split),
        ("our adafactor", own.Adafactor, {"lr": 0.01}, everything),
    ]
    found = {}
    for name, make, options, groups in cases if stage == 2 else cases[:3]:
        model = net()
        zero = Zero(model, make, stage=stage, params=groups(model), group=group, **options)
        train(zero, model, rank, 3)
        other, _ = reference(n, 3, make, options, groups=groups)
        found[name] = gap(zero, model, other), zero.policy.shard_by
        assert len(zero.full_state_dict(everywhere=True)["optimizer"]["state"]) > 3
    return found


def fast(group, rank, n, stage):
    """Unordered sums come near, and the clipped norm too."""
    model = net()
    zero = Zero(model, torch.optim.AdamW, stage=stage, params=two_groups(model), group=group,
                ordered=False, max_norm=0.5, **ADAMW)  # fmt: skip
    train(zero, model, rank, 2)
    return gap(zero, model, reference(n, 2, most=0.5)[0])


class Wide(nn.Module):
    """Enough parameters that scalars and padding do not count: 152,865."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(225, 225) for _ in range(3))
        self.head = nn.Linear(225, 1, bias=False)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def wide(dtype):
    generator = torch.Generator().manual_seed(3)
    model = Wide()
    for param in model.parameters():
        nn.init.normal_(param, std=0.05, generator=generator)
    return model.to(dtype)


def mixed(group, rank, n, stage, offload):
    """bf16 with fp32 masters: the trajectory, and the live bytes after a backward."""
    model, other = wide(torch.bfloat16), wide(torch.bfloat16)
    zero = Zero(model, torch.optim.AdamW, stage=stage, group=group, offload=offload, **ADAMW)
    params = list(other.parameters())
    master = [nn.Parameter(p.detach().float()) for p in params]
    optimizer = torch.optim.AdamW(master, **ADAMW)

    def loss(model, step, micro):
        generator = torch.Generator().manual_seed(100 * step + micro)
        return model(torch.randn(4, 225, generator=generator).bfloat16()).float().square().mean()

    for step in range(3):
        loss(model, step, rank).backward()
        held = zero.memory()
        zero.step()
        total = None
        for micro in range(n):
            grads = [g.float() for g in torch.autograd.grad(loss(other, step, micro), params)]
            total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
        for weight, grad in zip(master, total, strict=True):
            weight.grad = (grad / n).bfloat16().float()
        optimizer.step()
        with torch.no_grad():
            for weight, param in zip(master, params, strict=True):
                param.copy_(weight)
    full = zero.full_state_dict(everywhere=True)
    for name, weight in zip(dict(other.named_parameters()), master, strict=True):
        assert torch.equal(full["master"][name], weight)
    count = sum(p.numel() for p in params)
    parts = (held.parameters, held.gradients, held.master, held.state, held.host)
    return gap(zero, model, other), count, held.total, parts


def resharded(group, rank, n, stage, directory):
    """Saves; going on from this rank's own state, in another object, gives the same."""
    model = net()
    zero = Zero(model, torch.optim.AdamW, stage=stage, params=two_groups(model), group=group,
                bucket_mb=0.001, **ADAMW)  # fmt: skip
    train(zero, model, rank, 3)
    model.seen += 7
    zero.save(directory)
    zero.save(directory)  # in place of the first
    full = zero.full_state_dict()
    if rank == 0:
        torch.save(full, f"{directory}/full.pt")
    local = copy.deepcopy(zero.state_dict())
    train(zero, model, rank, 2, start=3)
    again = net()
    zero_again = Zero(again, torch.optim.AdamW, stage=stage, params=two_groups(again),
                      group=group, bucket_mb=0.001, **{**ADAMW, "lr": 7.0})  # fmt: skip
    zero_again.load_state_dict(local)
    train(zero_again, again, rank, 2, start=3)
    with zero_again.gathered():
        return gap(zero, model, again), len(full)


def loaded(group, rank, n, stage, directory):
    """From another number of ranks, or stage, or one process: the same bits as one process."""
    full = torch.load(f"{directory}/full.pt")
    found = []
    for source in ("files", "whole", "plain") if n == stage else ("files", "plain"):
        other = net(seed=3)
        other.load_state_dict(full["model"])
        optimizer = torch.optim.AdamW(two_groups(other), **ADAMW)
        optimizer.load_state_dict(full["optimizer"])
        model = net(seed=4)
        zero = Zero(model, torch.optim.AdamW, stage=stage, params=two_groups(model), group=group,
                    **{**ADAMW, "lr": 9.0})  # fmt: skip
        if source == "files":
            zero.load(directory)
        elif source == "whole":
            zero.load_full_state_dict(full)
        else:
            zero.load_full_state_dict({"model": other.state_dict()})
            zero.load_full_state_dict(optimizer.state_dict())
        train(zero, model, rank, 2, start=3)
        reference(n, 2, start=3, model=other, optimizer=optimizer)
        found.append((gap(zero, model, other), state_gap(zero, optimizer), float(model.seen[0])))
    return found


class Attending(nn.Module):
    """Modules whose parameters are read by another, recomputed, or called twice."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.block = nn.Sequential(nn.Linear(8, 9), nn.Tanh(), nn.Linear(9, 8))
        self.lora = nn.Linear(8, 8).requires_grad_(False)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens, *, scale):
        from torch.utils.checkpoint import checkpoint

        x = self.embed(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + checkpoint(self.block, x, use_reentrant=False)
        x = self.block(self.lora(x)) * scale
        return {"logits": self.head(x)}


def deep_modules(group, rank, n):
    """Stage 3 through attention, recomputation, frozen and shared weights; evaluation; misuse."""
    tokens = torch.arange(12).reshape(2, 6) % 11

    def loss(model, micro):
        return model((tokens + micro) % 11, scale=0.7)["logits"].square().mean()

    def make():
        generator = torch.Generator().manual_seed(0)
        model = Attending()
        for param in model.parameters():
            nn.init.normal_(param, std=0.3, generator=generator)
        return model

    found: dict = {}
    for units in ((), (nn.Sequential,)):
        model, other = make(), make()
        zero = Zero(model, torch.optim.AdamW, stage=3, group=group, units=units, **ADAMW)
        optimizer = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad], **ADAMW)
        with torch.no_grad():
            found["evaluated"] = float(loss(model, 1)) == float(loss(other, 1))
        for _ in range(3):
            loss(model, rank).backward()
            zero.step()
            optimizer.zero_grad()
            for micro in range(n):
                loss(other, micro).backward()
            for param in other.parameters():
                if param.grad is not None:
                    param.grad.div_(n)
            optimizer.step()
        found[f"gap {len(units)}"] = gap(zero, model, other)
    found["released"] = all(bool(p.isnan().all()) for p in model.parameters())
    found["shape kept"] = tuple(model.head.weight.shape)
    with zero.gathered():
        found["whole"] = not any(bool(p.isnan().any()) for p in model.parameters())
    zero.close()
    found["closed"] = loss(model, 0).isfinite().item()
    stray = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    zero = Zero(stray, torch.optim.AdamW, stage=3, group=group, **ADAMW)
    try:
        (stray["a"](torch.ones(1, 3)) * stray["b"].bias).sum().backward()
    except RuntimeError as error:
        found["stray"] = str(error)
    return found


def different(group, rank, n):
    """Ranks that do not fit together all hear of it, and what differs."""
    found = []
    for case in range(3):
        torch_model = nn.Linear(3, 4 if case == 0 and rank == 1 else 5)
        options = {"stage": 2 if case == 1 and rank == 1 else 1}
        if case == 2 and rank == 1:
            torch_model.bias.requires_grad_(False)
        try:
            Zero(torch_model, torch.optim.AdamW, group=group, **options)
        except ValueError as error:
            found.append(str(error))
    return found


def sharded_by_torch(group, rank, n, directory):
    """FSDP2 as the engine: near one process, clipped, saved and loaded."""

    def whole(model):
        return [p for p in model.parameters() if p.requires_grad]

    make = {"stage": 3, "engine": "fsdp2", "group": group, "max_norm": 0.5, **ADAMW}
    model = net()
    zero = Zero(model, torch.optim.AdamW, units=(nn.Linear,), **make)
    train(zero, model, rank, 2, extra=lambda step, micro: True)
    zero.save(directory)
    middle = zero.full_state_dict(everywhere=True)
    train(zero, model, rank, 2, start=2, extra=lambda step, micro: True)
    ours = zero.full_state_dict(everywhere=True)["model"]
    other = reference(n, 4, most=0.5, groups=whole, extra=lambda step, micro: True)[0]
    theirs = other.state_dict()
    far = max(float((ours[k] - theirs[k]).abs().max()) for k in theirs)
    back = []
    for source in ("files", "whole"):
        again = net(seed=2)
        zero = Zero(again, torch.optim.AdamW, units=(nn.Linear,), **make)
        if source == "files":
            zero.load(directory)
        else:
            zero.load_full_state_dict(middle)
        train(zero, again, rank, 2, start=2, extra=lambda step, micro: True)
        resumed = zero.full_state_dict(everywhere=True)["model"]
        back.append(max(float((ours[k] - resumed[k]).abs().max()) for k in ours))
    return far, back, zero.memory().state


def unlike_one_process(group, rank, n):
    """Planted bugs: the order of the sum turned round, and a norm of this rank's shares alone."""
    rows, exchange = Pending.rows, Ranks.exchange
    found = []
    for bug in ("order", "norm"):
        if bug == "order":
            Pending.rows = lambda self: rows(self).flip(0)
        else:
            Ranks.exchange = lambda self, values, device, what: (
                [list(values)] if "norm" in what else exchange(self, values, device, what)
            )
        try:
            found.append(parity(group, rank, n, 2, None, steps=3)[0])
        finally:
            Pending.rows, Ranks.exchange = rows, exchange
    return found


def abandoned(rank, world, how):
    """The last rank dies, or does not come: the others hear of it within the timeout."""
    group = dist.new_group(timeout=timedelta(seconds=2))
    model = net()
    zero = Zero(model, torch.optim.AdamW, stage=2, group=group, **ADAMW)
    train(zero, model, rank, 1)
    loss = loss_of(model, 1, rank)
    if rank == world - 1:
        if how == "dies":
            os._exit(3)
        time.sleep(4)
        return None
    start = time.monotonic()
    try:
        loss.backward()
        zero.step()
    except RuntimeError as error:
        return time.monotonic() - start, str(error)
    return None


def checked(rank, world, commands, ports):
    """`python -m paragone.training.check` as torchrun's ranks call it: exit codes and output.

    The last command runs with a planted bug, the order of the sum turned round.
    """
    from paragone.training import check

    rows, found = Pending.rows, []
    for command, port in zip(commands, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        if command is commands[-1]:
            Pending.rows = lambda self: rows(self).flip(0)
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            code = check.main(command)
        found.append((code, text.getvalue()))
    return found


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
