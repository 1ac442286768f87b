"""A fit's rounds in a file, one line each, written as they are finished.

A process that is killed loses the round it was in and nothing else: every line is complete or is
the last one. Going on replays the rounds: trees are taken from the file, all else (scores,
dropout, early stopping) is computed again as in the first run, so that the model is the same, bit
for bit, as if nothing had happened.

The first line says what fit it is; a file of another fit is refused, with what differs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from paragone.ensemble._serialize import _decode, _encode
from paragone.ensemble._tree import Tree

__all__ = ["Journal", "describe_params", "read_journal"]

_FORMAT = "paragone-rounds"
_FREE = ("n_estimators", "n_jobs", "verbose", "warm_start", "random_state", "early_stopping_rounds")
"""Parameters that may change between the runs of one fit; the seed is in the file."""


def describe_params(model: Any) -> dict[str, str]:
    """Returns what must stay the same from run to run, as text."""
    params = model.get_params(deep=False)
    return {
        name: getattr(value, "__qualname__", None) or repr(value)
        for name, value in sorted(params.items())
        if name not in _FREE
    }


def read_journal(path: Path) -> tuple[dict[str, Any] | None, list[Any], int]:
    """Returns the head, the rounds as JSON data, and how many bytes of the file are whole lines.

    Raises:
        ValueError: The file is something else.
    """
    if not path.exists():
        return None, [], 0
    lines = path.read_bytes().split(b"\n")[:-1]
    if not lines:
        return None, [], 0
    try:
        head = json.loads(lines[0])
        if head["format"] != _FORMAT:
            raise ValueError(head["format"])
        rounds = [json.loads(line)["trees"] for line in lines[1:]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"checkpoint={str(path)!r} is no file of boosting rounds ({error!r}); name another "
            "file, or remove this one"
        ) from error
    return head, rounds, sum(len(line) + 1 for line in lines)


class Journal:
    """The rounds of one fit.

    Args:
        path: The file; None where another process writes it.
        head: What identifies the fit.
        rounds: Rounds that are there, as JSON data.
        size: Bytes of the file that hold them.
        first: Number of the first round in it.

    Attributes:
        kept: Trees by round.
    """

    def __init__(
        self, path: Path | None, head: dict[str, Any], rounds: list[Any], size: int, first: int
    ) -> None:
        self.kept: dict[int, list[Tree]] = {
            first + i: [_decode(tree) for tree in trees] for i, trees in enumerate(rounds)
        }
        self._next, self._path = first + len(rounds), path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if size:
                os.truncate(path, size)
            else:
                path.write_text(json.dumps({"format": _FORMAT, **head}) + "\n", encoding="utf-8")

    def write(self, r: int, trees: list[Tree]) -> None:
        """Adds round r, unless it is there."""
        if r < self._next:
            return
        self._next = r + 1
        if self._path is not None:
            line = json.dumps({"round": r, "trees": [_encode(tree, "") for tree in trees]})
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def open_journal(path: Any, head: dict[str, Any], share: Any, first: int) -> Journal:
    """Opens or makes the file at process 0 and gives the rounds to all.

    Hosts without a common disk have a file each, and after a restart another process may be the
    first: the file with most rounds counts, wherever it lies.

    Raises:
        ValueError: It belongs to another fit.
    """
    target = Path(path)

    def read() -> tuple[list[Any], int]:
        old, rounds, size = read_journal(target)
        if old is not None:
            differ = [name for name in head if old.get(name) != head[name]]
            if "params" in differ:
                mine, theirs = head["params"], old.get("params", {})
                differ += [f"{k}={mine[k]}, there {theirs.get(k)}" for k in mine
                           if mine[k] != theirs.get(k)]  # fmt: skip
                differ.remove("params")
            if differ:
                raise ValueError(
                    f"checkpoint={str(path)!r} belongs to another fit: it differs in "
                    f"{'; '.join(differ)}; name another file, or remove this one"
                )
        return rounds, size

    rounds, size = share.agree("opening the checkpoint", read)
    counts = share.objects(len(rounds))
    best = counts.index(max(counts))
    rounds = share.objects(rounds if share.rank == best else None)[best]
    if best and share.rank == 0:
        lines = [{"format": _FORMAT, **head}]
        lines += [{"round": first + i, "trees": trees} for i, trees in enumerate(rounds)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        size = len(text.encode())
    return Journal(target if share.rank == 0 else None, head, rounds, size, first)
