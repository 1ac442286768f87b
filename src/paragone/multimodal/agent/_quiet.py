r"""When a page is quiet: no sleeps, but two whole frames in which nothing changed.

A small script watches the document from an isolated world: it shares the DOM with the page's own
scripts, but none of their objects, so that a page can neither see nor replace it. The page is quiet
at frame f when its document and pictures are loaded, no animation that will end is running, and

$$ f - \max(f_\text{mutation}, f_\text{scroll}, f_\text{input}, f_\text{animation}) \ge 2 . $$

The frames that a screenshot needs anyway count as well, so a step that changes nothing more after
the action's own handlers costs one screenshot and two questions of about a millisecond.

An animation that never ends is not waited for. A page that is never quiet is waited for `limit`
seconds, and a quarter of that from then on. Frames of other origins and closed shadow trees are not
watched.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Look", "Quiet"]

_WATCH = """
(globalThis.watch ??= (() => {
  let version = 0, still = 0, ticking = false, until = 0, waiters = [], eager = [];
  const style = new CSSStyleSheet();
  style.replaceSync(%STYLE%);
  const changed = () => {
    version++;
    still = 0;
    for (const done of eager.splice(0)) done();
  };
  const ends = (a) => a.playState === "running" && a.effect
    && isFinite(a.effect.getComputedTiming().endTime);
  const loaded = () => document.readyState === "complete" && document.fonts.status === "loaded"
    && [...document.images].every((i) => i.complete || i.loading === "lazy");
  const tick = () => {
    if (document.getAnimations().some(ends)) changed();
    still = loaded() ? still + 1 : 0;
    if (still >= 2) for (const done of waiters.splice(0)) done();
    ticking = still < 2 && performance.now() < until;
    if (ticking) requestAnimationFrame(tick);
  };
  new MutationObserver(changed).observe(document,
    {subtree: true, childList: true, attributes: true, characterData: true});
  for (const name of ["scroll", "input", "change", "focusin", "focusout", "toggle", "resize"])
    addEventListener(name, changed, {capture: true, passive: true});
  const begin = (ms) => {
    if (!document.adoptedStyleSheets.includes(style))
      document.adoptedStyleSheets = [...document.adoptedStyleSheets, style];
    still = 0;
    until = performance.now() + ms;
    if (!ticking) { ticking = true; requestAnimationFrame(tick); }
    return look();
  };
  const look = () => [version, still >= 2 && loaded(), scrollX, scrollY];
  const wait = (ms) => new Promise((done) => {
    begin(ms);
    const end = () => done(look());
    waiters.push(end);
    setTimeout(end, ms);
  });
  const change = (ms) => new Promise((done) => {
    const end = () => done(look());
    eager.push(end);
    setTimeout(end, ms);
  });
  return {begin, look, wait, change};
})())"""
_STYLE = ":root { caret-animation: manual }"
_LISTS = "select, select::picker(select) { appearance: base-select }"
_GONE = ("context", "navigated", "frame")


class Look(NamedTuple):
    """What the watcher says.

    Args:
        version: Counts changes of this document.
        quiet: Whether two frames went by without one.
        scroll: CSS pixels (x, y).
        document: Number of the document, counted by the watcher.
    """

    version: int
    quiet: bool
    scroll: tuple[float, float]
    document: int

    @property
    def state(self) -> tuple[int, int]:
        """Changes when what is seen does."""
        return self.document, self.version


class Quiet:
    """Waits for a page to be quiet, through one CDP session.

    Args:
        session: Playwright's CDP session of the page.
        limit: Seconds to wait for a page that goes on changing.
        loading: Seconds to wait for a document that goes on loading.
        lists: Whether the list of a `<select>` opens inside of the page.
    """

    def __init__(
        self, session: Any, *, limit: float = 1.0, loading: float = 5.0, lists: bool = True
    ):
        from playwright.sync_api import Error

        self._error, self._session = Error, session
        self.limit, self.loading = limit, loading
        self._world: int | None = None
        self._document = 0
        self._patience = 1.0
        self._busy = False
        self._script = _WATCH.replace("%STYLE%", repr(_STYLE + (_LISTS if lists else "")))
        session.on("Page.frameStartedLoading", lambda told: self._load(told, True))
        session.on("Page.frameStartedNavigating", lambda told: self._load(told, True))
        session.on("Page.frameStoppedLoading", lambda told: self._load(told, False))
        session.send("Page.enable")
        self._frame = session.send("Page.getFrameTree")["frameTree"]["frame"]["id"]

    def _load(self, told: dict[str, Any], begins: bool) -> None:
        if told.get("frameId") == self._frame:
            self._busy = begins

    def _ask(self, call: str) -> Look:
        """Calls the watcher, in the world of whatever document there is by then."""
        for attempt in range(20):
            try:
                return self._ask_once(call)
            except self._error as error:
                if attempt == 19 or not self._lost(error):
                    raise
                self._world = None
        raise AssertionError("unreachable")

    def _lost(self, error: Any) -> bool:
        """Whether a question failed since the page went elsewhere."""
        return any(word in error.message.lower() for word in _GONE)

    def _ask_once(self, call: str) -> Look:
        if self._world is None:
            made = {"frameId": self._frame, "worldName": "paragone"}
            self._world = self._session.send("Page.createIsolatedWorld", made)["executionContextId"]
            self._document += 1
            self._patience = 1.0
        asked = {
            "expression": f"{self._script}.{call}", "contextId": self._world,
            "awaitPromise": True, "returnByValue": True,
        }  # fmt: skip
        answer = self._session.send("Runtime.evaluate", asked)["result"].get("value")
        if not answer:
            raise self._error(f"the frame's watcher did not answer: {answer!r}")
        version, quiet, x, y = answer
        return Look(int(version), bool(quiet), (float(x), float(y)), self._document)

    def begin(self) -> Look:
        """Counts frames from now on."""
        return self._ask(f"begin({self.limit * 1000:.0f})")

    def look(self) -> Look:
        """What is known without waiting; never quiet while something is loading."""
        look = self._ask("look()")
        return look._replace(quiet=look.quiet and not self._busy)

    def wait(self) -> Look:
        """Waits until the page is quiet or the limit is over."""
        begun = time.monotonic()
        while True:
            spent = time.monotonic() - begun
            limit = self._patience * (self.loading if self._busy else self.limit)
            look = self._ask(f"wait({min(self.limit, max(limit - spent, 0.02)) * 1000:.0f})")
            if look.quiet and not self._busy:
                return look
            if time.monotonic() - begun >= self._patience * (
                self.loading if self._busy else self.limit
            ):
                self._patience = 0.25
                return look

    def change(self, seconds: float) -> None:
        """Waits until something changes, at most so many seconds."""
        try:
            self._ask_once(f"change({seconds * 1000:.0f})")
        except self._error as error:
            if not self._lost(error):
                raise
            self._world = None

    def seen(self, shoot: Callable[[], bytes]) -> tuple[bytes, Look]:
        """Takes a screenshot of the quiet page.

        Args:
            shoot: Takes a screenshot.

        Returns:
            The screenshot, and what the watcher said at that time.
        """
        before = self.begin()
        image = shoot()
        after = self.look()
        if not after.quiet:
            after = self.wait()
        if after.state != before.state:
            image = shoot()
        return image, after
