"""Hostile pages: each costs its own episode, and no more."""

import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from tests.multimodal.agent_pages import needs_browser

from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import OperatorError

BODY = "<body style='margin:0;min-height:300px'"
CLICK = Action("click", {"start_box": (50, 50)})


def clicked(browser, does):
    browser.open(f'{BODY} onclick="{does}">')
    operator = browser.operator()
    operator.execute(CLICK)
    return operator


def works(browser):
    """Whether the next episode is as good as ever."""
    browser.open(f"{BODY} onclick=\"document.title = 'hit'\">")
    browser.operator().execute(CLICK)
    return browser.evaluate("document.title") == "hit"


@pytest.mark.parametrize(
    "does",
    ["while (1);", "while (1) alert(1)", "window.close()"],
    ids=["loop", "alerts", "closes"],
)
def test_a_page_that_is_gone_costs_its_own_episode(browser, monkeypatch, does):
    browser.open(f'{BODY} onclick="{does}">')
    operator = browser.operator()
    monkeypatch.setattr(browser._tab, "patience", 0.3)
    with pytest.raises(OperatorError):
        operator.execute(CLICK)
    with pytest.raises(OperatorError, match="restart"):
        operator.screenshot()
    assert len(browser.dialogs) <= 100
    assert works(browser)
    with pytest.raises(OperatorError):
        operator.screenshot()


def test_a_page_that_hangs_while_it_loads(browser, monkeypatch):
    monkeypatch.setattr(browser._tab, "patience", 0.3)
    with pytest.raises(OperatorError, match=r"load|answer"):
        browser.open("<script>while (1);</script>")
    assert works(browser)


def test_a_crash_of_chromium(browser):
    operator = clicked(browser, "")
    os.kill(browser._chromium.process, signal.SIGKILL)
    with pytest.raises(OperatorError):
        operator.execute(CLICK)
    assert works(browser)


def test_dialogs_are_dismissed_and_remembered(browser):
    browser.dialogs.clear()
    clicked(browser, "alert('a'); document.title = [confirm('b'), prompt('c')]; onbeforeunload = "
                     "() => 'stay'; location.href = 'about:blank?left'")  # fmt: skip
    assert browser.page.url == "about:blank?left"
    assert browser.dialogs == ["alert: a", "confirm: b", "prompt: c", "beforeunload: "]


def test_a_window_that_a_click_opens_is_followed_in_this_one(browser):
    browser.popups.clear()
    operator = clicked(browser, "for (let i = 0; i < 5; i++) window.open('data:text/html,<p>' + i)")
    assert len(browser.page.context.pages) == 1
    assert browser.popups == [f"data:text/html,<p>{i}" for i in range(5)]
    assert operator.screenshot().size == (300, 400)
    browser.open("<script>setTimeout(() => window.open('about:blank'))</script>")
    assert len(browser.page.context.pages) == 1


class Site(http.server.BaseHTTPRequestHandler):
    """Says what it was asked for."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(200)
        if self.path == "/file":
            self.send_header("Content-Disposition", "attachment; filename=x")
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f"{BODY} onclick=\"location.href = '/file'\"><p>x".encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


CALLS = """{0}<img src='{1}img'><iframe src='{1}frame'></iframe><iframe src='file:///etc/passwd'>
</iframe><script>new WebSocket('{1}'.replace('http', 'ws')); navigator.sendBeacon('{1}beacon');
fetch('{1}fetch').catch((e) => document.title = 'refused')</script>"""


def test_text_and_files_reach_nothing(browser, site, tmp_path):
    url = f"http://127.0.0.1:{site.server_address[1]}/"
    page = tmp_path / "page.html"
    page.write_text(CALLS.format(BODY, url))
    site.asked.clear()
    for source in (page.read_text(), page):
        browser.open(source)
        assert browser.evaluate("document.title") == "refused"
    assert site.asked == []
    browser.open(page, offline=False)
    assert "/fetch" in site.asked


def test_web_pages_of_this_machine_alone_and_no_files(browser, site):
    url = f"http://127.0.0.1:{site.server_address[1]}/"
    browser.open(url)
    operator = browser.operator()
    operator.execute(CLICK)
    assert "/file" in site.asked
    assert browser.page.url == url, "downloads are refused"
    browser.evaluate("() => { location.href = 'file:///etc/passwd' }")
    browser.settle()
    assert browser.page.url == url
    with pytest.raises(OperatorError, match=r"allow=\['example.org'\]"):
        browser.open("https://example.org/")
    refused = "(url) => fetch(url, {mode: 'no-cors'}).then(() => 'reached', () => 'refused')"
    assert browser.evaluate(refused, "http://example.org/") == "refused"
    assert browser.evaluate(refused, "http://192.0.2.1/") == "refused"
    assert browser.evaluate(refused, f"{url}again") == "reached"


def test_a_giant_page_is_seen_in_part(browser):
    browser.open("<div style='width:1000000px;height:1000000px'>" + "<p>x" * 5_000)
    operator = browser.operator()
    operator.execute(Action("scroll", {"direction": "down"}))
    assert operator.screenshot().scroll == (0, 150)


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_browser
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_chromium_ends_with_us(how):
    code = (
        "import sys; from paragone.multimodal.agent.browser import Browser\n"
        "b = Browser(width=80, height=60, patience=60)\n"
        "print(b._chromium.process, flush=True)\n"
        "b.evaluate('new Promise(() => 0)')"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    process = int(started.stdout.readline())
    assert alive(process)
    started.send_signal(getattr(signal, how))
    started.wait(30)
    end = time.monotonic() + 20
    while alive(process) and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive(process)
    started.stdout.close()
