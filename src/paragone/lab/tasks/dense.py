r"""One run of a way of upsampling: inside a small U-Net, inside super-resolution, and alone.

A contestant's `make` is called with those of `channels`, `out_channels`, `scale` and
`kernel_size` that it names, beside its own parameters, and returns a module that maps
(B, C, H, W) to (B, C', s H, s W). By `facts["part"]`

"segment": it is every step up of a `UNet` of `facts["width"]` and `facts["depth"]`, which learns
masks: cross-entropy, AdamW, `facts["steps"]` steps on the same batches in the same order.

"super": it is the last layer of an `ESPCN`, whose output is added to bicubic interpolation:
mean square error on luma of photographs that were shrunk by bicubic antialiasing.

"cost": it alone, on maps (1, `facts["channels"]`, `facts["size"]`, `facts["size"]`).

The rate rises over a tenth of the steps and falls as a cosine. Scores are of images that are in no
batch: intersection over union, the mean of the classes (of scenes without the background), counted
over all pixels; `edge`, the share of pixels right among those not farther than two pixels from a
true border; PSNR of luma without s pixels at each side.

What is printed of the period is measured on the finest step, on constant input: the variance of
the means of the s x s phases over the mean square of the output,

$$ E = \frac{\mathrm{Var}_{ij}\big(\overline{y_{i + s \mathbb{N},\, j + s \mathbb{N}}}\big)}
   {\overline{y^2}} , $$

before training in the interior (`printed_start`) and in a corner (`printed_edge`), and after it in
the interior (`printed_end`).

Values: those, `iou`, `edge`, `psnr`, `fit_s`, `forward_s`, `step_s` (forward and backward; of the
whole network, or of the layer alone), `step_extra` (peak memory beyond what was resident),
`parameters`. Curves: `iou over seconds`, `psnr over seconds` (of a core, for each thread).
Arrays: `shown`, a test crop.

References:
    Odena et al. (2016), "Deconvolution and checkerboard artifacts", distill.pub.

Shapes: B batch, C channels, S side in pixels, s scale.
"""

from __future__ import annotations

import gc
import inspect
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone._core.lazy import resolve
from paragone.lab.build import load_inputs, resolve_target
from paragone.lab.dense_images import Crops, Photos, give_back
from paragone.lab.probe import Probe
from paragone.lab.sequences import drawn_from
from paragone.lab.spec import Contestant, Job
from paragone.lab.tasks.image import settle

__all__ = ["made", "one_call", "printed", "run"]

RISE, MARKS, NEAR = 0.1, 6, 2
LONG = 1.0


def made(contestant: Contestant, **known: Any) -> nn.Module:
    """Builds a contestant's module, with those of the known arguments that it names."""
    target = resolve_target(contestant.make)
    named = set(inspect.signature(target).parameters)
    module = target(**{k: v for k, v in known.items() if k in named}, **contestant.params)
    if not isinstance(module, nn.Module):
        raise TypeError(f"{contestant.id} made a {type(module).__name__}, not a torch.nn.Module")
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _Fitted(nn.Module):
    """A stranger's module with the call of `Upsample`: its output cut or continued to a size."""

    def __init__(self, inner: nn.Module, scale: int) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, x: Tensor, size: Any = None, indices: Any = None) -> Tensor:
        return resolve("paragone.vision.carafe:fit")(self.inner(x), size, self.scale)


def _step(contestant: Contestant, scale: int, **known: Any) -> nn.Module:
    module = made(contestant, scale=scale, **known)
    ours = isinstance(module, resolve("paragone.vision:Upsample"))
    return module if ours else _Fitted(module, scale)


def run(job: Job, probe: Probe) -> None:
    """Performs the run; see the module's text."""
    torch.set_num_threads(job.threads)
    parts = {"segment": _segment, "super": _super, "cost": _cost}
    parts[job.workload.facts["part"]](job, probe)


def _cost(job: Job, probe: Probe) -> None:
    facts = job.workload.facts
    with probe.phase("load"):
        (x,) = load_inputs(job)
    probe.digest("data", x)
    channels, scale = int(facts["channels"]), int(facts["scale"])
    with probe.phase("import"), drawn_from(job.block.seed):
        step = _step(job.contestant, scale, channels=channels, out_channels=channels,
                     kernel_size=1)  # fmt: skip
    x = x.contiguous(memory_format=torch.channels_last)
    where = _places(step, x, scale)
    with probe.phase("first_call"), torch.no_grad():
        y = step(x, None, where)
    wanted = (1, channels, x.shape[2] * scale, x.shape[3] * scale)
    if tuple(y.shape) != wanted:
        raise ValueError(f"{job.contestant.id} returned {tuple(y.shape)}: {wanted} is expected")
    del y
    probe.value("printed_start", printed(step, channels, scale))
    probe.value("printed_edge", printed(step, channels, scale, border=0))
    x.requires_grad_()

    def train() -> None:
        y = step(x, None, where)
        torch.autograd.grad(y.square().mean(), [x, *step.parameters()])

    _time(job, probe, "forward", lambda: step(x, None, where))
    extra = _time(job, probe, "step", train)
    probe.value("step_extra", max(extra, 1.0))
    probe.value("parameters", _count(step))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _places(step: nn.Module, x: Tensor, scale: int) -> Tensor | None:
    """For unpooling: where a pool of positive noise had found its values."""
    if getattr(step, "method", "") != "unpool":
        return None
    shape = (*x.shape[:2], x.shape[2] * scale, x.shape[3] * scale)
    rng = torch.Generator().manual_seed(0)
    return functional.max_pool2d(torch.rand(shape, generator=rng), scale, return_indices=True)[1]


@torch.no_grad()
def printed(step: nn.Module, channels: int, scale: int, border: int | None = None) -> float:
    """Relative energy of the period that a step prints on constant input.

    Args:
        step: Called with maps, None, and places for unpooling.
        channels: C of its input.
        scale: s.
        border: As in `paragone.vision.upsampling.checkerboard`.
    """
    size = 12
    training = step.training
    x = torch.ones(1, channels, size, size).contiguous(memory_format=torch.channels_last)
    where = None
    if getattr(step, "method", "") == "unpool":
        conv = getattr(step, "conv", None)
        kept = channels if conv is None else int(conv.out_channels)
        flat = torch.ones(1, kept, size * scale, size * scale)
        where = functional.max_pool2d(flat, scale, return_indices=True)[1]
    y = step.eval()(x, None, where)
    step.train(training)
    if border == 0:
        y = y[:, :, : size // 2 * scale, : size // 2 * scale]
    energy = resolve("paragone.vision.upsampling:phase_energy")
    cut = 4 * scale if border is None else border
    inner = y[:, :, cut : y.shape[2] - cut, cut : y.shape[3] - cut]
    return energy(y, scale, cut) / max(float(inner.double().square().mean()), 1e-30)


def _time(job: Job, probe: Probe, name: str, call: Callable[[], Any]) -> float:
    """Records the median time of a call; returns the peak memory above the start."""
    enough = float(job.options.get("least_time", 0.05 if job.quick else 0.3))
    gc.collect()
    give_back()
    with probe.phase(name):
        call()
    phase, times = probe.phases[name], []
    extra = phase["peak"] - phase["start"]
    while len(times) < 3 or (sum(times) < enough and sum(times) < LONG):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    probe.value(f"{name}_s", float(np.median(times)))
    return extra


def _rate(t: int, steps: int) -> float:
    rise = max(1, round(RISE * steps))
    return t / rise if t < rise else 0.5 + 0.5 * math.cos(math.pi * (t - rise) / (steps - rise + 1))


def _train(
    job: Job, probe: Probe, model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]],
    loss_of: Callable[[Tensor, Tensor], Tensor], judge: Callable[[], float], measure: str,
) -> None:  # fmt: skip
    """Takes all steps; judges on the way, off the clock."""
    facts, steps = job.workload.facts, int(job.workload.facts["steps"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=float(facts["rate"]), weight_decay=0.01)
    marks = {round(steps * (i + 1) / MARKS) for i in range(MARKS)}
    seconds, at, found = 0.0, [], []
    for t in range(1, steps + 1):
        start = time.process_time()
        x, y = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = float(facts["rate"]) * _rate(t, steps)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        seconds += (time.process_time() - start) / job.threads
        if t in marks:
            at.append(seconds)
            found.append(judge())
        if not math.isfinite(float(loss.detach())):
            raise ValueError(f"{job.contestant.id}: the loss is not finite after {t} steps")
    probe.value("fit_s", seconds)
    probe.curve(f"{measure} over seconds", at, found)


def _measured(
    job: Job, probe: Probe, model: nn.Module, step: nn.Module, channels: int, scale: int,
    loss: Callable[[], Tensor], x: Tensor,
) -> None:  # fmt: skip
    """Costs of the whole network, and what its finest step prints after training."""

    def train() -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()

    model.train()
    probe.value("step_extra", max(_time(job, probe, "step", train), 1.0))
    model.zero_grad(set_to_none=True)
    model.eval()

    def forward() -> None:
        with torch.no_grad():
            model(x)

    _time(job, probe, "forward", forward)
    probe.value("parameters", _count(model))
    probe.value("printed_end", printed(step, channels, scale))


def _unet(job: Job, classes: int) -> tuple[Any, int]:
    facts = job.workload.facts
    width, depth = int(facts["width"]), int(facts["depth"])
    unpools = job.contestant.params.get("method") == "unpool"
    model = resolve("paragone.vision:UNet")(
        classes, width=width, depth=depth, upsampling="unpool" if unpools else "nearest"
    )
    for i in range(depth):
        channels = width * 2 ** (depth - i)
        model.up[i] = _step(job.contestant, 2, channels=channels, out_channels=channels // 2,
                            kernel_size=1)  # fmt: skip
    return model.to(memory_format=torch.channels_last), 2 * width


def _segment(job: Job, probe: Probe) -> None:
    facts, seed = job.workload.facts, job.block.seed
    with probe.phase("load"):
        source: Crops = load_inputs(job)[0]
        train, test = source.parts(job.block.split)
    probe.digest("data", *train, *test)
    with probe.phase("import"), drawn_from(seed):
        model, channels = _unet(job, source.classes)
    step = model.up[-1]
    probe.value("printed_start", printed(step, channels, 2))
    probe.value("printed_edge", printed(step, channels, 2, border=0))
    (x, y), rows = _batch(train, np.arange(int(facts["rows"]))), int(facts["rows"])

    def loss_of(logits: Tensor, masks: Tensor) -> Tensor:
        return functional.cross_entropy(logits, masks, ignore_index=255)

    with probe.phase("first_call"):
        loss_of(model(x), y).backward()
    few, batches = tuple(part[:16] for part in test), _batches(train, rows, seed)
    _train(job, probe, model, batches, loss_of,
           lambda: _scores(model, few, source)["iou"], "iou")  # fmt: skip
    settle(model, lambda: model(next(batches)[0]))
    for name, value in _scores(model, test, source).items():
        probe.value(name, value)
    _measured(job, probe, model, step, channels, 2, lambda: loss_of(model(x), y), x)
    found = model(_batch(test, np.arange(1))[0]).argmax(1)[0]
    probe.array("shown", found.to(torch.uint8).numpy())
    probe.array("image", test[0][0])
    probe.array("truth", test[1][0])


def _batch(part: Any, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    pixels, masks = part
    x = torch.from_numpy(pixels[rows % len(pixels)]).permute(0, 3, 1, 2).float() / 127.5 - 1
    y = torch.from_numpy(masks[rows % len(masks)]).long()
    return x.contiguous(memory_format=torch.channels_last), y


def _batches(part: Any, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng, left = np.random.default_rng([seed, 0]), np.empty(0, np.int64)
    while True:
        while len(left) < size:
            left = np.concatenate([left, rng.permutation(len(part[0]))])
        yield _batch(part, left[:size])
        left = left[size:]


@torch.no_grad()
def _scores(model: nn.Module, part: Any, source: Crops) -> dict[str, float]:
    training, classes = model.training, source.classes
    model.eval()
    hits, either = np.zeros(classes), np.zeros(classes)
    right = total = 0
    for i in range(0, len(part[0]), 16):
        x, y = _batch([v[i : i + 16] for v in part], np.arange(len(part[0][i : i + 16])))
        guess, known = model(x).argmax(1), y != 255
        for k in range(classes):
            a, b = (guess == k) & known, y == k
            hits[k] += int((a & b).sum())
            either[k] += int((a | b).sum())
        near = _near_borders(y) & known
        right, total = right + int((guess == y)[near].sum()), total + int(near.sum())
    model.train(training)
    counted = either > 0
    counted[0] &= not source.background
    share = float((hits[counted] / either[counted]).mean()) if counted.any() else 0.0
    return {"iou": share, "edge": right / max(total, 1)}


def _near_borders(masks: Tensor) -> Tensor:
    """Pixels that have another class within `NEAR` pixels."""
    values, side = masks[:, None].float(), 2 * NEAR + 1
    high = functional.max_pool2d(values, side, 1, NEAR)
    return (high != -functional.max_pool2d(-values, side, 1, NEAR))[:, 0]


class _Residual(nn.Module):
    """Bicubic interpolation and what an ESPCN adds to it."""

    def __init__(self, inner: nn.Module, scale: int) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, x: Tensor) -> Tensor:
        return _bicubic(x, self.scale) + self.inner(x - 0.5)


def _bicubic(x: Tensor, scale: int) -> Tensor:
    return functional.interpolate(x, scale_factor=scale, mode="bicubic")


def _super(job: Job, probe: Probe) -> None:
    facts, seed, scale = job.workload.facts, job.block.seed, int(job.workload.facts["scale"])
    with probe.phase("load"):
        source: Photos = load_inputs(job)[0]
        train, test = source.parts(job.block.split)
    probe.digest("data", *train, test)
    truth = torch.from_numpy(test)[:, None]
    small = source.shrunk(truth, scale)
    with probe.phase("import"), drawn_from(seed):
        espcn = resolve("paragone.vision:ESPCN")(scale)
        espcn.up = _step(job.contestant, scale, channels=32, out_channels=1, kernel_size=3)
    model = _Residual(espcn, scale).to(memory_format=torch.channels_last)  # type: ignore
    probe.value("printed_start", printed(espcn.up, 32, scale))
    probe.value("printed_edge", printed(espcn.up, 32, scale, border=0))
    batches = source.batches(train, int(facts["rows"]), int(facts["patch"]), scale, seed)
    x, y = next(batches)
    with probe.phase("first_call"):
        functional.mse_loss(model(x), y).backward()
    psnr = resolve("paragone.vision.espcn:psnr")

    def judge() -> float:
        with torch.no_grad():
            return psnr(model(small).clamp(0, 1), truth, border=scale)

    _train(job, probe, model, batches, functional.mse_loss, judge, "psnr")
    probe.value("psnr", judge())
    probe.value("gain", judge() - psnr(_bicubic(small, scale).clamp(0, 1), truth, border=scale))
    _measured(job, probe, model, espcn.up, 32, scale,
              lambda: functional.mse_loss(model(x), y), small)  # fmt: skip
    row = int(truth.var((1, 2, 3)).argmax())
    with torch.no_grad():
        probe.array("shown", _bytes(model(small[row : row + 1])[0, 0]))
    probe.array("truth", _bytes(truth[row, 0]))
    probe.array("bicubic", _bytes(_bicubic(small[row : row + 1], scale)[0, 0]))


def _bytes(image: Tensor) -> np.ndarray:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def one_call(job: Job) -> Callable[[], Callable[[], Any]]:
    """Returns what, called, imports the contestant and returns one forward call of its step."""
    x = torch.zeros(1, 16, 8, 8)

    def load() -> Callable[[], Any]:
        step = _step(job.contestant, 2, channels=16, out_channels=16, kernel_size=1)
        where = _places(step, x, 2)
        return lambda: step(x, None, where)

    return load
