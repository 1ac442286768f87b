"""Names that are imported when they are first touched (PEP 562).

A package that lists its public names this way costs nothing to import, so `paragone list`
and `import paragone` stay quick although some families need torch or numba.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

__all__ = ["lazy_exports", "resolve"]


def resolve(target: str) -> Any:
    """Imports `"module"` or `"module:attribute.attribute"` and returns the object.

    Example:
        >>> resolve("math:tau") > 6
        True
    """
    module_name, _, path = target.partition(":")
    found: Any = importlib.import_module(module_name)
    for part in filter(None, path.split(".")):
        found = getattr(found, part)
    return found


def _kept_names(names: frozenset[str]) -> type[ModuleType]:
    """Returns the class of a package in which some names do not become submodules."""

    class Package(ModuleType):
        def __setattr__(self, name: str, value: Any) -> None:
            if name not in names or not isinstance(value, ModuleType):
                super().__setattr__(name, value)

    return Package


def lazy_exports(
    package: str, targets: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns the `__getattr__` and `__dir__` of a package whose names resolve on first use.

    A public name may be that of the module that defines it: it is always the name that is found,
    never the module, in whatever order things are imported.

    Args:
        package: The package's `__name__`.
        targets: Public name to `"module"` or `"module:attribute"`.
    """
    same = frozenset(name for name, at in targets.items() if at == f"{package}.{name}:{name}")
    if same:
        sys.modules[package].__class__ = _kept_names(same)

    def __getattr__(name: str) -> Any:
        if name not in targets:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = resolve(targets[name])
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *targets})

    return __getattr__, __dir__
