r"""The contestants of `agents`: one agent, changed in one respect at a time, and rows beside it.

A stranger's contestant is a function of `Lessons` that returns a policy, see `lab.tasks.agents`.
Ours are all `UITars` of one size, trained on the same demonstrations by `imitate`, for as many
steps as the budget of CPU seconds has room for. What differs is what sees (patches, MoonViT,
codes), how many screenshots are shown, whether thoughts are learned, how finely a screenshot is
cut, and what the last part of the budget goes to: more imitation, or the agent's own mistakes and a
preference for what mends them.

The clock counts the process and its children, so that a browser in which mistakes are found is paid
for like arithmetic.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, sections 4.4 (history), 4.5 (reflection, DPO).
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab.probe import descendants
from paragone.lab.spec import Contestant

__all__ = ["Shown", "agent", "clock", "contestants", "first_widget", "oracle", "random_click"]

_AGENT = "paragone.multimodal.agent."
_HERE = "paragone.lab.contestants.agents:"
_TASK = "paragone.lab.tasks.agents:"
_BATCH, _TRIED = 32, 4
_SCREENS = 300
"""Screens that a codebook is trained on."""
_CODES_SHARE = 0.2
"""Share of the budget that a codebook is trained for."""
_SEARCH, _PREFER = 0.15, 0.15
"""Shares of the budget in which mistakes are found, and learned from."""
_PREFER_RATE = 1e-4


def clock() -> float:
    """CPU seconds of this process and of its children, a browser's among them."""
    spent = time.process_time()
    tick = os.sysconf("SC_CLK_TCK")
    for child in descendants(os.getpid()):
        try:
            with open(f"/proc/{child}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        spent += (int(fields[11]) + int(fields[12])) / tick
    return spent


def _cut(sample: Any, screenshots: int, thoughts: bool) -> Any:
    context = sample.context
    changed: dict[str, Any] = {"screens": context.screens[-screenshots:]}
    wanted = sample.wanted
    if not thoughts:
        plain = [dataclasses.replace(one, thought="") for one in context.history]
        changed["history"] = tuple(plain)
        wanted = dataclasses.replace(wanted, action=dataclasses.replace(wanted.action, thought=""))
    context = dataclasses.replace(context, **changed)
    return dataclasses.replace(sample, context=context, wanted=wanted)


class Shown(Sequence[Any]):
    """Samples as a contestant sees them: with so many screenshots, with or without thoughts.

    Args:
        samples: Read when they are asked for.
        screenshots: The last ones that are kept.
        thoughts: Whether thoughts are kept.
    """

    def __init__(self, samples: Sequence[Any], screenshots: int, thoughts: bool = True):
        self.samples, self.screenshots, self.thoughts = samples, screenshots, thoughts

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        return _cut(self.samples[index], self.screenshots, self.thoughts)


@dataclasses.dataclass
class _Course:
    """A model on its way."""

    model: Any
    samples: Sequence[Any]
    seed: int
    began: float
    slow: float = 1.0
    seen: int = 0
    curve: list[tuple[float, float]] = dataclasses.field(default_factory=list)

    @property
    def spent(self) -> float:
        return clock() - self.began

    def _trained(self, model: Any, steps: int, seed: int) -> Any:
        return resolve(_AGENT + "imitation:imitate")(
            model, self.samples, steps=steps, batch=_BATCH, held_out=0.0, seed=seed,
        )  # fmt: skip

    def _cost(self, model: Any, steps: int) -> float:
        begun = self.spent
        self._trained(model, steps, self.seed)
        return self.spent - begun

    def imitate(self, until: float) -> None:
        """Learns the wanted actions until about so many seconds are spent in all.

        How many steps that are is told by the first ones of a copy, on the CPU's clock: a budget
        by the wall would give less training where the machine is busy.
        """
        copy = deepcopy(self.model)
        # A call has a price of its own, the first one a higher one: only the slope counts.
        self._cost(copy, 1)
        one = each = self._cost(copy, 1)
        if (1 + _TRIED) * one < 0.5 * (until - self.spent):
            each = max((self._cost(copy, 1 + _TRIED) - one) / _TRIED, 1e-3)
        del copy
        steps = max(1, int((until - self.spent - max(one - each, 0.0)) / each))
        before, begun = self.spent, time.perf_counter()
        found = self._trained(self.model, steps, self.seed)
        spent = self.spent - before
        self.slow = max(1.0, (time.perf_counter() - begun) / max(spent, 1e-9))
        self.seen += steps * _BATCH
        self.curve += [
            (before + spent * row["step"] / steps, row["loss"])
            for row in found.history if math.isfinite(row.get("loss", math.nan))
        ]  # fmt: skip
        self.model.eval()


def _reflect(course: _Course, lessons: Any, seconds: float, thoughts: bool) -> None:
    """Finds the agent's own mistakes in a browser, and learns to prefer what mends them."""
    model, found = course.model, []
    until = course.spent + _SEARCH * seconds
    with lessons.open_browser() as browser:
        found = resolve(_AGENT + "reflection:find_mistakes")(
            model, lessons.tasks, browser, range(lessons.seeds, lessons.seeds + 100_000),
            stop=lambda: course.spent >= until,
        )  # fmt: skip
    if not any(sample.rejected for sample in found):
        # An agent without mistakes goes on imitating.
        course.imitate(seconds)
        return
    room = max(seconds - course.spent, 0.02 * seconds)
    # `prefer` goes by the wall clock; on a busy machine the CPU is behind it.
    resolve(_AGENT + "reflection:prefer")(
        model, Shown(found, model.screenshots, thoughts), seconds=room * min(course.slow, 8.0),
        steps=10_000, lr=_PREFER_RATE, seed=course.seed,
    )  # fmt: skip
    model.eval()


def agent(
    lessons: Any,
    seconds: float,
    seed: int,
    threads: int,
    device: str,
    *,
    encoder: str = "patches",
    screenshots: int = 1,
    thoughts: bool = True,
    reflect: bool = False,
    sizes: Mapping[str, Any] | None = None,
) -> Any:
    """A `UITars`, trained until the budget is spent.

    Args:
        lessons: Demonstrations.
        seconds: Budget of a thread.
        seed: Of weights and batches.
        threads: Threads, whose CPU seconds count together.
        device: Where it is trained.
        encoder: "patches", "moonvit" or "vq".
        screenshots: How many it is shown.
        thoughts: Whether it learns the teacher's thoughts.
        reflect: Whether the last part of the budget goes to its own mistakes.
        sizes: Fields of `UITarsConfig` that differ.
    """
    torch = resolve("torch")
    samples = Shown(lessons.samples, screenshots, thoughts)
    model = resolve("paragone.multimodal.ui_tars:UITars").for_samples(
        samples, "small", encoder=encoder, screenshots=screenshots, device=device,
        generator=torch.Generator().manual_seed(seed), **(sizes or {}),
    )  # fmt: skip
    budget = seconds * threads
    course = _Course(model, samples, seed, clock())
    if encoder == "vq":
        _codebook(model, samples, budget, seed)
    course.imitate(budget * (1 - _SEARCH - _PREFER) if reflect else budget)
    if reflect:
        _reflect(course, lessons, budget, thoughts)
    return resolve(_TASK + "Built")(
        agent=model, parameters=sum(p.numel() for p in model.parameters()), seen=course.seen,
        curve=tuple(course.curve),
    )  # fmt: skip


def _codebook(model: Any, samples: Sequence[Any], budget: float, seed: int) -> None:
    """Trains the tokenizer of screens first, on some of them: a part of the budget."""
    some = np.random.default_rng(seed).permutation(len(samples))[:_SCREENS]
    screens = [samples[int(at)].context.screens[-1].pixels for at in some]
    own = model.encoder.stem.tokenizer
    fitted = resolve("paragone.multimodal:ImageTokenizer").fit(
        screens, own.config, seed=seed, seconds=_CODES_SHARE * budget
    )
    own.load_state_dict(fitted.tokenizer.state_dict())


def _beside(name: str) -> Callable[[Any], Any]:
    make = resolve(_AGENT + "baselines:BASELINES")[name]
    return lambda exercise: make(exercise)


def random_click(lessons: Any, seed: int) -> Any:
    """Clicks anywhere."""
    made = resolve(_AGENT + "baselines:RandomClick")(seed)
    return resolve(_TASK + "Built")(agent=made)


def first_widget(lessons: Any) -> Any:
    """Clicks one widget after another, in the page's order."""
    return resolve(_TASK + "Built")(agent=_beside("first-widget"), offline=False)


def oracle(lessons: Any) -> Any:
    """Does what the page's DOM says."""
    return resolve(_TASK + "Built")(agent=_beside("oracle"), offline=False)


def _one(id: str, title: str, note: str, crews: Sequence[str], **params: Any) -> Contestant:
    return Contestant(
        id=id, title=title, make=_HERE + "agent", params=params, method="ui_tars", note=note,
        needs={"part": ["learn"], "crew": list(crews)},
    )  # fmt: skip


def _row(id: str, title: str, note: str, part: str) -> Contestant:
    return Contestant(
        id=id, title=title, make=_HERE + id, origin="baseline", note=note,
        needs={"part": [part]},
    )  # fmt: skip


def contestants(sizes: Mapping[str, Any]) -> list[Contestant]:
    """One agent, changed in one respect at a time; chance, a rule, and a look into the page.

    Args:
        sizes: Fields of `UITarsConfig` that all share.
    """
    both, full = ("all", "quick"), ("all",)
    coarse = {**sizes, "patch": 2 * int(sizes.get("patch", 8))}
    return [
        _one("imitation", "imitation", "raw patches of 8 pixels, one screenshot, thoughts", both,
             sizes=dict(sizes)),
        _one("reflection", "imitation, reflection, DPO", "the last 30 % of the budget goes to its "
             "own mistakes", both, reflect=True, sizes=dict(sizes)),
        _one("moonvit", "MoonViT", "the encoder of Kimi-VL in place of convolutions", full,
             encoder="moonvit", sizes=dict(sizes)),
        _one("vq", "codes", "a codebook that a fifth of the budget goes to", full, encoder="vq",
             sizes=dict(sizes)),
        _one("history_2", "2 screenshots", "this one and the one before", full, screenshots=2,
             sizes=dict(sizes)),
        _one("history_5", "5 screenshots", "as UI-TARS has it", both, screenshots=5,
             sizes=dict(sizes)),
        _one("silent", "without thoughts", "actions alone", full, thoughts=False,
             sizes=dict(sizes)),
        _one("coarse", "patches of 16 pixels", "a quarter of the patches", both, sizes=coarse),
        _row("random_click", "random click", "anywhere on the screenshot", "learn"),
        _row("first_widget", "first widget", "one widget after another, in the page's order",
             "learn"),
        _row("oracle", "DOM oracle", "reads the page: what is possible", "possible"),
    ]  # fmt: skip
