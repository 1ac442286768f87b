"""The desktop's operator, on a display in memory, with a program that tells its events (xev)."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from paragone.multimodal.agent.actions import Action, ActionError
from paragone.multimodal.agent.contract import Operator, OperatorError
from paragone.multimodal.agent.desktop import DesktopOperator, why_no_desktop

WHY_NOT = why_no_desktop() or ("" if shutil.which("xev") else "xev (x11-utils) is not installed")
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there is one")


class Told:
    """What xev wrote about the events that it got."""

    def __init__(self, path):
        self.path, self.read = path, 0

    def since(self, count, kinds):
        """Waits for so many events of some kinds; returns kind, x, y and the third line of each."""
        end = time.monotonic() + 20
        while True:
            text = self.path.read_text()[self.read :]
            pattern = rf"^({kinds}) event[^\n]*\n[^\n]*root:\((\d+),(\d+)\)[^\n]*\n([^\n]*)\n"
            found = re.findall(pattern, text, re.M)
            if len(found) >= count or time.monotonic() > end:
                self.read += len(text)
                return [(kind, int(x), int(y), rest) for kind, x, y, rest in found]
            time.sleep(0.01)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return Told(tmp_path_factory.mktemp("desktop") / "events")


@pytest.fixture(scope="module")
def desktop(told):
    told.path.touch()
    command = f"exec xev -geometry 320x240+0+0 -rv > {told.path}"
    with DesktopOperator(start="320x240", command=["sh", "-c", command]) as operator:
        operator.execute(Action("click", {"start_box": (1, 1)}))
        assert told.since(2, "ButtonPress|ButtonRelease")
        yield operator


def at(x, y, **more):
    return {"start_box": (x, y), **more}


@pytest.mark.parametrize(("x", "y"), [(0, 0), (17.9, 101.2), (320, 240), (0, 239)])
def test_a_click_is_where_it_is_meant(desktop, told, x, y):
    desktop.execute(Action("click", at(x, y)))
    events = told.since(2, "ButtonPress|ButtonRelease")
    place = (min(int(x), 319), min(int(y), 239))
    assert [one[:3] for one in events] == [("ButtonPress", *place), ("ButtonRelease", *place)]
    assert all("button 1" in one[3] for one in events)


def test_buttons_wheel_and_drag(desktop, told):
    assert isinstance(desktop, Operator)
    wheel = {"down": 5, "up": 4, "left": 6, "right": 7}
    for action, buttons in [
        (Action("left_double", at(10, 20)), [1, 1]),
        (Action("right_single", at(10, 20)), [3]),
        (Action("long_press", at(10, 20, time=0.05)), [1]),
        *(
            (Action("scroll", {"direction": one, "amount": 300}), [n] * 3)
            for one, n in wheel.items()
        ),
        (Action("scroll", at(10, 20, direction="down")), [5]),
    ]:
        desktop.execute(action)
        events = told.since(len(buttons), "ButtonPress")
        assert [int(re.search(r"button (\d)", one[3])[1]) for one in events] == buttons
        place = (10, 20) if "start_box" in action.arguments else (160, 120)
        assert {one[1:3] for one in events} == {place}
    desktop.execute(Action("drag", at(12, 22, end_box=(92, 102))))
    events = told.since(9, "MotionNotify")
    steps = [one[1:3] for one in events]
    assert steps[0] == (12, 22)
    assert steps[-1] == (92, 102)
    assert steps == sorted(steps)


def test_keys_and_any_letter(desktop, told):
    desktop.execute(Action("type", {"content": "aB é€漢\n"}))
    keys = [one[3] for one in told.since(8, "KeyPress") if "Shift_L" not in one[3]]
    names = [re.search(r"keysym 0x\w+, (\w+)", one)[1] for one in keys]
    assert names[:5] == ["a", "B", "space", "eacute", "U20AC"]
    assert names[5] == "U6F22"
    assert names[6] == "Return"
    desktop.execute(Action("hotkey", {"key": "ctrl shift pageup"}))
    names = [re.search(r"keysym 0x\w+, (\w+)", one[3])[1] for one in told.since(3, "KeyPress")]
    assert names[-3:] == ["Control_L", "Shift_L", "Prior"]


def test_screenshots_show_the_window(desktop):
    screen = desktop.screenshot()
    assert screen.size == (240, 320)
    assert screen.pixels.any()
    before = screen.pixels
    for name in ("finished", "call_user"):
        desktop.execute(Action(name))
    desktop.execute(Action("wait", {"time": 0.01}))
    assert (before == desktop.screenshot().pixels).all()


@pytest.mark.parametrize(
    "action",
    [
        Action("click", at(321, 0)), Action("click"), Action("open_app", {"app_name": "x"}),
        Action("press_back"), Action("hotkey", {"key": "; ls"}),
        Action("type", {"content": "\x00"}),
        Action("scroll", {"direction": "--help"}), Action("drag", at(1, 1)),
    ],
    ids=lambda action: action.name,
)  # fmt: skip
def test_what_cannot_be_done_is_an_error_and_does_nothing(desktop, told, action):
    told.since(0, "KeyPress|ButtonPress")
    with pytest.raises(ActionError):
        desktop.execute(action)
    assert told.since(0, "KeyPress|ButtonPress") == []


def test_a_program_that_ends_is_told():
    with DesktopOperator(start="64x48", command=["sh", "-c", "sleep 0.1; exit 3"]) as operator:
        operator._program.wait()
        with pytest.raises(OperatorError, match="code 3"):
            operator.screenshot()
    with pytest.raises(OperatorError, match="closed"):
        operator.screenshot()


def test_refusals(monkeypatch):
    with pytest.raises(ValueError, match="1280x720"):
        DesktopOperator(start="big")
    with pytest.raises(ValueError, match="press_home"):
        DesktopOperator(start="64x48", actions=["press_home"])
    with pytest.raises(OperatorError, match="does not answer"):
        DesktopOperator(":4711")
    with pytest.raises(OperatorError, match="nosuchprogram"):
        DesktopOperator(start="64x48", command=["nosuchprogram"])
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(OperatorError, match="DISPLAY is not set"):
        DesktopOperator()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OperatorError, match="apt-get install xvfb xdotool"):
        DesktopOperator(start="64x48")


@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv")
def test_it_ends_with_us_even_where_we_are_killed():
    code = (
        "import os, signal; from paragone.multimodal.agent.desktop import DesktopOperator\n"
        "d = DesktopOperator(start='64x48')\n"
        "print(d._running[0].pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    end = time.monotonic() + 20
    while os.path.exists(f"/proc/{int(done.stdout)}/exe") and time.monotonic() < end:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{int(done.stdout)}/exe")
