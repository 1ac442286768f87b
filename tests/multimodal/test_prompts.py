"""Prompts: the action space as `parse` reads it, and an episode as messages."""

import numpy as np
import pytest
from tests.multimodal.agent_loop_fakes import FakePage, Scripted, click

from paragone.multimodal.agent.actions import ACTIONS, DIALECTS, Action, parse
from paragone.multimodal.agent.contract import Context, Screen
from paragone.multimodal.agent.coordinates import Coordinates, smart_resize
from paragone.multimodal.agent.loop import run
from paragone.multimodal.agent.prompts import PLATFORMS, messages, system_prompt


def screens(count, rows=90, columns=120):
    return tuple(Screen(np.full((rows, columns, 3), shade, np.uint8)) for shade in range(count))


def context(steps, kept, **others):
    """One action a screenshot; the last `kept` screenshots are there."""
    history = tuple(
        Action("click", {"start_box": (10.0 + at, 20.0)}, f"thought {at}") for at in range(steps)
    )
    return Context("Do it.", screens(kept), history, **others)


def parts(told, kind):
    return [part[kind] for one in told for part in one["content"] if part["type"] == kind]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_offered_action_is_one_that_parse_reads(dialect, platform):
    prompt = system_prompt(dialect, platform, "German")
    numbers = {"x1": "11", "y1": "22", "x2": "33", "y2": "44"}
    head, _, offered = prompt.partition("Your actions:\n")
    offered = offered.partition("\n\nRules:")[0]
    calls, call = [], []
    for line in offered.splitlines():
        if line.startswith("    "):
            calls.append("\n".join(call))
            call = []
        else:
            call.append(line)
    found = []
    for call in calls:
        for letters, number in numbers.items():
            call = call.replace(letters, number)
        text = call if DIALECTS[dialect].functions else f"Action: {call}"
        (action,) = parse(text, dialect)
        found.append(action.name)
        assert set(ACTIONS[action.name].required) <= set(action.arguments)
        boxes = [v for k, v in action.arguments.items() if k.endswith("_box")]
        assert boxes == [(11.0, 22.0), (33.0, 44.0)][: len(boxes)]
    assert found == list(PLATFORMS[platform])
    assert "Think in German" in prompt
    assert "..." in head


def test_all_actions_are_offered_somewhere():
    assert {name for one in PLATFORMS.values() for name in one} == set(ACTIONS)


def test_points_are_named_in_the_space_of_the_dialect():
    assert "pixels of the image as you see it" in system_prompt("ui-tars-1.5")
    assert "from 0 to 1000" in system_prompt("ui-tars-1.0")


@pytest.mark.parametrize("steps", [0, 1, 4, 9])
@pytest.mark.parametrize("kept", [1, 3, 5])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_all_answers_and_the_last_images(steps, kept, most):
    kept = min(kept, steps + 1)
    given = context(steps, kept)
    told = messages(given, screenshots=most)
    answers = [one for one in told if one["role"] == "assistant"]
    assert [parse(one["content"][0]["text"])[0].thought for one in answers] == [
        f"thought {at}" for at in range(steps)
    ]
    images = parts(told, "image")
    shown = given.screens[-most:]
    assert len(images) == min(most, kept)
    assert all(a is b.pixels for a, b in zip(images, shown, strict=True))
    # Instruction first; text alone, then pairs of screenshot and answer; the present is last.
    roles = "".join(one["role"][0] for one in told)
    pairs = len(images) - 1
    assert roles == "u" + "a" * (steps - pairs) + "ua" * pairs + "u"
    assert "Do it." in told[0]["content"][0]["text"]
    assert told[-1]["content"][0]["type"] == "image"


def test_points_are_those_of_the_model():
    given = Context("", screens(2, 720, 1280), (Action("click", {"start_box": (640.0, 360.0)}),))
    rows, columns = smart_resize(720, 1280)
    for dialect, point in (
        ("ui-tars-1.5", (columns / 2, rows / 2)), ("ui-tars-1.0", (500.0, 500.0)),
    ):  # fmt: skip
        text = messages(given, dialect)[2]["content"][0]["text"]
        assert parse(text, dialect)[0].point == point
    text = messages(given, coordinates=lambda screen: Coordinates.of(screen, "relative-1"))
    assert parse(text[2]["content"][0]["text"])[0].point == (0.5, 0.5)
    # The past is told in the words in which it can be said again: a fixed point up to rounding.
    odd = Context("", screens(2, 111, 333), (Action("click", {"start_box": (200.4, 77.7)}),))
    text = messages(odd)[2]["content"][0]["text"]
    resized = smart_resize(111, 333)
    x, y = Coordinates((111, 333), "resized", resized).to_screenshot(*parse(text)[0].point)
    assert abs(x - 200.4) <= 0.5 * 333 / resized[1]
    assert abs(y - 77.7) <= 0.5 * 111 / resized[0]


def test_several_actions_of_one_screenshot_are_one_answer():
    text = "Thought: Both.\nAction: click(start_box='(30,20)')\n\ntype(content='hi')"
    policy = Scripted(text, click(90, 20), click(60, 80))
    run(policy, FakePage(), "Go.", max_steps=3)
    told = messages(policy.contexts[2])
    answers = [part for part in parts(told, "text")[1:]]
    assert [len(parse(one)) for one in answers] == [2, 1]
    assert len(parts(told, "image")) == 3
    # An unchanged screen is another step all the same.
    policy = Scripted(click(60, 80), click(5, 80), click(100, 80))
    page = FakePage()
    still = page.screenshot()
    page.screenshot = lambda: still
    run(policy, page, "Go.", max_steps=3)
    assert len(parts(messages(policy.contexts[2]), "image")) == 3


def test_notes_stand_beside_the_present_screenshot():
    told = messages(context(2, 3, note="The last action changed nothing."))
    assert [part["type"] for part in told[-1]["content"]] == ["image", "text"]
    assert told[-1]["content"][1]["text"] == "The last action changed nothing."


def test_wrong_requests_are_named():
    for options in ({"dialect": "ui-tars-9"}, {"platform": "watch"}, {"screenshots": 0}):
        with pytest.raises(ValueError, match=rf"{next(iter(options))}="):
            messages(context(1, 1), **options)
    for wrong in (Context("", ()), Context("", screens(2))):
        with pytest.raises(ValueError, match="the present screenshot"):
            messages(wrong)
