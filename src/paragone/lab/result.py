"""A finished (or interrupted) study in the hand: what `paragone.compare` returns.

All of it reads one folder, so `Study("runs/first")` brings back an old study as well.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from paragone._core.errors import UsageError
from paragone.lab import units
from paragone.lab.outcome import Difference, Row, Summary
from paragone.lab.spec import Contestant, Workload

__all__ = ["Drawing", "Plan", "Plots", "Study", "Verdict"]

Prefer = Literal["quality", "speed", "memory"]
Format = Literal["html", "md", "json", "parquet"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How one contestant stands to another, on one measure.

    Attributes:
        a: Contestant.
        b: The one it is compared with.
        metric: Title of the measure.
        diff: a - b, or a / b for times and memory.
        ci: 95 % interval of `diff`.
        word: "better", "worse", "same" or "inconclusive".
        text: The sentence.
        difference: All of it.
    """

    a: str
    b: str
    metric: str
    diff: float | None
    ci: tuple[float | None, float | None]
    word: str
    text: str
    difference: Difference

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Drawing:
    """A chart as SVG text; notebooks show it, `save` writes it."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> Path:
        """Writes the SVG file and returns its path."""
        Path(path).write_text(self.svg, encoding="utf-8")
        return Path(path)


@dataclass(frozen=True)
class Plan:
    """What a study would do (`dry_run=True`); `str()` is the text."""

    text: str
    contestants: tuple[str, ...]
    workloads: tuple[str, ...]
    missing: tuple[str, ...]
    exit_code: int = 0

    def __str__(self) -> str:
        return self.text


class Plots:
    """Charts of a study, each a `Drawing`."""

    def __init__(self, study: Study):
        self._study = study

    def _rows(self, workload: str) -> Any:
        summary = self._study.summary
        return summary.tables.get(workload) or summary.rows

    def _draw(self, name: str, workload: str | None) -> Drawing:
        from paragone.lab.report import figures, view
        from paragone.lab.report.html import standalone

        place = self._study.workload(workload).id
        found = getattr(figures, name)(view.Guide(self._study.summary), place, self._rows(place))
        if not found:
            raise UsageError(f"no {name} to draw for {place}: too few finished runs")
        return Drawing(standalone(found[0].svg))

    def differences(self, workload: str | None = None) -> Drawing:
        """Paired differences to the best, with their intervals."""
        return self._draw("forests", workload)

    def front(self, workload: str | None = None) -> Drawing:
        """Quality against time."""
        return self._draw("fronts", workload)

    def blocks(self, workload: str | None = None) -> Drawing:
        """Every run as a dot, block by block."""
        return self._draw("strips", workload)


class Study:
    """A study's folder and what it says.

    Args:
        folder: The study's folder, such as `runs/NAME`.

    Attributes:
        folder: Absolute path.
        summary: The `Summary` that every report shows.
        plot: Charts.
    """

    def __init__(self, folder: str | Path):
        from paragone.lab.store import read_study
        from paragone.lab.summary import summarize

        self.folder = Path(folder).resolve()
        self.content: dict[str, Any] = read_study(self.folder)
        self.summary: Summary = summarize(self.folder)
        self.plot = Plots(self)

    @property
    def exit_code(self) -> int:
        """0 all finished, 1 a contestant failed, 3 nothing finished."""
        finished = [row for row in self.summary.rows if row.done]
        if not finished:
            return 3
        bad = ("failed", "timeout", "memory", "crashed", "partial")
        return int(any(row.status in bad and self._failed(row) for row in self.summary.rows))

    def _failed(self, row: Row) -> bool:
        return row.status != "partial" or any(
            r["contestant"].removesuffix("~2") == row.contestant and r["status"] != "ok"
            for r in self.summary.records
        )

    def workload(self, name: str | None = None) -> Workload:
        """Returns a workload by its id; without a name the only one, or the first."""
        known = {w.id: w for w in self.summary.workloads}
        if name is None:
            return next(iter(known.values()))
        if name not in known:
            raise UsageError(f"no workload {name!r}; this study has {', '.join(known)}")
        return known[name]

    def contestant(self, name: str) -> Contestant:
        """Returns a contestant by id, catalogue id or title."""
        by_id = {c.id: c for c in self.summary.contestants}
        by_name = {c.title: c for c in self.summary.contestants}
        by_name |= {c.method: c for c in self.summary.contestants if c.method and c.id != c.method}
        found = by_id.get(name) or by_name.get(name)
        if found is None:
            import difflib

            near = difflib.get_close_matches(name, by_id, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(by_id)}"
            raise UsageError(f"no contestant {name!r} in this study; {hint}")
        return found

    def leaderboard(self, workload: str | None = None) -> Any:
        """Returns the table as a data frame (polars or pandas, whichever is installed).

        Args:
            workload: One workload's table; None: the one over all.
        """
        rows = self.summary.tables[self.workload(workload).id] if workload else self.summary.rows
        measures = list(dict.fromkeys(name for row in rows for name in row.cells))
        columns: dict[str, list[Any]] = {
            "tier": [row.tier for row in rows],
            "contestant": [row.contestant for row in rows],
            "title": [row.title for row in rows],
        }
        for name in measures:
            cells = [row.cells.get(name) for row in rows]
            columns[name] = [cell.value if cell else None for cell in cells]
            if any(cell is not None and cell.low is not None for cell in cells):
                columns[f"{name}_low"] = [cell.low if cell else None for cell in cells]
                columns[f"{name}_high"] = [cell.high if cell else None for cell in cells]
        columns["runs"] = [row.done for row in rows]
        columns["status"] = [row.status for row in rows]
        return _frame(columns)

    def verdict(
        self, a: str | None = None, b: str | None = None, *, measure: str | None = None,
        workload: str | None = None,
    ) -> str | Verdict:  # fmt: skip
        """Returns the study's sentences, or how contestant `a` stands to `b`.

        Args:
            a: Contestant id, such as "gbdt".
            b: The one to compare it with.
            measure: Name of a measure; None: the quality that ranks.
            workload: On one workload; None: over all.
        """
        from paragone.lab import verdict

        if a is None or b is None:
            if a is not None or b is not None:
                raise UsageError("verdict needs two contestants, or none")
            return " ".join(self.summary.verdict)
        first, second = self.contestant(a).id, self.contestant(b).id
        found = verdict.pairwise(self.summary, first, second, measure, workload)
        titles = {m.name: m.title for m in self.summary.measures}
        return Verdict(
            a=found.a, b=found.b, metric=titles.get(found.measure, found.measure),
            diff=found.estimate, ci=(found.low, found.high), word=found.word,
            text=verdict.sentence(found, self.summary), difference=found,
        )  # fmt: skip

    def choose(
        self, prefer: Prefer = "quality", max_latency: str | float | None = None,
        max_memory: str | float | None = None,
    ) -> Row:  # fmt: skip
        """Returns the recommended row of the leaderboard."""
        from paragone.lab import verdict

        try:
            return verdict.choose(
                self.summary, prefer, units.seconds(max_latency, "max_latency"),
                units.size(max_memory, "max_memory"),
            )  # fmt: skip
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(str(error)) from error

    def best(
        self, prefer: Prefer = "quality", *, max_latency: str | float | None = None,
        max_memory: str | float | None = None, workload: str | None = None,
    ) -> Any:  # fmt: skip
        """Returns the winner, unfitted and ready for `.fit(X, y)`.

        Args:
            prefer: What decides among contestants whose quality is a tie.
            max_latency: Limit on predicting one row, such as "2ms".
            max_memory: Limit on the peak memory of a fit, such as "1GB".
            workload: Whose kind of task counts, in a study of several.
        """
        row = self.choose(prefer, max_latency, max_memory)
        return self.estimator(row.contestant, workload)

    def estimator(self, name: str, workload: str | None = None) -> Any:
        """Returns a contestant, unfitted, with the parameters that the study used."""
        from paragone.lab.build import build

        place, contestant = self.workload(workload), self.contestant(name)
        estimator = build(contestant, place.facts)
        tuned = self.parameters(contestant.id, place.id)
        if tuned:
            estimator.set_params(**tuned)
        return estimator

    def parameters(self, contestant: str, workload: str) -> dict[str, Any]:
        """What `--tune` chose most often for a contestant ({}: defaults)."""
        import numpy as np

        texts = [
            bytes(np.load(self.folder / record["artifacts"]["parameters"])).decode()
            for record in self.summary.records
            if record["contestant"] == contestant and record["workload"] == workload
            and record["status"] == "ok" and "parameters" in record["artifacts"]
        ]  # fmt: skip
        return json.loads(Counter(texts).most_common(1)[0][0]) if texts else {}

    def report(self, format: Format = "html") -> Path:
        """Writes the report into the folder and returns its path."""
        from paragone.lab.report import write

        return write(self.folder, format)

    def export(self, to: str | Path = "winner", pick: str = "best") -> Any:
        """Fits the winner on all rows and writes it with the code that loads it."""
        from paragone.lab.export import export

        return export(self, to, pick=pick)

    def __repr__(self) -> str:
        return f"Study({str(self.folder)!r}, {len(self.summary.rows)} contestants)"

    def __str__(self) -> str:
        return self.render()

    def render(self, *, color: bool = False, width: int = 100) -> str:
        """The table and the verdict as the terminal shows them."""
        from rich.console import Console

        from paragone.lab.report.terminal import print_summary

        text = io.StringIO()
        console = Console(
            file=text, width=width, highlight=False, force_terminal=color, no_color=not color
        )
        print_summary(self.summary, console=console, width=width, folder=shown(self.folder))
        return text.getvalue().rstrip("\n")

    def print(self) -> None:
        """Prints the table and the verdict, in colour on a terminal."""
        from paragone.lab.report.terminal import print_summary

        print_summary(self.summary, folder=shown(self.folder))

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.render(width=120))}</pre>"

    @cached_property
    def records(self) -> list[Mapping[str, Any]]:
        """All finished runs."""
        return list(self.summary.records)


def shown(path: Path) -> str:
    """A path as a user would type it: relative where that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _frame(columns: Mapping[str, list[Any]]) -> Any:
    import importlib.util

    for name in ("polars", "pandas"):
        if importlib.util.find_spec(name) is not None:
            return importlib.import_module(name).DataFrame(dict(columns))
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
