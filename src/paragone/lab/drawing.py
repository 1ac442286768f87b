"""The process that draws a study's pictures: `python -m paragone.lab.drawing FOLDER DRAW PATH ...`.

One that fails leaves its traceback in the log and no file; the others are drawn all the same.
"""

from __future__ import annotations

import sys
import traceback

from paragone._core.lazy import resolve

__all__ = ["draw"]


def draw(folder: str, *words: str) -> None:
    """Calls each `"module:function"` with the folder and the file that stands after it."""
    for target, path in zip(words[::2], words[1::2], strict=True):
        try:
            resolve(target)(folder, path)
        except SystemExit as reason:
            print(f"{target}: {reason}")
        except Exception:
            traceback.print_exc()


if __name__ == "__main__":
    draw(*sys.argv[1:])
