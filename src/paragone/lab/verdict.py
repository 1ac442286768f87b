"""The sentences under the table, which are the product.

The first answers the study's question: which method to use. The others say at what price, what
is fastest within the noise of the best, how ours stand if a rival wins, how sure all this is,
and what did not finish. They are built from a `Summary` alone, so that they can be made again
for other wishes (`prefer`, `max_latency`, `max_memory`) without measuring again.

* prefer = "quality": of the first tier, those whose loss is within the margin of the best; of
  these the fastest.
* prefer = "speed" ("memory"): the fastest (smallest) of the first tier, that is, of all that
  are not shown to be worse.

Limits are applied first, on every workload; then the best tier that is left counts as first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from paragone.lab import format as fmt
from paragone.lab._evidence import Evidence, Plan
from paragone.lab._overall import RANK, RELATIVE, cost_on_these
from paragone.lab.outcome import Difference, Row, Summary, Word
from paragone.lab.spec import Measure

__all__ = ["Prefer", "choose", "pairwise", "sentence", "sentences", "wishes"]

Prefer = Literal["quality", "speed", "memory"]
_FLIP: dict[str, Word] = {"better": "worse", "worse": "better"}
_LATENCY = ("latency_s", "predict_row_s", "predict_s")


def wishes(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `sentences` among a request's options."""
    names = ("prefer", "max_latency", "max_memory")
    return {name: options[name] for name in names if options.get(name) is not None}


def _leading(summary: Summary, role: str) -> Measure | None:
    found = [m for m in summary.measures if m.role == role]
    return next((m for m in found if m.primary), found[0] if found else None)


def _head(summary: Summary) -> Measure | None:
    """The measure that ranks: of the only workload, or the study's."""
    known = {m.name: m for m in summary.measures}
    if len(summary.tables) == 1:
        wanted = next((w.primary for w in summary.workloads if w.id in summary.tables), "")
        if wanted in known:
            return known[wanted]
    roles = (_leading(summary, role) for role in ("quality", "time", "memory", "count"))
    return next((m for m in roles if m is not None), None)


def _value(row: Row, measure: Measure | str | None) -> float:
    name = measure.name if isinstance(measure, Measure) else measure
    cell = row.cells.get(name) if name else None
    return math.inf if cell is None or cell.value is None else cell.value


def _speed(row: Row, summary: Summary) -> float:
    """Fit and prediction together, or the time that ranks."""
    both = _value(row, "fit_s") + _value(row, "predict_s")
    return both if math.isfinite(both) else _value(row, _leading(summary, "time"))


def _memory(row: Row, summary: Summary) -> float:
    found = [_value(row, m) for m in summary.measures if m.role == "memory"]
    return max((x for x in found if math.isfinite(x)), default=math.inf)


def _fits(row: Row, summary: Summary, latency: float | None, memory: float | None) -> bool:
    """Whether a contestant keeps the limits on every workload."""
    own = [r for table in summary.tables.values() for r in table if r.contestant == row.contestant]
    for one in own or [row]:
        if latency is not None:
            known = [_value(one, n) for n in _LATENCY if math.isfinite(_value(one, n))]
            if not known or known[0] > latency:
                return False
        if memory is not None and _memory(one, summary) > memory:
            return False
    return True


def _limits(latency: float | None, memory: float | None) -> str:
    texts = [f"latency of {fmt.seconds(latency)}"] if latency is not None else []
    texts += [f"memory of {fmt.size(memory)}"] if memory is not None else []
    return fmt.join(texts)


def _kept(summary: Summary, max_latency: float | None, max_memory: float | None) -> list[Row]:
    """Rows that may be recommended, in leaderboard order; the first one's tier is the best."""
    ranked = [r for r in summary.rows if r.tier] or [r for r in summary.rows if r.done]
    if not ranked:
        raise ValueError("no contestant finished: see the failures and their logs")
    kept = [r for r in ranked if _fits(r, summary, max_latency, max_memory)]
    if not kept:
        raise ValueError(
            f"no contestant keeps the limit ({_limits(max_latency, max_memory)}): raise it"
        )
    return kept


def _within_margin(row: Row, leader: Row, summary: Summary) -> bool:
    """Whether a row's own mean is within the margin of the leader's."""
    head = _head(summary)
    if head is None or row is leader:
        return True
    if math.isfinite(_value(row, RELATIVE)):
        margin = max((m.margin for m in summary.measures if m.role == "quality" and m.relative),
                     default=0.01)  # fmt: skip
        return _value(row, RELATIVE) <= _value(leader, RELATIVE) * (1 + margin)
    best, own = _value(leader, head), _value(row, head)
    room = head.margin * (abs(best) if head.relative else 1.0)
    return abs(own - best) <= room if math.isfinite(own) else False


def choose(
    summary: Summary,
    prefer: Prefer = "quality",
    max_latency: float | None = None,
    max_memory: float | None = None,
) -> Row:
    """Returns the recommended row.

    Args:
        summary: The study's summary.
        prefer: What decides among contestants that are tied.
        max_latency: Most seconds for one prediction.
        max_memory: Most bytes at the peak.

    Raises:
        ValueError: Nothing finished, no row keeps the limits, or `prefer` is unknown.
    """
    if prefer not in get_args(Prefer):
        raise ValueError(f"prefer={prefer!r} is none of {', '.join(get_args(Prefer))}")
    kept = _kept(summary, max_latency, max_memory)
    tied = [r for r in kept if r.tier == kept[0].tier]
    if prefer == "memory":
        return min(tied, key=lambda r: (_memory(r, summary), _speed(r, summary)))
    if prefer == "quality":
        tied = [r for r in tied if _within_margin(r, tied[0], summary)]
    return min(tied, key=lambda r: _speed(r, summary))


# Pairs.


def _flip(found: Difference) -> Difference:
    def turn(x: float | None) -> float | None:
        if x is None:
            return None
        return (1 / x if x else math.inf) if found.ratio else -x

    return replace(
        found, a=found.b, b=found.a, estimate=turn(found.estimate), low=turn(found.high),
        high=turn(found.low), word=_FLIP.get(found.word, found.word),
    )  # fmt: skip


def _id(summary: Summary, name: str) -> str:
    for contestant in summary.contestants:
        if name in (contestant.id, contestant.title, contestant.method):
            return contestant.id
    known = ", ".join(c.id for c in summary.contestants)
    raise ValueError(f"no contestant {name!r} in this study; there are {known}")


def _evidence(summary: Summary, workload: str) -> Evidence:
    least, most = summary.protocol.get("blocks") or (1, 1)
    plan = Plan(
        study={}, measures=summary.measures, workloads=summary.workloads,
        contestants=summary.contestants, missing=(), twin="", least=least, most=most,
        threads=summary.protocol.get("threads") or 1,
    )  # fmt: skip
    own = [r for r in summary.records if r["workload"] == workload]
    by_cpu = summary.protocol.get("times_judged_by") == "CPU time"
    place = next(w for w in summary.workloads if w.id == workload)
    return Evidence(plan, place, own, None, by_cpu)


def pairwise(
    summary: Summary, a: str, b: str, measure: str | None = None, workload: str | None = None
) -> Difference:
    """How contestant `a` stands to `b`.

    Args:
        summary: The study's summary.
        a: Id, catalogue id or title.
        b: The reference of the difference.
        measure: Name of a measure; None: the quality that ranks.
        workload: Workload id; None: over all, or the only one.

    Raises:
        ValueError: No such contestant, measure or workload.
    """
    first, second = _id(summary, a), _id(summary, b)
    places = list(summary.tables)
    if workload is not None and workload not in places:
        raise ValueError(f"no workload {workload!r} in this study; there are {', '.join(places)}")
    if workload is None and len(places) == 1:
        workload = places[0]
    if measure is None:
        primary = next((w.primary for w in summary.workloads if w.id == workload), "")
        head = _head(summary)
        measure = RELATIVE if workload is None else primary or (head.name if head else "")
    for found in summary.differences:
        if found.measure == measure and found.workload == (workload or ""):
            if (found.a, found.b) == (first, second):
                return found
            if (found.a, found.b) == (second, first):
                return _flip(found)
    known = {m.name: m for m in summary.measures}
    if measure not in known and measure != RELATIVE:
        raise ValueError(f"no measure {measure!r} in this study; there are {', '.join(known)}")
    if workload is None:
        if measure in known and known[measure].role in ("time", "memory"):
            evidences = [_evidence(summary, w) for w in places]
            return cost_on_these(evidences, first, second, known[measure])
        if measure != RELATIVE:
            raise ValueError(f"{measure} has no mean over {len(places)} inputs: name a workload")
    if measure == RELATIVE or first == second:
        return Difference(a=first, b=second, measure=measure, workload=workload or "")
    return _evidence(summary, workload or "").difference(first, second, known[measure])


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


# The verdict.


def _price(row: Row, summary: Summary) -> str:
    """What a row costs, such as 1.9 s to fit, 6.3 ms to predict and 212 MB of memory."""
    time, memory = _leading(summary, "time"), _leading(summary, "memory")
    parts = []
    if time is not None and time.name in row.cells:
        verb = "fit" if time.name == "fit_s" else time.title
        parts.append(f"{fmt.seconds(_value(row, time))} to {verb}" if verb == "fit" else
                     f"{fmt.seconds(_value(row, time))} ({verb})")  # fmt: skip
    if "predict_s" in row.cells:
        parts.append(f"{fmt.seconds(_value(row, 'predict_s'))} to predict")
    if memory is not None and memory.name in row.cells:
        parts.append(f"{fmt.size(_value(row, memory))} of memory")
    return fmt.join(parts)


def _quality(row: Row, summary: Summary) -> str:
    """The number by which a row ranks, in words."""
    head = _head(summary)
    if math.isfinite(_value(row, RANK)) and len(summary.tables) > 1:
        above = _value(row, RELATIVE) - 1
        behind = "never behind the best" if above < 5e-5 else (
            f"{fmt.percent(above)} behind the best on average"
        )  # fmt: skip
        return f"mean rank {fmt.number(_value(row, RANK), 1)} of {_ranked(summary)}, {behind}"
    if head is None or head.name not in row.cells:
        return ""
    return f"{head.title} {fmt.cell(row.cells[head.name], head)}"


def _ranked(summary: Summary) -> int:
    return sum(1 for row in summary.rows if row.tier)


def _where(summary: Summary) -> str:
    count = len(summary.tables)
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
            text += ", the only one that finished"
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
    measure = _leading(summary, role)
    if measure is None:
        return ""
    found = pairwise(summary, row.contestant, other.contestant, measure.name)
    if found.estimate is None:
        return ""
    return f"{fmt.word(found, measure)}, {measure.title} {fmt.difference(found)}"


def _alternatives(row: Row, tied: Sequence[Row], summary: Summary) -> list[str]:
    out = []
    fastest = min(tied, key=lambda r: _speed(r, summary))
    if fastest is not row and math.isfinite(_speed(fastest, summary)):
        text = _cost_against(fastest, row, summary, "time")
        out.append(f"Fastest that is not shown to be worse: {fastest.title}"
                   + (f" ({text} against {row.title})." if text else "."))  # fmt: skip
    smallest = min(tied, key=lambda r: _memory(r, summary))
    if smallest is not row and smallest is not fastest:
        text = _cost_against(smallest, row, summary, "memory")
        if text.startswith("smaller"):
            out.append(f"Smallest in memory of these: {smallest.title} ({text}).")
    return out


def _trade(row: Row, tied: Sequence[Row], kept: Sequence[Row], summary: Summary) -> str:
    """The fastest of all, where it is worse but at least twice as fast."""
    fastest = min(kept, key=lambda r: _speed(r, summary))
    if fastest in tied or not 2 * _speed(fastest, summary) <= _speed(row, summary) < math.inf:
        return ""
    found = pairwise(summary, fastest.contestant, row.contestant)
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
    found = pairwise(summary, own.contestant, row.contestant)
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
    unit = "block" if blocks[-1] == 1 else "blocks"
    clock = summary.protocol.get("times_judged_by", "wall time")
    text = f"Intervals are 95 %, from {span} interleaved {unit}"
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
    limits = _limits(max_latency, max_memory)
    try:
        row = choose(summary, prefer, max_latency, max_memory)
    except ValueError as error:
        return [text for text in (f"No recommendation: {error}.", _failures(summary)) if text]
    kept = _kept(summary, max_latency, max_memory)
    tied = [r for r in kept if r.tier == kept[0].tier]
    price = _price(row, summary)
    texts = [_answer(row, tied[0], tied, summary, limits)]
    if price:
        mean = " (geometric means over the inputs)" if len(summary.tables) > 1 else ""
        texts.append(f"It takes {price}{mean}.")
    texts += _alternatives(row, tied, summary)
    texts += [_trade(row, tied, kept, summary), _ours(row, kept, summary)]
    if not summary.noise.trusted:
        texts.append(summary.noise.text)
    open_notes = [note for note in summary.notes if "inconclusive" in note]
    texts += [*open_notes, _sure(summary), _failures(summary)]
    return [text for text in texts if text]
