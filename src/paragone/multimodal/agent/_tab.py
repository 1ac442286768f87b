"""One page of a Chromium: its session, its screenshots, and what it may not do to us.

Dialogs are dismissed and remembered (a page that asks whether it may be left is left). A page that
a click opens beside this one is closed, and this page goes where it wanted to go, so that there is
always one page; other pop-ups are refused. Downloads, service workers and permissions are refused.
"""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from paragone.multimodal.agent._chromium import Chromium
from paragone.multimodal.agent._quiet import Look, Quiet
from paragone.multimodal.agent.contract import OperatorError

__all__ = ["Tab"]

KEPT = 100
LEAVING = 15.0


class Tab:
    """A page in a context of its own.

    Args:
        chromium: Where.
        size: Width and height of what is seen, in CSS pixels.
        ratio: Device pixels to one CSS pixel.
        patience: Seconds after which a page that does not answer is ended.
        quiet: Seconds to wait for a page that goes on changing.
        lists: Whether the list of a `<select>` opens inside of the page.
    """

    def __init__(
        self,
        chromium: Chromium,
        size: tuple[int, int],
        ratio: float,
        *,
        patience: float = 15.0,
        quiet: float = 1.0,
        lists: bool = True,
    ):
        from playwright.sync_api import Error, TimeoutError

        self._error, self._late, self._chromium = Error, TimeoutError, chromium
        self.size, self.ratio, self.patience = size, ratio, patience
        self.dialogs: list[str] = []
        self.popups: list[str] = []
        self.lost = ""
        self._follow = ""
        self._shot: tuple[bytes, Look] | None = None
        with self.asking("a new page"):
            self.context = chromium.browser.new_context(
                viewport={"width": size[0], "height": size[1]}, device_scale_factor=ratio,
                accept_downloads=False, service_workers="block", locale="en-US",
                timezone_id="UTC",
            )  # fmt: skip
            self.context.set_offline(True)
            self.page = self.context.new_page()
            self._listen()
            self.session = self.context.new_cdp_session(self.page)
            # Each session has its own idea of the view; screenshots are drawn by this one's.
            self.session.send(
                "Emulation.setDeviceMetricsOverride",
                {"width": size[0], "height": size[1], "deviceScaleFactor": ratio, "mobile": False},
            )
            self.session.on("Page.windowOpen", self._wants_window)
            self.quiet = Quiet(self.session, limit=quiet, lists=lists)

    def _listen(self) -> None:
        page = self.page
        page.on("dialog", self._answer)
        page.on("filechooser", lambda chooser: None)
        page.on("crash", lambda page: self._lose("the page crashed"))
        page.on("close", lambda page: self._lose("the page closed itself"))
        self.context.on("page", self._refuse)

    def _lose(self, why: str) -> None:
        self.lost = self.lost or why

    def _answer(self, dialog: Any) -> None:
        if len(self.dialogs) < KEPT:
            self.dialogs.append(f"{dialog.type}: {dialog.message[:1000]}")
        with contextlib.suppress(self._error):
            if dialog.type == "beforeunload":
                dialog.accept()
            else:
                dialog.dismiss()

    def _wants_window(self, told: dict[str, Any]) -> None:
        if len(self.popups) < KEPT:
            self.popups.append(str(told.get("url", ""))[:1000])
        if told.get("userGesture"):
            self._follow = str(told.get("url", ""))

    def _refuse(self, page: Any) -> None:
        if page is not self.page:
            with contextlib.suppress(self._error):
                page.close()

    @contextlib.contextmanager
    def asking(self, what: str, seconds: float = 0.0) -> Iterator[None]:
        """Turns whatever the page does not answer, or refuses, into an `OperatorError`."""
        if self.lost:
            raise OperatorError(f"{what}: {self.lost}; Browser.restart() begins anew")
        guard = self._chromium.guard
        try:
            with guard.within(self.patience + seconds):
                yield
        except self._error as error:
            if guard.fired:
                self.lost = f"the page did not answer for {self.patience + seconds:g} s, was ended"
            elif isinstance(error, self._late):
                self._lose(f"it did not load within {self.patience:g} s")
            elif not self._chromium.runs:
                self._lose("Chromium ended")
            elif any(word in error.message for word in ("closed", "crashed")):
                self._lose("the page is gone")
            why = self.lost or error.message.strip().splitlines()[0]
            raise OperatorError(f"{what}: {why}") from error

    def open(self, url: str, html: str, offline: bool) -> None:
        """Loads a page, from an address or from text, and waits until it is quiet.

        Args:
            url: Its address, or "" for text.
            html: Its text.
            offline: Whether it may not reach even this machine.
        """
        self._shot = None
        with self.asking(f"opening {url[:200] or 'a text'}"):
            self.context.set_offline(offline)
            self.page.goto(url or "about:blank", wait_until="load", timeout=self.patience * 900)
            if not url:
                # The first page's names would otherwise be known to the second one's scripts.
                self.page.set_content(html, wait_until="load", timeout=self.patience * 900)
            self.quiet.wait()
            # Nobody goes back to what was open before.
            self.session.send("Page.resetNavigationHistory")
            self._follow = ""

    def act(self, what: str, doing: Callable[[], None], seconds: float = 0.0) -> None:
        """Does something, then waits until the page is quiet.

        Args:
            what: For the error's message.
            doing: What is done.
            seconds: How much longer than usual it may take.
        """
        self._shot = None
        with self.asking(what, seconds):
            doing()
            if self._follow:
                self._go_after()
            image, look = self.quiet.seen(self._png)
            if self._follow:
                self._go_after()
                image, look = self.quiet.seen(self._png)
        self._shot = (image, look)

    def _go_after(self) -> None:
        url, self._follow = self._follow, ""
        if url.startswith(("http:", "https:", "file:", "data:")):
            with contextlib.suppress(self._error):
                self.page.evaluate("(url) => { location.href = url }", url)

    def look(self) -> tuple[np.ndarray, tuple[float, float]]:
        """What is seen of the quiet page, (H, W, 3), and how far it is scrolled."""
        shot, self._shot = self._shot, None
        with self.asking("a screenshot"):
            if shot is None or self.quiet.look().state != shot[1].state:
                shot = self.quiet.seen(self._png)
        with Image.open(io.BytesIO(shot[0])) as picture:
            return np.asarray(picture.convert("RGB")), shot[1].scroll

    def _png(self) -> bytes:
        asked = {"format": "png", "optimizeForSpeed": True}
        return base64.b64decode(self.session.send("Page.captureScreenshot", asked)["data"])

    def close(self) -> None:
        """Ends the page and all that it stored."""
        self.lost = self.lost or "it is closed"
        with contextlib.suppress(self._error), self._chromium.guard.within(LEAVING):
            self.context.close()
