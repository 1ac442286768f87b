"""Writes the API reference: a page for each public package, an entry for each name of `__all__`.

An object that several packages export is described once, at the first, and linked from the others.
"""

import importlib
import inspect
from pathlib import Path
from types import ModuleType

PAGES = {
    "paragone": "Comparing",
    "paragone.lab": "The lab",
    "paragone.estimation": "Estimation",
    "paragone.neighbors": "Nearest neighbours",
    "paragone.ensemble": "Ensembles",
    "paragone.reinforcement": "Reinforcement learning",
    "paragone.runtime": "Processes and threads",
    "paragone.mixers": "Sequence mixers",
    "paragone.training": "Training systems",
    "paragone.vision": "Vision",
    "paragone.language": "Language",
    "paragone.multimodal": "Multimodal",
    "paragone.kernels": "Kernels",
}
MORE = {
    "paragone.lab": ("paragone.lab.api", "paragone.lab.result", "paragone.lab.outcome"),
    "paragone.ensemble": ("paragone.ensemble.distributed",),
    "paragone.training": ("paragone.training.compression", "paragone.training.shared_group"),
    "paragone.multimodal": ("paragone.multimodal.agent",),
}


def names(package: str) -> list[str]:
    """Returns the public names of a module, in the order of its `__all__`."""
    return list(importlib.import_module(package).__all__)


def _entry(package: str, name: str, written: dict[int, str]) -> tuple[list[str], list[str]]:
    """Returns the lines of one name, and the modules that it opens."""
    thing = getattr(importlib.import_module(package), name)
    full = f"{package}.{name}"
    if isinstance(thing, ModuleType):
        return [f"- `{name}`: the module {{py:mod}}`{thing.__name__}`", ""], [thing.__name__]
    callable_ = inspect.isclass(thing) or inspect.isroutine(thing)
    if callable_ and id(thing) in written:
        return [f"- `{name}`: {{py:obj}}`{written[id(thing)]}`", ""], []
    written[id(thing)] = full
    if inspect.isclass(thing):
        kind, options = "autoclass", ["   :members:"]
    elif callable_:
        kind, options = "autofunction", []
    else:
        told = repr(thing) if len(repr(thing)) < 300 else type(thing).__name__
        lines = [f".. py:data:: {full}", "", f"   ``{told}``"]
        return ["```{eval-rst}", *lines, "```", ""], []
    return ["```{eval-rst}", f".. {kind}:: {full}", *options, "```", ""], []


def module(package: str, written: dict[int, str], done: set[str]) -> list[str]:
    """Returns the section of one module, and after it those of the modules that it exports."""
    done.add(package)
    lines = [f"({package})=", f"## {package}", ""]
    lines += ["```{eval-rst}", f".. automodule:: {package}", "   :no-members:", "```", ""]
    opened: list[str] = []
    for name in names(package):
        entry, modules = _entry(package, name, written)
        lines += entry
        opened += modules
    for other in (*opened, *MORE.get(package, ())):
        if other not in done and other not in PAGES:
            lines += module(other, written, done)
    return lines


def pages() -> dict[str, str]:
    """Returns the text of each page by its name, `"ensemble"` for one."""
    written: dict[int, str] = {}
    done: set[str] = set()
    found = {}
    for package, title in PAGES.items():
        lines = [f"# {title}", "", *module(package, written, done)]
        found[package.rpartition(".")[2]] = "\n".join(lines)
    return found


def write(folder: Path) -> None:
    """Writes all pages; leaves those alone that are as they were."""
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        file = folder / f"{name}.md"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
