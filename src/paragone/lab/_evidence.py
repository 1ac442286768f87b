"""The numbers of one workload, paired: what `summary` judges, and at which level.

Rows of every table are contestants (the hidden duplicate last), columns are blocks; NaN marks
a run that did not finish. Nothing is compared but within a block. Which statistic compares two
contestants follows from the data alone:

| data | quality | time, memory |
|---|---|---|
| three splits or more | corrected resampled t on differences by split | median paired log-ratio |
| one or two splits, stored losses | paired bootstrap over examples | the same |
| one split, no losses | paired t over blocks | the same |

With two splits the bootstrap intervals of the splits are averaged end by end, which is on the
safe side whatever examples the test parts share.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from paragone.lab.outcome import Difference
from paragone.lab.spec import Contestant, Measure, Workload
from paragone.lab.statistics.bootstrap import Link, effect_of_draws, resampled_means
from paragone.lab.statistics.effect import Effect, word_of
from paragone.lab.statistics.mcnemar import mcnemar
from paragone.lab.statistics.resampled import corrected_interval
from paragone.lab.statistics.sequential import look_level
from paragone.lab.statistics.timing import paired_log_ratio

__all__ = ["ALPHA", "ALPHA_COST", "TWIN", "Evidence", "Plan", "is_busy", "plan_of"]

ALPHA = 0.05
ALPHA_COST = 0.04
"""Spent on times: what is kept back pays for the dependence of blocks on a drifting machine."""
TWIN = "~2"
_BUSY = 0.10


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`study.json` as objects.

    Attributes:
        study: The whole content.
        measures: Columns.
        workloads: Inputs.
        contestants: Those that ran, without the hidden duplicate.
        missing: Those that are not installed.
        twin: Id of the hidden duplicate ("" : none).
        least: Fewest blocks of a workload.
        most: Most blocks.
        threads: Threads of every contestant.
    """

    study: Mapping[str, Any]
    measures: Sequence[Measure]
    workloads: Sequence[Workload]
    contestants: Sequence[Contestant]
    missing: Sequence[Contestant]
    twin: str
    least: int
    most: int
    threads: int

    def leading(self, role: str, workload: Workload | None = None) -> Measure | None:
        """The measure by which a role ranks, on one workload or in general."""
        known = {m.name: m for m in self.measures}
        if role == "quality" and workload is not None and workload.primary in known:
            return known[workload.primary]
        found = [m for m in self.measures if m.role == role]
        return next((m for m in found if m.primary), found[0] if found else None)

    def ranker(self, workload: Workload) -> Measure | None:
        """The measure that ranks on a workload: quality, else time, memory, count."""
        roles = ("quality", "time", "memory", "count")
        return next((m for m in (self.leading(r, workload) for r in roles) if m is not None), None)


def _build(kind: type, row: Any) -> Any:
    if not isinstance(row, Mapping):
        return kind(id=str(row), title=str(row), make="") if kind is Contestant else kind(row)
    names = {f.name for f in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in row.items() if key in names})


def plan_of(study: Mapping[str, Any]) -> Plan:
    """Reads the content of `study.json`."""
    entered = [_build(Contestant, row) for row in study["contestants"]]
    absent = [_build(Contestant, row) for row in study.get("missing", ())]
    twins = [c.id for c in entered if c.id.endswith(TWIN)]
    least, most = study.get("blocks") or (1, 1)
    return Plan(
        study=study,
        measures=[_build(Measure, row) for row in study["measures"]],
        workloads=[_build(Workload, row) for row in study["workloads"]],
        contestants=[c for c in entered if not c.id.endswith(TWIN)],
        missing=absent,
        twin=twins[0] if twins else "",
        least=int(least),
        most=int(most),
        threads=int(study.get("threads") or 1),
    )


def is_busy(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether other work took more than a tenth of the machine, in the median run.

    The pressure (PSI) is stored too but says nothing here: a run's own threads that wait for
    each other raise it.
    """
    foreign = [(record.get("load") or {}).get("foreign") or 0.0 for record in records]
    return bool(foreign) and float(np.median(foreign)) > _BUSY


@dataclass(frozen=True)
class Evidence:
    """All finished and failed runs of one workload.

    Attributes:
        plan: The study's plan.
        workload: The input.
        records: Its records, one for each contestant and block.
        folder: Where artifacts lie (None: not to be read).
        by_cpu: Whether times are judged by CPU time.
        final: Whether no further look will follow, for reasons outside the data.
    """

    plan: Plan
    workload: Workload
    records: Sequence[Mapping[str, Any]]
    folder: Path | None = None
    by_cpu: bool = False
    final: bool = False
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def ids(self) -> list[str]:
        """Contestants, the hidden duplicate last."""
        return [c.id for c in self.plan.contestants] + ([self.plan.twin] if self.plan.twin else [])

    @cached_property
    def index(self) -> dict[str, int]:
        """Contestant id to its row."""
        return {name: i for i, name in enumerate(self.ids)}

    @cached_property
    def blocks(self) -> list[int]:
        """Blocks with at least one record."""
        return sorted({int(record["block"]) for record in self.records})

    @cached_property
    def grid(self) -> list[list[Mapping[str, Any] | None]]:
        """Records by contestant and block."""
        place = {block: j for j, block in enumerate(self.blocks)}
        out: list[list[Mapping[str, Any] | None]] = [[None] * len(place) for _ in self.ids]
        for record in self.records:
            row = self.index.get(record["contestant"])
            if row is not None:
                out[row][place[int(record["block"])]] = record
        return out

    @cached_property
    def splits(self) -> np.ndarray:
        """Split of each block."""
        found = {int(r["block"]): int(r.get("split") or 0) for r in self.records}
        return np.array([found[block] for block in self.blocks], dtype=int)

    def measured_as(self, measure: Measure) -> str:
        """Key of the values by which a measure is judged: its CPU twin on a busy machine."""
        twin = f"{measure.name[:-2]}_cpu_s" if measure.name.endswith("_s") else ""
        if self.by_cpu and measure.role == "time" and not measure.name.endswith("_cpu_s"):
            finished = [r["values"] for r in self.records if r["status"] == "ok"]
            if finished and all(twin in values for values in finished):
                return twin
        return measure.name

    def table(self, key: str) -> np.ndarray:
        """Values (contestants, blocks) of one key; NaN where there is none."""
        if ("table", key) not in self._cache:
            rows = [
                [
                    float(r["values"].get(key, math.nan)) if r and r["status"] == "ok" else math.nan
                    for r in row
                ]
                for row in self.grid
            ]
            shape = (len(self.ids), len(self.blocks))
            self._cache["table", key] = np.array(rows, dtype=float).reshape(shape)
        return self._cache["table", key]

    def level(self, role: str) -> float:
        """Nominal level at this look, so that all looks together stay below alpha."""
        alpha = ALPHA if role == "quality" else ALPHA_COST
        least = min(self.plan.least, self.plan.most)
        if least == self.plan.most and role == "quality":
            return alpha
        return look_level(len(self.blocks), least, self.plan.most, final=self.final, alpha=alpha)

    def by_split(self, key: str) -> np.ndarray:
        """Means over the blocks of each split: (contestants, splits)."""
        if ("split", key) not in self._cache:
            table, splits = self.table(key), np.unique(self.splits)
            sums = np.stack(
                [np.where(np.isfinite(t), t, 0.0).sum(1) for t in self._parts(table)], 1
            )
            counts = np.stack([np.isfinite(t).sum(1) for t in self._parts(table)], 1)
            mean = np.divide(sums, counts, out=np.full(sums.shape, math.nan), where=counts > 0)
            self._cache["split", key] = mean if splits.size else table
        return self._cache["split", key]

    def _parts(self, table: np.ndarray) -> list[np.ndarray]:
        return [table[:, self.splits == split] for split in np.unique(self.splits)]

    def centre(self, measure: Measure) -> np.ndarray:
        """One number for each contestant: mean of a quality, median of a time or memory."""
        key = ("centre", measure.name)
        if key not in self._cache:
            quality = measure.role == "quality"
            table = (
                self.by_split(measure.name) if quality else self.table(self.measured_as(measure))
            )
            out = np.full(table.shape[0], math.nan)
            for i, row in enumerate(table):
                seen = row[np.isfinite(row)]
                if seen.size:
                    out[i] = seen.mean() if quality else np.median(seen)
            self._cache[key] = out
        return self._cache[key]

    def _examples(
        self, measure: Measure, artifact: str, split: int
    ) -> tuple[np.ndarray, Link] | None:
        """Stored per-example values (contestants, examples), averaged over a split's blocks.

        Each array must reproduce the measure that its run recorded, as its mean or the root
        of it; else the arrays belong to another measure and are not used.
        """
        if self.folder is None:
            return None
        rows: list[list[np.ndarray]] = []
        means, recorded = [], []
        for row in self.grid:
            rows.append([])
            for j in np.flatnonzero(self.splits == split):
                record = row[j]
                path = record["artifacts"].get(artifact) if record is not None else None
                if record is None or not path or not (self.folder / path).is_file():
                    continue
                values = np.load(self.folder / path).astype(float).ravel()
                means.append(float(values.mean()))
                recorded.append(float(record["values"].get(measure.name, math.nan)))
                rows[-1].append(values)
        link = _link(np.array(means), np.array(recorded))
        sizes = {values.size for found in rows for values in found}
        if link is None or len(sizes) != 1:
            return None
        blank = np.full(sizes.pop(), math.nan)
        return np.stack([np.mean(found, axis=0) if found else blank for found in rows]), link

    def _draws(self, measure: Measure, artifact: str) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """For each split: (draws, contestants) and per-example values; None if not stored."""
        key = ("draws", measure.name)
        if key in self._cache:
            return self._cache[key]
        self._cache[key] = None
        found = []
        for split in np.unique(self.splits):
            stored = self._examples(measure, artifact, int(split))
            if stored is None:
                return None
            losses, link = stored
            done = np.isfinite(losses).all(axis=1)
            draws = np.full((2000, len(self.ids)), math.nan)
            rng = np.random.default_rng([len(self.workload.id), int(split)])
            draws[:, done] = resampled_means(losses[done], link=link, random_state=rng)
            found.append((draws, losses))
        self._cache[key] = found
        return found

    def quality(self, i: int, j: int, measure: Measure, level: float | None = None) -> Effect:
        """Effect a - b of two contestants (by row) on a quality."""
        level = self.level("quality") if level is None else level
        parts = self.by_split(measure.name)
        gaps = parts[i] - parts[j]
        gaps = gaps[np.isfinite(gaps)]
        if gaps.size == 0:
            return Effect(math.nan)
        if gaps.size < 3:
            artifact = "correct" if measure.name == "accuracy" else "example_loss"
            stored = self._draws(measure, artifact)
            if stored is not None:
                return self._bootstrapped(i, j, float(gaps.mean()), stored, measure, level)
        if np.unique(self.splits).size == 1:
            table = self.table(measure.name)
            gaps = table[i] - table[j]
            return corrected_interval(gaps[np.isfinite(gaps)], 0.0, level=level)
        return corrected_interval(gaps, self.workload.test_share, level=level)

    def _bootstrapped(
        self, i: int, j: int, estimate: float, stored: list[tuple[np.ndarray, np.ndarray]],
        measure: Measure, level: float,
    ) -> Effect:  # fmt: skip
        effects = [
            effect_of_draws(estimate, draws[:, i] - draws[:, j], values.shape[1], level)
            for draws, values in stored
            if np.isfinite(draws[0, [i, j]]).all()
        ]
        if not effects:
            return Effect(estimate)
        low = sum(e.low or 0.0 for e in effects) / len(effects)
        high = sum(e.high or 0.0 for e in effects) / len(effects)
        shift = estimate - (low + high) / 2 if not low <= estimate <= high else 0.0
        p, method = max(e.p or 0.0 for e in effects), "paired bootstrap"
        if measure.name == "accuracy" and len(effects) == 1:
            values = stored[0][1]
            if np.isin(values[[i, j]], (0.0, 1.0)).all():
                p, method = mcnemar(values[i], values[j]), "paired bootstrap, exact McNemar"
        total = sum(e.n for e in effects)
        return Effect(estimate, low + shift, high + shift, p, total, method)

    def cost(self, i: int, j: int, measure: Measure, level: float | None = None) -> Effect:
        """Effect log(a / b) of two contestants (by row) on a time or a memory."""
        level = self.level(measure.role) if level is None else level
        table = self.table(self.measured_as(measure))
        found = paired_log_ratio(table[i], table[j], level=level)
        if self.measured_as(measure) != measure.name:
            return found._replace(method=f"{found.method} of CPU time")
        return found

    def difference(
        self, a: str, b: str, measure: Measure, level: float | None = None
    ) -> Difference:
        """The paired comparison of two contestants on one measure."""
        i, j = self.index[a], self.index[b]
        ratio = measure.role in ("time", "memory")
        if ratio:
            found = self.cost(i, j, measure, level)
            margin = math.log1p(measure.margin)
        else:
            found = self.quality(i, j, measure, level)
            scale = abs(float(self.centre(measure)[j])) if measure.relative else 1.0
            margin = measure.margin * scale if math.isfinite(scale) else 0.0
        if not math.isfinite(found.estimate):
            return Difference(
                a=a, b=b, measure=measure.name, workload=self.workload.id, ratio=ratio
            )
        word = word_of(found, margin, measure.better)

        def shown(x: float | None) -> float | None:
            return None if x is None else math.exp(min(x, 700.0)) if ratio else x

        return Difference(
            a=a, b=b, measure=measure.name, workload=self.workload.id, ratio=ratio,
            estimate=shown(found.estimate), low=shown(found.low), high=shown(found.high),
            p=found.p, word=word, method=found.method, n=found.n,
        )  # fmt: skip


def _link(means: np.ndarray, recorded: np.ndarray) -> Link | None:
    """Which function of the mean example value the recorded measure is."""
    if means.size == 0:
        return None
    if np.allclose(means, recorded, rtol=2e-3, atol=1e-12):
        return "mean"
    if (means >= 0).all() and np.allclose(np.sqrt(means), recorded, rtol=2e-3, atol=1e-12):
        return "root"
    return None
