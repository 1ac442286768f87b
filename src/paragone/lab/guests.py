"""Contestants that are not in the tree: a file, a module, an object, a stranger's package.

A package announces its contestants by the entry-point group `paragone.contestants`: a function
that is called with the study's id and returns a list of `Contestant`. A file or a module is named
on the command line (`--with mine.py:Forest`, `--with mylib:Forest`); its source is read, not
run, to say early that a name is wrong. An object is pickled by value (classes of notebooks and
scripts too) and brought back in the run's own process.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import re
import warnings
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from paragone._core import catalog
from paragone._core.errors import MissingPackageError, UsageError
from paragone.lab.spec import Contestant

__all__ = ["announced", "entered", "from_object", "identifier", "installed", "pick", "unpickle"]

GROUP = "paragone.contestants"


def announced(study: str) -> list[Contestant]:
    """Returns the contestants that installed packages offer for a study.

    A package that cannot say is left out with a warning: it is no part of anybody else's study.
    """
    found: list[Contestant] = []
    for point in metadata.entry_points(group=GROUP):
        try:
            found += _listed(point, study)
        except Exception as error:
            warnings.warn(
                f"{point.value} of {point.dist.name if point.dist else 'a package'} cannot list "
                f"its contestants and is left out ({type(error).__name__}: {error})",
                stacklevel=2,
            )
    return found


def _listed(point: metadata.EntryPoint, study: str) -> list[Contestant]:
    offered = list(point.load()(study))
    for one in offered:
        if not isinstance(one, Contestant):
            raise TypeError(f"a list of Contestant is expected, it holds a {type(one).__name__}")
    return offered


def installed(contestant: Contestant) -> bool:
    """Whether the contestant's top module can be found, without importing it.

    Behind an adapter of ours stands the library of its distribution.
    """
    target = contestant.make.partition(":")[0]
    if target.endswith(".py"):
        return True
    top = target.split(".")[0]
    if top == "paragone" and contestant.distribution:
        try:
            metadata.version(contestant.distribution)
        except metadata.PackageNotFoundError:
            return False
    return importlib.util.find_spec(top) is not None


def version(contestant: Contestant) -> str:
    """Version of the contestant's library, "" if it has none."""
    top = contestant.make.partition(":")[0].split(".")[0]
    # A rival in an adapter of ours has its own version, or none.
    adapted = contestant.distribution and top == "paragone"
    for name in filter(None, (contestant.distribution, "" if adapted else top)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def titled(contestant: Contestant) -> Contestant:
    """Returns the contestant with `{version}` in its title filled in."""
    from dataclasses import replace

    short = ".".join(version(contestant).split(".")[:2])
    return replace(contestant, title=contestant.title.replace("{version}", short).strip())


def pick(known: Sequence[Contestant], names: Iterable[str]) -> list[Contestant]:
    """Returns the contestants of these names: our ids, catalogue ids, then anyone's ids.

    Raises:
        UsageError: A name is unknown; the message names the nearest ones.
    """
    ours = [c for c in known if c.origin == "paragone"]
    picked: list[Contestant] = []
    for name in names:
        key = name.strip().lower().replace("-", "_")
        found = [c for c in ours if c.id == key] or _by_method(ours, key)
        found = found or [c for c in known if c.id == key]
        if not found:
            choices = sorted({c.id for c in known} | {c.method for c in ours})
            near = difflib.get_close_matches(key, choices, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(choices)}"
            raise UsageError(f"no contestant {name!r}; {hint}")
        picked += [c for c in found if c not in picked]
    return picked


def _by_method(ours: Sequence[Contestant], key: str) -> list[Contestant]:
    try:
        row = catalog.find(key)
    except UsageError:
        return []
    return [c for c in ours if c.method == row.id]


def entered(entry: str, known: Sequence[Contestant]) -> Contestant:
    """Resolves one `--with`: a rival's id, `FILE.py:Name`, or `module:Name`.

    Raises:
        UsageError: No such rival, file or name.
        MissingPackageError: The rival is known but not installed.
    """
    rivals = {c.id: c for c in known if c.origin != "paragone"}
    if entry in rivals:
        if not installed(rivals[entry]):
            raise MissingPackageError(f"{entry} is not installed: {rivals[entry].install}")
        return rivals[entry]
    target, _, name = entry.rpartition(":")
    if not target or not name:
        if entry.endswith(".py"):
            raise UsageError(f"--with {entry}: name the contestant too, as {entry}:Name")
        near = difflib.get_close_matches(entry, rivals, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(rivals)}"
        raise UsageError(f"--with {entry}: no such rival, and not FILE.py:Name; {hint}")
    source, note = _source_of(target, entry), f"from {entry}"
    told: dict[str, Any] = {
        "id": identifier(name),
        "title": name.replace("{kind}", ""),
        "note": note,
    }
    if target.endswith(".py"):
        name, declared = _declared(source, name, entry)
        return Contestant(make=f"{source}:{name}", origin="guest", **declared, **told)
    needs = {"kind": kinds} if (kinds := _kind_of([name])) else {}
    return Contestant(make=f"{target}:{name}", origin="guest", needs=needs, **told)


def identifier(name: str) -> str:
    """A name in small letters, as ids and modules have them.

    Example:
        >>> identifier("MyForest{kind}")
        'my_forest'
    """
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.replace("{kind}", "")).lower()
    return re.sub(r"\W+", "_", snake).strip("_") or "guest"


def _source_of(target: str, entry: str) -> Path:
    if target.endswith(".py"):
        path = Path(target).expanduser().resolve()
        if not path.is_file():
            raise UsageError(f"--with {entry}: no such file {target}")
        return path
    if "/" in target or Path(target).is_file():
        raise UsageError(f"--with {entry}: {target} is no Python file; its name ends in .py")
    try:
        spec = importlib.util.find_spec(target.split(".")[0])
    except ValueError:
        spec = None
    if spec is None:
        raise UsageError(f"--with {entry}: no module {target.split('.')[0]!r} is installed")
    return Path(spec.origin or "")


_KINDS = ("Classifier", "Regressor")


def _kind_of(names: Iterable[str]) -> list[str]:
    return [kind for kind in _KINDS if any(n.endswith(kind) for n in names)]


def _declared(path: Path, name: str, entry: str) -> tuple[str, dict[str, Any]]:
    """A file's contestant by its full name, and what the file says of it.

    Where only `NameClassifier` or `NameRegressor` or both are there, `Name` means them. Which task
    a class is for is told by its own name and its bases' names. `needs` and `space` count where
    they are written out, in the class or in the file.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"--with {entry}: {path.name} is not Python ({error})") from error
    named = _names(tree)
    if "{kind}" not in name and name not in named and any(name + k in named for k in _KINDS):
        name += "{kind}"
    kinds = [kind for kind in _KINDS if name.replace("{kind}", kind) in named]
    if not kinds:
        near = difflib.get_close_matches(name, named, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UsageError(f"--with {entry}: {path.name} defines no {name!r}{hint}")
    if "{kind}" not in name:
        node = named[name]
        bases = node.bases if isinstance(node, ast.ClassDef) else []
        kinds = _kind_of([name]) or _kind_of([ast.unparse(base) for base in bases])
    body = [*tree.body, *getattr(named.get(name), "body", [])]
    found = {key: _written_out(body, key, entry) for key in ("needs", "space")}
    if kinds and len(kinds) < len(_KINDS):
        found["needs"] = {"kind": kinds, **found["needs"]}
    return name, found


def _names(tree: ast.Module) -> dict[str, ast.stmt]:
    named: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            named[node.name] = node
        elif isinstance(node, ast.Assign):
            named.update({t.id: node for t in node.targets if isinstance(t, ast.Name)})
        elif isinstance(node, ast.ImportFrom | ast.Import):
            named.update({(a.asname or a.name).split(".")[0]: node for a in node.names})
    return named


def _written_out(body: Iterable[ast.stmt], key: str, entry: str) -> dict[str, Any]:
    """The last mapping of that name; a class's own comes after its file's."""
    found: dict[str, Any] = {}
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == key for t in targets):
            assert isinstance(node, ast.Assign)
            try:
                found = ast.literal_eval(node.value)
            except ValueError:
                continue  # whatever it is, it is not meant for us
            if key == "needs" and not _is_needs(found):
                raise UsageError(
                    f"--with {entry}: `needs` is {ast.unparse(node.value)}; it maps facts to lists "
                    'of values, such as {"kind": ["Classifier"]}'
                )
    return found if isinstance(found, dict) else {}


def _is_needs(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(v, list | tuple) for v in found.values())


def from_object(thing: Any, folder: Path) -> Contestant:
    """Turns an estimator (or a class) into a contestant by pickling it into `folder`.

    Raises:
        UsageError: The object is neither a contestant nor something with `fit`.
    """
    if isinstance(thing, Contestant):
        return thing
    if not hasattr(thing, "fit"):
        raise UsageError(f"{thing!r} has no `fit`: an estimator, a class or a Contestant is needed")
    import hashlib

    import cloudpickle

    name = thing.__name__ if isinstance(thing, type) else type(thing).__name__
    content = cloudpickle.dumps(thing)
    digest = hashlib.sha256(content).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{identifier(name)}-{digest}.pickle"
    path.write_bytes(content)
    kinds = _kind_of([name])
    return Contestant(
        id=identifier(name), title=name, make="paragone.lab.guests:unpickle", origin="guest",
        params={"path": str(path.resolve()), "digest": digest},
        needs={"kind": kinds} if kinds else {}, note="an object given in Python",
    )  # fmt: skip


def unpickle(path: str, digest: str) -> Any:
    """Brings an object back, unfitted; called in the run's own process.

    Raises:
        UsageError: The file is not the one that was written when the study was asked for.
    """
    import hashlib
    import pickle

    from sklearn.base import clone

    content = Path(path).read_bytes()
    if hashlib.sha256(content).hexdigest()[:12] != digest:
        raise UsageError(f"{path}: not the object that the study was given")
    thing = pickle.loads(content)
    if isinstance(thing, type):
        return thing()
    return clone(thing) if hasattr(thing, "get_params") else thing
