"""A real browser: the judge's side, and the hands and eyes that an agent gets.

`Browser` is the judge's: it opens pages, may look into them, and counts what a hostile page did.
`BrowserOperator` is all that an agent gets: screenshots and actions, no DOM. Both drive Debian's
Chromium with Playwright, in one thread.

A point is in pixels of the screenshot. With D device pixels to a CSS pixel and a clip whose corner
is at (l, t), it is at

$$ (x_\\text{CSS}, y_\\text{CSS}) = ((x + \\operatorname{round}(D l)) / D,
   (y + \\operatorname{round}(D t)) / D) $$

of what is seen of the page, however far it is scrolled. After an action the page is waited for
until it is quiet (see `_quiet`); nothing sleeps.

The list of a `<select>` is drawn by Chromium over the page, but no click of a driven browser
reaches it. It therefore opens inside of the page here, as CSS lets it (`appearance: base-select`),
so that its options can be seen and clicked; the keyboard opens it with a space or an arrow, walks
it and takes an option with Enter. The calendar of a date field cannot be clicked either: dates are
typed.

References:
    Chrome DevTools Protocol, domains Page, Input and Runtime.
    CSS Basic User Interface 4, `appearance: base-select` and `caret-animation`.
"""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from paragone.multimodal.agent._chromium import LOOPBACK, Chromium, why_no_browser
from paragone.multimodal.agent._gestures import GESTURES
from paragone.multimodal.agent._hands import Hands
from paragone.multimodal.agent._tab import Tab
from paragone.multimodal.agent.actions import Action, ActionError
from paragone.multimodal.agent.contract import Box, OperatorError, Screen

__all__ = ["Browser", "BrowserOperator", "why_no_browser"]

STILL = frozenset({"wait", "finished", "call_user", "press_home"})


class Browser:
    """A Chromium with one page; the judge's side.

    Args:
        width: Of the page's view, in CSS pixels.
        height: Of the page's view, in CSS pixels.
        device_pixel_ratio: Pixels of a screenshot to one CSS pixel.
        executable: Chromium's path or name (None: PARAGONE_CHROMIUM, or what is installed).
        headless: Without a window.
        allow: Hosts that pages may reach over the network besides this machine.
        patience: Seconds after which a page that does not answer is ended.
        quiet: Seconds for which a page that goes on changing is waited for.
        lists: Whether the list of a `<select>` opens inside of the page.

    Attributes:
        dialogs: What pages said in alerts, questions and so on; all of them were dismissed.
        popups: Addresses of windows that pages wanted to open.

    Raises:
        MissingPackageError: Playwright is not installed.
        OperatorError: There is no Chromium, or it does not start.
    """

    def __init__(
        self,
        *,
        width: int = 1280,
        height: int = 720,
        device_pixel_ratio: float = 1.0,
        executable: str | None = None,
        headless: bool = True,
        allow: Sequence[str] = (),
        patience: float = 15.0,
        quiet: float = 1.0,
        lists: bool = True,
    ):
        self._view(width, height, device_pixel_ratio)
        self._allow = (*(host.strip("[]") for host in LOOPBACK), *allow)
        self._start = lambda: Chromium(executable, headless, allow)
        self._make = lambda: Tab(
            self._chromium, (self.width, self.height), self.device_pixel_ratio,
            patience=patience, quiet=quiet, lists=lists,
        )  # fmt: skip
        self._sealed, self._closed = 0, False
        self._source: tuple[str, bool | None] = ("about:blank", None)
        self._chromium = self._start()
        try:
            self._tab = self._make()
        except OperatorError:
            self._chromium.close()
            raise

    def _view(self, width: int, height: int, ratio: float) -> None:
        if width < 1 or height < 1 or not 0.25 <= ratio <= 8:
            raise ValueError(
                f"a view of {width} x {height} with {ratio} device pixels to a CSS pixel cannot "
                "be drawn: at least 1 x 1, and a ratio from 0.25 to 8"
            )
        self.width, self.height, self.device_pixel_ratio = width, height, ratio

    def _judge(self, what: str) -> Tab:
        if self._sealed:
            raise OperatorError(f"{what} is the judge's, and it is the agent's turn")
        return self._tab

    @property
    def page(self) -> Any:
        """Playwright's page; ask for it anew after `restart`.

        Raises:
            OperatorError: It is the agent's turn.
        """
        return self._judge("the page").page

    @property
    def dialogs(self) -> list[str]:
        return self._judge("the list of dialogs").dialogs

    @property
    def popups(self) -> list[str]:
        return self._judge("the list of pop-ups").popups

    def evaluate(self, expression: str, argument: Any = None) -> Any:
        """Runs JavaScript in the page and returns what it gives.

        Args:
            expression: An expression, or a function of the argument.
            argument: What JSON can say.

        Raises:
            OperatorError: It is the agent's turn; or the page is gone or does not answer.
        """
        tab = self._judge("evaluate")
        with tab.asking("evaluate"):
            return tab.page.evaluate(expression, argument)

    def settle(self) -> None:
        """Waits until the page is quiet.

        Raises:
            OperatorError: It is the agent's turn; or the page is gone or does not answer.
        """
        tab = self._judge("settle")
        with tab.asking("settle"):
            tab.quiet.wait()

    def open(self, source: str | Path, *, offline: bool | None = None) -> None:
        """Loads a page and waits until it is quiet.

        Where the last page is gone, a new one is made first, as `restart` does.

        Args:
            source: An http, https or file address, the path of a file, or HTML text (it
                holds a "<").
            offline: Whether it may reach nothing at all; None: text and files may not, pages of
                this machine and of allowed hosts may reach this machine and allowed hosts.

        Raises:
            OperatorError: It is the agent's turn; a host that is not allowed; a page that does not
                load.
        """
        self._judge("open")
        self._open(str(source), offline)

    def _open(self, source: str, offline: bool | None) -> None:
        self._source = (source, offline)
        text = "<" in source
        url = "" if text else source
        if url and not urllib.parse.urlsplit(url).scheme:
            url = Path(url).resolve().as_uri()
        if self._tab.lost:
            self._renew()
        parts = urllib.parse.urlsplit(url)
        web = parts.scheme in ("http", "https")
        if web and parts.hostname not in self._allow:
            raise OperatorError(
                f"{url[:200]} is on another machine: name its host, Browser(allow=["
                f"{parts.hostname!r}])"
            )
        self._tab.open(url, source, not web if offline is None else offline)

    def operator(
        self, clip: Box | None = None, actions: Collection[str] | None = None
    ) -> BrowserOperator:
        """An agent's hands and eyes on this browser's page.

        Args:
            clip: The part of the view that is seen and touched, in CSS pixels.
            actions: Names of those actions that it may carry out (None: all).
        """
        self._judge("operator")
        return BrowserOperator(self, clip=clip, actions=actions)

    @contextlib.contextmanager
    def sealed(self) -> Iterator[None]:
        """While an agent thinks: nothing of the judge's side can be called inside."""
        self._sealed += 1
        try:
            yield
        finally:
            self._sealed -= 1

    def restart(
        self,
        *,
        width: int | None = None,
        height: int | None = None,
        device_pixel_ratio: float | None = None,
    ) -> None:
        """A new, empty page, whatever became of the last one; Chromium too, where it ended.

        Operators of the last page are of no use any more.

        Args:
            width: Of the new page's view (None: as before).
            height: Of the new page's view (None: as before).
            device_pixel_ratio: Of the new page's screenshots (None: as before).

        Raises:
            ValueError: A view that cannot be drawn.
            OperatorError: It is the agent's turn; or Chromium does not start.
        """
        self._judge("restart")
        self._view(
            width or self.width, height or self.height,
            device_pixel_ratio or self.device_pixel_ratio,
        )  # fmt: skip
        self._renew()

    def _renew(self) -> None:
        if self._closed:
            raise OperatorError("the browser is closed: make another Browser")
        self._tab.close()
        with contextlib.suppress(OperatorError):
            if self._chromium.runs:
                self._tab = self._make()
                return
        self._chromium.close()
        self._chromium = self._start()
        self._tab = self._make()

    def close(self) -> None:
        """Ends Chromium; more than once is as good as once."""
        self._closed = True
        self._chromium.close()
        self._tab.lost = self._tab.lost or "the browser is closed"

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *why: object) -> None:
        self.close()


class BrowserOperator:
    """An agent's hands and eyes in a browser: screenshots and actions, and no way to the DOM.

    Args:
        source: An http, https or file address, HTML text, or a `Browser`; all but the last start a
            browser of their own, which `close` ends.
        width: Of the page's view, in CSS pixels (of a browser of its own).
        height: Of the page's view, in CSS pixels (of a browser of its own).
        device_pixel_ratio: Pixels of a screenshot to one CSS pixel (of a browser of its own).
        clip: Left, top, right and bottom of what is seen and touched, in CSS pixels.
        actions: Names of those actions that it may carry out (None: all).
        allow: Hosts that pages may reach besides this machine (of a browser of its own).

    Attributes:
        actions: Names of the actions that it carries out. `type` ends with Enter where the text
            ends with a newline; `scroll` goes by half of what is seen, or by `amount` pixels, at a
            point or in the middle; `wait` ends when the page has changed and is quiet again, or
            after `time` seconds (2, at most 60); `long_press` holds for `time` seconds (0.6);
            `press_home` opens the first page again; `finished` and `call_user` do nothing.

    Raises:
        ValueError: A clip that is empty or not inside the view, or an action that does not exist.
        OperatorError: The browser or the page does not start.

    Example:
        >>> with BrowserOperator("<button>Go</button>") as operator:  # doctest: +SKIP
        ...     operator.execute(Action("click", {"start_box": (20, 15)}))
    """

    ACTIONS = frozenset(GESTURES) | STILL

    def __init__(
        self,
        source: str | Browser,
        *,
        width: int = 1280,
        height: int = 720,
        device_pixel_ratio: float = 1.0,
        clip: Box | None = None,
        actions: Collection[str] | None = None,
        allow: Sequence[str] = (),
    ):
        unknown = set(actions or ()) - self.ACTIONS
        if unknown:
            raise ValueError(f"a browser has no {sorted(unknown)}; it has {sorted(self.ACTIONS)}")
        self.actions = self.ACTIONS if actions is None else frozenset(actions)
        own = not isinstance(source, Browser)
        browser = (
            Browser(width=width, height=height, device_pixel_ratio=device_pixel_ratio, allow=allow)
            if isinstance(source, str)
            else source
        )
        try:
            if isinstance(source, str):
                browser.open(source)
            hands = Hands(browser, clip)
        except (OperatorError, ValueError):
            if own:
                browser.close()
            raise
        # In functions' own scopes, so that no attribute leads to the page.
        self._look = lambda: hands.look()
        self._act = lambda action: hands.act(action)
        self._seal = lambda: browser.sealed()
        self._end = lambda: browser.close() if own else None

    def screenshot(self) -> Screen:
        """What is seen now, once the page is quiet.

        Raises:
            OperatorError: A page that is gone or does not answer.
        """
        return self._look()

    def execute(self, action: Action) -> None:
        """Carries an action out and waits until the page is quiet.

        Args:
            action: Points are in pixels of the last screenshot.

        Raises:
            ActionError: An action that this operator does not have, or arguments that it cannot
                have, such as a point outside of the screenshot; nothing is done then.
            OperatorError: A page that is gone or does not answer.
        """
        if action.name not in self.actions:
            raise ActionError(
                f"a browser has no action {action.name[:80]!r} here; it has "
                f"{', '.join(sorted(self.actions))}"
            )
        self._act(action)

    def sealed(self) -> contextlib.AbstractContextManager[None]:
        """While an agent thinks: nothing of the judge's side can be called inside."""
        return self._seal()

    def close(self) -> None:
        """Ends the browser, where it is the operator's own."""
        self._end()

    def __enter__(self) -> BrowserOperator:
        return self

    def __exit__(self, *why: object) -> None:
        self.close()
