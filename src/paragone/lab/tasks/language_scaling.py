r"""One run of the study `scaling`: a model of a size is trained with a line's compute.

A contestant is what makes a decoder of V symbols; N is the number of its weights. The line's
compute C gives the symbols it is trained on, each of them read once while the text is long
enough,

$$ D = \frac{C}{6 N} , \qquad C = 6 N D , $$

in windows of T symbols that are drawn from the text. AdamW's rate rises over a tenth of the
steps and falls to zero in a straight line, so that each run is judged at the end of a schedule of
its own. The peak follows the size, $\eta = 0.025 (N / 15000)^{-1/2}$; of several factors of it,
where the workload names them, the one that is best on the valid part is judged on the test part.

Text is read as bytes: those that make up a thousandth of a percent of it or more are symbols, the
others are one symbol together. Whole stretches of it are held out.

Counted operations are those of all matrix products, of which 6 N D is the usual estimate:

$$ F = 6 N D + 6 D L \bar{T} H d, \qquad \bar{T} = (T + 1) / 2 , $$

with the products of queries, keys and values in L layers of H heads of width d beyond it, for an
embedding that is also the head, as it is here.

Values: `loss` (nats a symbol), `valid`, `parameters`, `tokens`, `epochs`, `steps`, `compute`
(6 N D), `counted`, `per_second` (counted operations), `rate`, `edge` (the best factor was the least
or the largest), `train_s`, `train_cpu_s`, `train_extra`. Curves: `loss over tokens`.

References:
    Kaplan et al. (2020), arXiv:2001.08361, section 2.1 (C = 6 N D).
    Bergsma et al. (2025), arXiv:2502.15938 (a rate that falls to zero in a straight line).

Shapes: B rows, T time, V symbols, N weights, D symbols trained on.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone._core.errors import UsageError
from paragone.lab.build import build, load_inputs
from paragone.lab.probe import Probe
from paragone.lab.sequences import drawn_from, library_text
from paragone.lab.spec import Job

__all__ = ["LEAST_BYTES", "TIME", "Text", "counted", "load", "rate_of", "read_bytes", "run",
           "scores"]  # fmt: skip

TIME = 64
LEAST_BYTES = 100_000
MOST_BYTES = 64_000_000
OWN_BYTES = 4_000_000
_RARE = 1e-5
_STRETCHES = 20
_JUDGED = 512
_STEPS = 500
_ROWS = (2, 16)
_RISE, _CLIP, _DECAY = 0.1, 1.0, 0.1
_MARKS = 12


@dataclasses.dataclass(frozen=True)
class Text:
    """Symbols of a text and its parts.

    Attributes:
        symbols: V.
        train: Symbols to learn from.
        valid: Symbols to choose the rate by.
        test: Symbols to judge by.
    """

    symbols: int
    train: Tensor
    valid: Tensor
    test: Tensor

    def windows(self, part: str, rows: int = _JUDGED) -> Tensor:
        """(rows, T + 1) windows of "valid" or "test", evenly spread, the same at every call."""
        held: Tensor = getattr(self, part)
        starts = torch.linspace(0, len(held) - TIME - 1, rows).long()
        return held[starts[:, None] + torch.arange(TIME + 1)]


def read_bytes(path: str = "") -> bytes:
    """The user's text, or the standard library's sources.

    Raises:
        UsageError: No file, or too short for a grid of sizes.
    """
    if not path:
        return library_text(OWN_BYTES).encode()
    try:
        data = Path(path).read_bytes()[:MOST_BYTES]
    except OSError as error:
        raise UsageError(f"{path}: no text that can be read ({error})") from error
    if len(data) < LEAST_BYTES:
        raise UsageError(
            f"{path}: {len(data):,} bytes; a grid of sizes and token counts needs "
            f"{LEAST_BYTES:,} or more"
        )
    if data.count(0) > len(data) // 100:
        raise UsageError(f"{path}: holds zero bytes, so it is no text")
    return data


def load(path: str = "", split: int = 0) -> Text:
    """Reads a text and holds out two stretches of a twentieth.

    Args:
        path: A user's file; "" is the standard library's sources.
        split: Which stretches.
    """
    codes = np.frombuffer(read_bytes(path), np.uint8)
    counts = np.bincount(codes, minlength=256)
    known = np.flatnonzero(counts >= max(1, _RARE * len(codes)))
    table = np.zeros(256, np.int64)
    table[known] = 1 + np.arange(len(known))
    ids = torch.from_numpy(table[codes])
    pieces = ids.tensor_split(_STRETCHES)
    at = {"test": (4 * split + 1) % _STRETCHES, "valid": (4 * split + 3) % _STRETCHES}
    rest = [piece for i, piece in enumerate(pieces) if i not in at.values()]
    return Text(len(known) + 1, torch.cat(rest), pieces[at["valid"]], pieces[at["test"]])


def rate_of(weights: int) -> float:
    """Peak rate of AdamW for a model of so many weights, by a sweep over sizes (docs/log.md)."""
    return 0.025 * (weights / 15e3) ** -0.5


def rows_of(tokens: float) -> int:
    """Rows of a batch: some hundred steps for short trainings, larger batches for long ones."""
    return int(np.clip(2 ** round(math.log2(max(tokens / (TIME * _STEPS), 1.0))), *_ROWS))


def counted(model: nn.Module, tokens: int) -> float:
    """Operations of all matrix products of a training on so many tokens, in windows of T.

    A guest that does not tell its layers is counted as 6 N D.
    """
    plain = 6.0 * sum(p.numel() for p in model.parameters()) * tokens
    config: Any = getattr(model, "config", None)
    if config is None or not hasattr(config, "num_hidden_layers"):
        return plain
    heads = config.num_attention_heads * config.head_size
    pairs = 12.0 * config.num_hidden_layers * heads * (TIME + 1) / 2
    vectors = sum(p.numel() for p in model.parameters() if p.ndim < 2)
    return plain - 6.0 * vectors * tokens + pairs * tokens


def scores(model: nn.Module, ids: Tensor) -> Tensor:
    """Scores (B, T, V) of a decoder, whether it returns them or something that holds them."""
    told = model(ids)
    return told if isinstance(told, Tensor) else told.logits


@torch.no_grad()
def _judge(model: nn.Module, windows: Tensor) -> np.ndarray:
    """Mean loss of each window."""
    model.eval()
    found = []
    for part in windows.split(128):
        logits = scores(model, part[:, :-1])
        loss = functional.cross_entropy(
            logits.flatten(0, 1), part[:, 1:].flatten(), reduction="none"
        )
        found.append(loss.view(len(part), TIME).mean(1))
    model.train()
    return torch.cat(found).double().numpy()


@dataclasses.dataclass
class _Training:
    model: nn.Module
    factor: float
    rate: float
    wall: float = 0.0
    cpu: float = 0.0
    valid: float = math.inf
    marks: list[tuple[int, float]] = dataclasses.field(default_factory=list)


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    weights = list(model.parameters())
    matrices = {"params": [p for p in weights if p.ndim > 1], "weight_decay": _DECAY}
    vectors = {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0}
    return [group for group in (matrices, vectors) if group["params"]]


def _train(make: Callable[[], nn.Module], text: Text, factor: float, plan: _Plan) -> _Training:
    model = make()
    one = _Training(model, factor, factor * rate_of(plan.weights))
    optimizer = torch.optim.AdamW(_groups(model), lr=one.rate, betas=(0.9, 0.95), fused=True)
    rng = np.random.default_rng(plan.seed)
    shift = torch.arange(TIME + 1)
    rise, every, last = max(1, round(_RISE * plan.steps)), max(1, plan.steps // _MARKS), 0.0
    for t in range(1, plan.steps + 1):
        starts = rng.integers(0, len(text.train) - TIME, plan.rows)
        batch = text.train[torch.from_numpy(starts)[:, None] + shift]
        began = time.perf_counter(), time.process_time()
        share = min(t / rise, (plan.steps + 1 - t) / (plan.steps + 1 - rise))
        for group in optimizer.param_groups:
            group["lr"] = one.rate * share
        optimizer.zero_grad(set_to_none=True)
        logits = scores(model, batch[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        one.wall += time.perf_counter() - began[0]
        one.cpu += time.process_time() - began[1]
        last += float(loss.detach())
        if t % every == 0:
            one.marks.append((t * plan.rows * TIME, last / every))
            last = 0.0
    return one


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a run will do: N, rows of a batch, steps and the seed of its draws."""

    weights: int
    rows: int
    steps: int
    seed: int

    @property
    def tokens(self) -> int:
        return self.rows * self.steps * TIME


def _planned(weights: int, compute: float, seed: int) -> _Plan:
    tokens = compute / (6 * weights)
    rows = rows_of(tokens)
    return _Plan(weights, rows, max(1, round(tokens / (rows * TIME))), seed)


def run(job: Job, probe: Probe) -> None:
    """Performs the run; see the module's text."""
    torch.set_num_threads(job.threads)
    facts, seed = job.workload.facts, job.block.seed
    with probe.phase("load"):
        text: Text = load_inputs(job)[0]
    test = text.windows("test")
    probe.digest("data", text.train[:4096], test)

    def make() -> nn.Module:
        with drawn_from(seed):
            return build(job.contestant, vocab=text.symbols)

    with probe.phase("import"):
        model = make()
    weights = sum(p.numel() for p in model.parameters())
    plan = _planned(weights, float(facts["compute"]), seed)
    with probe.phase("first_call"):
        scores(model, test[:2, :-1]).sum().backward()
    factors = [float(f) for f in facts["factors"]]
    runs = []
    for factor in factors:
        with probe.phase("train"):
            runs.append(_train(make, text, factor, plan))
        runs[-1].valid = _finite(float(_judge(runs[-1].model, text.windows("valid")).mean()))
    best = min(runs, key=lambda one: one.valid)
    losses = _judge(best.model, test)
    probe.array("example_loss", losses)
    probe.value("loss", _finite(float(losses.mean())))
    probe.value("valid", best.valid)
    probe.value("rate", best.rate)
    probe.value("edge", float(len(factors) > 1 and best.factor in (factors[0], factors[-1])))
    _costs(job, probe, plan, best, len(text.train))


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else 99.0


def _costs(job: Job, probe: Probe, plan: _Plan, best: _Training, length: int) -> None:
    phase = probe.phases["train"]
    operations = counted(best.model, plan.tokens)
    told = {
        "parameters": plan.weights, "tokens": plan.tokens, "epochs": plan.tokens / length,
        "steps": plan.steps, "rows": plan.rows, "compute": 6.0 * plan.weights * plan.tokens,
        "counted": operations, "train_s": best.wall, "train_cpu_s": best.cpu,
        "per_second": operations / max(best.cpu, 1e-9),
        "train_extra": max(phase["peak"] - phase["start"], 0),
    }  # fmt: skip
    for name, value in told.items():
        probe.value(name, value)
    probe.curve("loss over tokens", *zip(*best.marks, strict=True))
