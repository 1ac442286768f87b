"""What a stranger's contestant looks like in each study: texts that run as they are.

In a text `NAME` stands for the contestant's name. What a study calls, and with what, is told in
full by its task, `paragone.lab.tasks`.
"""

from __future__ import annotations

from dataclasses import dataclass

from paragone._core.errors import UsageError

__all__ = ["TEMPLATES", "Template", "template_for"]


@dataclass(frozen=True, kw_only=True)
class Template:
    """A contestant to start from.

    Attributes:
        studies: Studies that take it, the first by default.
        takes: What a contestant is there, in a sentence or two.
        code: Imports and the contestant, at most ten lines of code.
    """

    studies: tuple[str, ...]
    takes: str
    code: str


TEMPLATES = (
    Template(
        studies=("ensembles", "boosting_speed", "forest_speed"),
        takes="An estimator of scikit-learn's interface: `fit(X, y)`, `predict(X)`, for classes "
        "`predict_proba(X)`. Of a pair that ends in Classifier and Regressor each gets its inputs; "
        "one alone, with such an end or base, gets half of them.",
        code='''
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor


class NAMEClassifier(ExtraTreesClassifier):
    """Votes of trees that are cut at random."""


class NAMERegressor(ExtraTreesRegressor):
    """The mean of such trees."""
''',
    ),
    Template(
        studies=("neighbors",),
        takes="`fit(points)` and `query(queries, k)`, which returns distances and indices, both "
        "(m, k), the nearest first. One that is approximate has `efforts`, rising, and takes one: "
        "`query(queries, k, effort)`.",
        code='''
import numpy as np
from scipy.spatial.distance import cdist


class NAME:
    def fit(self, points):
        self.points = points

    def query(self, queries, k):
        gaps = cdist(queries, self.points)
        nearest = gaps.argsort(axis=1)[:, :k]
        return np.take_along_axis(gaps, nearest, axis=1), nearest
''',
    ),
    Template(
        studies=("estimators",),
        takes="`fit(sample)`, with `sample.values` (n,) and more in `paragone.lab.samples.Sample`; "
        "`logpdf(x)`, the log density that it predicts for fresh values; if it has them, `params` "
        "and `interval(level)`, both by name.",
        code='''
from scipy import stats


class NAME:
    def fit(self, sample):
        x = sample.values
        self.law = stats.t(max(len(x) - 1, 1), x.mean(), x.std() * (1 + 1 / len(x)) ** 0.5 + 1e-9)

    def logpdf(self, x):
        return self.law.logpdf(x)
''',
    ),
    Template(
        studies=("approximation",),
        takes="A call `(rows, problem, seed)`: a stream (n,), or (n, d + 1) with y last, and what "
        "is asked of it (`problem`, `q`, `columns`); it returns the answer (d,).",
        code='''
import numpy as np

needs = {"problem": ["quantile"]}  # the streams that it is for


def NAME(rows, problem, seed):
    kept = np.random.default_rng(seed).choice(rows, min(len(rows), 1000))
    return np.quantile(kept, [problem["q"]])
''',
    ),
    Template(
        studies=("control",),
        takes="A planner has `solve(world)`, which returns values and a policy, one of each for a "
        "state. A learner has `learn(world, seed)`, a generator of ((samples, return), policy) up "
        "to `world.budget`, and acts in `world.gymnasium()`.",
        code='''
import numpy as np

needs = {"kind": ["grid", "table"], "size": ["small"]}  # the worlds that it is for


class NAME:
    def solve(self, world):
        (moves, rewards), values = world.mdp.to_arrays(), 0.0
        for _ in range(2_000):
            values = values * np.ones(len(rewards))
            worth = rewards + world.mdp.gamma * np.stack([m @ values for m in moves], axis=1)
            values = worth.max(axis=1)
        return values, worth.argmax(axis=1)
''',
    ),
    Template(
        studies=("workers",),
        takes="Made with `workers`: `open()`, `map(function, items)`, `call(function, item)`, "
        "`rows(function, array)`, `close()`, as in `paragone.lab.contestants.poolers`.",
        code='''
from paragone.lab.contestants.poolers import Futures


class NAME(Futures):
    def __init__(self, workers):
        super().__init__(workers, kind="Process")

    def map(self, function, items):
        part = max(1, len(items) // (4 * self.workers))
        return list(self.pool.map(function, items, chunksize=part))
''',
    ),
    Template(
        studies=("optimizers",),
        takes="A class of optimizers, made with groups of parameters and `lr`; or a function "
        "`(model, *, lr)` that returns an optimizer. `lr` is tuned, from the middle of `space` on.",
        code='''
import torch


class NAME(torch.optim.Optimizer):
    space = {"lr": {"low": 1e-5, "high": 1e-2, "log": True}}

    def __init__(self, params, lr=3e-4, weight_decay=0.1):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for p, group in ((p, group) for group in self.param_groups for p in group["params"]):
            m = self.state[p].setdefault("m", torch.zeros_like(p)).lerp_(p.grad, 0.1)
            p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * m.sign())
''',
    ),
    Template(
        studies=("precision",),
        takes="A function `(model, optimizer, pilot)` that returns a trainer: `autocast()`, "
        "`backward(loss)`, `step()`, `loss_scale` and `underflow`.",
        code='''
from paragone.training import MixedPrecision


def NAME(model, optimizer, pilot):
    return MixedPrecision(model, optimizer, "fp16", loss_scale=1024.0)
''',
    ),
    Template(
        studies=("memory",),
        takes="A function `(problem, seed)` that returns the bytes it expects on a GPU; problems "
        "are told in `paragone.lab.contestants.planners`.",
        code='''
from paragone.lab.contestants.planners import sixteen


def NAME(problem, seed):
    return round(1.25 * sixteen(problem, seed))
''',
    ),
    Template(
        studies=("collectives",),
        takes="`open()`, `tensor(count)`, `reduce(tensor)` in place, `close()`, called on every "
        "rank; gloo is the default group.",
        code='''
import torch
import torch.distributed as dist

from paragone.lab.contestants.reducers import Gloo


class NAME(Gloo):
    def reduce(self, tensor):
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor)
        torch.sum(torch.stack(parts), 0, out=tensor)
''',
    ),
    Template(
        studies=("attention",),
        takes="A call `(q, k, v, causal, window, mask)` on (B, H, T, D); or a class with `attend` "
        "and `decoder`, see `paragone.lab.contestants.attention_rivals`.",
        code='''
from torch.nn.functional import scaled_dot_product_attention

from paragone.lab.contestants.attention_rivals import permitted

needs = {"part": ["kernel"]}  # not decoding with a cache


def NAME(q, k, v, causal=False, window=None, mask=None):
    seen = permitted(q.shape[2], causal, window, mask)
    return scaled_dot_product_attention(q, k, v, attn_mask=seen)
''',
    ),
    Template(
        studies=("mixers",),
        takes="A module, made with those of `width`, `heads` and `length` that it names: "
        "`forward(x, state=None, positions=None)` on (B, T, M) returns y and the state to go on "
        "from, which may be None; if it decodes, `step(x_t, state)`.",
        code='''
import torch


class NAME(torch.nn.Linear):
    def __init__(self, width):
        super().__init__(width, width)

    def forward(self, x, *, state=None, **more):
        total, seen = state or (0.0, 0)
        total, count = x.cumsum(1) + total, torch.arange(seen + 1, seen + x.shape[1] + 1)
        return super().forward(total / count[:, None]), (total[:, -1:].clone(), int(count[-1]))
''',
    ),
    Template(
        studies=("backbones",),
        takes="A module, made with those of `num_classes`, `in_channels`, `image_size` and `width` "
        "that it names, from images (B, 3, S, S) to logits (B, K).",
        code='''
from torch import nn


class NAME(nn.Sequential):
    def __init__(self, num_classes):
        layers = []
        for near, far in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(near, far, 3, 2, 1), nn.BatchNorm2d(far), nn.ReLU()]
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, num_classes))
''',
    ),
    Template(
        studies=("upsampling",),
        takes="A module, made with those of `channels`, `out_channels`, `scale` and `kernel_size` "
        "that it names, from (B, C, H, W) to (B, C', sH, sW).",
        code='''
from torch import nn


class NAME(nn.Sequential):
    def __init__(self, channels, out_channels, scale):
        spread = nn.Conv2d(channels, out_channels * scale**2, 3, padding=1)
        super().__init__(spread, nn.PixelShuffle(scale))
''',
    ),
    Template(
        studies=("detectors",),
        takes="A module with torchvision's call, made with those of `num_classes` and `image_size` "
        "that it names: losses by name for (images, targets), boxes, labels and scores for images.",
        code='''
from paragone.lab.contestants.detectors import network


def NAME(num_classes, image_size):
    return network("NanoDet", "resnet18", num_classes, image_size, width=0.25)
''',
    ),
    Template(
        studies=("scaling",),
        takes="A module, made with `vocab` V, from symbols (B, T) to scores (B, T, V) of the next "
        "ones, or to what holds them as `logits`.",
        code='''
from torch import nn


class NAME(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.embed, self.head = nn.Embedding(vocab, 24), nn.Linear(24, vocab)
        self.body = nn.GRU(24, 24, batch_first=True)

    def forward(self, ids):
        return self.head(self.body(self.embed(ids))[0])
''',
    ),
    Template(
        studies=("multi_token_training",),
        takes="A function of a `Llama` that returns a module: (B, T + 1) symbols to the loss to "
        "follow and that of the next symbol, and `agreed(ids)`, see its task.",
        code='''
from paragone.lab.contestants.multi_token import Ahead


def NAME(model):
    return Ahead(model, depth=2, kind="parallel", weight=0.2)
''',
    ),
    Template(
        studies=("decoding",),
        takes="A function of a stage (`model`, `tokenizer`, `texts`, `budget`) that returns what "
        "`generate(speculate=)` takes: a name, a drafter, a smaller model, or None; see "
        "`paragone.lab.tasks.decoding.Stage`.",
        code='''
from paragone.language import PromptLookup


def NAME(stage):
    stage.plan = (4, 4, 1)
    return PromptLookup(longest=4, shortest=2)
''',
    ),
    Template(
        studies=("alignment",),
        takes="A function of a stage that trains `stage.model`, from `stage.pairs` or from "
        "`stage.reward(prompts, answers)`; see `paragone.lab.tasks.preference.Stage`.",
        code='''
from paragone.language import dpo


def NAME(stage):
    dpo(stage.model, None, stage.pairs, beta=0.3, lr=3e-4 * stage.pace, samples=0, cache=None,
        epochs=stage.effort["epochs"], seed=stage.seed)
''',
    ),
    Template(
        studies=("vision_language",),
        takes="A function of a scene and of those of `parameters`, `seconds`, `seed`, `threads` "
        "and `device` that it names; it returns a `paragone.multimodal.contract.VisionLanguage`.",
        code='''
from paragone.lab.contestants.vision_language import lossless

needs = {"part": ["learn"]}  # not the stability of Chameleons, not packing


def NAME(scene, parameters):
    return lossless(scene, parameters, head="flow", positions="1d")
''',
    ),
    Template(
        studies=("agents",),
        takes="A function of lessons and of those of `seconds`, `seed`, `threads` and `device` "
        "that it names; it returns a `paragone.multimodal.agent.Policy`, trained within `seconds`.",
        code='''
from paragone.multimodal.agent import Action, RandomClick, format_action

needs = {"part": ["learn"]}


class NAME(RandomClick):
    def __init__(self, lessons):
        super().__init__()

    def propose(self, context):
        rows, columns = context.screens[-1].pixels.shape[:2]
        middle = Action("click", {"start_box": (columns // 2, rows // 2)})
        return format_action(middle, self.dialect)
''',
    ),
)  # fmt: skip


def template_for(study: str) -> Template:
    """Returns the contestant to start from in a study.

    Args:
        study: Its name, as `compare` takes it.

    Raises:
        UsageError: No such study, or one that measures calls of its own.
    """
    from paragone.lab import studies

    found = studies.load(study)
    for one in TEMPLATES:
        if found.id in one.studies:
            return one
    ready = ", ".join(sorted(name for one in TEMPLATES for name in one.studies))
    raise UsageError(
        f"{found.id} times calls that were made for it, so that there is no contestant to start "
        f"from; studies with one: {ready}"
    )
