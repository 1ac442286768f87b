r"""One run of the study `vision_language`: train a model of texts and pictures, and judge it.

A contestant's `make` is called with a `Scene` and those of `parameters`, `seconds`, `seed`,
`threads` and `device` that it names, beside its own parameters. It returns a `VisionLanguage`, or
one in a `Built` that tells the CPU seconds of a first stage (such as a codebook), which are part
of its budget. By `facts["part"]`:

"learn": it trains from the block's seed by AdamW until the budget of CPU seconds is spent. With u
the share that is spent, the rate rises linearly and falls by a cosine (`image.rate_share`). Half
of each batch is read (a caption after its picture), half is drawn (a picture after its caption);
a model that does not draw reads all of it. The loss is the mean of a token of text and the mean
of a token or patch of pictures, with the model's own weight. Then

$$ \text{accuracy} = P(\text{caption read} = \text{caption}), \qquad
   \text{drawn} = P(\text{judge takes the drawn picture for what was asked}) , $$

both on captions and pictures that were held out (see `_vision_language_scenes` for the judge).

"stable": the same, for `facts["steps"]` steps at a rate that may be too high, without a judgement.
The loss of the last sixteenth says whether it diverged.

"packing": a sweep, see `lab.tasks.sweep`.

Values of "learn": `accuracy`, `caption_loss` (nats a token), `drawn`, `apart`, `drawn_error` and
`apart_error` (standard errors over drawn pictures), `spread`, `judge`,
`read_s`, `draw_s` (a picture, in batches), `train_s`, `train_extra`, `first_stage_s`,
`parameters`, `steps`, `seen` (documents); of "stable": `stable_loss`, `lowest_loss`, `diverged`,
`score`. Curves: `text loss over CPU seconds`, `loss over steps`, `score over steps`. Arrays:
`correct`, `example_loss` (what each drawn picture adds to `apart`), `asked`, `drawn`, `read`,
`shown`, `rebuilt`, `attention`.

Shapes: B documents, H rows and W columns of pixels, C channels.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from paragone._core.lazy import resolve
from paragone.lab.build import load_inputs, resolve_target
from paragone.lab.probe import Probe
from paragone.lab.sequences import drawn_from
from paragone.lab.spec import Job
from paragone.lab.tasks import sweep
from paragone.lab.tasks._vision_language_scenes import Judge, Scene, apart
from paragone.lab.tasks.image import rate_share, row_batches

__all__ = ["Built", "Scene", "Training", "apart", "built", "run", "weighed"]

_CLIP, _DECAY, _MARKS, _WORST = 1.0, 0.05, 16, 99.0
_TOGETHER = 64
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Built:
    """A contestant's model, and what else can be asked of it.

    Attributes:
        model: A `VisionLanguage`.
        spent: CPU seconds of a first stage.
        watch: The largest score of its attention at the last step.
        rebuild: Pictures as the model's codebook gives them back.
        attend: For each picture, where attention lies: (rows, columns) of patches.
    """

    model: Any
    spent: float = 0.0
    watch: Callable[[], float] | None = None
    rebuild: Callable[[list[np.ndarray]], Any] | None = None
    attend: Callable[[list[np.ndarray]], Any] | None = None


def built(job: Job, scene: Scene) -> Built:
    """What a contestant makes.

    Raises:
        TypeError: It is no model of texts and pictures.
    """
    facts, contestant = job.workload.facts, job.contestant
    make = resolve_target(contestant.make)
    known = {
        "parameters": facts.get("parameters"), "seconds": facts.get("seconds"),
        "seed": job.block.seed, "threads": job.threads, "device": job.device,
    }  # fmt: skip
    named = inspect.signature(make).parameters
    given = {name: value for name, value in known.items() if name in named}
    found = make(scene, **{**given, **contestant.params})
    found = found if isinstance(found, Built) else Built(model=found)
    if not isinstance(found.model, resolve("paragone.multimodal.contract:VisionLanguage")):
        raise TypeError(
            f"{contestant.id} made a {type(found.model).__name__}: a VisionLanguage is expected"
        )
    found.model.to(job.device)
    return found


def weighed(found: Any) -> Any:
    """The loss that is followed: texts and pictures count alike, however many tokens they have.

    Args:
        found: What a model's `losses` returns.
    """
    loss = found.text / max(found.text_count, 1)
    loss = loss + found.image_weight * found.image / max(found.image_count, 1)
    return loss + sum(found.others.values()) / max(found.count, 1)


def _clock(device: str) -> float:
    """Seconds of work: of the CPU, or, on a GPU, of the wall."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@dataclass
class Training:
    """A model on its way.

    Attributes:
        built: What is trained.
        scene: What it sees.
        job: Its budget: `seconds` (of each thread) or `steps`, `rate` and `batch`.
        steps: How many were made.
        seen: Documents, each as often as it came.
        marks: (seconds, steps, mean loss of a token of text, mean total, largest score).
    """

    built: Built
    scene: Scene
    job: Job
    steps: int = 0
    seen: int = 0
    marks: list[tuple[float, int, float, float, float]] = field(default_factory=list)

    @property
    def model(self) -> Any:
        """The model itself."""
        return self.built.model

    def documents(self, rows: np.ndarray) -> list[Any]:
        """Half of a batch to read and half to draw; all to read for a model that cannot draw."""
        half = (len(rows) + 1) // 2 if self.model.draws and self._drawing else len(rows)
        return self.scene.reading(rows[:half]) + self.scene.drawing(rows[half:])

    @property
    def _drawing(self) -> bool:
        return bool(self.job.workload.facts.get("drawing", True))

    def _optimizer(self, rate: float) -> torch.optim.Optimizer:
        weights = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": _DECAY},
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))

    def first_call(self, rows: np.ndarray) -> None:
        """A step that changes nothing but caches."""
        state = torch.random.get_rng_state()
        found = self.model.train().losses(self.documents(rows))
        weighed(found).backward()
        self.model.zero_grad(set_to_none=True)
        torch.random.set_rng_state(state)

    def go(self) -> None:
        """Trains until the budget is spent or the loss is no number."""
        facts, device, watch = self.job.workload.facts, self.job.device, self.built.watch
        rate, most = float(facts["rate"]), facts.get("steps")
        limit = float(facts.get("seconds") or math.inf) * self.job.threads
        optimizer = self._optimizer(rate)
        batches = row_batches(self.scene.train, int(facts["batch"]), self.job.block.seed)
        self.model.train()
        begun, sums = _clock(device) - self.built.spent, np.zeros(3)
        share = self.built.spent / limit if limit < math.inf else 0.0
        while share < 1.0:
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_share(share)
            rows = next(batches)
            optimizer.zero_grad(set_to_none=True)
            found = self.model.losses(self.documents(rows))
            loss = weighed(found)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
            optimizer.step()
            self.model.after_step()
            self.steps, self.seen = self.steps + 1, self.seen + len(rows)
            sums += (float(found.text.detach()) / max(found.text_count, 1), float(loss.detach()), 1)
            now = _clock(device) - begun
            share = max(now / limit, self.steps / most if most else 0.0)
            if share * _MARKS >= len(self.marks) + 1 or not math.isfinite(sums[1]):
                mean = sums[:2] / sums[2]
                score = watch() if watch else 0.0
                self.marks.append((now, self.steps, float(mean[0]), float(mean[1]), score))
                sums[:] = 0
                if not math.isfinite(mean[1]):
                    return


def run(job: Job, probe: Probe) -> None:
    """Performs the run; see the module's text."""
    part = job.workload.facts["part"]
    torch.set_num_threads(job.threads)
    if part == "packing":
        return sweep.run(job, probe)
    with probe.phase("load"):
        scene: Scene = load_inputs(job)[0]
    probe.digest("data", *scene.identity())
    with drawn_from(job.block.seed):
        (_learn if part == "learn" else _stable)(job, scene, probe)
    return None


def _started(job: Job, scene: Scene, probe: Probe) -> Training:
    with probe.phase("first_stage"):
        one = Training(built(job, scene), scene, job)
    probe.value("parameters", sum(p.numel() for p in one.model.parameters()))
    with probe.phase("first_call"):
        one.first_call(scene.train[: int(job.workload.facts["batch"])])
    return one


def _learn(job: Job, scene: Scene, probe: Probe) -> None:
    one = _started(job, scene, probe)
    with probe.phase("train"):
        one.go()
    phase = probe.phases["train"]
    probe.value("train_extra", max(phase["peak"] - phase["start"], 0))
    probe.value("first_stage_s", one.built.spent)
    probe.value("steps", one.steps)
    probe.value("seen", one.seen)
    seconds, _, text, _, _ = zip(*one.marks, strict=True)
    probe.curve("text loss over CPU seconds", seconds, text)
    one.model.eval()
    with torch.no_grad():
        _read(one, probe)
        if one.model.draws and job.workload.facts.get("drawing", True):
            _draw(one, probe)
        _looked(one, probe)


def _stable(job: Job, scene: Scene, probe: Probe) -> None:
    one = _started(job, scene, probe)
    with probe.phase("train"):
        one.go()
    _, steps, _, total, scores = zip(*one.marks, strict=True)
    known = [x if math.isfinite(x) else _WORST for x in total]
    last, least = min(known[-1], _WORST), min(known)
    probe.value("stable_loss", last)
    probe.value("lowest_loss", least)
    probe.value("diverged", float(last >= _WORST or last > 1.25 * least + 0.1))
    if one.built.watch is not None:
        probe.value("score", min(max(scores), 1e9) if all(map(math.isfinite, scores)) else 1e9)
        probe.curve("score over steps", steps, scores)
    probe.curve("loss over steps", steps, total)


def _read(one: Training, probe: Probe) -> None:
    """Captions of held-out pictures, and their loss."""
    scene, device = one.scene, one.job.device
    rows = scene.test[: int(one.job.workload.facts["judged"])]
    longest = max(len(scene.captions[i].encode()) for i in rows) + 2
    found: list[str] = []
    with probe.phase("read"):
        for part in np.array_split(rows, -(-len(rows) // _TOGETHER)):
            pictures = [scene.pixels[i] for i in part]
            found += one.model.describe(pictures, max_new_tokens=longest)
    if device != "cpu":
        torch.cuda.synchronize()
    correct = np.array([a.strip() == scene.captions[i].strip()
                        for a, i in zip(found, rows, strict=True)])  # fmt: skip
    text, count = 0.0, 0
    for part in np.array_split(rows, -(-len(rows) // _TOGETHER)):
        told = one.model.losses(scene.reading(part))
        text, count = text + float(told.text), count + told.text_count
    loss = text / max(count, 1)
    probe.value("accuracy", float(correct.mean()))
    probe.value("caption_loss", min(loss, _WORST) if math.isfinite(loss) else _WORST)
    _per_picture(probe, "read", len(rows))
    probe.array("correct", correct)
    probe.array("read", np.array(found[:_SHOWN]))
    probe.array("shown", rows[:_SHOWN])


def _per_picture(probe: Probe, phase: str, count: int) -> None:
    for key in ("s", "cpu_s"):
        probe.value(f"{phase}_{key}", probe.values[f"{phase}_{key}"] / count)


def _draw(one: Training, probe: Probe) -> None:
    """Pictures of held-out captions, and what the judge says of them."""
    scene, seed = one.scene, one.job.block.seed
    judge = Judge(scene)
    asked = judge.asked(int(one.job.workload.facts["drawn"]))
    made: list[np.ndarray] = []
    with probe.phase("draw"):
        for k, part in enumerate(np.array_split(asked, -(-len(asked) // _TOGETHER))):
            texts = [scene.captions[i] for i in part]
            made += one.model.draw(texts, size=scene.size, seed=1000 * seed + k)
    whole = resolve("paragone.multimodal.documents:picture")
    drawn = np.stack([whole(one, scene.channels) for one in made])
    if drawn.shape[1:] != scene.pixels.shape[1:]:
        raise ValueError(
            f"{one.job.contestant.id} drew {drawn.shape[1:]}: {scene.pixels.shape[1:]} is expected"
        )
    right = judge.right(drawn, asked)
    probe.value("drawn", float(right.mean()))
    apart_by = judge.apart(drawn, asked)
    probe.value("apart", float(apart_by.mean()))
    for name, each in (("drawn", right), ("apart", apart_by)):
        probe.value(f"{name}_error", float(np.std(each)) / len(asked) ** 0.5)
    probe.value("spread", judge.spread(drawn, asked))
    probe.value("judge", judge.sure)
    _per_picture(probe, "draw", len(asked))
    probe.array("example_loss", apart_by)
    probe.array("asked", asked)
    probe.array("drawn", drawn)


def _looked(one: Training, probe: Probe) -> None:
    """What pictures of the report show: rebuilt pictures, and where attention lies."""
    pictures = [one.scene.pixels[i] for i in one.scene.test[:_SHOWN]]
    for name, look in (("rebuilt", one.built.rebuild), ("attention", one.built.attend)):
        if look is not None:
            probe.array(name, np.stack(look(pictures)))
