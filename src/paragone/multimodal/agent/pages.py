r"""Generated pages, and one's own: exercises that a page itself declares.

A page takes part when it declares what is to be done and how it judges it:

```html
<script>
window.paragone = {
  instruction: 'Save the draft.',
  reward: () => saved ? 1 : null,                        // null: it goes on; else 0 to 1
  wanted: (t) => [t.fill(t.one('#title'), 'Draft'), t.press(t.one('#save'))],
  start: (seed) => { ... },                              // may be left out
};
</script>
```

`wanted` returns *goals* in order; the first that does not hold now becomes one action. `t` has
`press(element)`, `check(element, state)`, `fill(element, text)`, `drag(element, [x, y], holds)`,
`key("ctrl a", holds)`, and `one`, `all`, `seen` to look around. Since goals are read from the page
as it is, they are right after mistakes, too. `start` makes an exercise from a seed, and may set
`instruction`; without it the page is opened anew for each. This is how an agent is trained for
one's own web application: `paragone agent train --tasks file:my_tasks/`.

The generator makes such pages from a seed: twelve kinds (`KINDS`), eight themes, five languages,
three fonts, any size. Two themes and each fifth word stand on pages of test seeds (from 1,000,000
on) alone.

An agent sees pixels; `window.paragone` is read by the judge alone.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from paragone.multimodal.agent._dom import DomExercise
from paragone.multimodal.agent._pages_look import World, frame
from paragone.multimodal.agent._pages_rich import RICH
from paragone.multimodal.agent._pages_simple import SIMPLE
from paragone.multimodal.agent._pages_words import LANGUAGES
from paragone.multimodal.agent.contract import OperatorError
from paragone.multimodal.agent.miniwob import FIRST_TEST_SEED

__all__ = ["KINDS", "FileTask", "PageTask", "file_tasks", "page_html"]

_MAKERS = {**SIMPLE, **RICH}

KINDS = tuple(_MAKERS)
"""Kinds of generated pages."""

_ORACLE = """
const t = {press, check, fill, drag, key, one, all, seen, textOf};
const told = window.paragone;
return told && told.wanted ? told.wanted(t) : null;"""

_REWARD = "const told = window.paragone; return told ? told.reward() : null;"

_START = """(seed) => {
  const told = window.paragone;
  if (!told || typeof told.reward !== 'function') return null;
  if (told.start) told.start(seed);
  return String(told.instruction ?? '');
}"""


def page_html(
    kind: str,
    seed: int,
    *,
    width: int = 160,
    height: int = 160,
    languages: tuple[str, ...] = LANGUAGES,
) -> str:
    """A generated page.

    Args:
        kind: One of `KINDS`.
        seed: Decides everything on it; from 1,000,000 on with held-out words and themes.
        width: Of the page, in CSS pixels.
        height: Of the page.
        languages: One of them is the page's.

    Example:
        >>> page_html("form", 3) == page_html("form", 3)
        True
    """
    draw = random.Random(f"{kind} {seed}")
    world = World(draw, width, height, seed >= FIRST_TEST_SEED, languages)
    return frame(world, _MAKERS[kind](world))


class PageTask:
    """Generated pages of one kind.

    Args:
        kind: One of `KINDS`.
        width: Of the pages, in CSS pixels; at most the browser's view.
        height: Of the pages.
        languages: Of the pages; each page has one of them.
        max_steps: Steps after which an exercise counts as failed.

    Raises:
        ValueError: An unknown kind, or a size below 120 pixels.

    Example:
        >>> PageTask("form", 320, 240).name
        'pages:form@320x240'
    """

    taught = True

    def __init__(
        self,
        kind: str,
        width: int = 160,
        height: int = 160,
        *,
        languages: tuple[str, ...] = LANGUAGES,
        max_steps: int = 16,
    ) -> None:
        if kind not in _MAKERS:
            raise ValueError(f"pages:{kind}: no such kind; there are all, {', '.join(KINDS)}")
        if min(width, height) < 120:
            raise ValueError(f"pages of {width} x {height}: a side needs at least 120 pixels")
        self.kind, self.width, self.height, self.languages = kind, width, height, languages
        self.view = (width, height)
        self.name = f"pages:{kind}"
        if (width, height) != (160, 160):
            self.name += f"@{width}x{height}"
        self.max_steps = max_steps

    def start(self, browser: Any, seed: int) -> DomExercise:
        """Begins an exercise in a `Browser`; one seed always gives the same one.

        Raises:
            OperatorError: A page that does not start, or a view that is too small.
        """
        browser.open(
            page_html(
                self.kind, seed, width=self.width, height=self.height, languages=self.languages
            )
        )
        browser.page.mouse.move(0, 0)
        view = browser.evaluate("() => [window.innerWidth, window.innerHeight]")
        if view[0] < self.width or view[1] < self.height:
            raise OperatorError(
                f"{self.name} does not fit the browser's view of {view[0]} x {view[1]} pixels"
            )
        clip = (0.0, 0.0, float(self.width), float(self.height))
        return _declared(browser, seed, self.name, clip)

    def __repr__(self) -> str:
        return f"PageTask({self.kind!r}, {self.width}, {self.height})"


class FileTask:
    """A page of one's own, which declares `window.paragone`.

    Args:
        path: An HTML file, with what it needs beside it.
        clip: Part of the page that an agent sees, in CSS pixels (None: the browser's view).
        max_steps: Steps after which an exercise counts as failed.

    Raises:
        ValueError: No such file.
    """

    taught = True

    def __init__(
        self,
        path: str | Path,
        *,
        clip: tuple[float, float, float, float] | None = None,
        max_steps: int = 30,
    ) -> None:
        self.path = Path(path).resolve()
        if not self.path.is_file():
            raise ValueError(f"file:{path}: there is no such page")
        self.name = f"file:{path}"
        self.clip = clip
        self.max_steps = max_steps

    def start(self, browser: Any, seed: int) -> DomExercise:
        """Begins an exercise in a `Browser`.

        Raises:
            OperatorError: A page that does not start, or declares nothing.
        """
        browser.open(self.path.as_uri())
        browser.page.mouse.move(0, 0)
        return _declared(browser, seed, self.name, self.clip)

    def __repr__(self) -> str:
        return f"FileTask({str(self.path)!r})"


def _declared(browser: Any, seed: int, name: str, clip: Any) -> DomExercise:
    instruction = browser.evaluate(_START, seed)
    if not instruction:
        raise OperatorError(
            f"{name}: the page declares no window.paragone with an instruction and reward(); "
            "see paragone.multimodal.agent.pages"
        )
    return DomExercise(
        browser, " ".join(instruction.split()), oracle=_ORACLE, reward=_REWARD, clip=clip,
        seed=seed,
    )  # fmt: skip


def file_tasks(path: str | Path) -> list[FileTask]:
    """The pages of a folder (or one page).

    Args:
        path: A folder with .html files, each of which declares `window.paragone`.

    Raises:
        ValueError: No such folder, or no pages in it.
    """
    at = Path(path)
    if at.is_file():
        return [FileTask(at)]
    found = sorted(at.glob("*.html")) if at.is_dir() else []
    if not found:
        raise ValueError(f"file:{path}: no folder with .html pages")
    return [FileTask(one) for one in found]
