"""The dry operator: shows what it was given, remembers what was done, refuses what cannot be."""

import numpy as np
import pytest

from paragone.multimodal.agent.actions import Action, ActionError
from paragone.multimodal.agent.contract import Operator, Screen
from paragone.multimodal.agent.dry import ALL, DryOperator

BLACK = np.zeros((4, 6, 3), np.uint8)


def test_it_shows_the_next_screenshot_after_each_action():
    operator = DryOperator([BLACK, Screen(BLACK + 1, 2.0), BLACK + 2])
    assert isinstance(operator, Operator)
    shown = []
    for name in ("click", "wait", "finished", "call_user"):
        shown.append(int(operator.screenshot().pixels[0, 0, 0]))
        operator.execute(Action(name, {"start_box": (6, 0)} if name == "click" else {}))
    assert shown == [0, 1, 2, 2]
    assert [one.name for one in operator.executed] == ["click", "wait", "finished", "call_user"]
    operator.close()
    assert operator.closed


@pytest.mark.parametrize(
    "action",
    [
        Action("click", {"start_box": (6.1, 0)}),
        Action("drag", {"start_box": (0, 0), "end_box": (0, 0, 3, -1)}),
        Action("fly"),
    ],
    ids=lambda action: action.name,
)
def test_it_refuses_what_cannot_be_done(action):
    operator = DryOperator([BLACK])
    with pytest.raises(ActionError):
        operator.execute(action)
    assert operator.executed == []


def test_its_actions_can_be_fewer():
    operator = DryOperator([BLACK], actions=("click",))
    with pytest.raises(ActionError, match="there are click"):
        operator.execute(Action("type", {"content": "x"}))
    assert len(ALL) == 14


@pytest.mark.parametrize("screens", [[], [BLACK[0]], [BLACK.astype(float)]], ids=len)
def test_screenshots_are_checked(screens):
    with pytest.raises(ValueError, match="screens"):
        DryOperator(screens)
