"""Reports and the reading room in a real browser: navigation, sorting, keyboard, dark, names."""

import json
import os
import re
import shutil
import threading
import time

import pytest

from paragone.lab.report.html import page
from paragone.lab.serve import Room
from paragone.multimodal.agent._chromium import Chromium, why_no_browser

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is one")

SCRIPT = "trap 'exit 130' INT; echo hello; while true; do sleep 0.05; done"


@pytest.fixture(scope="module")
def browser():
    chromium = Chromium()
    yield chromium.browser
    chromium.close()


@pytest.fixture
def tab(browser):
    """A page that keeps what it asked the network for, and what it complained of."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    made = context.new_page()
    made.set_default_timeout(60_000)
    made.asked, made.complaints = [], []
    made.on("request", lambda request: made.asked.append(request.url))
    made.on("console", lambda message: made.complaints.append(message.text))
    made.on("pageerror", lambda error: made.complaints.append(str(error)))
    yield made
    context.close()
    assert made.complaints == []


@pytest.fixture(scope="module")
def summary(summary_of):
    return summary_of(1, 8, 3)


@pytest.fixture(scope="module")
def report(summary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "report.html").write_text(page(summary, folder))
    return folder / "report.html"


@pytest.fixture(scope="module")
def room(report, tmp_path_factory):
    """A server with two studies that ended, one of them before it was complete."""
    runs = tmp_path_factory.mktemp("runs")
    for name, complete in (("beta", True), ("alpha", False)):
        (runs / name).mkdir()
        told = {"study": "ensembles", "question": "Which?", "complete": complete,
                "command": "paragone compare ensembles", "created": "2026-11-27"}  # fmt: skip
        (runs / name / "study.json").write_text(json.dumps(told))
        (runs / name / "records.jsonl").write_text("")
        shutil.copy(report, runs / name)
        state = {"done": len(name), "planned": 9, "pid": 1, "state": "end"}
        (runs / name / "progress.json").write_text(json.dumps(state))
    with Room(runs, command=("/bin/sh", "-c", SCRIPT)) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def opened(tab, room):
    tab.goto(room.url)
    tab.wait_for_url(f"**{room.home}")
    return tab


def first(tab):
    return tab.locator("table.board").first.locator("tbody tr")


def nameless(tab):
    """Roles of what can be operated but has no name for a screen reader."""
    tree = tab.context.new_cdp_session(tab).send("Accessibility.getFullAXTree")["nodes"]
    operable = {"button", "link", "textbox", "searchbox", "checkbox", "radio", "combobox",
                "progressbar", "radiogroup", "table", "dialog"}  # fmt: skip
    return [
        node["role"]["value"] for node in tree
        if not node.get("ignored") and node["role"]["value"] in operable
        and not node.get("name", {}).get("value", "").strip()
    ]  # fmt: skip


FAINT = """() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const rgb = (over, under) => {
    pen.fillStyle = under; pen.fillRect(0, 0, 1, 1);
    pen.fillStyle = over; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (c) => c.map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
    return "white";
  };
  const faint = [];
  for (const node of document.querySelectorAll("body *:not(svg *, script, style, option)")) {
    const text = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!text || !node.checkVisibility() || node.closest(":disabled, :has(> :disabled)")) continue;
    const under = ground(node), over = getComputedStyle(node).color;
    const [a, b] = [light(rgb(over, under)), light(rgb(under, under))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${node.tagName} ${node.className} ${ratio.toFixed(2)}`);
  }
  return [...new Set(faint)];
}"""
"""Text that stands out too little from its ground (WCAG 2, 1.4.3)."""


def test_a_report_sorts_by_keyboard_and_says_so(tab, report, summary):
    tab.goto(report.as_uri())
    names = lambda: first(tab).locator("th").evaluate_all("all => all.map(e => e.dataset.v)")  # noqa: E731
    head = tab.locator("table.board").first.get_by_role("columnheader", name=re.compile("^fit"))
    before = names()
    orders, found = [], []
    head.get_by_role("button").focus()
    for _ in range(3):
        tab.keyboard.press("Enter")
        orders.append(head.get_attribute("aria-sort"))
        found.append(names())
    assert orders == ["ascending", "descending", None]
    rows = {row.title: row for row in summary.rows}
    ended = [name for name in before if rows[name].tier]
    expected = sorted(ended, key=lambda name: rows[name].cells["fit_s"].value)
    failed = [name for name in before if not rows[name].tier]
    assert found == [[*expected, *failed], [*reversed(expected), *failed], before]


def test_a_report_filters_opens_records_and_asks_for_nothing(tab, report, summary):
    tab.goto(report.as_uri())
    tab.get_by_role("searchbox").fill("rival")
    rivals = sum(row.origin == "rival" for row in summary.rows)
    assert first(tab).filter(visible=True).count() == rivals
    tab.evaluate("location.hash = '#run-r0002'")
    tab.locator("#run-r0002").wait_for(state="visible")
    assert nameless(tab) == []
    assert {url.partition("#")[0] for url in tab.asked if url[:5] != "data:"} == {report.as_uri()}


def test_a_report_can_be_read_in_either_light(tab, report):
    ground = lambda: tab.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    tab.emulate_media(color_scheme="light")
    tab.goto(report.as_uri())
    light = ground()
    assert tab.evaluate(FAINT) == []
    tab.get_by_role("radio", name="Dark").focus()
    tab.keyboard.press("Space")
    dark = ground()
    assert dark != light
    assert tab.evaluate(FAINT) == []
    tab.reload()
    assert ground() == dark
    tab.get_by_role("radio", name="Light").focus()
    tab.keyboard.press("Space")
    tab.emulate_media(color_scheme="dark")
    assert ground() == light


def test_the_room_is_walked_by_keyboard(tab, room):
    opened(tab, room)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    head = tab.get_by_role("columnheader", name="study")
    names = lambda: first(tab).locator("th").evaluate_all("all => all.map(e => e.dataset.v)")  # noqa: E731
    head.get_by_role("button").focus()
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert names() == ["alpha", "beta"]
    tab.keyboard.press("Enter")
    assert names() == ["beta", "alpha"]
    tab.get_by_role("link", name="beta").focus()
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/study/beta/")
    assert nameless(tab) == []
    tab.get_by_role("link", name="Report", exact=True).press("Enter")
    tab.wait_for_url("**/report.html")
    assert tab.locator("table.board button").count()
    tab.get_by_role("link", name="Study", exact=False).first.press("Enter")
    tab.wait_for_url("**/study/beta/")
    tab.get_by_role("link", name="Studies").press("Enter")
    tab.wait_for_url(f"**{room.home}")
    own = f"http://127.0.0.1:{room.server_port}/"
    assert all(url.startswith((own, "data:")) for url in tab.asked)


def test_the_room_can_be_read_in_either_light_and_on_a_telephone(tab, room):
    home = opened(tab, room).url
    tab.set_viewport_size({"width": 360, "height": 700})
    for path in ("", "new", "new/memory", "study/alpha/"):
        tab.goto(home + path)
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            assert tab.evaluate(FAINT) == []
        assert nameless(tab) == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_study_is_started_watched_and_stopped_from_the_page(tab, room):
    opened(tab, room)
    tab.get_by_role("link", name="New study").press("Enter")
    tab.get_by_role("link", name=re.compile("^workers ")).press("Enter")
    tab.get_by_label("Time budget").fill("soon")
    tab.get_by_role("button", name="Start").press("Enter")
    assert "'soon' is not understood" in tab.get_by_role("alert").inner_text()
    tab.complaints.clear()  # the browser tells of the answer's status
    tab.get_by_label("Time budget").fill("10m")
    tab.get_by_role("button", name="Start").press("Enter")
    tab.wait_for_url("**/study/workers-quick/")
    folder = room.folder / "workers-quick"
    task = room.desk.task(folder)
    assert task.words == ("workers", "--quick", "--budget=10m", f"--out={folder}")
    tab.get_by_text("hello", exact=True).wait_for()
    bar = tab.get_by_role("progressbar", name="Progress of workers-quick")
    assert bar.get_attribute("value") is None
    folder.mkdir()
    state = {"done": 3, "planned": 8, "pid": task.process.pid, "contestant": "threads"}
    (folder / "progress.json").write_text(json.dumps(state))
    tab.get_by_role("button", name="Stop workers-quick").focus()
    tab.get_by_text("3 of 8 runs").wait_for()
    assert bar.get_attribute("value") == "3"
    # What changed beside it has not taken the focus away.
    assert tab.evaluate("document.activeElement.id").startswith("stop-")
    tab.keyboard.press("Enter")
    tab.locator(".state-interrupted").wait_for()
    assert not task.open
    tab.get_by_role("button", name="Continue workers-quick").wait_for()


def test_what_ends_elsewhere_is_told_to_a_screen_reader(tab, room):
    folder = room.folder / "alpha"
    (folder / ".lock").write_text(f"{os.getpid()} mark")
    with (folder / ".lock").open():
        opened(tab, room).goto(tab.url + "study/alpha/")
        tab.get_by_role("button", name="Stop alpha").focus()
    said = tab.get_by_role("status")
    while said.inner_text() != "alpha: interrupted":
        time.sleep(0.05)
    # Its button is gone: the focus is on the page's head, not lost.
    assert tab.evaluate("document.activeElement.tagName") == "H1"


def test_the_room_works_without_scripts(browser, room):
    context = browser.new_context(java_script_enabled=False)
    try:
        tab = opened(context.new_page(), room)
        tab.goto(tab.url + "new/memory")
        tab.get_by_role("button", name="Start").click()
        tab.wait_for_url("**/study/memory-quick/")
        tab.get_by_role("button", name="Stop memory-quick").click()
        tab.locator(".state-interrupted").wait_for()  # the page asks to be read again
    finally:
        context.close()
