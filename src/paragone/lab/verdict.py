"""The sentences under the table, which are the product.

The first answers the study's question: which method to use. The others say at what price, what
is fastest within the noise of the best, how ours stand if a rival wins, how sure all this is,
and what did not finish. They are built from a `Summary` alone, so that they can be made again
for other wishes (`prefer`, `max_latency`, `max_memory`) without measuring again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paragone.lab import format as fmt
from paragone.lab._choice import (
    Prefer,
    choose,
    head_of,
    kept_rows,
    leading_of,
    limits_text,
    memory_of,
    pairwise,
    speed_of,
    value_of,
)
from paragone.lab._overall import RANK, RELATIVE
from paragone.lab.outcome import Difference, Row, Summary
from paragone.lab.spec import Measure

__all__ = ["Prefer", "choose", "pairwise", "sentence", "sentences", "wishes"]


def wishes(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `sentences` among a request's options."""
    names = ("prefer", "max_latency", "max_memory")
    return {name: options[name] for name in names if options.get(name) is not None}


def _title(summary: Summary, name: str) -> str:
    return next((c.title for c in summary.contestants if c.id == name), name)


def sentence(found: Difference, summary: Summary) -> str:
    """One paired difference as a sentence.

    Args:
        found: From `pairwise` or `summary.differences`.
        summary: The study's summary, for titles.
    """
    a, b = _title(summary, found.a), _title(summary, found.b)
    measure = next((m for m in summary.measures if m.name == found.measure), None)
    name = measure.title if measure is not None else found.measure.replace("_", " ")
    if found.estimate is None:
        return f"{a} and {b} cannot be compared on {name}: no block in which both finished."
    if measure is None:
        measure = Measure(name=name, title=name, better="lower", role="quality", margin=0.01)
    how = {
        "better": f"{a} is {fmt.word(found, measure)} than {b}",
        "worse": f"{a} is {fmt.word(found, measure)} than {b}",
        "same": f"{a} and {b} are the {fmt.word(found, measure)}",
        "inconclusive": f"{a} against {b} is inconclusive",
    }[found.word]
    place = f" on {found.workload}" if found.workload and len(summary.tables) > 1 else ""
    sure = f"; {fmt.p_value(found.p)}" if found.p is not None else ""
    return f"{how} in {name}{place}: {fmt.difference(found)} ({found.method}, n = {found.n}{sure})."


def _price(row: Row, summary: Summary) -> str:
    """What a row costs, such as 1.9 s to fit, 6.3 ms to predict and 212 MB of memory."""
    time, memory = leading_of(summary, "time"), leading_of(summary, "memory")
    parts = []
    if time is not None and time.name in row.cells:
        verb = "fit" if time.name == "fit_s" else time.title
        parts.append(f"{fmt.seconds(value_of(row, time))} to {verb}" if verb == "fit" else
                     f"{fmt.value(value_of(row, time), time)} ({verb})")  # fmt: skip
    if "predict_s" in row.cells:
        parts.append(f"{fmt.seconds(value_of(row, 'predict_s'))} to predict")
    if memory is not None and memory.name in row.cells:
        parts.append(f"{fmt.size(value_of(row, memory))} of memory")
    return fmt.join(parts)


def _quality(row: Row, summary: Summary) -> str:
    """The number by which a row ranks, in words."""
    head = head_of(summary)
    if math.isfinite(value_of(row, RANK)) and not summary.only:
        above = value_of(row, RELATIVE) - 1
        behind = "never behind the best" if above < 5e-5 else (
            f"{fmt.percent(above)} behind the best on average"
        )  # fmt: skip
        return f"mean rank {fmt.number(value_of(row, RANK), 1)} of {_ranked(summary)}, {behind}"
    if head is None or head.name not in row.cells:
        return ""
    return f"{head.title} {fmt.cell(row.cells[head.name], head)}"


def _ranked(summary: Summary) -> int:
    return sum(1 for row in summary.rows if row.tier)


def _where(summary: Summary) -> str:
    count = len(summary.counted)
    return f" over {count} inputs" if count > 1 else ""


def _answer(row: Row, leader: Row, tied: Sequence[Row], summary: Summary, limits: str) -> str:
    """The first sentence: what to use, and why."""
    start = f"Within a {limits}, use {row.title}" if limits else f"Use {row.title}"
    best = f"best{_where(summary)}{' of those that keep it' if limits else ''}"
    quality = _quality(row, summary)
    others = [r.title for r in tied if r is not row]
    if row is leader and not others:
        after = next((r for r in summary.rows if r.tier and r.tier > row.tier), None)
        text = f"{start}: {best} ({quality})"
        if after is not None and after.versus_best is not None and not limits:
            text += f"; the next, {after.title}, stands at {fmt.difference(after.versus_best)}"
        elif after is None:
            text += f", the only one {'that finished' if summary.complete else 'measured so far'}"
        return text + "."
    if row is leader:
        return f"{start}: {best} ({quality}), tied with {_some(others)}."
    text = f"{start}: tied with the {best} ({quality}; {leader.title}: "
    text += f"{_quality(leader, summary)}"
    if row.versus_best is not None and row.versus_best.b == leader.contestant:
        text += f"; difference {fmt.difference(row.versus_best)}"
    rest = [title for title in others if title != leader.title]
    return text + f"){', also tied: ' + _some(rest) if rest else ''}."


def _some(names: Sequence[str], most: int = 4) -> str:
    if len(names) <= most + 1:
        return fmt.join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def _cost_against(row: Row, other: Row, summary: Summary, role: str) -> str:
    """How two rows differ in time or memory, with the word; "" if not compared."""
    measure = leading_of(summary, role)
    if measure is None:
        return ""
    found = pairwise(summary, row.contestant, other.contestant, measure.name)
    if found.estimate is None:
        return ""
    if found.low is None:
        return f"{measure.title} {_by(found, role)} in single runs"
    text = f"{measure.title} {_by(found, role)}"
    word = fmt.word(found, measure)
    return text if word in text else f"{word}, {text}"


def _by(found: Difference, role: str) -> str:
    """A difference in words: beyond a factor of two, as so many times faster or smaller."""
    share = found.estimate
    if not found.ratio or not share or role not in ("time", "memory") or 0.5 <= share <= 2:
        return fmt.difference(found)
    if share > 2:
        head, _, rest = fmt.difference(found).partition(" [")
        return f"{head} {'slower' if role == 'time' else 'larger'}" + (f" [{rest}" if rest else "")
    text = f"{fmt.ratio(1 / share)} {'faster' if role == 'time' else 'smaller'}"
    if found.low and found.high:
        text += f" [{fmt.ratio(1 / found.high)}, {fmt.ratio(1 / found.low)}]"
    return text


def _against(row: Row, other: Row, summary: Summary) -> Difference:
    """The difference as the table shows it, if it does."""
    if row.versus_best is not None and row.versus_best.b == other.contestant:
        return row.versus_best
    return pairwise(summary, row.contestant, other.contestant)


def _alternatives(row: Row, tied: Sequence[Row], summary: Summary) -> list[str]:
    out = []
    fastest = min(_nearer_half(tied), key=lambda r: speed_of(r, summary))
    if fastest is not row and math.isfinite(speed_of(fastest, summary)):
        text = _cost_against(fastest, row, summary, "time")
        seen = fmt.difference(_against(fastest, row, summary), interval=False)
        parts = [f"{text} against {row.title}" if text else "", f"loss {seen} in this sample"]
        out.append(f"Fastest that is not shown to be worse: {fastest.title} "
                   f"({'; '.join(filter(None, parts))}).")  # fmt: skip
    smallest = min(tied, key=lambda r: memory_of(r, summary))
    if smallest is not row and smallest is not fastest:
        text = _cost_against(smallest, row, summary, "memory")
        if text.startswith("smaller"):
            out.append(f"Smallest in memory of these: {smallest.title} ({text}).")
    return out


def _floor(row: Row, tied: Sequence[Row], summary: Summary) -> str:
    """A warning when even the baseline is not shown to be worse than the best."""
    floor = next((r for r in summary.rows if r.origin == "baseline" and r.tier), None)
    if floor is None or floor is row or floor.tier > tied[0].tier:
        return ""
    return (
        f"None is shown to beat the {floor.title} ({_quality(floor, summary)}): too few rows or "
        "repeats to tell, or little to learn here."
    )


def _nearer_half(tied: Sequence[Row]) -> Sequence[Row]:
    """The better half of the tied rows: in a small sample the noise hides bad ones too."""
    return [row for row in tied if row.tier][: max(2, (len(tied) + 1) // 2)] or tied


def _trade(row: Row, tied: Sequence[Row], kept: Sequence[Row], summary: Summary) -> str:
    """The fastest of all, where it is worse but at least twice as fast."""
    fastest = min(kept, key=lambda r: speed_of(r, summary))
    if fastest in tied or not 2 * speed_of(fastest, summary) <= speed_of(row, summary) < math.inf:
        return ""
    found = _against(fastest, row, summary)
    text = _cost_against(fastest, row, summary, "time")
    if found.estimate is None or not text:
        return ""
    return f"Faster but worse: {fastest.title}, by {fmt.difference(found)} ({text})."


def _ours(row: Row, kept: Sequence[Row], summary: Summary) -> str:
    """Where the best of ours stands when a rival or a guest is recommended."""
    if row.origin == "paragone":
        return ""
    own = next((r for r in kept if r.origin == "paragone"), None)
    if own is None:
        return ""
    text = f"Best of paragone's own: {own.title} ({_quality(own, summary)}"
    found = _against(own, row, summary)
    if found.estimate is None:
        return text + ")."
    words = {"better": "better", "worse": "worse", "same": "the same within the margin"}
    word = words.get(found.word, "no clear difference")
    time = _cost_against(own, row, summary, "time")
    text += f"; against {row.title} {word}, {fmt.difference(found)}"
    return text + (f"; {time})." if time else ").")


def _sure(summary: Summary) -> str:
    done = summary.protocol.get("blocks_done") or {}
    blocks = sorted(set(done.values()))
    if not blocks:
        return ""
    span = str(blocks[0]) if len(blocks) == 1 else f"{blocks[0]} to {blocks[-1]}"
    clock = summary.protocol.get("times_judged_by", "wall time")
    if blocks[-1] == 1:
        return f"One block only: times ({clock}) were measured once and have no intervals."
    text = f"Intervals are 95 %, from {span} interleaved blocks"
    text += " of each input" if len(done) > 1 else ""
    return text + f"; times are compared by {clock}."


def _failures(summary: Summary) -> str:
    words = {"timeout": "timed out", "memory": "out of memory", "missing": "did not run"}
    bad = [r for r in summary.rows if r.status not in ("ok", "missing") or (
        r.status == "missing" and not r.message.startswith("not installed"))]  # fmt: skip
    texts = [f"{r.title} ({words.get(r.status, r.status)}, {r.done}/{r.planned} runs)" for r in bad]
    return f"Not all runs finished: {_some(texts)}." if texts else ""


def sentences(
    summary: Summary,
    prefer: Prefer = "quality",
    max_latency: float | None = None,
    max_memory: float | None = None,
) -> list[str]:
    """The verdict; the first sentence answers the study's question.

    Args:
        summary: The study's summary.
        prefer: What decides among contestants that are tied.
        max_latency: Most seconds for one prediction.
        max_memory: Most bytes at the peak.
    """
    limits = limits_text(max_latency, max_memory)
    try:
        row = choose(summary, prefer, max_latency, max_memory)
    except ValueError as error:
        return [text for text in (f"No recommendation: {error}.", _failures(summary)) if text]
    kept = kept_rows(summary, max_latency, max_memory)
    tied = [r for r in kept if r.tier == kept[0].tier]
    price = _price(row, summary)
    texts = [_answer(row, tied[0], tied, summary, limits)]
    texts += [_floor(row, tied, summary)]
    if price:
        mean = " (geometric means over the inputs)" if not summary.only else ""
        texts.append(f"It takes {price}{mean}.")
    texts += _alternatives(row, tied, summary)
    texts += [_trade(row, tied, kept, summary), _ours(row, kept, summary)]
    if not summary.noise.trusted:
        texts.append(summary.noise.text)
    open_notes = [note for note in summary.notes if "inconclusive" in note]
    texts += [*open_notes, _sure(summary), _failures(summary)]
    return [text for text in texts if text]
