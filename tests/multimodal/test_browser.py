"""The browser's operator: what is seen is what is touched, and nothing else can be reached."""

import inspect

import numpy as np
import pytest
from tests.multimodal.agent_pages import needs_browser

from paragone._core.errors import MissingPackageError
from paragone.multimodal.agent import _chromium
from paragone.multimodal.agent.actions import Action, ActionError
from paragone.multimodal.agent.browser import Browser, BrowserOperator
from paragone.multimodal.agent.contract import Operator, OperatorError, Screen

LOGGING = """<!doctype html><style>body{margin:0;width:1500px;height:2000px}
.dot{position:absolute;width:6px;height:6px;margin:-3px;background:#f0f}</style><body><script>
window.log = [];
const names = ["pointerdown", "pointermove", "pointerup", "click", "dblclick", "contextmenu",
  "keydown", "input", "submit"];
for (const name of names) addEventListener(name, (e) => {
  if (name == "submit") e.preventDefault();
  log.push({name, x: e.clientX, y: e.clientY, px: e.pageX, py: e.pageY, key: e.key,
    held: (e.ctrlKey ? "c" : "") + (e.shiftKey ? "s" : ""), t: e.timeStamp});
  if (name == "pointerdown") document.body.insertAdjacentHTML("beforeend",
    `<div class=dot style="left:${e.pageX}px;top:${e.pageY}px"></div>`);
}, true);
</script>"""
FORM = "<form style='position:absolute;left:20px;top:20px'><textarea id=a></textarea><input id=b>"


def click(x, y):
    return Action("click", {"start_box": (x, y)})


def named(browser, name):
    return [one for one in browser.evaluate("log") if one["name"] == name]


@pytest.fixture
def sharp(browser):
    """The browser, with a way to change its pixels that is undone."""
    yield lambda ratio: browser.restart(device_pixel_ratio=ratio)
    browser.restart(device_pixel_ratio=1)


@pytest.mark.parametrize(
    ("ratio", "scroll"), [(1, (150, 700)), (1.5, (150, 700)), (2, (0, 0))], ids=["1", "1.5", "2"]
)
def test_a_click_lands_where_it_is_seen(browser, sharp, ratio, scroll):
    sharp(ratio)
    browser.open(LOGGING)
    browser.evaluate("([x, y]) => scrollTo(x, y)", scroll)
    for clip in (None, (33, 50, 201, 210)):
        operator = browser.operator(clip)
        screen = operator.screenshot()
        left, top, right, bottom = clip or (0, 0, 400, 300)
        height, width = round(bottom * ratio) - round(top * ratio), (right - left) * ratio
        assert screen.size == (height, round(right * ratio) - round(left * ratio))
        assert screen.device_pixel_ratio == ratio
        assert screen.scroll == scroll
        for x, y in [(0, 0), (width / 2, height / 3), (40.5, 71.25)]:
            operator.execute(click(x, y))
            down = named(browser, "pointerdown")[-1]
            assert abs(down["x"] - (left + x / ratio)) <= 0.5
            assert abs(down["y"] - (top + y / ratio)) <= 0.5
            assert abs(down["py"] - (top + y / ratio + scroll[1])) <= 0.5
            seen = operator.screenshot().pixels
            assert seen[int(y), int(x)].tolist() == [255, 0, 255]


def test_edges_are_the_last_pixels_and_farther_is_an_error(browser):
    browser.open(LOGGING)
    operator = browser.operator(clip=(10, 10, 110, 90))
    operator.execute(click(100, 80))
    assert [named(browser, "click")[0][one] for one in "xy"] == [109, 89]
    operator.execute(Action("click", {"start_box": (10, 20, 30, 60)}))
    assert [named(browser, "click")[1][one] for one in "xy"] == [30, 50]


IMPOSSIBLE = (
    click(-0.01, 5), click(401, 5), click(5, float("nan")), click("5", 5),
    Action("click"), Action("click", {"start_box": (1, 2, 3)}),
    Action("drag", {"start_box": (1, 2)}), Action("hotkey", {"key": "ctrl nokey"}),
    Action("hotkey", {"key": ""}), Action("hotkey", {"key": "a b"}), Action("type"),
    Action("scroll", {"direction": "in"}), Action("scroll", {"direction": "up", "amount": -1}),
    Action("wait", {"time": "soon"}), Action("open_app", {"app_name": "mail"}),
    Action("right_click", {"start_box": (1, 2)}), Action("__class__"),
)  # fmt: skip


def test_what_cannot_be_done_is_an_error_and_does_nothing(browser):
    browser.open(LOGGING)
    operator = browser.operator()
    for action in IMPOSSIBLE:
        with pytest.raises(ActionError):
            operator.execute(action)
        assert browser.evaluate("log.length") == 0, action


def test_every_action_of_the_operator(browser):
    browser.open(LOGGING + FORM)
    operator = browser.operator()
    point = {"start_box": (200, 100)}
    operator.execute(Action("left_double", point))
    assert (named(browser, "dblclick")[0]["x"], len(named(browser, "click"))) == (200, 2)
    operator.execute(Action("right_single", point))
    assert len(named(browser, "contextmenu")) == 1
    operator.execute(Action("long_press", point | {"time": 0.2}))
    down, up = named(browser, "pointerdown")[-1], named(browser, "pointerup")[-1]
    assert up["t"] - down["t"] >= 190
    operator.execute(Action("drag", point | {"end_box": (260, 180)}))
    down, up = named(browser, "pointerdown")[-1], named(browser, "pointerup")[-1]
    assert [down["x"], down["y"], up["x"], up["y"]] == [200, 100, 260, 180]
    assert len([one for one in named(browser, "pointermove") if 200 < one["x"] < 260]) >= 4
    for direction, at in [("down", [0, 150]), ("right", [200, 150]), ("up", [200, 0])]:
        operator.execute(Action("scroll", {"direction": direction}))
        assert browser.evaluate("[scrollX, scrollY]") == at
    operator.execute(Action("scroll", point | {"direction": "left", "amount": 130}))
    assert operator.screenshot().scroll == (70, 0)
    browser.evaluate("scrollTo(0, 0); log.length = 0")
    for name in ("finished", "call_user", "wait"):
        operator.execute(Action(name, {"time": 0.01, "content": "x"}))
    assert browser.evaluate("log.length") == 0
    browser.evaluate("document.title = 'left'")
    operator.execute(Action("press_home"))
    assert browser.evaluate("document.title") == ""
    used = "click left_double right_single long_press drag scroll wait finished call_user"
    tested = {*used.split(), "press_home", "press_back", "type", "hotkey"}
    assert operator.actions == tested == BrowserOperator.ACTIONS


def test_typing_submits_by_its_last_newline(browser):
    browser.open(LOGGING + FORM)
    operator = browser.operator()
    browser.evaluate("b.focus()")
    operator.execute(Action("type", {"content": " a b'\"\\ é 漢字 🙂 "}))
    assert browser.evaluate("b.value") == " a b'\"\\ é 漢字 🙂 "
    assert named(browser, "submit") == []
    operator.execute(Action("type", {"content": "!\n"}))
    assert len(named(browser, "submit")) == 1
    operator.execute(Action("hotkey", {"key": "ctrl a"}))
    operator.execute(Action("type", {"content": "new"}))
    assert browser.evaluate("b.value") == "new"
    operator.execute(Action("hotkey", {"key": "Shift+Tab"}))
    operator.execute(Action("type", {"content": "one\r\ntwo\n" + "x" * 600}))
    assert browser.evaluate("a.value") == "one\ntwo\n" + "x" * 600
    operator.execute(Action("hotkey", {"key": "ctrl shift pageup"}))
    assert named(browser, "keydown")[-1]["held"] == "cs"


def test_options_are_seen_and_clicked(browser):
    browser.open("<body style='margin:0'><select id=s><option>one<option>two<option>three</select>")
    operator = browser.operator()
    closed = operator.screenshot().pixels
    operator.execute(click(15, 10))
    assert not np.array_equal(closed, operator.screenshot().pixels)
    x, y, w, h = browser.evaluate(
        "(({x, y, width, height}) => [x, y, width, height])(s.options[2].getBoundingClientRect())"
    )
    operator.execute(click(x + w / 2, y + h / 2))
    assert browser.evaluate("s.value") == "three"
    for key in ("space", "up", "enter"):
        operator.execute(Action("hotkey", {"key": key}))
    assert browser.evaluate("s.value") == "two"


def reached(thing, depth=3):
    """Modules of all that public attributes lead to, from an object."""
    found = {type(thing).__module__}
    if depth and not isinstance(thing, str | int | float | frozenset | np.ndarray):
        for name in dir(thing):
            if not name.startswith("_"):
                found |= reached(getattr(thing, name), depth - 1)
    return found


def test_the_dom_is_out_of_reach(browser):
    browser.open("<button>x</button>")
    operator = browser.operator()
    assert isinstance(operator, Operator)
    for thing in (operator, operator.screenshot()):
        assert not [one for one in reached(thing) if "playwright" in one or "_tab" in one]
    held = vars(operator).values()
    assert all(isinstance(one, frozenset) or inspect.isfunction(one) for one in held)
    assert [one.name for one in Screen.__dataclass_fields__.values()] == [
        "pixels", "device_pixel_ratio", "scroll",
    ]  # fmt: skip
    assert any("playwright" in one for one in reached(browser, 1)), "the walk would see it"


def test_the_judge_is_silent_while_the_agent_thinks(browser):
    browser.open("<p>x")
    operator = browser.operator()
    judge = {
        "page": lambda: browser.page,
        "evaluate": lambda: browser.evaluate("1"),
        "open": lambda: browser.open("<p>"),
        "operator": browser.operator,
        "settle": browser.settle,
        "restart": browser.restart,
        "dialogs": lambda: browser.dialogs,
        "popups": lambda: browser.popups,
    }
    with operator.sealed(), browser.sealed():
        for call in judge.values():
            with pytest.raises(OperatorError, match="agent's turn"):
                call()
        public = {name for name in vars(Browser) if not name.startswith("_")}
        assert public == {*judge, "sealed", "close"}
    assert browser.evaluate("1") == 1


@needs_browser
def test_an_operator_of_its_own_browser():
    with BrowserOperator(
        "<body style='margin:0;background:#0f0'>", width=80, height=60
    ) as operator:
        assert operator.screenshot().pixels[59, 79].tolist() == [0, 255, 0]
    operator.close()
    with pytest.raises(OperatorError):
        operator.screenshot()


def test_refusals(browser):
    with pytest.raises(ValueError, match="inside of the view"):
        browser.operator(clip=(0, 0, 401, 10))
    with pytest.raises(ValueError, match="open_app"):
        browser.operator(actions=["click", "open_app"])
    operator = browser.operator(actions=["type"])
    with pytest.raises(ActionError, match="it has type"):
        operator.execute(click(1, 1))
    with pytest.raises(ValueError, match="0 x 5"):
        Browser(width=0, height=5)


def test_no_chromium_or_no_playwright_is_told_with_its_remedy(monkeypatch):
    monkeypatch.setenv("PARAGONE_CHROMIUM", "/nowhere/chromium")
    assert "/nowhere/chromium" in _chromium.why_no_browser()
    with pytest.raises(OperatorError, match="apt-get install chromium"):
        _chromium.find_chromium()
    monkeypatch.setitem(__import__("sys").modules, "playwright.sync_api", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'paragone\[agents\]'"):
        Browser()
