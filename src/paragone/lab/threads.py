"""`threads`: the processes and threads of a program, once or again and again."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import Literal

from paragone._core.errors import UsageError
from paragone.runtime.inspection import Snapshot, inspect

__all__ = ["Watch", "look"]

_CLEAR = "\x1b[H\x1b[2J"


def look(pid: int | Literal["self"] | None, stacks: bool) -> Snapshot:
    """One snapshot.

    Raises:
        UsageError: There is no such process, or this system cannot tell.
    """
    try:
        return inspect(pid, stacks=stacks, channels=True)
    except (ProcessLookupError, ValueError, OSError) as error:
        raise UsageError(f"threads: {error}") from None


@dataclass(frozen=True)
class Watch:
    """Snapshots of one process until it ends or the user leaves with Ctrl-C.

    Attributes:
        pid: The process.
        every: Seconds from one to the next.
        stacks: Whether to collect Python stacks.
    """

    pid: int | Literal["self"] | None
    every: float
    stacks: bool

    def print(self) -> None:
        """Shows each as a table in which CPU is the share of a core since the one before."""
        self._follow(as_json=False)

    def json(self) -> str:
        """Prints each as a line of JSON, and returns the last."""
        return self._follow(as_json=True)

    def _follow(self, as_json: bool) -> str:
        from paragone.runtime._listing import listing

        before, began, text = None, None, ""
        try:
            while True:
                now = look(self.pid, self.stacks)
                if began not in (None, now.process.started_s) or now.process.state == "zombie":
                    break
                began = now.process.started_s
                if as_json:
                    print(text, end="\n" * bool(text), flush=True)
                    text = json.dumps(json.loads(now.json()))
                else:
                    print((_CLEAR if sys.stdout.isatty() else "") + listing(now, before) + "\n",
                          flush=True)  # fmt: skip
                before = now
                time.sleep(self.every)
        except UsageError:
            if before is None:
                raise
        except KeyboardInterrupt:
            pass
        return text
