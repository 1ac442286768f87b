"""The report: one HTML file that needs nothing else, neither network nor JavaScript.

Sentences and tables are plain HTML, charts are inline SVG, pictures are data URIs, style and
the little script stand in the file and are named by their hashes in a Content-Security-Policy
that forbids everything else: a page that cannot load anything cannot leak anything. All that
comes from users (column names, titles, log text) passes through Jinja's autoescape.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from paragone.lab import format as fmt
from paragone.lab.outcome import Row, Summary
from paragone.lab.report import figures, svg, view

__all__ = ["page", "policy", "read", "render", "standalone", "write_html"]

HERE = Path(__file__).parent
PICTURE_BYTES = 4_000_000
"""Bytes of pictures that one report may carry; further ones are linked, not inlined."""
MOST_RECORDS = 5000
"""Runs that are listed one by one; beyond that `records.jsonl` is named instead."""
LOG_LINES, LOG_BYTES = 40, 8000
_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg",
          ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp"}  # fmt: skip


def write_html(summary: Summary, folder: str | Path, path: str | Path | None = None) -> Path:
    """Writes the report and returns where it lies.

    Args:
        summary: What the study found.
        folder: The study's folder, from which logs and pictures are read.
        path: The file to write; None: `report.html` in the folder.
    """
    path = Path(path) if path is not None else Path(folder) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A reader (or a server) that opens the file meanwhile must not see half of it.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(page(summary, folder), encoding="utf-8")
    draft.replace(path)
    return path


def page(summary: Summary, folder: str | Path) -> str:
    """The report as text."""
    return render("page.html.jinja", **_content(summary, Path(folder)))


def policy() -> str:
    """What a report may do: use its own style and script, known by their hashes, and no more."""
    style, script = (_hash(read(name)) for name in ("style.css", "page.js"))
    return (
        f"default-src 'none'; img-src data:; style-src '{style}'; "
        f"script-src '{script}'; base-uri 'none'; form-action 'none'"
    )


def read(name: str) -> str:
    """The text of a file beside this one."""
    return (HERE / name).read_text(encoding="utf-8")


def render(template: str, **content: Any) -> str:
    """A page of that template, with the report's style, script and policy unless others are given.

    Args:
        template: A file beside this one.
        content: What the template names; "style" and "script" are texts of ours.
    """
    own = {"style": read("style.css"), "script": read("page.js"), "policy": policy()}
    content = own | content
    content |= {name: Markup(content[name]) for name in ("style", "script")}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.globals.update(glyph=lambda i: Markup(svg.glyph(i)), bar=_bar)
    environment.filters["svg"] = Markup
    return environment.get_template(template).render(**content)


def standalone(drawing: str) -> str:
    """A chart of the page as a file of its own (or a notebook's output): style included."""
    style = (HERE / "style.css").read_text(encoding="utf-8")
    colours = style[: style.index("}") + 1].replace(":root", ".chart")
    rules = [r for r in style.splitlines() if r.startswith(("svg ", ".c0", ".c4", ".s0", ".s4"))]
    text = "\n".join((colours, ".chart { background: var(--card); }", *rules))
    head, mark, rest = drawing.partition(">")
    return f'{head} class="chart"{mark}<style>{text}</style>{rest}'


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"sha256-{digest}"


def _content(summary: Summary, folder: Path) -> dict[str, Any]:
    only = summary.only
    rows = summary.rows or summary.tables.get(only, ())
    guide = view.Guide(summary)
    curves = figures.curve_figures(guide)
    return {
        "s": summary,
        "verdict": list(summary.verdict) or ["Nothing has been measured yet."],
        "notes": view.notes(summary),
        "chips": _chips(summary),
        "tiles": _tiles(guide, rows),
        "board": _board(guide, rows, only),
        "forests": figures.forests(guide, only, rows),
        "fronts": figures.fronts(guide, only, rows),
        "strips": figures.strips(guide, only, rows) if only else [],
        "curves": curves,
        "ranks": figures.rank_figure(guide),
        "matrix": _matrix(guide, rows, only),
        "places": [] if only else _places(guide),
        "pictures": _pictures(summary, folder),
        "failures": _failures(guide, folder),
        "protocol": view.protocol_words(summary),
        "protocol_table": view.facts(summary.protocol),
        "environment": view.facts(summary.environment),
        "inputs": [(w, view.size_words(w), view.facts(w.facts)) for w in summary.workloads],
        **_records(guide),
        "glossary": _glossary(summary),
    }


def _chips(summary: Summary) -> list[tuple[str, str]]:
    """(kind, text) of the line under the verdict."""
    chips = [("", " ".join(view.size_words(w) for w in summary.workloads))]
    if len(summary.workloads) > 1:
        chips = [("", f"{len(summary.workloads)} workloads")]
    done = sum(r.get("status", "ok") == "ok" for r in summary.records)
    if summary.records:
        chips.append(("", f"{done:,} of {len(summary.records):,} runs finished"))
    threads = summary.protocol.get("threads")
    if threads:
        chips.append(("", f"{threads} thread{'' if threads == 1 else 's'}"))
    chips.append(("", view.block_words(summary)))
    noise = view.noise_words(summary)
    chips.append(("good" if summary.noise.trusted else "bad", noise[:1].upper() + noise[1:]))
    if not summary.complete:
        chips.append(("bad", "Not complete: the same command continues it"))
    return [(kind, text) for kind, text in chips if text]


def _tiles(guide: view.Guide, rows: Sequence[Row]) -> list[dict[str, str]]:
    """The extremes of tier A, as facts: best quality, least time, least memory."""
    tiles = []
    words = {"quality": "Best", "time": "Fastest", "memory": "Smallest"}
    tier = " in tier A" if any(row.tier > "A" for row in rows) else ""
    first = [row for row in rows if row.tier == "A"]
    for role, head in words.items():
        measure = view.role_measure(guide.summary, role)
        if role == "quality" and any(view.RANK in row.cells for row in rows):
            measure = view.made_up(view.RANK)
        if measure is None:
            continue
        sign = 1 if measure.better == "lower" else -1
        found = []
        for row in first:
            cell = row.cells.get(measure.name)
            if cell is not None and cell.value is not None:
                found.append((sign * cell.value, row, cell))
        if found:
            _, row, cell = min(found, key=lambda f: f[0])
            tiles.append({
                "head": f"{head} {measure.title}{tier}", "value": view.texts([cell], measure)[0],
                "name": row.title, "href": guide.anchor(row.contestant),
            })  # fmt: skip
    return tiles


def _board(guide: view.Guide, rows: Sequence[Row], workload: str) -> dict[str, Any]:
    """A leaderboard as the template needs it."""
    found = view.columns(guide.summary, rows, workload)
    head = view.ranker(guide.summary, workload, rows)
    index = guide.index
    largest = [
        max((c.value for c in col.cells if c is not None and c.value is not None), default=0.0)
        if col.measure.role in {"time", "memory"} else 0.0 for col in found
    ]  # fmt: skip
    versus = view.compared([row.versus_best for row in rows])
    lines = []
    for i, row in enumerate(rows):
        cells = []
        for col, most in zip(found, largest, strict=True):
            cell = col.cells[i]
            value = cell.value if cell is not None else None
            cells.append({
                "text": col.texts[i], "value": value, "main": col.main,
                "spread": fmt.bounds(cell.low, cell.high, col.measure) if cell else "",
                "bar": value / most if value is not None and most > 0 else None,
                "href": _runs_anchor(guide, row, workload, cell.runs if cell else ()),
            })  # fmt: skip
        diff = row.versus_best
        lines.append({
            "row": row, "index": index[row.contestant], "cells": cells,
            "status": view.row_status(row),
            "log": f"f{index[row.contestant]}" if row.contestant in guide.failed else "",
            "anchor": guide.anchor(row.contestant, workload),
            "versus": versus[i][0], "interval": versus[i][1], "word": view.word(diff, head),
            "estimate": diff.estimate if diff is not None else None,
            "best": diff is None and bool(row.tier) and row is view.leading(rows),
        })  # fmt: skip
    return {
        "columns": [(c, view.title(c.measure)) for c in found], "lines": lines,
        "compared": any(line["estimate"] is not None for line in lines),
        "tiers": any(row.tier for row in rows),
        "more": any(not c.main for c in found),
        "measure": head, "workload": workload,
    }  # fmt: skip


def _runs_anchor(guide: view.Guide, row: Row, workload: str, runs: Sequence[str]) -> str:
    if len(runs) == 1 and len(guide.summary.records) <= MOST_RECORDS:
        return f"run-{runs[0]}"
    return guide.anchor(row.contestant, workload)


def _bar(share: float) -> Markup:
    """A bar of that share of the cell's width."""
    wide = max(1.0, 60 * min(share, 1.0)) if math.isfinite(share) else 0.0
    rect = svg.element("rect", x=0, y=0, width=wide, height=4, rx=2)
    return Markup(svg.element("svg", rect, cls="bar", viewBox="0 0 60 4", aria_hidden="true"))


def _matrix(guide: view.Guide, rows: Sequence[Row], only: str) -> dict[str, Any] | None:
    """Who beats whom on the measure that ranks: one cell for each ordered pair."""
    order = [row for row in rows if row.tier]
    tables = {w.id: guide.pairs(m.name) for w in guide.summary.workloads
              if (m := view.primary(guide.summary, w.id)) is not None}  # fmt: skip
    if len(order) < 3:
        return None
    index = guide.index
    lines = []
    for a in order:
        cells = []
        for b in order:
            words = [
                (table[key].word, table[key])
                for w, table in tables.items()
                if (key := (a.contestant, b.contestant, w)) in table
            ]
            cells.append(_match(words, a, b, only) if a is not b else None)
        anchor = guide.anchor(a.contestant, only)
        lines.append({
            "row": a, "index": index[a.contestant], "cells": cells, "anchor": anchor,
        })  # fmt: skip
    if not any(cell and cell["text"] for line in lines for cell in line["cells"]):
        return None
    return {"lines": lines, "order": [(row, index[row.contestant]) for row in order]}


def _match(words: Sequence[tuple[str, Any]], a: Row, b: Row, only: str) -> dict[str, str]:
    wins = sum(word == "better" for word, _ in words)
    losses = sum(word == "worse" for word, _ in words)
    same = sum(word == "same" for word, _ in words)
    open_ = len(words) - wins - losses - same
    kind = "win" if wins > losses else "loss" if losses > wins else "tie"
    if not words:
        return {"text": "", "kind": "none", "tip": ""}
    if only:
        diff = words[0][1]
        text = {"better": "▲", "worse": "▼", "same": "="}.get(diff.word, "?")
        tip = f"{a.title} against {b.title}: {diff.word}, {fmt.difference(diff)}"
        return {"text": text, "kind": kind, "tip": tip}
    tip = (
        f"{a.title} against {b.title}: {wins} won, {losses} lost, {same} the same, "
        f"{open_} inconclusive"
    )
    return {"text": f"{wins}:{losses}", "kind": kind, "tip": tip}


def _places(guide: view.Guide) -> list[dict[str, Any]]:
    """One part for each workload, where there are several."""
    found = []
    for i, workload in enumerate(guide.summary.workloads):
        rows = guide.summary.tables.get(workload.id, ())
        if rows:
            found.append({
                "workload": workload, "size": view.size_words(workload), "id": f"w{i}",
                "board": _board(guide, rows, workload.id),
                "leader": view.leading(rows),
                "figures": [
                    *figures.forests(guide, workload.id, rows)[:1],
                    *figures.fronts(guide, workload.id, rows),
                    *figures.strips(guide, workload.id, rows),
                ],
            })  # fmt: skip
    return found


def _pictures(summary: Summary, folder: Path) -> list[dict[str, str]]:
    found, left = [], PICTURE_BYTES
    for title, name in summary.pictures:
        path = folder / name
        kind = _TYPES.get(path.suffix.lower())
        # A picture's path comes from a file: it must not lead out of the folder.
        if (
            kind is None
            or not path.is_file()
            or not path.resolve().is_relative_to(folder.resolve())
        ):
            continue
        left -= path.stat().st_size * 4 // 3
        if left < 0:
            found.append({"title": title, "href": name, "source": ""})
            continue
        content = path.read_bytes()
        data = base64.b64encode(content).decode()
        # A drawing that knows the dark may stand on the card; others get white paper.
        ground = "" if b"prefers-color-scheme" in content else "paper"
        source = f"data:{kind};base64,{data}"
        found.append({"title": title, "href": "", "source": source, "ground": ground})
    return found


def _failures(guide: view.Guide, folder: Path) -> list[dict[str, Any]]:
    """Failed runs by contestant and kind of end, with the tail of one log each."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for record in guide.summary.records:
        if record.get("status", "ok") != "ok":
            key = (str(record.get("contestant")), str(record["status"]),
                   str(record.get("message", "")))  # fmt: skip
            groups[key].append(record)
    titles, index = guide.titles, guide.index
    found, seen = [], set()
    for (contestant, status, message), records in groups.items():
        anchor = "" if contestant in seen else f"f{index[contestant]}"
        seen.add(contestant)
        log = str(records[0].get("log") or "")
        found.append({
            "title": titles[contestant], "index": index[contestant], "id": anchor,
            "status": view.status_word(status), "message": message, "records": records,
            "log": log, "tail": _tail(folder, log),
            "places": sorted({str(r.get("workload")) for r in records}),
        })  # fmt: skip
    return found


def _tail(folder: Path, name: str) -> str:
    path = folder / name
    if not name or not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    printable = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
    return "\n".join(printable.splitlines()[-LOG_LINES:])


def _records(guide: view.Guide) -> dict[str, Any]:
    """All runs by contestant and workload, and the measures that they recorded."""
    titles, index = guide.titles, guide.index
    recorded = {key for record in guide.summary.records for key in record.get("values", {})}
    measures = [m for m in guide.summary.measures if m.name in recorded]
    further = sorted(recorded - {m.name for m in measures})
    heads = [(m.name, f"{m.title}, {m.unit}" if m.unit else m.title) for m in measures]
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {key: {} for key in titles}
    for record in guide.summary.records:
        by_place = groups[str(record.get("contestant", ""))]
        by_place.setdefault(str(record.get("workload", "")), []).append(record)
    return {
        "record_groups": [
            (f"c{index[key]}", titles[key], index[key], [
                (guide.anchor(key, place), place, runs) for place, runs in places.items()
            ]) for key, places in groups.items()
        ],
        "record_columns": [*heads, *((name, name) for name in further)],
        "records_listed": len(guide.summary.records) <= MOST_RECORDS,
    }  # fmt: skip


def _glossary(summary: Summary) -> list[tuple[str, str]]:
    found = []
    for m in summary.measures:
        margin = f"{100 * m.margin:g} %" if m.relative else f"{m.margin:g}"
        note = f"{m.note} " if m.note else ""
        found.append((m.title, f"{note}{m.better.capitalize()} is better; differences within "
                      f"{margin} do not matter (fixed before the first run)."))  # fmt: skip
    return [*found, *_WORDS]


_WORDS = (
    ("tier", "Contestants with the same letter cannot be told apart on the measure that ranks. "
     "A is best. Within a tier there is no order."),
    ("95 % interval", "A range made by a method that, repeated, covers the true value 95 times "
     "in 100. Intervals of differences are paired: both contestants saw the same data."),
    ("inconclusive", "The interval holds differences that matter and ones that do not. More "
     "blocks may settle it; it does not mean equal."),
    ("same", "The whole interval lies within the margin."),
    ("block", "One data set, one split, one seed: every contestant runs once in it."),
    ("hidden duplicate", "One contestant runs twice in each block under two names. If its two "
     "times differ, the machine was too noisy to trust times."),
    ("peak memory", "The most physical memory that the process held during that phase, as the "
     "kernel counts it (VmHWM), or the most that was allocated on a GPU."),
)  # fmt: skip
