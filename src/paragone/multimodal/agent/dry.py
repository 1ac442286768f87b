"""An operator that acts on nothing: it shows given screenshots and remembers what was done.

It is for tests of loops and policies, and for trying a policy on screenshots that were recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from paragone.multimodal.agent.actions import ACTIONS, Action, ActionError
from paragone.multimodal.agent.contract import Screen

__all__ = ["ALL", "DryOperator"]

ALL = frozenset(ACTIONS)
"""The whole action space of desktops and phones."""


class DryOperator:
    """Shows the next screenshot after each action, and the last one from then on.

    Args:
        screens: One at least; arrays are (H, W, 3) uint8.
        actions: Names of the actions that it takes.

    Attributes:
        actions: Names of the actions that it takes.
        executed: The actions so far.
        closed: Whether `close` was called.

    Raises:
        ValueError: No screenshot, or an array of another shape or type.

    Example:
        >>> operator = DryOperator([np.zeros((4, 6, 3), np.uint8)])
        >>> operator.execute(Action("click", {"start_box": (5, 3)}))
        >>> operator.screenshot().size, len(operator.executed)
        ((4, 6), 1)
    """

    def __init__(self, screens: Sequence[Screen | np.ndarray], actions: Collection[str] = ALL):
        if not len(screens):
            raise ValueError("screens is empty: give one screenshot at least")
        self._screens = [one if isinstance(one, Screen) else Screen(one) for one in screens]
        for at, screen in enumerate(self._screens):
            pixels = screen.pixels
            if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
                raise ValueError(
                    f"screens[{at}] is {pixels.dtype} of shape {pixels.shape}; a screenshot is "
                    "uint8 of shape (H, W, 3)"
                )
        self.actions = frozenset(actions)
        self.executed: list[Action] = []
        self.closed = False

    def screenshot(self) -> Screen:
        """The screenshot after as many actions as there were."""
        return self._screens[min(len(self.executed), len(self._screens) - 1)]

    def execute(self, action: Action) -> None:
        """Remembers an action.

        Raises:
            ActionError: It has no such action, or a point is outside of the screenshot.
        """
        if action.name not in self.actions:
            raise ActionError(
                f"no action {action.name[:80]!r} here; there are {', '.join(sorted(self.actions))}"
            )
        height, width = self.screenshot().size
        for name, box in action.arguments.items():
            inside = not name.endswith("_box") or (
                all(0 <= x <= width for x in box[::2]) and all(0 <= y <= height for y in box[1::2])
            )
            if not inside:
                raise ActionError(
                    f"{name}={box} is outside of the screenshot of {width} x {height} pixels"
                )
        self.executed.append(action)

    def close(self) -> None:
        """Remembers that it was called."""
        self.closed = True
