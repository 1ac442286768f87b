"""MiniWoB++: the teacher against the pages' own reward, from any state; same pixels twice."""

import importlib.util

import numpy as np
import pytest

from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.miniwob import FIRST_TEST_SEED, SETS, MiniWobTask
from paragone.multimodal.agent.open_tasks import open_tasks, view_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("miniwob") is None, reason="the pages of miniwob are not installed"
)


def lead(exercise, most=25):
    steps = 0
    while (reward := exercise.reward()) is None and steps < most:
        wanted = exercise.wanted()
        if wanted is None:
            return None, steps
        exercise.operator.execute(wanted.action)
        steps += 1
    return reward, steps


@pytest.mark.parametrize(
    ("page", "seed"),
    [("click-button-sequence", 3), ("login-user", 4), ("click-checkboxes", 6), ("enter-date", 3),
     ("click-tab-2", FIRST_TEST_SEED), ("use-slider", 5), ("choose-list", 12)],
)  # fmt: skip
def test_the_teacher_succeeds(browser, page, seed):
    """The oracle is the page's own reward; all tasks: benchmarks/agent_oracle.py."""
    exercise = MiniWobTask(page).start(browser, seed)
    assert lead(exercise)[0] == 1, exercise.instruction


def test_a_box_holds_the_point_and_the_bar_is_not_seen(browser):
    exercise = MiniWobTask("click-test-2").start(browser, 8)
    screen = exercise.operator.screenshot()
    assert screen.size == (160, 160)
    yellow = (screen.pixels == (255, 255, 0)).all(-1)
    assert not yellow.any()
    wanted = exercise.wanted()
    left, top, right, bottom = wanted.box
    x, y = wanted.action.point
    assert 0 <= left < x < right <= 160
    assert 0 <= top < y < bottom <= 160
    named = {(one.text, one.role): one.box for one in exercise.elements()}
    assert named["ONE", "button"] == wanted.box


def test_it_recovers_from_wrong_ticks(browser):
    exercise = MiniWobTask("click-checkboxes").start(browser, 5)
    boxes = [e for e in exercise.elements() if e.role == "checkbox"]
    for one in boxes:
        left, top, right, bottom = one.box
        point = ((left + right) / 2, (top + bottom) / 2)
        exercise.operator.execute(Action("click", {"start_box": point}))
    assert any("ntick" in step or "must not" in step for step in [exercise.wanted().action.thought])
    assert lead(exercise)[0] == 1


def test_it_recovers_from_a_wrong_text(browser):
    exercise = MiniWobTask("enter-text").start(browser, 5)
    exercise.operator.execute(exercise.wanted().action)
    exercise.operator.execute(Action("type", {"content": "something else"}))
    assert exercise.wanted().action.arguments["key"] == "ctrl a"
    assert lead(exercise)[0] == 1


def test_where_nothing_helps_nothing_is_wanted(browser):
    exercise = MiniWobTask("click-button-sequence").start(browser, 2)
    two = next(e.box for e in exercise.elements() if e.text == "TWO")
    point = ((two[0] + two[2]) / 2, (two[1] + two[3]) / 2)
    exercise.operator.execute(Action("click", {"start_box": point}))
    assert exercise.reward() is None
    assert exercise.wanted() is None


def test_half_a_success_is_none(browser):
    """With one of many boxes wrong the page gives a raw reward above 0."""
    task = MiniWobTask("click-checkboxes")
    exercise = task.start(browser, 20)
    boxes = [e for e in exercise.elements() if e.role == "checkbox"]
    assert len(boxes) > 2
    while exercise.wanted().action.thought.count("Submit") == 0:
        exercise.operator.execute(exercise.wanted().action)
    submit = exercise.wanted().action
    left, top, right, bottom = boxes[0].box
    exercise.operator.execute(
        Action("click", {"start_box": ((left + right) / 2, (top + bottom) / 2)})
    )
    exercise.operator.execute(submit)
    raw = browser.evaluate("() => WOB_RAW_REWARD_GLOBAL")
    assert 0 < raw < 1
    assert exercise.reward() == 0


def test_a_seed_is_an_exercise_whatever_was_before(browser):
    task = MiniWobTask("enter-text")
    first = task.start(browser, 7)
    before = first.operator.screenshot().pixels
    lead(first)
    left_open = task.start(browser, 8)
    left_open.operator.execute(left_open.wanted().action)
    again = task.start(browser, 7)
    assert again.instruction == first.instruction
    np.testing.assert_array_equal(again.operator.screenshot().pixels, before)


def test_test_seeds_are_of_the_test_mode(browser):
    task = MiniWobTask("click-checkboxes-transfer")
    asked = [
        len(task.start(browser, seed).instruction.split(","))
        for seed in (*range(4), *range(FIRST_TEST_SEED, FIRST_TEST_SEED + 4))
    ]
    assert max(asked[:4]) < 4 <= min(asked[4:])


def test_names():
    assert len(set(SETS["12"])) == 12
    assert len(set(SETS["25"])) == 25
    assert len(set(SETS["40"])) == 40
    assert set(SETS["12"]) < set(SETS["25"]) < set(SETS["40"])
    assert all(task.taught for task in open_tasks("miniwob:40"))
    assert not MiniWobTask("tic-tac-toe").taught
    for bad in ("no-such-page", "../flight/wobbly", "click-test.html"):
        with pytest.raises(ValueError, match="no such page"):
            MiniWobTask(bad)


def test_open_tasks():
    named = open_tasks(["miniwob:click-test,focus-text", "pages:form@320x240,table", "miniwob:12"])
    assert [task.name for task in named[:4]] == [
        "miniwob:click-test", "miniwob:focus-text", "pages:form@320x240", "pages:table",
    ]  # fmt: skip
    assert len({task.name for task in named}) == len(named) == 14
    assert view_of(named) == (500, 320)
    for bad, why in (("click-test", "of what kind"), ("", "names none"), ("pages:form@3", "size"),
                     ("file:/no/such", "no folder"), ("pages:form@20x20", "120")):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            open_tasks(bad)
