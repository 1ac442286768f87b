r"""What only the study `backbones` can say: equal seconds, equal networks, and claims of papers.

At equal seconds a network that costs less sees more images; at equal steps all see the same. The
two orders differ, and the first is the one that a user without a GPU lives by. How far
multiply-adds tell the time is the rank correlation over the networks of one size of image:

$$ \rho = 1 - \frac{6 \sum_i (r_i - s_i)^2}{n (n^2 - 1)} . $$
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from paragone.lab import format as fmt
from paragone.lab.claims import seen
from paragone.lab.contestants.backbones import PAIRS
from paragone.lab.growth import by_workload
from paragone.lab.outcome import ClaimResult, Summary
from paragone.lab.spec import Claim, Workload

__all__ = ["CLAIMS", "findings", "priced", "rank_correlation"]

_SAME = 0.01
_EQUAL_SECONDS = ("seconds", "data")

Told = tuple[str, bool | None]


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _value(summary: Summary, name: str, place: str, measure: str = "accuracy") -> float | None:
    return by_workload(summary, name, measure).get(place)


def _values(summary: Summary, place: str, measure: str) -> dict[str, float]:
    found = {c.id: _value(summary, c.id, place, measure) for c in summary.contestants}
    return {name: value for name, value in found.items() if value is not None}


def _recorded(summary: Summary, name: str, place: str) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for record in summary.records:
        mine = (record.get("contestant"), record.get("workload")) == (name, place)
        if mine and record.get("status") == "ok":
            found |= record.get("values", {})
    return found


def _word(summary: Summary, a: str, b: str, place: str) -> str:
    """How `a` stands to `b` in accuracy, by the paired comparison."""
    turned = {"better": "worse", "worse": "better"}
    for one in summary.differences:
        if (one.measure, one.workload) == ("accuracy", place):
            if (one.a, one.b) == (a, b):
                return one.word
            if (one.a, one.b) == (b, a):
                return turned.get(one.word, one.word)
    return "inconclusive"


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's, of numbers without ties.

    Example:
        >>> rank_correlation([1, 2, 3], [10, 30, 20])
        0.5
    """
    ranks = [{i: r for r, i in enumerate(sorted(range(len(v)), key=v.__getitem__))} for v in (x, y)]
    n = len(x)
    gaps = sum((ranks[0][i] - ranks[1][i]) ** 2 for i in range(n))
    return 1 - 6 * gaps / (n * (n * n - 1))


def _equal_seconds(summary: Summary, place: Workload) -> list[str]:
    """The best at equal seconds, and what the network of the papers got for them."""
    accuracy = _values(summary, place.id, "accuracy")
    if len(accuracy) < 2:
        return []
    seconds = float(place.facts["seconds"])
    best = max(accuracy, key=lambda name: accuracy[name])
    told = f"With the same {seconds:g} s of training {_title(summary, best)} is right in "
    told += f"{accuracy[best]:.1%} of the test images"
    seen_by, macs = (_values(summary, place.id, name) for name in ("seen", "macs"))
    other = "efficientnet_b0"
    if other in accuracy and other != best and {best, other} <= seen_by.keys() & macs.keys():
        lighter = "lighter" if macs[best] < macs[other] else "heavier"
        gap = accuracy[best] - accuracy[other]
        sides = "the same" if gap < _SAME else f"{accuracy[other]:.1%}"
        told += (
            f", EfficientNet-B0 in {sides}: the {lighter} network saw {seen_by[best]:,.0f} images, "
            f"B0 {seen_by[other]:,.0f}"
        )
    return [told + "."]


def _equal_networks(summary: Summary, place: Workload) -> list[str]:
    """A rival's network and ours of the same name: what each did with the same seconds."""
    told = []
    steps, accuracy = (_values(summary, place.id, name) for name in ("step_s", "accuracy"))
    for rival, ours in PAIRS.items():
        if not {rival, ours} <= steps.keys() & accuracy.keys():
            continue
        ratio = steps[rival] / steps[ours]
        word = "faster" if ratio > 1 else "slower"
        told.append(
            f"{_title(summary, ours)} here trains {max(ratio, 1 / ratio):.2f}x {word} than "
            f"{_title(summary, rival)}, an image at a time of the batch, and is right in "
            f"{accuracy[ours]:.1%} against {accuracy[rival]:.1%}."
        )
    return told


def priced(summary: Summary) -> str:
    """The workload whose costs are looked at: as published, or else as trained."""
    places = [w.id for w in summary.workloads]
    return next((p for p in ("cost", *_EQUAL_SECONDS) if p in places), "")


def _cost_per(summary: Summary) -> dict[str, float]:
    """Seconds of an image of a batch for each multiply-add."""
    macs, times = (_values(summary, priced(summary), name) for name in ("macs", "batch_s"))
    return {name: times[name] / macs[name] for name in macs.keys() & times.keys() if macs[name]}


def _time_of_macs(summary: Summary) -> list[str]:
    per = _cost_per(summary)
    if len(per) < 3:
        return []
    low, high = (pick(per, key=lambda name: per[name]) for pick in (min, max))
    return [
        f"A thousand million multiply-adds take {_title(summary, low)} "
        f"{fmt.seconds(1e9 * per[low])} and {_title(summary, high)} "
        f"{fmt.seconds(1e9 * per[high])}."
    ]


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    told = []
    for place in summary.workloads:
        if place.id in _EQUAL_SECONDS:
            told += [*_equal_seconds(summary, place), *_equal_networks(summary, place)]
    return [*told, *_time_of_macs(summary)]


def _judged(text: str, source: str, look: Callable[[Summary], Told | None]) -> Claim:
    """A claim that may stay open where the comparison is inconclusive."""

    def check(summary: Summary) -> ClaimResult:
        measured, holds = look(summary) or ("not measured here", None)
        verdict = "not tested" if holds is None else "holds" if holds else "does not hold"
        return ClaimResult(text=text, source=source, measured=measured, verdict=verdict)

    return Claim(text=text, source=source, check=check)


def _separable(summary: Summary) -> tuple[str, bool] | None:
    told, exact = [], True
    for contestant in summary.contestants:
        values = _recorded(summary, contestant.id, priced(summary))
        if "separable_full" not in values or contestant.origin != "paragone":
            continue
        exact &= abs(values["separable_macs"] / values["separable_formula"] - 1) < 1e-9
        told.append((values["separable_macs"] / values["separable_full"], contestant.title))
    if not told:
        return None
    told.sort()
    low, high = told[0], told[-1]
    words = f"counted over all their pairs: {low[0]:.1%} in {low[1]}"
    words += f" to {high[0]:.1%} in {high[1]}" if high != low else ""
    return f"{words}; the formula gives {'the same' if exact else 'something else'}", exact


def _compound(summary: Summary) -> Told | None:
    place, whole = "scaling", "b0_compound"
    ours = _value(summary, whole, place)
    parts = {
        name: _value(summary, f"b0_{name}", place) for name in ("depth", "width", "resolution")
    }
    known = {name: value for name, value in parts.items() if value is not None}
    if ours is None or len(known) < 3:
        return None
    plain = _value(summary, "b0_none", place)
    words = ", ".join(f"{name} alone {value:.1%}" for name, value in known.items())
    words = f"together {ours:.1%}, {words}" + (f", not scaled {plain:.1%}" if plain else "")
    found = [_word(summary, whole, f"b0_{name}", place) for name in known]
    if all(word in ("better", "same") for word in found) and "better" in found:
        return words, True
    return words, False if "worse" in found else None


def _extreme(summary: Summary) -> Told | None:
    place = "parameters"
    pair = [_value(summary, name, place) for name in ("xception", "inception_v3")]
    if None in pair:
        return None
    sizes = [_value(summary, n, place, "parameters") for n in ("xception", "inception_v3")]
    words = f"Xception {pair[0]:.1%}, Inception-v3 {pair[1]:.1%} of the test images"
    words += f" with {sizes[0]:,.0f} and {sizes[1]:,.0f} parameters" if None not in sizes else ""
    word = _word(summary, "xception", "inception_v3", place)
    return words, None if word == "inconclusive" else word == "better"


def _fewer(
    summary: Summary, light: str, heavy: str, places: Sequence[str] = _EQUAL_SECONDS
) -> Told | None:
    """Whether a network is as accurate as another with fewer multiply-adds."""
    for place in places:
        accuracy = [_value(summary, name, place) for name in (light, heavy)]
        macs = [_value(summary, name, place, "macs") for name in (light, heavy)]
        if None in accuracy or None in macs:
            continue
        share = float(macs[0] or 0) / float(macs[1] or 1)
        words = (
            f"{_title(summary, light)} {accuracy[0]:.1%} with {share:.2f} of the multiply-adds of "
            f"{_title(summary, heavy)}, {accuracy[1]:.1%}"
        )
        word = _word(summary, light, heavy, place)
        holds = word in ("better", "same") and share < 1
        return words, None if word == "inconclusive" and share < 1 else holds
    return None


def _not_the_time(summary: Summary) -> tuple[str, bool] | None:
    per = _cost_per(summary)
    if len(per) < 4:
        return None
    macs, times = (_values(summary, priced(summary), name) for name in ("macs", "batch_s"))
    names = sorted(per)
    rho = rank_correlation([macs[n] for n in names], [times[n] for n in names])
    spread = max(per.values()) / min(per.values())
    return f"one multiply-add takes up to {spread:.1f}x as long in one network as in another; " \
        f"the ranks of {len(names)} networks correlate by {rho:.2f}", spread > 2  # fmt: skip


def _against_resnet(summary: Summary) -> tuple[str, bool] | None:
    names = ("efficientnet_b0", "resnet50")
    macs, sizes = (
        [_value(summary, name, "cost", measure) for name in names]
        for measure in ("macs", "parameters")
    )
    if None in macs or None in sizes:
        return None
    times, smaller = (
        float(macs[1] or 0) / float(macs[0] or 1),
        float(sizes[1] or 0) / float(sizes[0] or 1),
    )
    words = f"ResNet-50 has {smaller:.1f}x the parameters and {times:.1f}x the multiply-adds"
    return words, smaller > 4.6 and times > 10


CLAIMS = (
    seen("A depthwise separable convolution costs 1/C' + 1/k^2 of a full one.",
         "Howard et al. (2017), MobileNets, arXiv:1704.04861, section 3.1", _separable),
    _judged("Scaling depth, width and resolution together beats scaling one of them to the same "
            "multiply-adds.", "Tan and Le (2019), EfficientNet, arXiv:1905.11946, figure 8",
            _compound),
    _judged("Xception is better than Inception-v3 with as many parameters.",
            "Chollet (2017), Xception, arXiv:1610.02357, section 4.5", _extreme),
    _judged("ShuffleNetV2 is as accurate as MobileNet with fewer multiply-adds.",
            "Ma et al. (2018), ShuffleNet V2, arXiv:1807.11164, table 8",
            lambda summary: _fewer(summary, "shufflenet_v2", "mobilenet_v1")),
    _judged("MobileNetV2 is as accurate as MobileNet with fewer multiply-adds.",
            "Sandler et al. (2018), MobileNetV2, arXiv:1801.04381, table 4",
            lambda summary: _fewer(summary, "mobilenet_v2", "mobilenet_v1")),
    seen("Multiply-adds alone do not tell the time.",
         "Ma et al. (2018), ShuffleNet V2, arXiv:1807.11164, section 1", _not_the_time),
    seen("EfficientNet-B0 is 4.9x smaller than ResNet-50 with 11x fewer multiply-adds.",
         "Tan and Le (2019), EfficientNet, arXiv:1905.11946, table 2", _against_resnet),
)  # fmt: skip
