"""`list` and `show`: the catalogue as text, without importing a single method.

Whether a method is built is computed: its public path is followed through the package's lazy
table to a file, and the name must be defined there. (A contract test imports them for real.)
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import textwrap
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from paragone._core import catalog
from paragone._core.errors import UsageError

__all__ = ["Listing", "Page", "built", "families", "module_of", "page"]

_TOP_LEVEL = re.compile(
    r"^(?:class|def|async def)\s+(\w+)|^(\w+)\s*[:=]|^from .* import (.*)$", re.MULTILINE
)
_WORD = re.compile(r"\w+")


@cache
def _text(module: str) -> str | None:
    """Source of a paragone module, None if it does not exist."""
    base = Path(catalog.__file__).parent.parent.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return None


@cache
def _names(module: str) -> frozenset[str]:
    """What a module's source defines or imports at its top level."""
    found = _TOP_LEVEL.findall(_text(module) or "")
    return frozenset(word for groups in found for part in groups for word in _WORD.findall(part))


def _defines(module: str, name: str) -> bool:
    return name in _names(module) or _text(f"{module}.{name}") is not None


def _table(module: str) -> dict[str, str]:
    """Names of a lazy package, whose import is light; other modules are not imported."""
    light = "lazy_exports(" in (_text(module) or "")
    return getattr(importlib.import_module(module), "_TARGETS", {}) if light else {}


def built(path: str) -> bool:
    """Whether a public path such as `"paragone.ensemble:VotingClassifier"` leads to code."""
    module, _, name = path.partition(":")
    name = name.split(".")[0]
    target, _, attribute = _table(module).get(name, f"{module}:{name}").partition(":")
    return _defines(target, attribute.split(".")[0]) if attribute else _text(target) is not None


def module_of(path: str) -> str:
    """The module that holds the code behind a public path."""
    module, _, name = path.partition(":")
    return _table(module).get(name, path).partition(":")[0]


@cache
def _installed() -> dict[str, str]:
    """Installed distributions to their versions, by the names of their folders alone.

    `importlib.metadata` opens and parses each, which is half of what `paragone list` would take.
    """
    found: dict[str, str] = {}
    for folder in filter(os.path.isdir, sys.path):
        for entry in os.listdir(folder):
            stem, _, kind = entry.rpartition(".")
            name, dash, version = stem.partition("-")
            if dash and kind in ("dist-info", "egg-info"):
                found.setdefault(name.replace("_", "-").lower(), version.partition("-")[0])
    return found


def _rival_state(name: str) -> str:
    """Version of a rival library, or "" if it is not installed."""
    key = name.replace("_", "-").lower()
    return _installed().get(key) or _installed().get(f"{key}-cpu", "")


def _row(method: catalog.Method) -> dict[str, Any]:
    missing = [path for path in method.paths if not built(path)]
    return {
        **asdict(method),
        "built": not missing,
        "missing_paths": missing,
        "rivals": {name: _rival_state(name) or None for name in method.rivals},
    }


@dataclass(frozen=True)
class Listing:
    """Rows of the catalogue; `str()` is the table, `json()` the same as data."""

    rows: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Any:
        return iter(self.rows)

    def json(self) -> str:
        return json.dumps(self.rows, indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        lines: list[str] = []
        family = ""
        for row in self.rows:
            if row["family"] != family:
                family = row["family"]
                lines += ["", family]
            state = "" if row["built"] else "  (not built yet)"
            lines.append(f"  {row['id']:<24} {row['title']} ({row['year']}){state}")
            lines += textwrap.wrap(
                row["claim"], 100, initial_indent=" " * 27, subsequent_indent=" " * 27
            )
            rivals = ", ".join(
                f"{name} {version}" if version else f"{name} (pip install {name})"
                for name, version in row["rivals"].items()
            )
            detail = f"cost: {row['cost']}" + (f"; rivals: {rivals}" if rivals else "")
            lines += textwrap.wrap(detail, 100, initial_indent=" " * 27, subsequent_indent=" " * 27)
            lines += textwrap.wrap(
                f"paper: {row['papers'][0]}", 100, initial_indent=" " * 27,
                subsequent_indent=" " * 27,
            )  # fmt: skip
        done = sum(row["built"] for row in self.rows)
        lines += ["", f"{done} of {len(self.rows)} built; `paragone show METHOD` explains one."]
        return "\n".join(lines).strip("\n")


def families(family: str | None) -> Listing:
    """Returns the rows of one family, or all."""
    if family is not None and family not in catalog.FAMILIES:
        import difflib

        near = difflib.get_close_matches(family, catalog.FAMILIES, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"no family {family!r}; {hint or ', '.join(catalog.FAMILIES)}")
    found = [row for row in catalog.methods() if family in (None, row.family)]
    return Listing([_row(method) for method in found])


@dataclass(frozen=True)
class Page:
    """A method explained; `str()` is the text."""

    method: catalog.Method
    text: str

    def __str__(self) -> str:
        return self.text


def page(name: str, source: bool) -> Page:
    """Explains a method from its row of the catalogue, with its source if asked for."""
    method = catalog.find(name)
    children = [m.id for m in catalog.methods() if method.id in m.parents]
    rivals = _row(method)["rivals"].items()
    items = [
        ("cost", [method.cost]),
        ("came from", [", ".join(method.parents) or "no method of the catalogue"]),
        ("led to", [", ".join(children) or "no method of the catalogue"]),
        ("prefer it", [method.prefer]),
        ("papers", list(method.papers)),
        ("use", [path.replace(":", ".") + _state(path) for path in method.paths]),
        ("rivals", [", ".join(f"{r} {v or '(not installed)'}" for r, v in rivals) or "none"]),
        ("study", [f"paragone compare {method.study}"]),
    ]
    blocks = [
        f"{method.title}  ({method.id}, {method.year})", _wrap(method.claim), _wrap(method.idea),
        textwrap.indent(method.equation, "    "),
        "\n".join(_item("" if i else head, text)
                  for head, texts in items for i, text in enumerate(texts) if text),
        _source(method) if source else "",
    ]  # fmt: skip
    return Page(method, "\n\n".join(filter(None, blocks)))


def _wrap(text: str) -> str:
    return textwrap.fill(text, 96)


def _item(name: str, text: str) -> str:
    return textwrap.fill(text, 96, initial_indent=f"{name:<10} ", subsequent_indent=" " * 11)


def _state(path: str) -> str:
    return "" if built(path) else "  (not built yet)"


def _source(method: catalog.Method) -> str:
    targets = [module_of(path) for path in method.paths if built(path)]
    if not targets:
        return f"{method.id} is not built yet: there is no source to show"
    modules = dict.fromkeys(targets)
    return "\n\n".join(f"# {name.replace('.', '/')}.py\n{_text(name)}" for name in modules)
