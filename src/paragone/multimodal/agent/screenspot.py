r"""ScreenSpot: how often a model points at what an instruction names.

Every sample is a screenshot, an instruction and the box of the element meant. A prediction is right
if its point (the centre, where a box was predicted) lies in that box, edges included:

$$ \text{accuracy} = \frac{1}{n} \sum_{i=1}^{n} \mathbf{1}
   [\, l_i \le x_i \le r_i \;\wedge\; t_i \le y_i \le b_i \,] . $$

What is missing or cannot be read counts as wrong, is never left out of n, and is counted apart.
Text and icons are reported apart for every group, as the benchmarks do, each with a 95 % interval
of Wilson. The annotation files are read as published: boxes of ScreenSpot and ScreenSpot-V2 are
(x, y, width, height), those of ScreenSpot-Pro (left, top, right, bottom), all in pixels; mixing
these up costs most of the score without an error, so the benchmark must be named.

Cost: one reading of each text.

References:
    Cheng et al. (2024), SeeClick (ScreenSpot), arXiv:2401.10935; in files by group
    `screenspot_mobile.json`, …: img_filename, bbox, instruction, data_type, data_source.
    Wu et al. (2024), OS-Atlas (ScreenSpot-V2), arXiv:2410.23218; the same fields.
    Li et al. (2025), ScreenSpot-Pro, arXiv:2504.07981; id, img_filename, img_size, bbox,
    instruction, ui_type, group, platform, application.
    Wilson (1927), Probable inference, the law of succession, and statistical inference.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from paragone.multimodal.agent import _screenspot_files as files
from paragone.multimodal.agent._literals import box as read_box
from paragone.multimodal.agent.actions import DIALECTS, ActionError, parse
from paragone.multimodal.agent.contract import Point
from paragone.multimodal.agent.coordinates import Coordinates, Space, smart_resize

__all__ = ["Benchmark", "Rate", "ScreenSpotScores", "score_screenspot", "wilson"]

Benchmark = Literal["screenspot", "screenspot-v2", "screenspot-pro"]
"""Which annotations; they say differently what a box is."""


def wilson(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    r"""Wilson's interval of a share.

    $$ \frac{p + z^2/2n \pm z \sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n} $$

    Args:
        correct: Successes.
        total: Trials n.
        level: Share of such intervals that hold the true value.

    Returns:
        Its ends, from 0 to 1; (0, 1) without trials.

    Raises:
        ValueError: More successes than trials, or a level that is not between 0 and 1.

    Example:
        >>> [round(end, 3) for end in wilson(8, 10)]
        [0.49, 0.943]
    """
    if not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total}: expected 0 <= correct <= total")
    if not 0 < level < 1:
        raise ValueError(f"level={level}: expected a share between 0 and 1, such as 0.95")
    if not total:
        return 0.0, 1.0
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    share, extra = correct / total, z * z / total
    middle = (share + extra / 2) / (1 + extra)
    half = z * math.sqrt(share * (1 - share) / total + extra / (4 * total)) / (1 + extra)
    low = 0.0 if correct == 0 else max(0.0, middle - half)
    return low, 1.0 if correct == total else min(1.0, middle + half)


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of samples.

    Attributes:
        correct: Samples that are right.
        total: All samples.
    """

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """The share; NaN without samples."""
        return self.correct / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 %."""
        return wilson(self.correct, self.total)

    def __str__(self) -> str:
        low, high = self.interval
        if not self.total:
            return "-"
        return f"{100 * self.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}] of {self.total}"


Table = Mapping[str, Mapping[str, Rate]]


@dataclasses.dataclass(frozen=True)
class ScreenSpotScores:
    """What `score_screenspot` found.

    Attributes:
        benchmark: Which one.
        overall: All samples.
        by_group: By group (mobile, desktop, web; or those of ScreenSpot-Pro), then "text", "icon"
            and "all".
        by_platform: By platform or source, likewise.
        by_application: By application (ScreenSpot-Pro alone), likewise.
        unparsable: Samples whose prediction holds no point; wrong, and in `overall`.
        missing: Samples without a prediction; wrong, and in `overall`.
        right: Of each sample in turn, for comparing two models on the same ones.
        reasons: Of predictions that hold no point, with their number, most frequent first.
    """

    benchmark: Benchmark
    overall: Rate
    by_group: Table
    by_platform: Table
    by_application: Table
    unparsable: int
    missing: int
    right: tuple[bool, ...]
    reasons: Mapping[str, int]

    @property
    def accuracy(self) -> float:
        """Right samples among all of them."""
        return self.overall.accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 % of the accuracy."""
        return self.overall.interval

    @property
    def mean_of_groups(self) -> float:
        """The mean over text and icons of every group, each weighing the same."""
        cells = [row[kind].accuracy for row in self.by_group.values() for kind in files.KINDS]
        return statistics.fmean(one for one in cells if not math.isnan(one))

    def __str__(self) -> str:
        rows = [("", "text", "icon", "all")]
        for table in (self.by_group, self.by_platform, self.by_application):
            rows += [
                (name, *(str(row[kind]) for kind in (*files.KINDS, "all")))
                for name, row in table.items()
            ]
        widths = [max(len(row[at]) for row in rows) for at in range(4)]
        lines = [f"{self.benchmark}: {self.overall} (percent, 95 % interval)"]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines.append(f"counted as wrong: {self.unparsable} without a point, {self.missing} missing")
        lines += [f"  {number} x {reason}" for reason, number in [*self.reasons.items()][:3]]
        return "\n".join(lines)


def score_screenspot(
    annotations: str | Path | Sequence[Mapping[str, Any]],
    predictions: str | Path | Sequence[Any] | Mapping[Any, Any],
    benchmark: Benchmark = "screenspot",
    *,
    dialect: str = "ui-tars-1.5",
    space: Space | None = None,
    images: str | Path | None = None,
    resize: Callable[[int, int], tuple[int, int]] = smart_resize,
) -> ScreenSpotScores:
    """Scores predictions on the published annotations.

    Args:
        annotations: A JSON or JSONL file, a folder of JSON files, or what they hold.
        predictions: One for each annotation in turn, or by the annotations' ids: a mapping, or
            entries with an "id"; from a JSON or JSONL file or loaded. Each is a text of the
            dialect, a point [x, y], a box of 4 numbers, None (missing), or an object with "text"
            (or "response", "prediction", "output") or "point" (or "pred"), and maybe "space".
        benchmark: Which annotations they are.
        dialect: Of texts.
        space: In which points lie: "pixels" of the screenshot, "resized" ones, "relative-1" or
            "relative-1000". An entry's own "space" comes first. Without either, texts are in the
            space of their dialect and points in pixels.
        images: Folder of the screenshots, whose sizes are read where annotations do not give them
            (`img_size`: width, height); pixels need none.
        resize: From rows and columns to those that the model saw, for "resized".

    Returns:
        The scores; `str()` gives a table.

    Raises:
        ValueError: An unknown benchmark, dialect or space, annotations that are not as published,
            predictions that do not belong to them, or a size that is needed and unknown.

    Example:
        >>> sample = {"img_filename": "web_1.png", "bbox": [10, 20, 30, 40], "data_type": "icon"}
        >>> score_screenspot([sample], [(40, 60)]).accuracy
        1.0
    """
    if benchmark not in get_args(Benchmark):
        raise ValueError(f"benchmark={benchmark!r}: expected {', '.join(get_args(Benchmark))}")
    if dialect not in DIALECTS:
        raise ValueError(f"dialect={dialect!r}: expected one of {', '.join(DIALECTS)}")
    samples = files.read_annotations(annotations, benchmark)
    matched = files.match(samples, files.read_predictions(predictions))
    right: list[bool] = []
    reasons: dict[str, int] = {}
    missing = 0
    for sample, prediction in zip(samples, matched, strict=True):
        if prediction is None:
            missing += 1
            right.append(False)
            continue
        try:
            point, own = _point(prediction, dialect)
        except ActionError as error:
            reason = str(error).partition("expected")[2].strip() or str(error)
            reasons[f"expected {reason}"] = reasons.get(f"expected {reason}", 0) + 1
            right.append(False)
            continue
        right.append(_hit(sample, point, _space(own, space, prediction, dialect), images, resize))
    return _scores(benchmark, samples, right, missing, reasons)


def _point(prediction: Any, dialect: str) -> tuple[Point, Space | None]:
    """The point of a prediction and the space that it names itself."""
    own = None
    if isinstance(prediction, Mapping):
        own = prediction.get("space")
        prediction = files.held(prediction)
    if isinstance(prediction, str):
        return _point_of_text(prediction, dialect), own
    numbers = prediction
    if not isinstance(numbers, Sequence) or len(numbers) not in (2, 4):
        raise ActionError("expected a text, a point or a box")
    if not all(
        isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one)
        for one in numbers
    ):
        raise ActionError("expected finite numbers")
    return ((numbers[0] + numbers[-2]) / 2, (numbers[1] + numbers[-1]) / 2), own


def _point_of_text(text: str, dialect: str) -> Point:
    try:
        points = [action.point for action in parse(text, dialect)]
    except ActionError:
        numbers = read_box(text)[0]
        if len(numbers) not in (2, 4):
            raise
        return (numbers[0] + numbers[-2]) / 2, (numbers[1] + numbers[-1]) / 2
    for point in points:
        if point is not None:
            return point
    raise ActionError("expected an action with a point")


def _space(own: Any, given: Space | None, prediction: Any, dialect: str) -> Space:
    text = files.held(prediction) if isinstance(prediction, Mapping) else prediction
    found = own or given or (DIALECTS[dialect].space if isinstance(text, str) else "pixels")
    if found not in get_args(Space):
        raise ValueError(f"space={found!r}: expected one of {', '.join(get_args(Space))}")
    return found


def _hit(
    sample: files.Annotation,
    point: Point,
    space: Space,
    images: str | Path | None,
    resize: Callable[[int, int], tuple[int, int]],
) -> bool:
    left, top, right, bottom = sample.box
    x, y = point
    if space == "pixels":
        return left <= x <= right and top <= y <= bottom
    rows, columns = files.size_of(sample, images)
    resized = resize(rows, columns) if space == "resized" else None
    across, down = Coordinates((rows, columns), space, resized).extent
    # Fractions of the image are compared, as the published scorers do.
    x, y = x / across, y / down
    return left / columns <= x <= right / columns and top / rows <= y <= bottom / rows


def _scores(
    benchmark: Benchmark,
    samples: Sequence[files.Annotation],
    right: Sequence[bool],
    missing: int,
    reasons: Mapping[str, int],
) -> ScreenSpotScores:
    def table(names: Iterable[str]) -> Table:
        found: dict[str, dict[str, Rate]] = {}
        for name, sample, hit in zip(names, samples, right, strict=True):
            row = found.setdefault(name, {kind: Rate(0, 0) for kind in (*files.KINDS, "all")})
            for kind in (sample.kind, "all"):
                row[kind] = Rate(row[kind].correct + hit, row[kind].total + 1)
        return {name: found[name] for name in sorted(found) if name}

    return ScreenSpotScores(
        benchmark,
        Rate(sum(right), len(right)),
        table(sample.group for sample in samples),
        table(sample.platform for sample in samples),
        table(sample.application for sample in samples),
        sum(reasons.values()),
        missing,
        tuple(right),
        dict(sorted(reasons.items(), key=lambda pair: -pair[1])),
    )
