r"""One run of the study `attention`: exact attention on one head layout, or decoding with a cache.

A contestant has `attend` or `decoder`, as `lab.contestants.attention_rivals` says; a plain
function counts as `attend`.

Part "kernel": q, k, v (B, H, T, D) and the workload's mask ("none", "causal", "window" of
`facts["window"]` keys, or "random": a bool mask that lets a tenth through, in blocks of 64, with
the diagonal). `error` is the distance to float64 on 64 of the queries, relative to their size;
`grad_error` that of the gradients of q, k and v where T <= 512. A contestant without backward
pass has no figure there, and `failed_backward` is 1.

Part "decode": a module fills its cache with T tokens, then steps. `bandwidth` is the bytes of
weights and of the layout's cache over the time of a step; `cache_bytes` what a token added to
the state, and `formula_bytes` what the layout's formula says:

    MHA 2 H D,   GQA 2 G D,   MQA 2 D,   MLA latent + rotary,   times 4 bytes.

Values: `forward_s`, `backward_s` (backward alone, after a forward pass off the clock),
`forward_extra`, `train_extra`, `error`, `grad_error`, `failed_backward`; `forward_s` (a step),
`error` (step against whole), `bandwidth`, `cache_bytes`, `formula_bytes`, `forward_extra`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.lab.build import bind, load_inputs
from paragone.lab.contestants.attention_rivals import LATENT, permitted
from paragone.lab.probe import Probe
from paragone.lab.sequences import drawn_from
from paragone.lab.spec import Job
from paragone.lab.tasks.sequence import bytes_of, stepping

__all__ = ["formula", "inputs", "one_call", "run", "stream", "truth"]

LONG = 1.0
ROWS = 64
SHORT = 512
_BLOCK = 64


def inputs(length: int, heads: int, depth: int, mask: str) -> tuple[Tensor, ...]:
    """q, k, v (1, heads, length, depth), and for "random" the bool mask (length, length)."""
    rng = np.random.default_rng([length, heads, depth])
    shape = (3, 1, heads, length, depth)
    q, k, v = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    if mask != "random":
        return q, k, v
    blocks = -(-length // _BLOCK)
    chosen = torch.from_numpy(rng.random((blocks, blocks)) < 0.1) | torch.eye(blocks).bool()
    seen = chosen.repeat_interleave(_BLOCK, 0).repeat_interleave(_BLOCK, 1)
    return q, k, v, seen[:length, :length].contiguous()


def stream(length: int, width: int) -> tuple[Tensor]:
    """Inputs (1, length, width) of a decoder."""
    rng = np.random.default_rng([length, width])
    return (torch.from_numpy(rng.standard_normal((1, length, width), dtype=np.float32)),)


def truth(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None, rows: Tensor | None = None
) -> Tensor:
    """Attention in float64, of some queries only where `rows` says so; differentiable."""
    q, k, v = (x.double() for x in (q, k, v))
    if rows is not None:
        q, seen = q[:, :, rows], None if seen is None else seen[rows]
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ v


def formula(layout: str, heads: int, groups: int, depth: int) -> int:
    """Bytes a token of the cache in float32, by the layout's formula.

    Example:
        >>> formula("mha", 16, 2, 64), formula("gqa", 16, 2, 64), formula("mqa", 16, 2, 64)
        (8192, 1024, 512)
    """
    numbers = {"mha": 2 * heads * depth, "gqa": 2 * groups * depth, "mqa": 2 * depth,
               "mla": LATENT["latent"] + LATENT["rope"]}  # fmt: skip
    return 4 * numbers[layout]


def run(job: Job, probe: Probe) -> None:
    """Performs the run; see the module's text."""
    torch.set_num_threads(job.threads)
    (_kernel if job.workload.facts["part"] == "kernel" else _decode)(job, probe)


def _attend(job: Job) -> Callable[..., Tensor]:
    made = bind(job.contestant, job.workload.facts)
    attend = getattr(made, "attend", made)
    facts = job.workload.facts
    kind = facts["mask"]
    options: dict[str, Any] = {}
    if kind in ("causal", "window"):
        options["causal"] = True
    if kind == "window":
        options["window"] = int(facts["window"])

    def call(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return attend(q, k, v, **options, **({} if mask is None else {"mask": mask}))

    return call


def _seen(facts: Mapping[str, Any], given: tuple[Tensor, ...]) -> Tensor | None:
    window = int(facts["window"]) if facts["mask"] == "window" else None
    causal = facts["mask"] in ("causal", "window")
    return permitted(given[0].shape[2], causal, window, given[3] if len(given) > 3 else None)


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def _kernel(job: Job, probe: Probe) -> None:
    with probe.phase("load"):
        given = load_inputs(job)
    probe.digest("data", *given)
    with probe.phase("import"):
        call = _attend(job)
    with probe.phase("first_call"), torch.no_grad():
        out = call(*given)
    q, k, v = given[:3]
    if out.shape != q.shape:
        raise ValueError(f"{job.contestant.id} returned {tuple(out.shape)} for {tuple(q.shape)}")
    rows = torch.linspace(0, q.shape[2] - 1, min(ROWS, q.shape[2])).long()
    seen = _seen(job.workload.facts, given)
    error = _relative(out[:, :, rows], truth(q, k, v, seen, rows))
    probe.value("error", error)
    if not error < 1e-2:
        raise ValueError(f"the result is off by {error:.2g} of its size: this is no attention")
    del out

    def forward() -> None:
        with torch.no_grad():
            call(*given)

    extra = _timed(job, probe, "forward", lambda: None, lambda _: forward())
    probe.value("forward_extra", max(extra, 1.0))
    _backward(job, probe, call, given, seen)


def _backward(
    job: Job, probe: Probe, call: Callable[..., Tensor], given: tuple[Tensor, ...],
    seen: Tensor | None,
) -> None:  # fmt: skip
    leaves = [x.clone().requires_grad_() for x in given[:3]]
    rest = given[3:]
    weight = torch.from_numpy(
        np.random.default_rng(1).standard_normal(given[0].shape, dtype=np.float32)
    )
    try:
        out = call(*leaves, *rest)
        found = torch.autograd.grad(out, leaves, weight)
    except (NotImplementedError, RuntimeError) as error:
        print(f"no backward pass: {error}")
        probe.value("failed_backward", 1)
        return
    probe.value("failed_backward", 0)

    def before() -> Tensor:
        return call(*leaves, *rest)

    def backward(out: Tensor) -> None:
        torch.autograd.grad(out, leaves, weight)

    probe.value("train_extra", max(_timed(job, probe, "backward", before, backward), 1.0))
    if given[0].shape[2] <= SHORT:
        exact = [x.double().requires_grad_() for x in given[:3]]
        wanted = torch.autograd.grad(truth(*exact, seen=seen), exact, weight.double())
        error = max(_relative(a, b) for a, b in zip(found, wanted, strict=True))
        probe.value("grad_error", error)
        if not error < 1e-2:
            raise ValueError(f"gradients are off by {error:.2g} of their size")


def _timed(
    job: Job, probe: Probe, name: str, before: Callable[[], Any], call: Callable[[Any], Any]
) -> float:
    """Records the median time of `call(before())`; returns the peak beyond the first start."""
    enough = float(job.options.get("least_time", 0.02 if job.quick else 0.2))
    times: list[float] = []
    with probe.phase(name):
        call(before())
        while not times or ((sum(times) < enough or len(times) < 3) and sum(times) < LONG):
            ready = before()
            start = time.perf_counter()
            call(ready)
            times.append(time.perf_counter() - start)
    probe.value(f"{name}_s", float(np.median(times)))
    probe.values.pop(f"{name}_cpu_s", None)
    # What an earlier call left allocated is memory of the calls, too.
    return probe.phases[name]["peak"] - probe.phases["first_call"]["start"]


def _decode(job: Job, probe: Probe) -> None:
    facts = job.workload.facts
    with probe.phase("load"):
        (x,) = load_inputs(job)
    probe.digest("data", x)
    with probe.phase("import"):
        made = bind(job.contestant, facts)
        layout = (str(facts["layout"]), int(facts["width"]), int(facts["heads"]))
        with drawn_from(job.block.seed):
            module = made.decoder(*layout, int(facts["groups"]))
    with torch.no_grad():
        with probe.phase("first_call"):
            whole, _ = module(x)
            _, state = module(x[:, :-1])
            y, _ = module.step(x[:, -1], state)
        probe.value("error", _relative(y, whole[:, -1].double()))
        if not probe.values["error"] < 1e-2:
            raise ValueError(f"a step differs from the whole by {probe.values['error']:.2g}")
        kept = _a_token(module, x)
        probe.value("cache_bytes", kept)
        depth = int(facts["width"]) // int(facts["heads"])
        told = formula(layout[0], layout[2], int(facts["groups"]), depth)
        probe.value("formula_bytes", told)
        step = stepping(module, x, module(x)[1])
        extra = _timed(job, probe, "forward", lambda: None, lambda _: step())
    probe.value("forward_extra", max(extra, 1.0))
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    probe.value("bandwidth", (told * x.shape[1] + weights) / probe.values["forward_s"])


def _a_token(module: Any, x: torch.Tensor) -> float:
    """Bytes that the state grew by, for each token between two lengths."""
    few, many = x.shape[1] // 4, x.shape[1] // 2
    sizes = [bytes_of(_state(module, x[:, :count])) for count in (few, many)]
    return (sizes[1] - sizes[0]) / (many - few)


def _state(module: Any, x: Tensor) -> Any:
    return module(x)[1]


def one_call(job: Job) -> Callable[[], Callable[[], Any]]:
    """Returns what, called, imports the contestant and returns one forward call of it."""
    given = load_inputs(job)

    def load() -> Callable[[], Any]:
        call = _attend(job)
        return lambda: call(*given)

    return load
