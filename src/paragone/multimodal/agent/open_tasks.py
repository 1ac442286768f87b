"""Tasks by their names, as commands and configurations give them."""

from __future__ import annotations

from collections.abc import Sequence

from paragone.multimodal.agent.contract import Task
from paragone.multimodal.agent.miniwob import SETS, MiniWobTask

__all__ = ["open_tasks"]


def open_tasks(names: str | Sequence[str]) -> list[Task]:
    """Opens tasks.

    Args:
        names: Such as "miniwob:click-test-2,focus-text,pages:form": what comes before a colon
            holds until the next one. "miniwob:12", "miniwob:25" and "miniwob:40" are named sets,
            "pages:all" all kinds of generated pages (in another size: "pages:form@320x240"), and
            "file:FOLDER" one's own pages.

    Returns:
        Each task once, in the order of the names.

    Raises:
        ValueError: A name that means no task.

    Example:
        >>> [task.name for task in open_tasks("miniwob:click-test,focus-text")]
        ['miniwob:click-test', 'miniwob:focus-text']
    """
    listed = [names] if isinstance(names, str) else list(names)
    opened: dict[str, Task] = {}
    prefix = ""
    for one in (part.strip() for text in listed for part in text.split(",")):
        before, colon, name = one.partition(":")
        prefix, name = (before, name) if colon else (prefix, before)
        if not name:
            continue
        for task in _open(prefix, name, one):
            opened.setdefault(task.name, task)
    if not opened:
        raise ValueError(f"tasks: {names!r} names none; such as miniwob:click-test or pages:all")
    return list(opened.values())


def _open(prefix: str, name: str, told: str) -> list[Task]:
    if prefix == "miniwob":
        return [MiniWobTask(page) for page in SETS.get(name, (name,))]
    raise ValueError(
        f"tasks: {told!r} does not say of what kind it is; miniwob:, pages: and file: are known"
    )
