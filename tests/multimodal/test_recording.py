"""Recordings: a script's session, replayed action by action, leads to the same end and pixels."""

import numpy as np
import pytest

from paragone.multimodal.agent._recording_events import Reader
from paragone.multimodal.agent._recording_page import watched
from paragone.multimodal.agent.demonstrations import Demonstrations
from paragone.multimodal.agent.recording import record

from .agent_pages import needs_browser

PAGE = """<!DOCTYPE html><body style="margin:8px;font:14px DejaVu Sans;user-select:none">
<label>Name <input id="n" value="old"></label><br>
<label><input type="checkbox" id="c"> Agree</label>
<input type="range" id="r" min="0" max="10" value="0" aria-label="Volume"><br>
<button id="b" ondblclick="out.textContent += 2" onclick="out.textContent += 1">Add</button>
<p id="out"></p><div style="margin-top:500px"><button id="far"
onclick="out.textContent += [n.value, c.checked, r.value]">Far</button></div>"""


def script(page):
    page.get_by_label("Name").fill("Ünal x")
    page.check("#c")
    page.check("#c")
    page.locator("#b").dblclick()
    thumb = page.locator("#r").bounding_box()
    page.mouse.move(thumb["x"] + 8, thumb["y"] + 8)
    page.mouse.down()
    page.mouse.move(thumb["x"] + thumb["width"] - 8, thumb["y"] + 8, steps=4)
    page.mouse.up()
    page.keyboard.press("Home")
    page.get_by_role("button", name="Far").click()


@needs_browser
def test_a_replay_leads_to_the_same_end(browser, tmp_path):
    done = record(PAGE, tmp_path, instruction="Do it.", script=script, width=400, height=300)
    held = list(Demonstrations(tmp_path))
    assert [s.wanted.action.name for s in held] == [
        "click", "hotkey", "type", "click", "left_double", "drag", "hotkey", "scroll", "scroll",
        "scroll", "click", "finished",
    ]  # fmt: skip
    assert held[2].wanted.action.arguments["content"] == "Ünal x"
    assert "Name" in held[0].wanted.action.thought
    assert "Agree" in held[3].wanted.action.thought
    left, top, right, bottom = held[3].wanted.box
    assert left < held[3].wanted.action.point[0] < right
    assert top < held[3].wanted.action.point[1] < bottom
    assert [len(s.context.screens) for s in held[:6]] == [1, 2, 3, 4, 5, 5]
    assert done.number == 0

    browser.open(PAGE)
    operator = browser.operator()
    for one in held:
        shown = one.context.screens[-1].pixels
        np.testing.assert_array_equal(operator.screenshot().pixels, shown, err_msg=str(one.step))
        operator.execute(one.wanted.action)
    assert browser.page.text_content("#out") == "112Ünal x,true,0"


def test_what_no_hand_can_do_is_refused(browser, tmp_path):
    page = watched(browser.page, browser.page, lambda: None)
    with pytest.raises(ValueError, match="select_option"):
        page.locator("#n").select_option("a")
    with pytest.raises(ValueError, match="instruction"):
        record(PAGE, tmp_path, instruction=" ", script=script)


def event(kind, **more):
    base = {"type": kind, "x": 1, "y": 1, "button": 0, "name": "f", "role": "textbox", "box": None}
    keys = dict.fromkeys(("ctrl", "alt", "shift", "meta", "written"), False)
    return base | keys | more


class TestReader:
    def read(self, *events):
        reader = Reader()
        for at, one in enumerate(events):
            reader.take(one, at)
        return [(a.name, a.before, a.arguments) for a in reader.actions]

    def test_keys_become_one_text(self):
        keys = [event("keydown", key=k) for k in ("a", "b", "Backspace", "c", "Enter", "d")]
        assert self.read(*keys) == [("type", 0, {"content": "ac\n"}), ("type", 5, {"content": "d"})]

    def test_fields_have_texts_of_their_own(self):
        written = [event("beforeinput", data="a"), event("beforeinput", data="b", name="g")]
        assert [one[2]["content"] for one in self.read(*written)] == ["a", "b"]

    def test_what_is_written_is_not_heard_twice(self):
        pair = [event("keydown", key="a", written=True), event("beforeinput", data="a")]
        assert self.read(*pair) == [("type", 1, {"content": "a"})]

    def test_combinations(self):
        held = [event("keydown", key=key, ctrl=True) for key in ("Control", "c")]
        keys = [*held, event("keydown", key="ArrowDown")]
        assert [one[2]["key"] for one in self.read(*keys)] == ["ctrl c", "down"]

    def test_pointer(self):
        at = {"x": 5, "y": 5}
        click = [event("pointerdown", **at), event("pointerup", **at)]
        assert [one[0] for one in self.read(*click)] == ["click"]
        assert self.read(*click, *click, event("dblclick"))[0][:2] == ("left_double", 0)
        moved = [event("pointerdown", **at), event("pointerup", x=50, y=5)]
        assert self.read(*moved)[0] == ("drag", 0, {"start_box": (5, 5), "end_box": (50, 5)})
        right = [event("pointerdown", button=2, **at), event("pointerup", button=2, **at)]
        assert self.read(*right)[0][0] == "right_single"

    def test_turns_of_the_wheel_are_one_scroll(self):
        wheel = [event("wheel", dx=0, dy=d) for d in (30, 40, -5)]
        assert [one[2]["direction"] for one in self.read(*wheel)] == ["down", "up"]
