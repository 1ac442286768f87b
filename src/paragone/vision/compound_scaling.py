r"""Compound scaling: a network is made deeper, wider and given larger images in fixed proportion.

A convolution costs in proportion to its layers, to the square of its channels and to the pixels.
So with one coefficient $\phi$ for the budget,

$$ d = \alpha^\phi, \quad w = \beta^\phi, \quad r = \gamma^\phi, \quad
   \text{cost}(\phi) \approx (\alpha \beta^2 \gamma^2)^\phi, $$

and $\alpha, \beta, \gamma \ge 1$ are found once, on the small network, under
$\alpha \beta^2 \gamma^2 \approx 2$, so that each step of $\phi$ doubles the cost. Real networks
have whole layers and channels in eights, and a small one jumps: in B0 a depth of 1.05 costs 1.48
times as much, and $\phi = 1, 2, 3$ with the paper's factors cost 2.23, 4.69 and 8.40 times as much,
not 2, 4 and 8. So `search_scaling` and `scale_to` count the multiply-adds of the network that would
be built.

Cost: the search counts some hundred networks on shapes alone and calls `evaluate` once for each
that fits the budget and differs from the others.

References:
    Tan and Le (2019), "EfficientNet", arXiv:1905.11946, eq. 2 and 3, section 3.3, steps 1 and 2;
    figure 3 (one dimension at a time).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from paragone.vision.contract import Backbone
from paragone.vision.efficientnet import efficientnet

__all__ = [
    "Scaling", "ScalingSearch", "ScalingTrial", "compound_scaling", "scale_to", "search_scaling",
]  # fmt: skip

Along = Literal["compound", "depth", "width", "resolution"]

_REACH = 256
_FAR = 12.0
_NEAR = math.log2(1.002)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Factors of a network's layers, channels and image sides.

    Attributes:
        depth: Factor d of the repeats of each stage.
        width: Factor w of all channels.
        resolution: Factor r of height and width of the images.
    """

    depth: float
    width: float
    resolution: float

    @property
    def cost(self) -> float:
        """Factor of the multiply-adds, d w^2 r^2, before anything is rounded."""
        return self.depth * self.width**2 * self.resolution**2

    def side(self, base: int = 224, multiple: int = 4) -> int:
        """Returns height and width of the images in pixels.

        Args:
            base: Pixels at resolution 1.
            multiple: What the side is rounded to.
        """
        return max(multiple, round(base * self.resolution / multiple) * multiple)

    def build(self, network: Callable[..., Backbone] = efficientnet, **options: Any) -> Backbone:
        """Returns the network; only factors other than 1 are handed to its function."""
        factors = {"depth": self.depth, "width": self.width}
        return network(**{k: v for k, v in factors.items() if v != 1}, **options)

    def macs(
        self, network: Callable[..., Backbone] = efficientnet, base: int = 224, multiple: int = 4
    ) -> int:
        """Returns the multiply-adds of the network that `build` returns, at `side`."""
        side = self.side(base, multiple)
        return self.build(network, device="meta").macs((side, side))


def compound_scaling(
    phi: float, alpha: float = 1.2, beta: float = 1.1, gamma: float = 1.15
) -> Scaling:
    r"""Returns depth $\alpha^\phi$, width $\beta^\phi$ and resolution $\gamma^\phi$.

    Prefer it to making a network deeper or wider alone where there is a budget to be spent: each
    alone stops paying sooner. For a given number of multiply-adds see `scale_to`.

    Args:
        phi: Exponent: 0 is the network itself, each step costs about twice as much.
        alpha: Factor of depth for a step.
        beta: Factor of width for a step.
        gamma: Factor of resolution for a step.

    Raises:
        ValueError: A factor below 1, or a number that is not finite.

    Example:
        >>> s = compound_scaling(1)
        >>> s.depth, s.width, s.resolution, s.side(224), round(s.cost, 2)
        (1.2, 1.1, 1.15, 256, 1.92)
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        if not 1 <= value < math.inf:
            raise ValueError(f"{name}={value} makes no larger network: use 1 and above")
    if not math.isfinite(phi):
        raise ValueError(f"phi={phi} is no exponent: use a finite number, such as 1")
    return Scaling(alpha**phi, beta**phi, gamma**phi)


def scale_to(
    budget_macs: float, along: Along = "compound", *, alpha: float = 1.2, beta: float = 1.1,
    gamma: float = 1.15, network: Callable[..., Backbone] = efficientnet, base: int = 224,
    multiple: int = 4,
) -> Scaling:  # fmt: skip
    """Returns the scaling whose network comes nearest to a number of multiply-adds.

    Counts come in steps (whole layers, channels in eights, maps of whole pixels), so the nearest
    may be some percent off, more for small images: ask the result's `macs`. It looks no further
    once it is within 0.2 %.

    Args:
        budget_macs: Multiply-adds of one image.
        along: "compound", or one dimension alone.
        alpha: Factor of depth for a step of "compound".
        beta: Factor of width.
        gamma: Factor of resolution.
        network: Function with arguments `depth`, `width` (those that are scaled) and `device`.
        base: Image side in pixels at resolution 1.
        multiple: What image sides are rounded to.

    Raises:
        ValueError: An unknown dimension, or a budget that it does not reach.

    Example:
        >>> scale_to(385_814_752)
        Scaling(depth=1.0, width=1.0, resolution=1.0)
    """
    steps: dict[str, tuple[float, float, float]] = {
        "compound": (alpha, beta, gamma), "depth": (2.0, 1.0, 1.0),
        "width": (1.0, math.sqrt(2.0), 1.0), "resolution": (1.0, 1.0, math.sqrt(2.0)),
    }  # fmt: skip
    if along not in steps:
        raise ValueError(f"along={along!r} is none of {', '.join(steps)}")
    count = _Counter(network, base, multiple)
    own = count(Scaling(1, 1, 1))
    if not own / _REACH <= budget_macs <= own * _REACH:
        raise ValueError(
            f"budget_macs={budget_macs:.4g} is out of reach: the network has {own:,}, use "
            f"{own / _REACH:.4g} to {own * _REACH:.4g}"
        )
    seen: dict[float, float] = {}

    def excess(phi: float) -> float:
        if phi not in seen:
            seen[phi] = math.log2(count(compound_scaling(phi, *steps[along])) / budget_macs)
        return seen[phi]

    low = high = 0.0
    while excess(high) < 0 and high < _FAR:
        low, high = high, high + max(0.25, min(1.0, -excess(high)))
    while excess(low) > 0 and low > -_FAR:
        high, low = low, low - max(0.25, min(1.0, excess(low)))
    if excess(low) > 0 or excess(high) < 0:
        raise ValueError(
            f"budget_macs={budget_macs:.4g} is out of reach along {along}: its networks have "
            f"{budget_macs * 2 ** min(seen.values()):.4g} to "
            f"{budget_macs * 2 ** max(seen.values()):.4g}"
        )
    while high - low > 1 / 256 and min(-excess(low), excess(high)) > _NEAR:
        # Between the middle and where a straight line would have it, as the count has steps.
        line = low + (high - low) * excess(low) / (excess(low) - excess(high))
        middle = (line + (low + high) / 2) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return compound_scaling(min(seen, key=lambda phi: abs(seen[phi])), *steps[along])


@dataclasses.dataclass(frozen=True)
class ScalingTrial:
    """One triple of the grid.

    Attributes:
        alpha: Factor of depth.
        beta: Factor of width.
        gamma: Factor of resolution.
        macs: Multiply-adds of the network at phi = 1, counted.
        score: What `evaluate` said.
    """

    alpha: float
    beta: float
    gamma: float
    macs: int
    score: float


@dataclasses.dataclass(frozen=True)
class ScalingSearch:
    """What the search found.

    Attributes:
        alpha: Factor of depth of the best trial.
        beta: Factor of width.
        gamma: Factor of resolution.
        score: Its score.
        trials: All of them, in the order of the grid.
        base_macs: Multiply-adds of the network that is scaled.
    """

    alpha: float
    beta: float
    gamma: float
    score: float
    trials: tuple[ScalingTrial, ...]
    base_macs: int


def search_scaling(
    evaluate: Callable[[float, float, float], float], budget: float = 2.0, *, step: float = 0.05,
    tolerance: float = 0.05, counted: bool = True, phi: float = 1.0,
    network: Callable[..., Backbone] = efficientnet, base: int = 224, multiple: int = 4,
    store: str | os.PathLike[str] | None = None,
) -> ScalingSearch:  # fmt: skip
    r"""Tries all $\alpha, \beta, \gamma$ of a grid that meet a budget, and returns the best.

    Prefer it to the paper's 1.2, 1.1, 1.15 on images of your own kind: the best proportion of a
    small network on small images is another one.

    Args:
        evaluate: Called with depth, width and resolution (factors; `Scaling(...).side(base)` is
            the image side); trains and tests such a network and returns a score, the higher the
            better. A score of nan is kept and never the best.
        budget: Cost of a step, as a multiple of the network's.
        step: Width of the grid, from 1 upwards.
        tolerance: Relative distance from the budget that is allowed.
        counted: Whether the multiply-adds are counted on the real network, or taken as
            $\alpha \beta^2 \gamma^2$ as in the paper.
        phi: Exponent at which networks are compared.
        network: Function with arguments `depth`, `width` and `device`.
        base: Image side in pixels at resolution 1.
        multiple: What image sides are rounded to.
        store: File that each score is written to at once; a search that was stopped and is called
            again with the same arguments goes on from there.

    Raises:
        ValueError: A number out of range, a grid without a triple that fits, a store of another
            search, or no finite score.

    Example:
        >>> found = search_scaling(lambda d, w, r: d, step=1.0, counted=False)
        >>> found.alpha, found.beta, found.gamma
        (2.0, 1.0, 1.0)
    """
    for name, value, least in (("budget", budget, 1), ("step", step, 0), ("phi", phi, 0)):
        if not least < value < math.inf:
            raise ValueError(f"{name}={value} is out of range: use a number above {least}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance} is out of range: use one between 0 and 1")
    count = _Counter(network, base, multiple)
    fits = _counted_grid if counted else _formula_grid
    head = {"search": "scaling", "budget": budget, "step": step, "tolerance": tolerance,
            "counted": counted, "phi": phi, "base": base, "multiple": multiple,
            "macs": count(Scaling(1, 1, 1))}  # fmt: skip
    known = _Store(store, head)
    trials: list[ScalingTrial] = []
    for alpha, beta, gamma in fits(count, budget, step, tolerance, phi):
        scaling = compound_scaling(phi, alpha, beta, gamma)
        key = json.dumps([alpha, beta, gamma])
        if key not in known.scores:
            score = float(evaluate(scaling.depth, scaling.width, scaling.resolution))
            known.add(key, score)
        macs = count(scaling)
        trials.append(ScalingTrial(alpha, beta, gamma, macs, known.scores[key]))
    finite = [trial for trial in trials if not math.isnan(trial.score)]
    if not trials:
        raise ValueError(
            f"no triple of step={step} comes within tolerance={tolerance} of budget={budget}: "
            "take a smaller step or a larger tolerance"
        )
    if not finite:
        raise ValueError(f"evaluate gave no number for any of {len(trials)} networks, only nan")
    best = max(finite, key=lambda trial: trial.score)
    return ScalingSearch(best.alpha, best.beta, best.gamma, best.score, tuple(trials), head["macs"])


class _Counter:
    """Multiply-adds of scaled networks; what comes out as the same network is counted once."""

    def __init__(self, network: Callable[..., Backbone], base: int, multiple: int) -> None:
        self.network, self.base, self.multiple = network, base, multiple
        self._counts: dict[tuple[Any, ...], int] = {}
        self._kinds: dict[tuple[float, float], tuple[Any, ...]] = {}
        self._built: tuple[tuple[float, float], Backbone] | None = None

    def __call__(self, scaling: Scaling) -> int:
        kind, side = self.same(scaling), scaling.side(self.base, self.multiple)
        if kind not in self._counts:
            self._counts[kind] = self._network(scaling).macs((side, side))
        return self._counts[kind]

    def same(self, scaling: Scaling) -> tuple[Any, ...]:
        """Returns what two scalings have in common that lead to one network and one image."""
        factors = (scaling.depth, scaling.width)
        if factors not in self._kinds:
            shapes = (tuple(p.shape) for p in self._network(scaling).parameters())
            self._kinds[factors] = tuple(shapes)
        return self._kinds[factors], scaling.side(self.base, self.multiple)

    def _network(self, scaling: Scaling) -> Backbone:
        factors = (scaling.depth, scaling.width)
        if self._built is None or self._built[0] != factors:
            self._built = factors, scaling.build(self.network, device="meta")
        return self._built[1]


def _axis(step: float, end: float) -> list[float]:
    return [round(1 + i * step, 10) for i in range(int((end - 1) / step + 1e-9) + 1)]


def _formula_grid(
    count: _Counter, budget: float, step: float, tolerance: float, phi: float
) -> Iterator[tuple[float, float, float]]:
    most = budget * (1 + tolerance)
    root = _axis(step, math.sqrt(most))
    for alpha, beta, gamma in itertools.product(_axis(step, most), root, root):
        if abs(alpha * beta**2 * gamma**2 / budget - 1) <= tolerance:
            yield alpha, beta, gamma


def _counted_grid(
    count: _Counter, budget: float, step: float, tolerance: float, phi: float
) -> Iterator[tuple[float, float, float]]:
    """Rises along gamma, beta, alpha and turns back where the budget is passed; no network twice.

    More of anything never costs less, so nothing behind a triple that costs too much fits.
    """
    aim = count(Scaling(1, 1, 1)) * budget**phi
    seen: set[tuple[Any, ...]] = set()
    most = aim * (1 + tolerance)
    for alpha in itertools.takewhile(
        lambda a: count(compound_scaling(phi, a, 1, 1)) <= most, _rising(step)
    ):
        for beta in _rising(step):
            if count(compound_scaling(phi, alpha, beta, 1)) > most:
                break
            for gamma in _rising(step):
                scaling = compound_scaling(phi, alpha, beta, gamma)
                if count(scaling) > most:
                    break
                if count(scaling) >= aim * (1 - tolerance):
                    same = count.same(scaling)
                    if same not in seen:
                        seen.add(same)
                        yield alpha, beta, gamma


def _rising(step: float) -> Iterator[float]:
    return (round(1 + i * step, 10) for i in itertools.count())


class _Store:
    """Scores by triple, one line each in a file behind a line that says whose they are."""

    def __init__(self, file: str | os.PathLike[str] | None, head: dict[str, Any]) -> None:
        self.file = None if file is None else Path(file)
        self.scores: dict[str, float] = {}
        if self.file is None:
            return
        if not self.file.exists() or not self.file.stat().st_size:
            self.file.write_text(json.dumps(head) + "\n", encoding="utf-8")
            return
        lines = self.file.read_text(encoding="utf-8").split("\n")
        try:
            found = json.loads(lines[0])
        except json.JSONDecodeError:
            found = None
        if found != head:
            raise ValueError(
                f"{self.file} holds another search ({lines[0][:200]}), this one is "
                f"{json.dumps(head)}: give another store"
            )
        whole = lines[1:-1]
        for number, line in enumerate(whole, 2):
            try:
                entry = json.loads(line)
                self.scores[json.dumps(entry["at"])] = float(entry["score"])
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{self.file}, line {number}: expected a triple and its score, found "
                    f"{line[:80]!r}"
                ) from error
        # A line that was cut off while it was written is dropped, and its triple tried again.
        self.file.write_text("".join(f"{line}\n" for line in [lines[0], *whole]), encoding="utf-8")

    def add(self, key: str, score: float) -> None:
        self.scores[key] = score
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"at": json.loads(key), "score": score}) + "\n")
