"""Waiting for quiet: what an agent sees is what the page has come to, without a sleep."""

import http.server
import threading
import time

import pytest

from paragone.multimodal.agent._quiet import Quiet
from paragone.multimodal.agent.actions import Action

HEAD = "<style>html,body{margin:0;height:100%;background:#fff} #d{width:100%;height:100%}</style>"
ANIMATED = (
    HEAD + "<style>#d{transition:background-color .3s} .on{background:#00f}</style>"
    "<body onclick='d.className=\"on\"'><div id=d>"
)
SCRIPTED = (
    HEAD + "<body onclick='go(12)'><div id=d></div><script>function go(n) {"
    "d.style.background = n ? `rgb(${n * 10},0,0)` : '#00f';"
    "if (n) setTimeout(() => go(n - 1), n % 2 ? 13 : 20) }</script>"
)
SCROLLED = (
    HEAD + "<style>#d{height:4000px;background:linear-gradient(#fff 50%,#00f 50%)}</style>"
    "<body onclick='scrollTo({top: 3000, behavior: \"smooth\"})'><div id=d>"
)
FORGED = (
    "<script>requestAnimationFrame = (f) => 0; MutationObserver = null; setTimeout = null;"
    "document.getAnimations = () => []; Promise = null; performance = {now: () => 0};"
    "</script>" + ANIMATED
)
BLUE = [0, 0, 255]


def after_click(browser, page):
    browser.open(page)
    operator = browser.operator()
    assert operator.screenshot().pixels[200, 200].tolist() != BLUE
    operator.execute(Action("click", {"start_box": (200, 200)}))
    return operator.screenshot().pixels[200, 200].tolist()


PAGES = {"animated": ANIMATED, "scripted": SCRIPTED, "scrolled": SCROLLED, "forged": FORGED}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_last_state_is_what_is_seen(browser, page):
    assert after_click(browser, page) == BLUE


def test_without_waiting_it_would_not_be_seen(browser, monkeypatch):
    monkeypatch.setattr(Quiet, "seen", lambda self, shoot: (shoot(), self.look()))
    assert after_click(browser, ANIMATED) != BLUE


class Site(http.server.BaseHTTPRequestHandler):
    """Two pages; the second takes its time, and so does its picture."""

    def do_GET(self):
        slow = self.path != "/"
        if slow:
            time.sleep(0.15)
        self.send_response(200)
        self.send_header("Content-Type", "image/svg+xml" if "svg" in self.path else "text/html")
        self.end_headers()
        square = "<rect width='400' height='300' fill='#00f'/>"
        if "svg" in self.path:
            size = "width='400' height='300'"
            text = f"<svg xmlns='http://www.w3.org/2000/svg' {size}>{square}</svg>"
        elif slow:
            text = HEAD + "<img src='/a.svg'>"
        else:
            text = HEAD + "<body onclick=\"location.href='/slow'\"><div id=d>"
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def test_a_slow_page_and_its_picture_are_waited_for(browser, site):
    assert after_click(browser, site) == BLUE
    operator = browser.operator()
    operator.execute(Action("press_back"))
    assert browser.page.url == site
    operator.execute(Action("press_back"))
    assert browser.page.url == site, "the first page is the first"


def test_what_never_ends_is_not_waited_for(browser):
    endless = "<style>@keyframes k{to{left:9px}} #d{animation:k 1s infinite}</style>"
    browser.open(HEAD + endless + "<div id=d>x")
    quiet = browser._tab.quiet
    assert quiet.wait().quiet
    busy = "<script>(f = () => { d.append('x'); requestAnimationFrame(f) })()</script>"
    browser.open(HEAD + "<div id=d></div>" + busy)
    quiet.limit, quiet._patience = 0.2, 1.0
    assert not quiet.wait().quiet
    assert quiet._patience == 0.25
    browser.restart()


def test_a_screenshot_is_taken_anew_only_where_something_changed(browser, monkeypatch):
    browser.open(HEAD + "<input id=i autofocus>")
    operator, taken, png = browser.operator(), [], browser._tab._png
    monkeypatch.setattr(browser._tab, "_png", lambda: taken.append(1) or png())
    operator.execute(Action("hotkey", {"key": "tab"}))
    taken.clear()
    operator.screenshot()
    assert taken == [], "that of the action's end serves"
    operator.screenshot()
    assert taken, "once"
    operator.execute(Action("hotkey", {"key": "tab"}))
    taken.clear()
    browser.evaluate("document.body.style.background = '#00f'")
    assert operator.screenshot().pixels[200, 200].tolist() == BLUE
    assert taken, "the page changed since"


def test_waiting_ends_with_the_change(browser):
    browser.open("<p id=p>0</p><script>setInterval(() => p.textContent++, 300)</script>")
    operator = browser.operator()
    before = int(browser.evaluate("p.textContent"))
    operator.execute(Action("wait", {"time": 60}))
    assert before < int(browser.evaluate("p.textContent")) < before + 150


def test_the_page_does_not_see_the_watcher(browser):
    browser.open(HEAD + "<script>const watch = 1, a = 1</script><p>x")
    before = browser.evaluate("Object.keys(window).join()")
    browser.operator().screenshot()
    assert browser.evaluate("Object.keys(window).join()") == before
    assert browser.evaluate("watch") == 1
    browser.open(HEAD + "<script>const watch = 2, a = 2; window.seen = watch</script>")
    assert browser.evaluate("seen") == 2, "names of the last page are gone"
