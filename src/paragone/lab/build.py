"""From strings to things: a contestant's `make`, a workload's `load`, and what they depend on.

`"module:attribute"` is imported, `"/path/file.py:Name"` is executed from the file; `{field}` is
filled in from the workload's facts. Only a run's own process resolves contestants. `version_of`
and `source_digest` say what a contestant's code is without importing it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from paragone._core.lazy import resolve
from paragone.lab.spec import Contestant, Job

__all__ = [
    "bind", "build", "load_inputs", "locate", "resolve_target", "source_digest", "version_of",
]  # fmt: skip


class _FromSource(importlib.machinery.SourceFileLoader):
    """Compiles what stands in the file now.

    Bytecode on disk is found again by the time in whole seconds and the size: a file that was
    edited twice in a second would run as it was before.
    """

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


_OURS = re.compile(r"paragone(\.\w+)+:\w+$")


def _fill(make: str, facts: Mapping[str, Any]) -> str:
    for name, value in facts.items():
        make = make.replace("{" + name + "}", str(value))
    return make


def _from_file(path: Path) -> Any:
    name = f"_paragone_{path.stem}_{hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()}"
    if name not in sys.modules:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        loader = _FromSource(name, str(path))
        spec = importlib.util.spec_from_file_location(name, path, loader=loader)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def resolve_target(target: str) -> Any:
    """Returns what `"module:attribute"` or `"/path/file.py:Name"` names.

    Example:
        >>> resolve_target("operator:add")(1, 2)
        3
    """
    place, _, path = target.rpartition(":")
    if not place.endswith(".py"):
        return resolve(target)
    found = _from_file(Path(place))
    for part in path.split("."):
        if not hasattr(found, part):
            raise AttributeError(f"{place} has no {path!r}")
        found = getattr(found, part)
    return found


def build(contestant: Contestant, facts: Mapping[str, Any] | None = None, **more: Any) -> Any:
    """Makes the contestant: what `make` names, called with its parameters.

    Args:
        contestant: Whom to make.
        facts: The workload's facts, for fields such as `{kind}` in `make`.
        more: Further arguments, such as `random_state`; they win over `params`.
    """
    return resolve_target(_fill(contestant.make, facts or {}))(**{**contestant.params, **more})


def bind(contestant: Contestant, facts: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """Makes a contestant that will be called: a class is built, a function gets its parameters.

    Example:
        >>> double = Contestant(id="d", title="double", make="operator:mul")
        >>> bind(double)(2, 3)
        6
    """
    target = resolve_target(_fill(contestant.make, facts or {}))
    if inspect.isclass(target):
        made: Any = target(**contestant.params)
        return made
    return functools.partial(target, **contestant.params) if contestant.params else target


def load_inputs(job: Job) -> tuple[Any, ...]:
    """Calls the workload's `load`; `split`, `seed` and `quick` go to it if it names them.

    Returns:
        What it returned, as a tuple: the arguments of the contestant's call.
    """
    load = resolve_target(job.workload.load)
    try:
        named = set(inspect.signature(load).parameters)
    except ValueError:
        named = set()  # some built-in functions do not tell their arguments
    block = {"split": job.block.split, "seed": job.block.seed, "quick": job.quick}
    known = {k: v for k, v in block.items() if k in named and k not in job.workload.params}
    found = load(**job.workload.params, **known)
    return found if isinstance(found, tuple) else (found,)


def version_of(contestant: Contestant) -> str:
    """Returns the version of the contestant's distribution (ours if it names none)."""
    name = contestant.distribution or ("paragone" if contestant.make.startswith("paragone") else "")
    try:
        return importlib.metadata.version(name) if name else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def locate(target: str) -> list[Path]:
    """Returns the source files that hold `target` and what it is likely to use.

    A file alone for a file; the package at the module's second level, with the shared layers
    below it, for one of ours (`paragone.ensemble:X` uses `paragone/_core` and `/kernels`); the
    whole package for others. Nothing is imported.
    """
    place, _, _ = target.rpartition(":")
    place = place or target
    if place.endswith(".py"):
        return [Path(place)]
    parts = place.partition("{")[0].split(".")
    spec = importlib.util.find_spec(parts[0])
    if spec is None or spec.origin in (None, "built-in", "frozen"):
        return []
    root = Path(str(spec.origin))
    if root.name != "__init__.py":
        return [root]
    package = root.parent
    if parts[0] != "paragone":
        return sorted(package.rglob("*.py"))
    if parts[1:2] == ["lab"]:
        module = package.joinpath(*parts[1:])
        return [p for p in (module.with_suffix(".py"), module / "__init__.py") if p.is_file()]
    folders = [package / "_core", package / "kernels", *(package / part for part in parts[1:2])]
    return sorted({path for folder in folders for path in folder.rglob("*.py")})


def _digest_of(target: str) -> str:
    total = hashlib.blake2b(digest_size=8)
    for path in locate(target):
        if path.is_file():
            total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def source_digest(contestant: Contestant) -> str:
    """Returns a hash of the contestant's source, "" for a library that its version identifies.

    What an adapter of ours is told to use (a parameter such as `"paragone.neighbors:KDTree"`)
    is part of it.
    """
    if contestant.origin != "paragone" and version_of(contestant):
        return ""
    used = [v for v in contestant.params.values() if isinstance(v, str) and _OURS.match(v)]
    return "".join(_digest_of(target) for target in (contestant.make, *used))
