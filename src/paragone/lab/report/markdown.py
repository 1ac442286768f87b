"""The study as Markdown: for a pull request, a wiki, a mail."""

from __future__ import annotations

from collections.abc import Sequence

from paragone.lab.outcome import Row, Summary
from paragone.lab.report import view

__all__ = ["markdown"]


def markdown(summary: Summary) -> str:
    """The verdict, the tables, the claims and the command, as GitHub shows them."""
    only = summary.only
    rows = summary.rows or summary.tables.get(only, ())
    parts = [f"# {_safe(summary.question)}"]
    for i, sentence in enumerate(summary.verdict):
        parts.append(f"**{_safe(sentence)}**" if i == 0 else _safe(sentence))
    if summary.noise.text:
        parts.append(_safe(summary.noise.text))
    parts += [f"> {_safe(note)}" for note in view.notes(summary)]
    if rows:
        parts.append(_table(summary, rows, only))
    if not only:
        for workload in summary.workloads:
            found = summary.tables.get(workload.id, ())
            if found:
                size = view.size_words(workload)
                parts.append(f"## {_safe(workload.title)}{f' ({_safe(size)})' if size else ''}")
                parts.append(_table(summary, found, workload.id))
    if summary.claims:
        cells = [(c.text, c.source, c.measured, c.verdict) for c in summary.claims]
        parts += ["## Claims", _grid(("claim", "source", "measured here", "verdict"), cells)]
    failed = [row for row in rows if row.message]
    if failed:
        parts.append("## What did not finish")
        parts.append("\n".join(f"- {_safe(r.title)}: {_safe(view.why(r))}" for r in failed))
    parts.append("## How it was measured")
    parts.append("\n".join(f"- {_safe(sentence)}" for sentence in view.protocol_words(summary)))
    told = view.facts(summary.environment)
    if told:
        parts.append("\n".join(f"- {_safe(name)}: {_safe(text)}" for name, text in told))
    if summary.command:
        parts.append(f"```\n{summary.command.replace('```', '')}\n```")
    return "\n\n".join(parts) + "\n"


def _table(summary: Summary, rows: Sequence[Row], workload: str) -> str:
    found = [column for column in view.columns(summary, rows, workload) if column.main]
    best = view.leading(rows)
    heads = ["tier", "method"]
    for i, column in enumerate(found):
        heads += [view.title(column.measure), *(["vs best (95 % CI)"] if i == 0 else [])]
    versus = view.compared([row.versus_best for row in rows])
    lines = []
    for r, row in enumerate(rows):
        cells = [row.tier or "-", row.title]
        told = "best" if row is best and row.versus_best is None else " ".join(versus[r]).strip()
        for i, column in enumerate(found):
            cells += [column.texts[r], *([told] if i == 0 else [])]
        lines.append([*cells, view.row_status(row)])
    return _grid([*heads, "status"], lines, left=2)


def _grid(heads: Sequence[str], lines: Sequence[Sequence[str]], left: int = 99) -> str:
    marks = ["---" if i < left or i == len(heads) - 1 else "---:" for i in range(len(heads))]
    rows = [[_safe(cell) for cell in line] for line in lines]
    heads = [_safe(head) for head in heads]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, marks, *rows))


def _safe(text: str) -> str:
    """Text that can break neither a table nor the page that shows it."""
    flat = " ".join(str(text).split())
    for bad, good in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("[", "\\[")):
        flat = flat.replace(bad, good)
    return flat
