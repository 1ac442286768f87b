"""The book of a tour: one page that leads to every study and shows every method's lineage.

A study's page in it is a `Card`, kept as `card.json` beside the study's records, so that the book
can be bound again at any time without reading a single record. Like a report the book is one file
that needs neither network nor JavaScript; its pictures are small copies inside it.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from paragone._core import catalog
from paragone.lab import format as fmt
from paragone.lab.outcome import Summary
from paragone.lab.report import figures, html, lineage, svg, view
from paragone.lab.result import Study
from paragone.lab.store import write_json

__all__ = ["Card", "card_of", "failed", "read_card", "write_book", "write_card"]

PICTURE_BYTES = 300_000
"""Bytes of a picture in the book; a larger drawing gives way to the next one."""
PICTURE_SIDE = 760
"""Largest side of a small copy, in pixels."""
_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg"}
_MARKS = {"holds": "✓", "does not hold": "✗", "not tested": "–"}
_WORDS = {"holds": "held", "does not hold": "not held", "not tested": "not measured"}


@dataclass(frozen=True, kw_only=True)
class Card:
    """One study in the book (JSON).

    Attributes:
        id: The study.
        family: Its family.
        question: Its question.
        state: "waiting" (not yet run, or being run), "done" or "failed".
        verdict: Its sentences.
        notes: What a reader must know.
        claims: (text, source, measured, verdict).
        chips: (kind, text) at a glance.
        picture: The main picture: an SVG drawing, or a `data:` address.
        caption: What the picture shows.
        paper: Whether the picture needs white paper.
        seconds: What it cost, over all calls.
        error: Why it failed, in a line.
    """

    id: str
    family: str
    question: str
    state: Literal["waiting", "done", "failed"] = "waiting"
    verdict: Sequence[str] = ()
    notes: Sequence[str] = ()
    claims: Sequence[Sequence[str]] = ()
    chips: Sequence[Sequence[str]] = ()
    picture: str = ""
    caption: str = ""
    paper: bool = False
    seconds: float = 0.0
    error: str = ""

    @property
    def counts(self) -> list[tuple[str, int]]:
        """How many claims held, did not hold, and were not measured."""
        words = [_WORDS[claim[3]] for claim in self.claims]
        return [(word, words.count(word)) for word in _WORDS.values() if word in words]


def card_of(study: Study, *, seconds: float = 0.0) -> Card:
    """A finished study's page."""
    summary = study.summary
    picture, caption, paper = _picture(summary, study.folder)
    return Card(
        id=summary.study, family=str(study.content.get("family", "")), question=summary.question,
        state="done", verdict=list(summary.verdict) or ["Nothing has been measured."],
        notes=_notes(study), chips=[list(chip) for chip in html.chips(summary)],
        claims=[[c.text, c.source, c.measured, c.verdict] for c in summary.claims],
        picture=picture, caption=caption, paper=paper, seconds=seconds,
    )  # fmt: skip


def _notes(study: Study) -> list[str]:
    """The report's notes; what was left out comes first."""
    asked = [*study.content.get("notes", ())]
    notes = view.notes(study.summary)
    return sorted(notes, key=lambda text: text not in asked and not text.startswith("Not complete"))


def failed(card: Card, error: Exception, trace: str, folder: Path) -> Card:
    """The page of a study that could not be run; the whole error stands in `failure.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failure.txt").write_text(trace, encoding="utf-8")
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    page = dataclasses.replace(card, state="failed", error=text.strip(), verdict=(), picture="")
    write_card(page, folder)
    return page


def write_card(card: Card, folder: Path) -> None:
    """Keeps a page in the study's folder."""
    write_json(folder / "card.json", dataclasses.asdict(card), durable=False)


def read_card(folder: Path) -> Card:
    """Reads a page back.

    Raises:
        OSError: There is none.
        ValueError: It is not JSON.
        TypeError: It is of another version.
    """
    return Card(**json.loads((folder / "card.json").read_text(encoding="utf-8")))


# Pictures.


def _picture(summary: Summary, folder: Path) -> tuple[str, str, bool]:
    """The first drawing that is small enough, else a chart of the report: (picture, caption)."""
    for title, name in summary.pictures:
        path = folder / name
        if path.suffix.lower() in _TYPES and path.resolve().is_relative_to(folder.resolve()):
            content = _small(path)
            if content is not None:
                kind = _TYPES[path.suffix.lower()]
                data = base64.b64encode(content).decode()
                return f"data:{kind};base64,{data}", title, b"prefers-color-scheme" not in content
    guide, only = view.Guide(summary), summary.only
    rows = summary.rows or summary.tables.get(only, ())
    for make in (figures.fronts, figures.forests):
        for figure in make(guide, only, rows)[:1]:
            return figure.svg, figure.title, False
    return "", "", False


def _small(path: Path) -> bytes | None:
    """The file, or a smaller copy of a photograph; None if it is too large for the book."""
    if path.suffix.lower() != ".svg":
        from PIL import Image

        with Image.open(path) as image:
            image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
            out = io.BytesIO()
            image.convert("RGB").save(out, "PNG", optimize=True)
            return out.getvalue()
    return path.read_bytes() if path.stat().st_size <= PICTURE_BYTES else None


# The book.


def write_book(
    folder: Path, cards: Sequence[Card], *, command: str = "", quick: bool = False,
    spent: float = 0.0,
) -> Path:  # fmt: skip
    """Writes `index.html` and returns where it lies.

    Args:
        folder: The tour's folder, in which each study has one of its own.
        cards: The pages, in order.
        command: The line that makes the book again.
        quick: Whether the studies are quick ones.
        spent: Seconds that all of it took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    # A reader that opens the file meanwhile must not see half of it.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    style = html.read("style.css") + html.read("book.css")
    content = _content(folder, cards, command, quick, spent)
    text = html.render("book.html.jinja", style=style, policy=html.policy(style), **content)
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
    return path


def _content(
    folder: Path, cards: Sequence[Card], command: str, quick: bool, spent: float
) -> dict[str, Any]:
    methods = catalog.methods()
    nodes = lineage.forest(methods)
    # Seven colours, full and then as rings, tell the families apart.
    cycle = ["c{}", "ring s{}"]
    colours = {
        name: cycle[i // svg.NUM_COLORS % 2].format(i % svg.NUM_COLORS)
        for i, name in enumerate(catalog.FAMILIES)
    }
    shown = {card.id: card for card in cards}
    done = [card for card in cards if card.state == "done"]
    totals = [
        (word, sum(dict(card.counts).get(word, 0) for card in cards)) for word in _WORDS.values()
    ]
    return {
        "cards": [_entry(folder, card) for card in cards], "done": len(done),
        "waiting": sum(card.state == "waiting" for card in cards),
        "failed": sum(card.state == "failed" for card in cards),
        "totals": totals, "claims": sum(count for _, count in totals), "marks": _MARKS,
        "words": _WORDS, "command": command, "quick": quick,
        "spent": _rough(spent) if spent else "",
        "methods": [_method(method, methods, shown) for method in methods],
        "tree": Markup(lineage.drawing(nodes, colours)), "list": Markup(lineage.nested(nodes)),
        "forms": sum(len(method.line) for method in methods),
        "families": [(name, colours[name]) for name in catalog.FAMILIES],
    }  # fmt: skip


def _rough(seconds: float) -> str:
    """A duration in whole seconds."""
    return fmt.seconds(round(seconds)).replace(".0 s", " s")


def _entry(folder: Path, card: Card) -> dict[str, Any]:
    inline = card.picture.startswith("<svg")
    report = f"{card.id}/report.html"
    # A chart's marks lead to runs, which are in the report.
    drawing = card.picture.replace('href="#', f'href="{report}#') if inline else ""
    return {
        "card": card, "report": report if (folder / report).is_file() else "",
        "drawing": Markup(drawing),
        "source": "" if inline else card.picture, "took": _rough(card.seconds),
        "log": f"{card.id}/failure.txt" if card.state == "failed" else "",
    }  # fmt: skip


def _method(
    method: catalog.Method, methods: Sequence[catalog.Method], cards: Mapping[str, Card]
) -> dict[str, Any]:
    owner = {form.name: other.id for other in methods for form in other.line}
    own = {form.name for form in method.line}
    parents = {name: owner[name] for form in method.line for name in form.parents}
    children = {
        form.name: other.id for other in methods for form in other.line if own & {*form.parents}
    }
    return {
        "m": method, "forms": method.line if len(own) > 1 else (), "card": cards.get(method.study),
        "parents": [item for item in parents.items() if item[0] not in own],
        "children": [item for item in children.items() if item[0] not in own],
    }  # fmt: skip
