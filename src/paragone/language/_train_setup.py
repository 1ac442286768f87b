r"""What a run needs to know about the machine before it starts: place, memory, type, compiler.

Whether a narrow type or a compiler pays is measured on a step of the very model: on many CPUs
bf16 is several times slower, and compiling takes minutes, which a short run never gets back. With
e and c seconds a step and k for compiling, a run of S steps is compiled where

$$ k + S c < S e . $$

References:
    Micikevicius et al. (2018), arXiv:1710.03740, section 3.
    Korthikanti et al. (2022), arXiv:2205.05198, eq. 2 (memory of activations).
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paragone.training.memory import plan
from paragone.training.run_folder import seeded

__all__ = ["free_memory", "needed_memory", "pays_to_compile", "probed_precision", "threads_of"]

_COMPILING = 60.0
"""Seconds that compiling takes at least; a run must be ten times as long to be worth a probe."""


def free_memory(device: str) -> int | None:
    """Bytes that a new run can have on a device, or None where that is not known."""
    kind = torch.device(device).type
    if kind == "cuda":
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    if kind != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    found = sizes.get("MemAvailable")
    limit, used = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit is None or used is None:
        return found
    return limit - used if found is None else min(found, limit - used)


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def needed_memory(
    config: Any, build: Callable[..., nn.Module], rows: int, length: int, *, optimizer: str,
    precision: str, accumulate: int, ranks: int, zero: int, device: str,
) -> tuple[int, str]:  # fmt: skip
    """Bytes that training takes at its worst moment, and the same in words.

    Args:
        config: The model's configuration.
        build: Builds it, on the meta device.
        rows: Rows of a micro-batch.
        length: Tokens of a row.
        optimizer: Its name.
        precision: "fp32", "bf16" or "fp16".
        accumulate: Micro-batches of a step.
        ranks: Ranks of the run.
        zero: ZeRO stage.
        device: Where it runs.
    """
    # Which experts are chosen depends on numbers; what their chosen ones keep, does not.
    active = (config.num_experts_per_tok + config.n_shared_experts) * (
        config.moe_intermediate_size or config.inner
    )
    dense = config.replace(n_routed_experts=0, intermediate_size=active)
    routed = config.n_routed_experts > 0
    model = build(dense if routed else config, device="meta")
    ids = torch.zeros(rows, length, dtype=torch.int64, device="meta")
    names = {"schedule_free": "schedule-free", "sgd": "sgd-momentum"}
    found = plan(
        model, names.get(optimizer, optimizer), "fp32" if precision == "fp32" else "autocast",
        inputs={"input_ids": ids, "logits": False}, loss=lambda out: out.hidden.sum(),
        gpus=ranks, zero=zero if ranks > 1 else 0, step="fused", accumulate=accumulate > 1,
    )  # fmt: skip
    head = 4 * (1 << 22 if device == "cpu" else 1 << 25) * 2
    more = 0
    if routed:
        weights = sum(p.numel() for p in build(config, device="meta").parameters())
        more = found.states * (weights - found.parameters) // max(found.parameters, 1)
    total = found.total + more + head - (0 if device.startswith("cuda") else found["CUDA context"])
    words = (
        f"{total / 1e9:.2f} GB: states {(found.states + more) / 1e9:.2f}, activations "
        f"{found['activations'] / 1e9:.2f} for {rows} rows of {length} tokens"
    )
    return total, words


def probed_precision(
    model: nn.Module, step: Callable[[nn.Module], torch.Tensor], device: str
) -> str:
    """Returns "bf16" where a step of a copy of the model is a fifth faster in it, else "fp32"."""
    kind = torch.device(device).type
    clock = time.process_time if kind == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    trial = copy.deepcopy(model).train()
    for name in ("fp32", "bf16") * 3:
        begun = clock()
        with seeded(0):
            with torch.autocast(kind, torch.bfloat16, enabled=name == "bf16"):
                loss = step(trial)
            loss.backward()
        if kind == "cuda":
            torch.cuda.synchronize()
        seconds[name].append(clock() - begun)
        trial.zero_grad()
    fastest = {name: min(times[1:]) for name, times in seconds.items()}
    return "bf16" if fastest["bf16"] < 0.8 * fastest["fp32"] else "fp32"


def pays_to_compile(
    model: nn.Module, step: Callable[[nn.Module], torch.Tensor], steps: int, device: str
) -> tuple[bool, str]:
    """Whether a run of so many steps ends sooner if it is compiled first, and why.

    Args:
        model: What is trained.
        step: The loss of one micro-batch, called with the model.
        steps: Micro-batches of the run.
        device: Where it runs.
    """
    plain = _seconds(copy.deepcopy(model), step, device)
    if steps * plain < 10 * _COMPILING:
        return False, f"not compiled: the run takes about {steps * plain:.0f} s"
    trial = copy.deepcopy(model)
    begun = time.perf_counter()
    compile_layers(trial)
    quick = _seconds(trial, step, device)
    spent = time.perf_counter() - begun
    pays = spent + steps * quick < steps * plain
    word = "compiled" if pays else "not compiled"
    return pays, f"{word}: a step takes {plain:.3f} s, compiled {quick:.3f} s"


def compile_layers(model: nn.Module) -> None:
    """Compiles each block in place; parameters keep their names."""
    for layer in model.model.layers:  # pyright: ignore
        layer.compile()


def _seconds(model: nn.Module, step: Callable[[nn.Module], torch.Tensor], device: str) -> float:
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        step(model).backward()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
        model.zero_grad()
    return min(times[1:])


@contextlib.contextmanager
def threads_of(count: int | None) -> Iterator[None]:
    """Torch works with so many threads within it.

    Raises:
        ValueError: Fewer than one.
    """
    before = torch.get_num_threads()
    if count is not None and count < 1:
        raise ValueError(f"threads={count}: at least 1")
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
