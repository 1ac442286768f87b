"""What only the study `precision` can say: whether to scale here, and claims of papers."""

from __future__ import annotations

from collections.abc import Sequence

from paragone.lab import format as fmt
from paragone.lab.claims import seen
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Summary

__all__ = ["CLAIMS", "findings"]

SAME = 0.05
"""Share by which a loss may exceed that of fp32 and count as the same."""


def _ratios(summary: Summary, name: str, base: str = "fp32") -> dict[str, float]:
    """Workload to a contestant's loss as a multiple of another's."""
    mine, theirs = (by_workload(summary, each, "loss") for each in (name, base))
    return {w: mine[w] / theirs[w] for w in mine if theirs.get(w, 0.0) > 0.0}


def _words(ratios: dict[str, float]) -> str:
    return ", ".join(f"{w} {ratio - 1:+.1%}" for w, ratio in ratios.items())


def _scaling(summary: Summary) -> str:
    """Whether fp16 needs a scale, on each input."""
    plain, lost = _ratios(summary, "fp16_plain"), by_workload(summary, "fp16_plain", "underflow")
    words = [
        f"{'yes' if ratio > 1 + SAME else 'no'} on {w} ({lost.get(w, 0.0):.1%} of the gradients "
        f"vanish, loss {ratio - 1:+.1%} against fp32)"
        for w, ratio in plain.items()
    ]
    return f"Does fp16 need scaling? {fmt.join(words)}." if words else ""


def _masters(summary: Summary) -> str:
    """What weights without a float32 copy cost."""
    titles = (("fp16_bare", "fp16"), ("bf16_bare", "bf16"),
              ("bf16_stochastic", "bf16 rounded at random"))  # fmt: skip
    words = [f"{title} {_words(found)}" for name, title in titles
             if (found := _ratios(summary, name))]  # fmt: skip
    return f"Loss without master weights, against fp32: {'; '.join(words)}." if words else ""


def _bits(summary: Summary) -> str:
    """Whether 8 bits did."""
    words = [f"{title} {_words(found)}"
             for name, title in (("fp8", "scaled"), ("fp8_plain", "not scaled"))
             if (found := _ratios(summary, name))]  # fmt: skip
    return f"Loss with 8 bits (e4m3 forward, e5m2 back): {'; '.join(words)}." if words else ""


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    texts = (_scaling(summary), _masters(summary), _bits(summary))
    return [text for text in texts if text]


def _all_same(summary: Summary, name: str) -> tuple[str, bool] | None:
    found = _ratios(summary, name)
    if not found:
        return None
    return f"loss against fp32: {_words(found)}", max(found.values()) <= 1 + SAME


def _matches(summary: Summary) -> tuple[str, bool] | None:
    return _all_same(summary, "fp16")


def _bfloat(summary: Summary) -> tuple[str, bool] | None:
    return _all_same(summary, "bf16")


def _eight(summary: Summary) -> tuple[str, bool] | None:
    return _all_same(summary, "fp8")


def _needed(summary: Summary) -> tuple[str, bool] | None:
    plain, scaled = _ratios(summary, "fp16_plain"), _ratios(summary, "fp16")
    shared = sorted(set(plain) & set(scaled))
    if not shared:
        return None
    worse = [w for w in shared if plain[w] > scaled[w] * (1 + SAME)]
    saved = [w for w in worse if scaled[w] <= 1 + SAME]
    measured = f"without a scale {_words(plain)}; with one {_words(scaled)}"
    return measured, bool(worse) and saved == worse


def _constant(summary: Summary) -> tuple[str, bool] | None:
    found, skipped = _ratios(summary, "fp16_static"), by_workload(summary, "fp16_static", "skipped")
    scales = by_workload(summary, "fp16_static", "scale")
    if not found:
        return None
    words = ", ".join(f"{w} {scales.get(w, 0.0):g} ({skipped.get(w, 0.0):.1%} skipped, loss "
                      f"{ratio - 1:+.1%})" for w, ratio in found.items())  # fmt: skip
    return f"scales of the recorder: {words}", max(found.values()) <= 1 + SAME


def _copies(summary: Summary) -> tuple[str, bool] | None:
    bare: dict[str, float] = {}
    for name, base in (("fp16_bare", "fp16"), ("bf16_bare", "bf16")):
        found: Sequence[float] = list(_ratios(summary, name, base).values())
        if found:
            bare[name.partition("_")[0]] = max(found)
    if not bare:
        return None
    words = ", ".join(f"{name} up to {ratio - 1:+.1%}" for name, ratio in bare.items())
    return f"loss without masters against with: {words}", max(bare.values()) > 1.01


CLAIMS = (
    seen("fp16 with master weights and loss scaling reaches what float32 reaches.",
         "Micikevicius et al. (2018), section 4", _matches),
    seen("Some nets need the scale, others train in fp16 without: where it is missed, it restores "
         "the result.", "Micikevicius et al. (2018), section 3.2", _needed),
    seen("A constant scale serves, if the largest scaled gradient stays below 65504.",
         "Micikevicius et al. (2018), section 3.2", _constant),
    seen("Without float32 master weights updates are rounded away and the result suffers.",
         "Micikevicius et al. (2018), section 3.1", _copies),
    seen("bf16 needs no scale.", "Kalamkar et al. (2019), section 1", _bfloat),
    seen("e4m3 forward and e5m2 backward reach what 16 bits reach.",
         "Micikevicius et al. (2022), section 4.1", _eight),
)  # fmt: skip
