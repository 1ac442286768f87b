"""`paragone new`: files to start from, which run as they are."""

from __future__ import annotations

import keyword
import os
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from paragone._core.errors import UsageError
from paragone.lab import api, studies
from paragone.lab.contestant_templates import Template, template_for

__all__ = ["Begun", "contestant", "package"]

_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["paragone[lab]"]

[project.entry-points."paragone.contestants"]
{module} = "{module}_paragone:contestants"

[tool.hatch.build.targets.wheel]
include = ["{module}.py", "{module}_paragone.py"]
"""

_ANNOUNCED = '''\
"""What this package brings to studies, in strings: {module} is imported in its own runs alone."""

from paragone.lab import Contestant


def contestants(study):
    if study not in {studies}:
        return []
    return [Contestant(id="{module}", title="{name}", make="{module}:{make}",
                       origin="guest", needs={needs})]
'''


@dataclass(frozen=True)
class Begun:
    """What was written, and how to go on.

    Attributes:
        path: The file or folder.
        command: Runs it.
    """

    path: Path
    command: str

    def print(self) -> None:
        """Prints both."""
        print(f"{self.path} is written and runs as it is:\n\n    {self.command}\n")


def contestant(
    name: str = "Mine", *, study: str = "ensembles", out: str | os.PathLike[str] | None = None
) -> Begun:
    """Writes a contestant of your own that runs at once, to be changed.

    Args:
        name: Of the class or function.
        study: The study it is for, such as "neighbors".
        out: The file; NAME.py in small letters without it.

    Raises:
        UsageError: No name of Python's, no such study, or the file is there already.
    """
    template, name = template_for(study), _checked(name)
    path = Path(out) if out is not None else Path(f"{_module(name)}.py")
    if path.suffix != ".py":
        raise UsageError(f"--out {path}: `--with` takes a file that ends in .py")
    study = studies.load(study).id
    command = api.command("compare", study, quick=True, with_=(f"{path}:{name}",))
    _written(path, _text(template, name, study, command))
    return Begun(path, command)


def package(
    name: str, *, study: str = "ensembles", out: str | os.PathLike[str] | None = None
) -> Begun:
    """Writes a package whose contestant takes part wherever it is installed.

    Args:
        name: Of the class or function, such as "Mine".
        study: The study it is for.
        out: The folder; NAME in small letters without it.

    Raises:
        UsageError: No name of Python's, no such study, or the folder is there already.
    """
    template, name = template_for(study), _checked(name)
    module = _module(name)
    folder = Path(out) if out is not None else Path(module)
    if folder.exists():
        raise UsageError(f"{folder} is there already: name another with --out")
    kinds = "{kind}" if f"{name}Classifier" in template.code.replace("NAME", name) else ""
    study = studies.load(study).id
    place = folder if folder.is_absolute() else f"./{folder}"
    command = f"pip install -e {place} && {api.command('compare', study, quick=True)}"
    told = re.search(r"^needs = (.*?)(  #|$)", template.code, re.MULTILINE)
    announced = _ANNOUNCED.format(
        studies=sorted(template.studies), name=name, module=module, make=name + kinds,
        needs=told.group(1) if told else {},
    )  # fmt: skip
    _written(folder / f"{module}.py", _text(template, name, study, command))
    _written(folder / f"{module}_paragone.py", announced)
    _written(
        folder / "pyproject.toml", _PROJECT.format(name=module.replace("_", "-"), module=module)
    )
    return Begun(folder, command)


def _checked(name: str) -> str:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"{name!r} is no name of Python's: take letters, digits and _, as in Mine")
    return name


def _module(name: str) -> str:
    from paragone.lab.guests import identifier

    return identifier(name)


def _text(template: Template, name: str, study: str, command: str) -> str:
    told = textwrap.fill(template.takes, 98)
    head = f'"""{name}: a contestant of the study {study}.\n\n{told}\n\n'
    return f'{head}    {command}\n"""\n\n' + template.code.replace("NAME", name).lstrip("\n")


def _written(path: Path, text: str) -> None:
    if path.exists():
        raise UsageError(f"{path} is there already: name another with --out")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror})") from error
