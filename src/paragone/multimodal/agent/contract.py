r"""What policies, operators, tasks and judges say to each other.

At step n a policy sees the instruction, all its earlier actions and the last N screenshots, and
proposes a text; the text is parsed, its points are carried from the policy's space to pixels of the
screenshot, and an operator carries the action out:

$$ (t_n, a_n) \sim P(\cdot \mid \text{instruction}, (t_i, a_i)_{i<n}, o_{n-N+1}, \ldots, o_n) . $$

Outside a policy's own text every point and box is in pixels of the screenshot, x to the right and y
down, with the origin at the corner of the top left pixel. Only tasks and their exercises (the
judge's side) may look into a page; an operator and a policy see pixels alone.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 3 (the formula: eq. 3) and section 4.4.

Shapes: H rows and W columns of pixels.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from paragone.multimodal.agent.actions import Action

if TYPE_CHECKING:
    from paragone.multimodal.agent.coordinates import Coordinates

__all__ = [
    "Box",
    "Context",
    "Element",
    "Exercise",
    "Operator",
    "OperatorError",
    "Point",
    "Policy",
    "Sample",
    "Screen",
    "Task",
    "Wanted",
]

Point = tuple[float, float]
"""x, y."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class OperatorError(RuntimeError):
    """A browser or desktop that cannot do, or no longer does, what is asked."""


@dataclasses.dataclass(frozen=True)
class Screen:
    """A screenshot.

    Args:
        pixels: (H, W, 3) uint8.
        device_pixel_ratio: Pixels of the screenshot to one CSS pixel.
        scroll: How far the page is scrolled, in CSS pixels (x, y).
    """

    pixels: np.ndarray
    device_pixel_ratio: float = 1.0
    scroll: Point = (0.0, 0.0)

    @property
    def size(self) -> tuple[int, int]:
        """Rows H and columns W."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclasses.dataclass(frozen=True)
class Context:
    """What a policy is given.

    Args:
        instruction: What is to be done, in words.
        screens: The last screenshots, oldest first; the last one is the present.
        history: All earlier actions, oldest first, points in pixels of the screenshot;
            `screens[-1 - k]` was taken before `history[-k]`.
        note: A remark of the loop, such as that the last action changed nothing ("" for none).
    """

    instruction: str
    screens: tuple[Screen, ...]
    history: tuple[Action, ...] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Element:
    """Something that can be seen on a page, as its DOM describes it.

    Args:
        text: What it says, or its label.
        role: Its ARIA role, such as "button", "checkbox", "textbox", "link", "text", "img".
        box: Where it is seen.
    """

    text: str
    role: str
    box: Box


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is right to do now, as a page's own DOM says it.

    Args:
        action: With a thought; points in pixels of the screenshot.
        box: Where the first point may be (None: an action without a point).
    """

    action: Action
    box: Box | None = None


@dataclasses.dataclass(frozen=True)
class Sample:
    """One step to learn from; what `Demonstrations` stores.

    Args:
        context: What the policy sees.
        wanted: The right action, and where its point may be.
        elements: What else is seen on the present screenshot, for learning to read screens.
        rejected: Actions that were wrong here, with the thoughts that led to them.
        task: Name of the task.
        seed: Seed of its exercise.
        step: Number of the step, from 0.
    """

    context: Context
    wanted: Wanted
    elements: tuple[Element, ...] = ()
    rejected: tuple[Action, ...] = ()
    task: str = ""
    seed: int = 0
    step: int = 0


@runtime_checkable
class Operator(Protocol):
    """Hands and eyes: takes screenshots and carries out actions.

    Attributes:
        actions: Names of the actions that it can carry out.
    """

    actions: frozenset[str]

    def screenshot(self) -> Screen:
        """What is seen now, once the page is quiet.

        Raises:
            OperatorError: A page that is gone or does not answer.
        """
        ...

    def execute(self, action: Action) -> None:
        """Carries an action out; points are in pixels of the last screenshot.

        Raises:
            ActionError: An action that this operator does not have.
            OperatorError: A page that is gone or does not answer.
        """
        ...

    def close(self) -> None:
        """Gives back what it holds; more than once is as good as once."""
        ...


@runtime_checkable
class Policy(Protocol):
    """What decides.

    Attributes:
        dialect: Of its texts; a key of `actions.DIALECTS`.
        screenshots: How many screenshots it wants to see.
    """

    dialect: str
    screenshots: int

    def coordinates(self, screen: Screen) -> Coordinates:
        """From the points of its texts to pixels of this screenshot."""
        ...

    def propose(self, context: Context) -> str:
        """A thought and an action, as text of the dialect."""
        ...


class Exercise(Protocol):
    """One episode of a task on a real page, from the judge's side.

    Attributes:
        instruction: What is to be done.
        operator: All that an agent gets to the page.
    """

    instruction: str
    operator: Operator

    def reward(self) -> float | None:
        """The page's own reward from 0 (failed) to 1 (done); None while it goes on."""
        ...

    def wanted(self) -> Wanted | None:
        """What is right to do now, from the DOM; None where no action leads to success."""
        ...

    def elements(self) -> tuple[Element, ...]:
        """What is seen now, from the DOM."""
        ...

    def close(self) -> None:
        """Ends the episode; the page may be used again by the next one."""
        ...


class Task(Protocol):
    """A kind of exercise.

    Attributes:
        name: Such as "miniwob:click-test" or "pages:form".
        max_steps: Steps after which an exercise counts as failed.
    """

    name: str
    max_steps: int

    def start(self, browser: Any, seed: int) -> Exercise:
        """Begins an exercise in a `Browser`; one seed always gives the same one.

        Raises:
            OperatorError: A page that does not start.
        """
        ...
