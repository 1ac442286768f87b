"""The command line: generated from the signatures and docstrings of `paragone.lab.api`.

A command's options are its function's arguments, its help is the docstring. What remains here
is what only a shell has: exit codes, one-line errors, progress, and how a result is printed.

Exit codes: 0 done, 1 a contestant failed, 2 usage, 3 nothing finished, 130 interrupted.
"""

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(tokens: Sequence[str] | None = None) -> None:
    """Runs a command and exits with its code."""
    try:
        from paragone.cli.app import main as start
    except ModuleNotFoundError as error:
        if error.name not in ("cyclopts", "rich"):
            raise
        line = f"paragone: {error.name} is not installed; pip install 'paragone[lab]'"
        print(line, file=sys.stderr)
        raise SystemExit(2) from error
    start(tokens)
