"""Tasks by their names, as commands and configurations give them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from paragone.multimodal.agent.contract import Task
from paragone.multimodal.agent.miniwob import SETS, MiniWobTask
from paragone.multimodal.agent.pages import KINDS, PageTask, file_tasks

__all__ = ["open_tasks", "view_of"]


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
    if prefix == "pages":
        kind, _, size = name.partition("@")
        if not re.fullmatch(r"(\d{1,4}x\d{1,4})?", size):
            raise ValueError(f"tasks: {told!r} has no size such as 320x240 after the @")
        sides = [int(side) for side in size.split("x")] if size else []
        return [PageTask(one, *sides) for one in (KINDS if kind == "all" else (kind,))]
    if prefix == "file":
        return list(file_tasks(name))
    raise ValueError(
        f"tasks: {told!r} does not say of what kind it is; miniwob:, pages: and file: are known"
    )


def view_of(tasks: Sequence[Task]) -> tuple[int, int]:
    """The smallest view of a browser that shows all tasks as they are meant to be seen.

    A smaller view makes screenshots cheaper, and changes nothing of what an agent sees.

    Args:
        tasks: Of `open_tasks`.

    Returns:
        Width and height in CSS pixels.

    Example:
        >>> view_of(open_tasks("miniwob:12"))
        (500, 320)
    """
    views = [getattr(task, "view", (1280, 720)) for task in tasks]
    return max(view[0] for view in views), max(view[1] for view in views)
