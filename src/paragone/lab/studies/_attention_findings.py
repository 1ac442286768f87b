"""What only the study `attention` can say: ratios by mask, decoding, caches, and claims."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from paragone.lab import format as fmt
from paragone.lab import growth
from paragone.lab.claims import seen
from paragone.lab.growth import by_workload
from paragone.lab.outcome import Summary
from paragone.lab.spec import Workload

__all__ = ["CLAIMS", "findings"]

_OURS = "flash_attention"
_EXACT = 2e-6


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def _where(summary: Summary, keep: Callable[[Workload], bool]) -> list[str]:
    return [w.id for w in summary.workloads if keep(w)]


def _ratios(summary: Summary, other: str, measure: str, places: Sequence[str]) -> dict[str, float]:
    """Workload to how many times another contestant takes what ours takes."""
    ours, theirs = (by_workload(summary, name, measure) for name in (_OURS, other))
    return {p: theirs[p] / ours[p] for p in places if p in ours and p in theirs and ours[p] > 0}


def _typical(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _masks(summary: Summary) -> list[str]:
    """Ours against torch's, by mask: forward and backward."""
    told = []
    for mask in dict.fromkeys(w.facts.get("mask") for w in summary.workloads):
        places = _where(summary, lambda w, mask=mask: bool(mask) and w.facts.get("mask") == mask)
        words = []
        for measure, name in (("forward_s", "forward"), ("backward_s", "backward")):
            found = _ratios(summary, "torch_flash", measure, places)
            if found:
                span = f"{min(found.values()):.2g} to {max(found.values()):.2g}"
                words.append(f"{name} {_typical(list(found.values())):.2g}x ({span})")
        if words:
            told.append(f"{_title(summary, 'torch_flash')} against ours, mask {mask}: "
                        f"{fmt.join(words)} the time.")  # fmt: skip
    return told


def _decoding(summary: Summary) -> list[str]:
    told = []
    for workload in summary.workloads:
        if workload.facts.get("part") != "decode":
            continue
        words = []
        for contestant in summary.contestants:
            speed = by_workload(summary, contestant.id, "bandwidth").get(workload.id)
            step = by_workload(summary, contestant.id, "forward_s").get(workload.id)
            if speed and step:
                words.append(f"{contestant.title} {fmt.seconds(step)} a step "
                             f"({fmt.size(speed)}/s)")  # fmt: skip
        if words:
            told.append(f"{workload.title}: {fmt.join(words)}.")
    return told


def _caches(summary: Summary) -> list[str]:
    found = _cache_bytes(summary)
    if not found:
        return []
    words = [f"{name.upper()} {size:,.0f} B" for name, size in found.items()]
    return [f"A token in the cache: {fmt.join(words)}."]


def _cache_bytes(summary: Summary, measure: str = "cache_bytes") -> dict[str, float]:
    """Layout to bytes a token of our modules."""
    values = by_workload(summary, _OURS, measure)
    return {str(w.facts["layout"]): values[w.id] for w in summary.workloads
            if w.facts.get("part") == "decode" and w.id in values}  # fmt: skip


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    return [*_masks(summary), *_decoding(summary), *_caches(summary)]


def _axes(summary: Summary, mask: str) -> list[str]:
    return list(dict.fromkeys(axis for w in summary.workloads for axis in w.axis
                              if w.facts.get("mask") == mask))  # fmt: skip


def _power(summary: Summary, mask: str, measure: str) -> float | None:
    found = []
    for axis in _axes(summary, mask):
        curve = growth.along(summary, axis, _OURS, measure)
        if len(curve) > 1:
            found.append(growth.exponent(curve))
    known = [power for power in found if power is not None]
    return max(known) if known else None


def _memory(summary: Summary) -> tuple[str, bool] | None:
    power = _power(summary, "causal", "train_extra")
    if power is None:
        return None
    return f"extra memory of forward and backward grows as length^{power:.2f}", power <= 1.25


def _exact(summary: Summary) -> tuple[str, bool] | None:
    worst = {}
    for name in ("online", "tiled", _OURS):
        values = by_workload(summary, name, "error")
        kernel = [values[w.id] for w in summary.workloads
                  if w.facts.get("part") == "kernel" and w.id in values]  # fmt: skip
        if kernel:
            worst[name] = max(kernel)
    if not worst:
        return None
    words = ", ".join(f"{_title(summary, name)} {error:.1g}" for name, error in worst.items())
    return f"largest distance to float64: {words}", max(worst.values()) <= _EXACT


def _window(summary: Summary) -> tuple[str, bool] | None:
    power = _power(summary, "window", "forward_s")
    if power is None:
        return None
    return f"time with a window of 256 keys grows as length^{power:.2f}", power <= 1.25


def _grouped(summary: Summary) -> tuple[str, bool] | None:
    found = _cache_bytes(summary)
    shape: Mapping = next((w.facts for w in summary.workloads if w.facts.get("layout")), {})
    if not {"mha", "gqa", "mqa"} <= found.keys():
        return None
    gqa, mqa = (found["mha"] / found[name] for name in ("gqa", "mqa"))
    heads, groups = int(shape["heads"]), int(shape["groups"])
    words = f"{gqa:.3g}x with {groups} groups of {heads} heads, {mqa:.3g}x with one"
    return words, abs(gqa * groups / heads - 1) < 0.01 and abs(mqa / heads - 1) < 0.01


def _latent(summary: Summary) -> tuple[str, bool] | None:
    found = _cache_bytes(summary)
    if "mla" not in found:
        return None
    # The paper's own layout: 128 heads of 128, against the latent and the rotary key.
    full = 4 * 2 * 128 * 128
    saved = 1 - found["mla"] / full
    return (f"{found['mla']:,.0f} B a token against {full:,.0f} B of 128 heads of 128: "
            f"-{saved:.1%}", saved >= 0.93)  # fmt: skip


def _formulas(summary: Summary) -> tuple[str, bool] | None:
    found, wanted = _cache_bytes(summary), _cache_bytes(summary, "formula_bytes")
    if not found:
        return None
    words = ", ".join(f"{n.upper()} {found[n]:,.0f} of {wanted[n]:,.0f}" for n in found)
    return f"bytes a token, counted and by formula: {words}", all(
        abs(found[n] / wanted[n] - 1) < 0.01 for n in found
    )


def _flat(summary: Summary) -> tuple[str, bool] | None:
    """Multi-query attention decodes faster than multi-head: as many times as its cache is less."""
    times = by_workload(summary, _OURS, "forward_s")
    found = {}
    for workload in summary.workloads:
        if workload.facts.get("layout") == "mha" and workload.id in times:
            other = workload.id.replace("mha", "mqa")
            if other in times:
                found[workload.facts["length"]] = times[workload.id] / times[other]
    if not found:
        return None
    words = ", ".join(f"{length:,}: {ratio:.2g}x" for length, ratio in found.items())
    return f"a step of MHA over one of MQA, by length of the cache: {words}", (
        found[max(found)] > 1.5
    )


CLAIMS = (
    seen("Exact attention needs memory linear in the length, backward pass included.",
         "Dao et al. (2022), FlashAttention, arXiv:2205.14135, theorem 1", _memory),
    seen("Softmax in one pass with a running maximum and sum is exact.",
         "Milakov and Gimelshein (2018), arXiv:1805.02867, theorem 1", _exact),
    seen("With a sliding window the time is linear in the length.",
         "Beltagy et al. (2020), Longformer, arXiv:2004.05150, section 3.1", _window),
    seen("Grouped queries shrink the cache by heads / groups, multi-query by heads.",
         "Ainslie et al. (2023), GQA, arXiv:2305.13245, section 2.2", _grouped),
    seen("Multi-query attention decodes faster, by the smaller cache.",
         "Shazeer (2019), arXiv:1911.02150, table 3", _flat),
    seen("Latent attention takes 93.3 % off the cache of DeepSeek 67B.",
         "DeepSeek-AI (2024), DeepSeek-V2, arXiv:2405.04434, abstract and section 2.1.4", _latent),
    seen("The cache holds what the formula says, no more.",
         "DeepSeek-AI (2024), arXiv:2405.04434, table 1", _formulas),
)  # fmt: skip
