"""The catalogue: every method as data, one `catalog.toml` a family.

Reading it imports no family, so listing all methods takes milliseconds. Whether a method is
built is never written down: it is computed from whether its public paths import.
"""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve

__all__ = ["FAMILIES", "Form", "Method", "find", "methods"]

FAMILIES = (
    "estimation", "neighbors", "ensemble", "reinforcement", "runtime",
    "mixers", "training", "vision", "language", "multimodal",
)  # fmt: skip

_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One step of the lineage: what a method was first, or became later, such as MQA of MHA.

    Attributes:
        name: As the field calls it; no other form has that name.
        year: Of its paper.
        parents: Names of the forms that it came from, of this method or of others; a method
            without forms goes by the part of its title before a comma or colon.
    """

    name: str
    year: int
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One row of the catalogue.

    Attributes:
        number: Place in the catalogue, 1 to 36.
        id: Short name, as typed on the command line.
        family: Package below `paragone`.
        title: The method in the field's words.
        claim: One line: what it does and for whom.
        paths: Public names, `"paragone.<family>:<name>"`; the method is built when all import.
        kind: "estimator", "function", "module", "optimizer", "environment", "system" or "model".
        papers: References, the first one being the source.
        year: Year of the first paper.
        cost: Time and memory in the symbols of the method's page.
        study: The study in which it meets its rivals.
        rivals: Libraries that offer the same, by their distribution name.
        parents: Ids of the methods it came from.
        forms: Its own line, oldest first.
        idea: Two or three sentences that teach it.
        equation: The equation that the code computes, in LaTeX.
        prefer: When to prefer it, and over what.
    """

    number: int
    id: str
    family: str
    title: str
    claim: str
    paths: tuple[str, ...]
    kind: str
    papers: tuple[str, ...]
    year: int
    cost: str
    study: str
    rivals: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    forms: tuple[Form, ...] = ()
    idea: str = ""
    equation: str = ""
    prefer: str = ""
    aliases: tuple[str, ...] = field(default=())

    @property
    def line(self) -> tuple[Form, ...]:
        """Its forms; the method itself where it has only one."""
        parents = tuple(find(name).line[-1].name for name in self.parents)
        name = re.split(r"[,:(]", self.title)[0].strip()
        return self.forms or (Form(name=name, year=self.year, parents=parents),)

    def missing(self) -> list[str]:
        """Imports the public paths; returns those that do not exist yet."""
        absent = []
        for path in self.paths:
            try:
                resolve(path)
            except (ImportError, AttributeError):
                absent.append(path)
        return absent


def _frozen(row: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(value) if isinstance(value, list) else value for k, value in row.items()}


@cache
def methods() -> tuple[Method, ...]:
    """Returns every method of every family, in catalogue order."""
    found = []
    for family in FAMILIES:
        text = (_ROOT / family / "catalog.toml").read_text(encoding="utf-8")
        for row in tomllib.loads(text).get("method", []):
            frozen = _frozen(row)
            frozen["forms"] = tuple(Form(**_frozen(form)) for form in frozen.get("forms", ()))
            found.append(Method(family=family, **frozen))
    return tuple(sorted(found, key=lambda method: method.number))


def find(name: str, among: Iterable[Method] | None = None) -> Method:
    """Returns the method with this id, alias, or name in Python, such as "mamba" or "QLearning".

    Raises:
        UsageError: No such method; the message names the nearest ones.
    """
    import difflib

    rows = tuple(methods() if among is None else among)
    in_python = {
        path.rpartition(":")[2].lower(): row for row in reversed(rows) for path in row.paths
    }
    names = in_python | {key: row for row in rows for key in (row.id, *row.aliases)}
    key = name.strip().lower().replace("-", "_")
    if key in names:
        return names[key]
    near = difflib.get_close_matches(key, names, n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else "; `paragone list` shows all"
    raise UsageError(f"no method {name!r} in the catalogue{hint}")
