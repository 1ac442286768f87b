"""Turns `study.json` and `records.jsonl` into one `Summary`, and says when to stop.

All numbers of all reports come from here, so that every place shows the same. Nothing is
stored but records: a summary can be made again at any time, of a running study too.

Stopping: after each round of blocks `unsettled` names the workloads that need another one.
A workload is settled when every comparison that its verdict rests on has a word: each ranked
contestant against the leader on the quality that ranks, and, within the first tier, each
against the fastest on time. It is settled too when even the most blocks would not bring a
word, were the effect 1.5 standard errors larger or smaller than it looks (the error shrinks as
$\\sqrt{1/n + n_{test}/n_{train}}$ or $\\sqrt{1/n}$): further blocks would only cost time.
Looking after every block does not inflate errors: alpha is spent (`statistics.sequential`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.errors import UsageError
from paragone.lab import format as fmt
from paragone.lab import verdict
from paragone.lab._evidence import TWIN, Evidence, Plan, is_busy, plan_of
from paragone.lab._overall import RANK, RELATIVE, overall
from paragone.lab._ranking import shared_level, table_of
from paragone.lab.outcome import ClaimResult, Difference, NoiseFloor, Row, Summary
from paragone.lab.spec import Contestant, Measure, Request
from paragone.lab.statistics.effect import word_of
from paragone.lab.statistics.wilcoxon import pseudo_median
from paragone.lab.store import read_records, read_study

__all__ = ["RANK", "RELATIVE", "settled", "summarize", "unsettled"]

Records = Sequence[Mapping[str, Any]]
_FEWEST_GAPS = 4
_FIRST_INTERVAL = 5.0
_LAST_LOOK = 0.02


def _evidences(
    plan: Plan, records: Records, folder: Path | None, *, ended: str = ""
) -> list[Evidence]:
    """The workloads that have records. The budget's end is a last look, success is not.

    One in whose first block the budget ended compares few: it is left out, if there is another.
    """
    by_cpu = plan.threads == 1 and is_busy(records)
    kept = []
    for workload in plan.workloads:
        own = [r for r in records if r["workload"] == workload.id]
        if own:
            kept.append(Evidence(plan, workload, own, folder, by_cpu))
    if ended == "budget":
        kept = [e for e in kept if e.workload.id != plan.study.get("cut")] or kept
        longest = max((len(e.blocks) for e in kept), default=0)
        kept = [replace(e, final=len(e.blocks) == longest, _cache={}) for e in kept]
    return kept


# Stopping.


@dataclass(frozen=True)
class _Open:
    """A comparison without a word: the blocks that would bring one, as it looks and at best."""

    needs: float
    at_best: float


def _blocks_needed(
    found: Difference, measure: Measure, level: float, evidence: Evidence, hope: float
) -> float:
    """Blocks at which the effect would be clear if it is the estimate moved by `hope` errors.

    Infinite if never. The interval's present width also holds the doubt about the spread and
    the price of an early look; both are taken out again.
    """
    from scipy.special import ndtri, stdtrit

    done = len(evidence.blocks)
    if found.estimate is None:
        return math.inf
    if found.low is None or found.high is None:
        return max(_FIRST_INTERVAL, done + 1.0)
    if found.ratio:
        estimate, margin = abs(math.log(found.estimate)), math.log1p(measure.margin)
        half = (math.log(found.high) - math.log(max(found.low, 1e-300))) / 2
    else:
        scale = abs(float(evidence.centre(measure)[evidence.index[found.b]]))
        estimate, margin = abs(found.estimate), measure.margin * (scale if measure.relative else 1)
        half = (found.high - found.low) / 2
    by_examples = "bootstrap" in found.method
    if half <= 0 or (by_examples and evidence.workload.splits == 1):
        return math.inf
    n = int(np.unique(evidence.splits).size) if by_examples else found.n
    width = -ndtri(level / 2) if by_examples else stdtrit(n - 1, 1 - level / 2)
    error = half / float(width)
    apart, alike = estimate + hope * error, margin - max(estimate - hope * error, 0.0)
    goal = max(apart if apart > margin else 0.0, alike)
    share = 0.0 if found.ratio else evidence.workload.test_share
    last = min(level * _LAST_LOOK / evidence.level(measure.role), 0.5)
    wanted = (goal / (-float(ndtri(last / 2)) * error)) ** 2 if goal > 0 else 0.0
    room = (1 / n + share) * wanted - share
    # It is open now, so it takes one more block at least.
    return max(1 / room, done + 1.0) if room > 0 else math.inf


def _critical(
    evidence: Evidence, rows: Sequence[Row]
) -> Iterator[tuple[Difference, Measure, float]]:
    """The comparisons on which the verdict of one workload rests, and their levels."""
    plan = evidence.plan
    quality = plan.leading("quality", evidence.workload)
    ranked = [row for row in rows if row.tier]
    for row in ranked:
        if row.versus_best is not None and quality is not None:
            level = shared_level(evidence.level("quality"), len(ranked) - 1)
            yield row.versus_best, quality, level
    time = plan.leading("time")
    if time is None or not plan.study.get("timed", True):
        return
    centre = dict(zip(evidence.ids, evidence.centre(time).tolist(), strict=True))
    first = [row.contestant for row in ranked if row.tier == "A"]
    first = [name for name in first if math.isfinite(centre[name])]
    if len(first) < 2:
        return
    fastest = min(first, key=lambda name: centre[name])
    for name in first:
        if name != fastest:
            yield evidence.difference(name, fastest, time), time, evidence.level("time")


def _open(evidence: Evidence, rows: Sequence[Row]) -> list[_Open]:
    """The critical comparisons that have no word yet."""
    return [
        _Open(*(_blocks_needed(*found, evidence, hope) for hope in (0.0, 1.5)))
        for found in _critical(evidence, rows)
        if found[0].word == "inconclusive"
    ]


def unsettled(
    source: str | Path | Records,
    request: Request | None = None,
    *,
    study: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Workload ids that need another block.

    Args:
        source: The study's folder, or its records.
        request: Not used; the runner passes it along.
        study: The content of `study.json`; read from the folder if None.
    """
    folder = Path(source) if isinstance(source, str | Path) else None
    if folder is None and study is None:
        raise ValueError("records alone do not tell the plan: give study=, or the folder")
    plan = plan_of(study if study is not None else read_study(folder or ""))
    records = source if not isinstance(source, str | Path) else read_records(source)
    found = {e.workload.id: e for e in _evidences(plan, records, folder)}
    out = []
    for workload in plan.workloads:
        evidence = found.get(workload.id)
        done = len(evidence.blocks) if evidence is not None else 0
        if evidence is None or done < plan.least:
            out.append(workload.id)
        elif done < plan.most:
            still = _open(evidence, table_of(evidence))
            if any(one.at_best <= plan.most for one in still):
                out.append(workload.id)
    return tuple(out)


def settled(
    source: str | Path | Records,
    request: Request | None = None,
    *,
    study: Mapping[str, Any] | None = None,
) -> bool:
    """Whether no workload needs another block (see `unsettled`)."""
    return not unsettled(source, request, study=study)


# The summary.


def _differences(evidence: Evidence, rows: Sequence[Row]) -> list[Difference]:
    """All pairs of those that finished, on the leading measure of each role."""
    plan = evidence.plan
    names = [row.contestant for row in rows if row.done]
    leading = [plan.leading("quality", evidence.workload)]
    leading += [plan.leading(role) for role in ("time", "memory", "count")]
    accuracy = next((m for m in plan.measures if m.name == "accuracy"), None)
    if accuracy is not None and np.unique(evidence.splits).size == 1:
        leading.append(accuracy)
    out = []
    for measure in dict.fromkeys(m for m in leading if m is not None):
        centre = dict(zip(evidence.ids, evidence.centre(measure).tolist(), strict=True))
        able = [name for name in names if math.isfinite(centre[name])]
        for i, a in enumerate(able):
            out += [evidence.difference(a, b, measure) for b in able[i + 1 :]]
    return out


def _noise(plan: Plan, evidences: Sequence[Evidence]) -> NoiseFloor:
    """Compares the hidden duplicate with its original, over all blocks of all workloads."""
    if not plan.twin:
        return NoiseFloor(text="No hidden duplicate ran: the noise of timings is not known.")
    name = plan.twin.removesuffix(TWIN)
    title = next((c.title for c in plan.contestants if c.id == name), name)
    measure = plan.leading("time")
    if measure is None:
        return NoiseFloor(contestant=name, text="This study measures no times.")
    gaps = []
    for evidence in evidences:
        table = evidence.table(evidence.measured_as(measure))
        d = np.log(table[evidence.index[plan.twin]]) - np.log(table[evidence.index[name]])
        gaps += d[np.isfinite(d)].tolist()
    if not gaps:
        return NoiseFloor(contestant=name, text=f"The duplicate of {title} did not finish.")
    found = pseudo_median(gaps, level=min(e.level("time") for e in evidences))
    ratio = math.exp(found.estimate)
    shift = fmt.percent(ratio - 1, sign=True)
    if len(gaps) < _FEWEST_GAPS or found.low is None or found.high is None:
        text = f"{title}, run twice in a block, differed from itself by {shift} in time; "
        count = "one pair is" if len(gaps) == 1 else f"{len(gaps)} pairs are"
        return NoiseFloor(contestant=name, ratio=ratio, text=text + f"{count} no control.")
    low, high = math.exp(found.low), math.exp(found.high)
    width = fmt.percent(max(high - 1, 1 - low))
    span = f"{shift} [{fmt.percent(low - 1, sign=True)}, {fmt.percent(high - 1, sign=True)}]"
    trusted = word_of(found, math.log1p(measure.margin)) not in ("better", "worse")
    if trusted:
        text = (
            f"{title} ran twice in each block and differed from itself by {span} in time: "
            f"differences below about {width} are noise here."
        )
    else:
        text = (
            f"{title} ran twice in each block and was called different from itself, by {span}: "
            "timings of this study cannot be trusted."
        )
    return NoiseFloor(contestant=name, ratio=ratio, low=low, high=high, trusted=trusted, text=text)


def _absent(contestant: Contestant) -> Row:
    hint = f"not installed: {contestant.install}" if contestant.install else "not installed"
    return Row(
        contestant=contestant.id, title=contestant.title, origin=contestant.origin,
        status="missing", message=hint,
    )  # fmt: skip


def _curves(records: Records) -> list[tuple[str, str, str, Sequence[float], Sequence[float]]]:
    return [
        (r["contestant"], r["workload"], name, curve["x"], curve["y"])
        for r in records
        if not r["contestant"].endswith(TWIN)
        for name, curve in (r.get("curves") or {}).items()
    ]


def _protocol(plan: Plan, evidences: Sequence[Evidence]) -> dict[str, Any]:
    study, by_cpu = plan.study, any(e.by_cpu for e in evidences)
    return {
        "protocol": study.get("protocol"),
        "blocks": [plan.least, plan.most],
        "blocks_done": {e.workload.id: len(e.blocks) for e in evidences},
        "splits": {e.workload.id: e.workload.splits for e in evidences},
        "seed": (study.get("request") or {}).get("seed"),
        "threads": plan.threads,
        "tuning": study.get("tuning", ""),
        "budget_s": study.get("budget_s"),
        "run_limit_s": study.get("run_limit_s"),
        "timed": study.get("timed", True),
        "times_judged_by": "CPU time" if by_cpu else "wall time",
        "created": study.get("created", ""),
        "ended": study.get("ended", ""),
    }


def _notes(plan: Plan, evidences: Sequence[Evidence], tables: Mapping, records: Records) -> list:
    notes: list[str] = list(plan.study.get("notes") or ())
    if any(e.by_cpu for e in evidences):
        notes.append(
            "The machine was busy with other work: times are judged by CPU time, not by the "
            "clock on the wall (one thread each)."
        )
    elif plan.study.get("timed", True) and is_busy(records):
        notes.append(
            "The machine was busy with other work, and CPU time does not stand for the clock "
            f"with {plan.threads} threads: times are by the wall, and their intervals are wide."
        )
    still = [one for e in evidences for one in _open(e, tables[e.workload.id])]
    if still:
        needs = sorted(one.needs for one in still if one.needs <= 200)
        text = f"{len(still)} comparison{'s are' if len(still) > 1 else ' is'} inconclusive"
        if needs:
            most = max(math.ceil(needs[len(needs) // 2] / 5) * 5, 5)
            count = sum(need <= most for need in needs)
            which = "it" if len(still) == 1 else "all" if count == len(still) else count
            text += f"; --repeats {most} would probably settle {which}"
        else:
            text += "; more repeats would not settle " + ("it" if len(still) == 1 else "them")
            text += ", more data might"
        notes.append(text + ".")
    few = [e.workload.id for e in evidences if len(e.blocks) < 2]
    if few:
        notes.append(f"One block only on {fmt.join(few)}: no interval for times and memory.")
    if plan.missing:
        lines = [f"{c.title} ({c.install})" if c.install else c.title for c in plan.missing]
        notes.append(f"Not installed, so not compared: {fmt.join(lines)}.")
    if not plan.study.get("complete", True):
        if plan.study.get("ended") == "budget":
            spent = fmt.seconds(plan.study.get("budget_s"))
            notes.append(f"Not complete: the budget of {spent} ended after {len(records)} runs.")
            cut = plan.study.get("cut")
            if cut and cut not in {e.workload.id for e in evidences}:
                notes.append(f"Left out: {cut}, on which not all had run when the budget ended.")
        else:
            notes.append(f"Not complete: {len(records)} runs so far; the same command continues.")
    return notes


def _claims(name: str, summary: Summary) -> tuple[list[ClaimResult], list[str]]:
    from paragone.lab import studies

    try:
        study = studies.load(name)
    except (UsageError, ImportError, AttributeError) as error:
        return [], [f"Claims were not checked: study {name!r} is not here ({error})."]
    found = []
    for claim in study.claims:
        try:
            found.append(claim.check(summary))
        # A study's own code must not cost the reader the report of hours of measuring.
        except Exception as error:
            found.append(ClaimResult(
                text=claim.text, source=claim.source, verdict="not tested",
                measured=f"the check failed: {type(error).__name__}: {error}",
            ))  # fmt: skip
    return found, []


def _own(name: str, kind: str, summary: Summary) -> list[str]:
    """The study's own sentences ("answer" or "findings"); one whose code fails says so."""
    from paragone.lab import studies

    try:
        find = getattr(studies.load(name), kind)
    except (UsageError, ImportError, AttributeError):
        return []
    try:
        told = find(summary) if find is not None else []
        return [text for text in ([told] if isinstance(told, str) else told) if text]
    # As for claims: a study's own code must not cost the reader the report.
    except Exception as error:
        return [f"What this study looks for could not be told ({type(error).__name__}: {error})."]


def _pictures(folder: Path, name: str) -> list[tuple[str, str]]:
    from paragone.lab import studies

    try:
        wanted = studies.load(name).pictures
    except (UsageError, ImportError, AttributeError):
        return []
    places = [
        (picture.title, f"{place}{picture.id}.{kind}")
        for picture in wanted
        for place in ("pictures/", "artifacts/pictures/", "artifacts/")
        for kind in ("svg", "png")
    ]
    found: dict[str, str] = {}
    for title, path in places:
        if (folder / path).is_file():
            found.setdefault(title, path)
    return list(found.items())


def summarize(folder: str | Path) -> Summary:
    """Reads a study's folder and returns all that a report shows.

    Args:
        folder: Holds `study.json` and `records.jsonl`; the study may be running.

    Raises:
        UsageError: The folder holds no study.
    """
    folder = Path(folder)
    study = read_study(folder)
    plan, records = plan_of(study), read_records(folder)
    evidences = _evidences(plan, records, folder, ended=str(study.get("ended") or ""))
    tables = {e.workload.id: table_of(e) for e in evidences}
    differences = [d for e in evidences for d in _differences(e, tables[e.workload.id])]
    notes = _notes(plan, evidences, tables, records)
    counted = [e for e in evidences if e.workload.counts] or evidences
    if len(counted) > 1:
        merged = overall(plan, counted, tables)
        rows = merged.rows
        differences += merged.differences
        notes = [*merged.notes, *notes]
    else:
        rows = list(tables[counted[0].workload.id]) if counted else []
    known = {row.contestant for row in rows}
    rows += [_absent(c) for c in plan.missing if c.id not in known]
    place = {row.contestant: i for i, row in enumerate(rows)}
    keys = {key for record in records for key in record["values"]}
    order = sorted(
        (m for m in plan.measures if m.name in keys),
        key=lambda m: not (m.primary and m.role == "quality"),
    )
    summary = Summary(
        study=study["study"], question=study.get("question", ""), measures=order,
        workloads=[e.workload for e in evidences] or plan.workloads,
        contestants=sorted(plan.contestants, key=lambda c: place.get(c.id, len(place))),
        rows=rows, tables=tables, differences=differences, noise=_noise(plan, evidences),
        curves=_curves(records), pictures=_pictures(folder, study["study"]),
        environment=study.get("environment") or {}, command=study.get("command", ""),
        protocol=_protocol(plan, evidences), records=records,
        complete=bool(study.get("complete", True)), notes=notes,
    )  # fmt: skip
    claims, more = _claims(study["study"], summary)
    summary = replace(summary, claims=claims, notes=[*notes, *more])
    wishes = (study.get("request") or {}).get("options") or {}
    told = verdict.sentences(summary, **verdict.wishes(wishes))
    first, last = (_own(study["study"], kind, summary) for kind in ("answer", "findings"))
    return replace(summary, verdict=[*first, *told, *last])
