r"""The tasks of MiniWoB++, seen as pixels and judged by the pages themselves.

Each task is a page of 160 x 210 CSS pixels that makes a small exercise from a seed and rewards what
is done with it. The yellow bar with the instruction (the top 50 pixels) is clipped away: an agent
sees the 160 x 160 pixels below it and is given the instruction as words.

Two choices make results strict:

- **Success is a raw reward of exactly 1**, without the page's discount for time. Many reports count
  any reward above 0, so that half of the right checkboxes is a success; here it is a failure.
- **Seeds from 1,000,000 on are for tests**, and set the pages' data mode to "test" (below it is
  "train"): a few pages then ask for what they never ask for in training.

The pages' limit of some 10 seconds is lifted (an agent's steps are limited instead), and their
clocks stand still, so that a seed always gives the same pixels. A page is opened once and used by
many exercises.

Only the HTML files of the package `miniwob` are used; nothing of it is imported.

References:
    Shi et al. (2017), "World of Bits", ICML; Liu et al. (2018), arXiv:1802.08802 (MiniWoB++).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from paragone._core.errors import MissingPackageError
from paragone.multimodal.agent._dom import DomExercise
from paragone.multimodal.agent._miniwob_oracles import ORACLES

__all__ = ["CLIP", "FIRST_TEST_SEED", "SETS", "MiniWobTask", "miniwob_folder"]

CLIP = (0.0, 50.0, 160.0, 210.0)
"""What an agent sees of a page, in CSS pixels."""

FIRST_TEST_SEED = 1_000_000
"""Seeds from here on are never trained on."""

_TWELVE = (
    "click-test", "click-test-2", "click-button", "click-button-sequence", "click-dialog",
    "click-dialog-2", "click-tab", "focus-text", "focus-text-2", "click-link", "click-widget",
    "click-option",
)  # fmt: skip

_THIRTEEN = (
    "enter-text", "enter-text-dynamic", "enter-password", "login-user", "click-checkboxes",
    "click-checkboxes-transfer", "click-color", "click-collapsible", "grid-coordinate",
    "identify-shape", "click-tab-2-easy", "enter-date", "form-sequence-2",
)  # fmt: skip

_FIFTEEN = (
    "click-tab-2", "click-tab-2-hard", "click-collapsible-2", "click-checkboxes-large",
    "click-shape", "choose-list", "enter-text-2", "enter-time", "simple-arithmetic", "read-table",
    "use-spinner", "use-slider", "navigate-tree", "multi-orderings", "email-inbox-noscroll",
)  # fmt: skip

SETS: dict[str, tuple[str, ...]] = {
    "12": _TWELVE,
    "25": _TWELVE + _THIRTEEN,
    "40": _TWELVE + _THIRTEEN + _FIFTEEN,
}
"""Named sets of tasks."""

_STEPS = {"click-checkboxes-large": 20, "use-spinner": 24, "use-slider": 16, "use-slider-2": 24,
          "form-sequence": 16}  # fmt: skip
_START = """(ask) => {
  core.EPISODE_MAX_TIME = 2147483647;
  core.setDataMode(ask.mode);
  if (document.activeElement) document.activeElement.blur();
  Object.assign(document.documentElement.lastInput ?? {}, {keys: '', at: null});
  Math.seedrandom(ask.seed);
  core.startEpisodeReal();
  clearInterval(core.CD_TIMER);
  document.getElementById('reward-display').style.display = 'none';
  const told = core.getUtterance();
  return typeof told === 'string' ? told : told.utterance;
}"""

_REWARD = """
if (!WOB_DONE_GLOBAL) return null;
return WOB_RAW_REWARD_GLOBAL === 1 ? 1 : 0;"""


def miniwob_folder() -> Path:
    """Where the pages are.

    Raises:
        MissingPackageError: `miniwob` is not installed.
    """
    spec = importlib.util.find_spec("miniwob")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(
            "tasks of MiniWoB++ need their pages: pip install miniwob (or paragone[agents])"
        )
    return Path(spec.submodule_search_locations[0]) / "html" / "miniwob"


class MiniWobTask:
    """A task of MiniWoB++.

    Any page can be run and scored; those in `SETS` have a teacher, too.

    Args:
        page: Name of the page, such as "click-test-2".
        max_steps: Steps after which an exercise counts as failed.

    Raises:
        ValueError: There is no such page.

    Example:
        >>> MiniWobTask("login-user").name
        'miniwob:login-user'
    """

    def __init__(self, page: str, *, max_steps: int | None = None) -> None:
        folder = miniwob_folder()
        self._file = folder / f"{page}.html"
        if not self._file.is_file() or self._file.parent != folder:
            some = ", ".join(SETS["12"][:4])
            raise ValueError(f"miniwob:{page}: MiniWoB++ has no such page; there are {some}, ...")
        self.page = page
        self.name = f"miniwob:{page}"
        self.max_steps = _STEPS.get(page, 12) if max_steps is None else max_steps

    view = (500, 320)

    @property
    def taught(self) -> bool:
        """Whether exercises know what is wanted."""
        return self.page in ORACLES

    def start(self, browser: Any, seed: int) -> DomExercise:
        """Begins an exercise in a `Browser`; one seed always gives the same one.

        Raises:
            OperatorError: A page that does not start.
        """
        address = self._file.as_uri()
        if browser.page.url != address:
            browser.open(address)
        browser.page.mouse.move(0, 0)
        mode = "test" if seed >= FIRST_TEST_SEED else "train"
        instruction = browser.evaluate(_START, {"seed": seed, "mode": mode})
        return DomExercise(
            browser, " ".join(instruction.split()), oracle=ORACLES.get(self.page, "return null;"),
            reward=_REWARD, clip=CLIP, seed=seed,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"MiniWobTask({self.page!r})"
