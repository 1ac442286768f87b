r"""The grammar of actions: what a policy writes, read without running a word of it.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 4.1 and table 1 (the action space).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Action", "ActionError"]


class ActionError(ValueError):
    """A text that is no action of the dialect, or an action that an operator does not have."""


@dataclasses.dataclass(frozen=True)
class Action:
    """A thought and what is done.

    Args:
        name: Such as "click", "type" or "finished".
        arguments: By their names in UI-TARS: `start_box` and `end_box` are (x, y) or
            (left, top, right, bottom); `content`, `key`, `direction`, `app_name` are texts; `time`
            is a number of seconds.
        thought: What led to it.
        reflection: What was found wrong before.
        summary: What was done, in words.
    """

    name: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    thought: str = ""
    reflection: str = ""
    summary: str = ""

    @property
    def point(self) -> tuple[float, float] | None:
        """The centre of `start_box`; None for an action without one."""
        box = self.arguments.get("start_box")
        if box is None:
            return None
        return ((box[0] + box[-2]) / 2, (box[1] + box[-1]) / 2)

    def moved(self, to: Callable[[float, float], tuple[float, float]]) -> Action:
        """The same action with every point carried by a function of x and y."""
        carried = {}
        for name, value in self.arguments.items():
            if name.endswith("_box"):
                pairs = [to(*value[at : at + 2]) for at in range(0, len(value), 2)]
                carried[name] = tuple(one for pair in pairs for one in pair)
            else:
                carried[name] = value
        return dataclasses.replace(self, arguments=carried)
