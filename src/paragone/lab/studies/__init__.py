"""Studies, one file each: a question, and all that is needed to answer it.

A study is a module of this package that defines `STUDY`. Files are listed, not imported, so
that naming the studies costs nothing.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path

from paragone._core.errors import UsageError
from paragone.lab.spec import Study

__all__ = ["ids", "load"]


def ids() -> list[str]:
    """Names of all studies."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(path.stem for path in files if not path.stem.startswith("_"))


def load(name: str) -> Study:
    """Returns a study; a family's name or a singular finds it too.

    Raises:
        UsageError: No such study; the message names the nearest ones.
    """
    key = name.strip().lower().replace("-", "_")
    known = ids()
    found = key if key in known else f"{key}s" if f"{key}s" in known else None
    if found is None:
        near = difflib.get_close_matches(key, known, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"studies: {', '.join(known)}"
        raise UsageError(f"no study {name!r}; {hint}")
    return importlib.import_module(f"{__name__}.{found}").STUDY
