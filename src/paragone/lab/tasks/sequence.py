r"""One run of a sequence mixer: its costs at one length, or a small model that learns a problem.

A contestant's `make` is a class or function that is called with those of `width`, `heads` and
`length` that it names, beside its own parameters, and returns a module under the contract of
`paragone.mixers.Mixer`: `module(x, state=None) -> (y, state)`, and `step(x_t, state)` where it
can decode.

Part "sweep" (`facts["part"]`): a module on x (B, T, M), first once (compiles, allocates), then
until the calls took `least_time`; medians. By `facts["mode"]`

- "width": the mixer alone, at the model width M;
- "parameters": a block of mixer and feed-forward whose hidden units make all blocks alike in
  parameters; mixers that do the feed-forward's work stand twice in it;
- "state": the mixer alone, with those of the options in `contestants.mixers.SIZES` whose
  state comes nearest to `facts["state_bytes"]`.

Part "learn": `SequenceModel`, with the same widths, feed-forward adjusted to `facts["parameters"]`
parameters in all, learns by Adam from the same batches in the same order; the rate rises over a
tenth of the steps and falls as a cosine. Each of `facts["rates"]` is tried, the best on the valid
rows is judged on the test rows.

Values: sweep: `forward_s`, `train_s` (forward + backward), `step_s`, `train_extra` (peak memory
above what was resident), `state_bytes`, `parameters`, `leak`, `resumed`. Learn: `accuracy` of
the tokens due, `bits` a token, `fit_s`, `rate`, `parameters`, `state_bytes`. Curves: `accuracy
over steps`, `accuracy over seconds` (`bits` for text).

`leak` is the change of earlier outputs, relative to their size, when later inputs change: 0
unless the future is seen. `resumed` is the distance of prefix and rest to the whole, where a
contestant has a state and a step; one above 0.01 fails the run.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone._core.lazy import resolve
from paragone.lab.build import load_inputs, resolve_target
from paragone.lab.contestants import mixers_maps
from paragone.lab.contestants.mixers import SIZES, WIDENED
from paragone.lab.probe import Probe
from paragone.lab.sequences import IGNORED, Task, drawn_from
from paragone.lab.spec import Contestant, Job

__all__ = ["bytes_of", "made", "one_call", "run", "stepping"]

LONG = 1.0
MARKS = 10
RISE = 0.1
JUDGED = 256


def bytes_of(state: Any) -> int:
    """Bytes of all tensors in a state, each storage counted once.

    Example:
        >>> bytes_of((torch.zeros(2, 3), [torch.zeros(4)], None))
        40
    """
    found: dict[int, int] = {}

    def walk(item: Any) -> None:
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            found[storage.data_ptr()] = min(storage.nbytes(), item.numel() * item.element_size())
        elif isinstance(item, Mapping):
            for part in item.values():
                walk(part)
        elif isinstance(item, list | tuple):
            for part in item:
                walk(part)
        elif hasattr(item, "filled"):
            walk(item.filled)
        elif hasattr(item, "__dict__"):
            walk(vars(item))

    walk(state)
    return sum(found.values())


def made(contestant: Contestant, facts: Mapping[str, Any], **more: Any) -> Any:
    """Builds the contestant's module for the workload's width, heads and length."""
    target = resolve_target(contestant.make)
    known = {name: facts[name] for name in ("width", "heads", "length") if name in facts}
    entry = resolve("paragone.mixers.registry:MIXERS").get(contestant.params.get("name"))
    asked = resolve(f"paragone.mixers:{entry.target}") if entry is not None else target
    named = set(inspect.signature(asked).parameters)
    given = {name: value for name, value in known.items() if name in named}
    if "length" in given and "rank" in named:
        # Linformer cannot have a higher rank than tokens.
        given["rank"] = min(256, int(given["length"]))
    return target(**{**given, **contestant.params, **more})


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def run(job: Job, probe: Probe) -> None:
    """Performs the run; see the module's text."""
    torch.set_num_threads(job.threads)
    if job.workload.facts["part"] == "learn":
        _learn(job, probe)
    else:
        _sweep(job, probe)


class _Block(nn.Module):
    """A mixer and a feed-forward, or the mixer twice, each with a residual."""

    def __init__(self, mixers: Sequence[nn.Module], forward: nn.Module | None) -> None:
        super().__init__()
        self.mixers, self.feed = nn.ModuleList(mixers), forward

    def forward(self, x: Tensor, *, state: Any = None) -> tuple[Tensor, Any]:
        states = []
        for at, mixer in enumerate(self.mixers):
            y, after = mixer(x, state=None if state is None else state[at])
            x, states = x + y, [*states, after]
        return (x if self.feed is None else x + self.feed(x)), states

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        states = []
        for at, mixer in enumerate(self.mixers):
            y, after = mixer.step(x_t, None if state is None else state[at])  # type: ignore
            x_t, states = x_t + y, [*states, after]
        return (x_t if self.feed is None else x_t + self.feed(x_t)), states


def _alone(contestant: Contestant, module: nn.Module) -> bool:
    """Whether it does the feed-forward's work, by our registry or by what the module says."""
    entries = resolve("paragone.mixers.registry:MIXERS")
    entry = entries.get(contestant.params.get("name"))
    return bool(entry.alone if entry is not None else getattr(module, "alone", False))


def _parts(contestant: Contestant, facts: Mapping[str, Any], layers: int) -> list[nn.Module]:
    """Mixers and feed-forwards of so many blocks, together near `facts["parameters"]`."""
    feed = resolve("paragone.mixers.body:FeedForward")
    width, goal = int(facts["width"]), int(facts["parameters"]) // layers
    found: list[nn.Module] = []
    options: dict[str, Any] = {}
    for _ in range(layers):
        mixer = made(contestant, facts, **options)
        if _alone(contestant, mixer):
            if contestant.params.get("name") in WIDENED and not options:
                options, mixer = _widened(contestant, facts, goal // 2)
            found += [mixer, made(contestant, facts, **options)]
            continue
        inner = max(8, round((goal - _count(mixer)) / (3 * width)))
        found += [mixer, feed(width, inner)]
    return found


def _widened(
    contestant: Contestant, facts: Mapping[str, Any], goal: int
) -> tuple[dict[str, Any], nn.Module]:
    """The inner width, in 64ths of the model's, that brings a mixer nearest to `goal`."""
    found: list[tuple[int, dict[str, Any], nn.Module]] = []
    for parts in range(32, 193, 16):
        options = {WIDENED[contestant.params["name"]]: parts / 64}
        try:
            mixer = made(contestant, facts, **options)
        except ValueError:
            continue
        found.append((abs(_count(mixer) - goal), options, mixer))
    _, options, mixer = min(found, key=lambda one: one[0])
    return options, mixer


def _module(job: Job) -> nn.Module:
    contestant, facts = job.contestant, job.workload.facts
    if facts.get("mode") == "parameters":
        parts = _parts(contestant, facts, 1)
        alone = _alone(contestant, parts[0])
        return _Block(parts, None) if alone else _Block(parts[:1], parts[1])
    if facts.get("mode") == "state" and contestant.params.get("name") in SIZES:
        return _nearest(contestant, facts)
    return made(contestant, facts)


def _nearest(contestant: Contestant, facts: Mapping[str, Any]) -> nn.Module:
    """The module among those of `SIZES` whose state is nearest to the size asked for."""
    best: tuple[float, nn.Module] | None = None
    for options in SIZES[contestant.params["name"]]:
        module = made(contestant, facts, **options)
        with torch.no_grad():
            size = bytes_of(module(torch.zeros(1, 4, int(facts["width"])))[1])
        gap = abs(math.log(max(size, 1) / float(facts["state_bytes"])))
        if best is None or gap < best[0]:
            best = (gap, module)
    assert best is not None
    return best[1]


def _sweep(job: Job, probe: Probe) -> None:
    with probe.phase("load"):
        (x,) = load_inputs(job)
    probe.digest("data", x)
    with probe.phase("import"), drawn_from(job.block.seed):
        module = _module(job)
    probe.value("parameters", _count(module))
    with probe.phase("first_call"), torch.no_grad():
        y, state = module(x)
    if y.shape != x.shape:
        raise ValueError(f"{job.contestant.id} returned {tuple(y.shape)} for {tuple(x.shape)}")
    probe.value("state_bytes", bytes_of(state))
    _checked(module, x, y, state, probe)
    del y
    if job.workload.facts["length"] == mixers_maps.TIME and job.workload.facts["mode"] == "width":
        for name, value in mixers_maps.told(job.contestant.id).items():
            probe.value(name, value)

    def forward() -> None:
        with torch.no_grad():
            module(x)

    def train() -> None:
        module.zero_grad(set_to_none=True)
        y, _ = module(x)
        y.square().mean().backward()

    _time(job, probe, "forward", forward)
    first = _time(job, probe, "train", train)
    probe.value("train_extra", max(first, 1.0))
    # A block steps only if its mixers do.
    inner: Any = getattr(module, "mixers", [module])
    if state is not None and all(callable(getattr(one, "step", None)) for one in inner):
        _time(job, probe, "step", stepping(module, x, state))


def stepping(module: Any, x: Tensor, state: Any) -> Callable[[], None]:
    """A call that decodes on from a state, and starts there again after T / 16 tokens.

    Going on from the newest state is what a cache in place is made for; a branch costs a copy.
    """
    x_t, most, held = x[:, 0].clone(), max(8, x.shape[1] // 16), [state, 0]

    def step() -> None:
        if held[1] == most:
            held[:] = [state, 0]
        with torch.no_grad():
            _, held[0] = module.step(x_t, held[0])
        held[1] += 1

    return step


def _checked(module: nn.Module, x: Tensor, y: Tensor, state: Any, probe: Probe) -> None:
    """Whether the future is seen, and whether prefix and rest make the whole."""
    half = max(1, x.shape[1] // 2)
    size = float(y[:, :half].square().mean().sqrt()) + 1e-12
    other = x.clone()
    other[:, half:] = x[:, half:].flip(1) * 3
    with torch.no_grad():
        seen = module(other)[0][:, :half]
        probe.value("leak", float((seen - y[:, :half]).abs().max()) / size)
        if state is None or not hasattr(module, "step"):
            return
        try:
            first, middle = module(x[:, :half])
            rest, _ = module(x[:, half:], state=middle)
        except ValueError:
            return
    whole = torch.cat([first, rest], dim=1)
    gap = float((whole - y).square().mean().sqrt()) / size
    probe.value("resumed", gap)
    if gap > 0.01:
        raise ValueError(f"prefix and rest differ from the whole by {gap:.2g} of its size")


def _time(job: Job, probe: Probe, name: str, call: Callable[[], None]) -> float:
    """Records the median time of a call; returns the peak memory above the start."""
    enough = float(job.options.get("least_time", 0.02 if job.quick else 0.2))
    with probe.phase(name):
        call()
    times: list[float] = []
    with probe.phase(name):
        while not times or ((sum(times) < enough or len(times) < 3) and sum(times) < LONG):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    phase = probe.phases[name]
    probe.value(f"{name}_s", float(np.median(times)))
    probe.values.pop(f"{name}_cpu_s", None)
    return phase["peak"] - phase["start"]


def _model(job: Job, task: Task) -> nn.Module:
    """`SequenceModel` with the contestant in it, equal to others in parameters."""
    facts = {**job.workload.facts, "length": task.length}
    model = resolve("paragone.mixers:SequenceModel")(task.vocab, facts["width"], 0)
    parts = _parts(job.contestant, facts, int(facts["layers"]))
    model.parts = nn.ModuleList(parts)
    model.norms = nn.ModuleList(nn.RMSNorm(facts["width"]) for _ in range(len(parts) + 1))
    return model


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    logits = model(x)[0]
    due = y != IGNORED
    logits, y = logits[due], y[due]
    return functional.cross_entropy(logits, y), float((logits.argmax(-1) == y).float().mean())


@torch.no_grad()
def _judge(model: nn.Module, rows: tuple[Tensor, Tensor]) -> dict[str, float]:
    loss, accuracy = _loss(model, *rows)
    bits = float(loss) / math.log(2)
    return {"accuracy": accuracy, "bits": bits if math.isfinite(bits) else 99.0}


@dataclasses.dataclass
class _Run:
    """What one training told."""

    model: nn.Module
    rate: float
    seconds: float = 0.0
    marks: list[tuple[int, float, dict[str, float]]] = dataclasses.field(default_factory=list)


def _train(job: Job, task: Task, rate: float) -> _Run:
    facts, steps = job.workload.facts, int(job.workload.facts["steps"])
    with drawn_from(job.block.seed):
        one = _Run(_model(job, task), rate)
    optimizer = torch.optim.AdamW(
        one.model.parameters(), lr=rate, weight_decay=0.0, betas=(0.9, 0.95)
    )
    shown = task.held_out("valid", JUDGED)
    marks = {round(steps * (i + 1) / MARKS) for i in range(MARKS)}
    for t, (x, y) in enumerate(task.batches(job.block.seed, steps, int(facts["rows"])), start=1):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate * _factor(t, steps)
        optimizer.zero_grad(set_to_none=True)
        loss, _ = _loss(one.model, x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(one.model.parameters(), 1.0)
        optimizer.step()
        one.seconds += time.perf_counter() - start
        if t in marks:
            one.marks.append((t, one.seconds, _judge(one.model, shown)))
        if not math.isfinite(float(loss.detach())):
            break
    return one


def _factor(t: int, steps: int) -> float:
    rise = max(1, round(RISE * steps))
    return t / rise if t < rise else 0.5 + 0.5 * math.cos(math.pi * (t - rise) / (steps - rise + 1))


def _learn(job: Job, probe: Probe) -> None:
    facts = job.workload.facts
    with probe.phase("load"):
        (task,) = load_inputs(job)
    test = task.held_out("test", 2 * JUDGED)
    probe.digest("data", *test)
    probe.digest("batches", *next(task.batches(job.block.seed, 1, int(facts["rows"]))))
    with probe.phase("import"), drawn_from(job.block.seed):
        model = _model(job, task)
    with probe.phase("first_call"):
        _loss(model, *(part[:2] for part in test))[0].backward()
    measure = "bits" if task.kind == "text" else "accuracy"
    sign = 1.0 if measure == "bits" else -1.0
    runs = []
    for rate in facts["rates"]:
        with probe.phase("tune"):
            runs.append(_train(job, task, float(rate)))
    best = min(runs, key=lambda one: sign * one.marks[-1][2][measure] if one.marks else math.inf)
    told = _judge(best.model, test)
    probe.value("accuracy", told["accuracy"])
    probe.value("bits", told["bits"])
    probe.value("fit_s", best.seconds)
    probe.value("rate", best.rate)
    probe.value("parameters", _count(best.model))
    probe.value("state_bytes", _state(best.model, test[0][:1]))
    values = [told[measure] for _, _, told in best.marks]
    if task.kind == "recall":
        probe.array("looks", _looks(best.model, test[0][:1], test[1][:1]))
        probe.array("row", test[0][0].numpy())
    probe.curve(f"{measure} over steps", [t for t, _, _ in best.marks], values)
    probe.curve(f"{measure} over seconds", [s for _, s, _ in best.marks], values)


@torch.no_grad()
def _state(model: nn.Module, row: Tensor) -> int:
    """Bytes that decoding keeps after one row."""
    return bytes_of(model(row)[1])


def _looks(model: nn.Module, x: Tensor, y: Tensor) -> np.ndarray:
    """How much each token of a row moves the score of each token due: sizes of gradients."""
    caught: list[Tensor] = []
    handle = model.get_submodule("embed").register_forward_hook(
        lambda module, given, out: caught.append(out)  # pyright: ignore[reportArgumentType]
    )
    logits = model(x)[0]
    handle.remove()
    found = []
    for place in torch.nonzero(y[0] != IGNORED)[:, 0]:
        score = logits[0, place, y[0, place]]
        (slope,) = torch.autograd.grad(score, caught[0], retain_graph=True)
        found.append(slope[0].norm(dim=-1).numpy())
    return np.stack(found)


def one_call(job: Job) -> Callable[[], Callable[[], Any]]:
    """Returns what, called, imports the contestant and returns one forward call of it."""
    inputs = load_inputs(job)[0]

    def load() -> Callable[[], Any]:
        module = made(job.contestant, job.workload.facts)
        return lambda: module(inputs)

    return load
