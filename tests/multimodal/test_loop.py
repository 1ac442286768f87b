"""The loop: what a policy is given, what is carried out, and what ends an episode."""

import builtins
import gc
import os
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.multimodal.agent_loop_fakes import (
    BUTTON,
    COLUMNS,
    FINISHED,
    NOWHERE,
    ROWS,
    SWITCH,
    FakePage,
    Scripted,
    click,
)

from paragone.multimodal.agent import loop
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Context, Operator, Policy, Screen
from paragone.multimodal.agent.loop import ENDS, Episode, Step, run


def test_click_and_finish():
    page, policy = FakePage(), Scripted(BUTTON, FINISHED)
    assert isinstance(page, Operator)
    assert isinstance(policy, Policy)
    seen = []
    episode = run(policy, page, "Press the button.", on_step=seen.append)
    assert (episode.outcome, episode.error, page.pressed) == ("finished", "", True)
    assert episode.instruction == "Press the button."
    assert list(episode.steps) == seen
    first, last = episode.steps
    assert first.actions == (Action("click", {"start_box": (30.0, 20.0)}, "There it is."),)
    assert (first.text, first.changed, first.error) == (BUTTON, True, "")
    assert [one.name for one in last.actions] == ["finished"]
    assert (last.changed, episode.last) == (None, None)
    # Finishing is the loop's: the operator was asked for the click alone, and stays open.
    assert [one.name for one in page.done] == ["click"]
    assert page.closed == 0
    assert 0 <= first.seconds <= episode.seconds


def test_points_are_carried_to_the_screenshot():
    page = FakePage()
    run(Scripted(click(300, 200), FINISHED, space="resized"), page, "")
    assert page.done[0].point == pytest.approx((30.0, 20.0))
    page = FakePage()
    run(Scripted(click(0, 0), click(1000, 1000), FINISHED, space="relative-1000"), page, "")
    assert page.done[0].point == (0.0, 0.0)
    x, y = page.done[1].point
    assert COLUMNS - 1 <= x <= COLUMNS
    assert ROWS - 1 <= y <= ROWS


@pytest.mark.parametrize("screenshots", [1, 2, 5])
def test_history_is_whole_and_screens_are_the_last(screenshots):
    page = FakePage()
    moves = [BUTTON, SWITCH, NOWHERE, "Action: type(content='abc')", SWITCH, click(5, 5)]
    policy = Scripted(*moves, FINISHED, screenshots=screenshots)
    episode = run(policy, page, "Go.")
    taken = [step.screen for step in episode.steps]
    for at, context in enumerate(policy.contexts):
        assert [one.name for one in context.history] == [
            one.name for one in (*page.done[:at],)
        ]  # fmt: skip
        first = max(0, at - screenshots + 1)
        assert len(context.screens) == at + 1 - first
        assert all(a is b for a, b in zip(context.screens, taken[first : at + 1], strict=True))
        assert context.note == ""


def test_several_actions_of_one_answer_keep_the_contract():
    text = "Thought: Both.\nAction: click(start_box='(30,20)')\n\ntype(content='hi')"
    policy = Scripted(text, SWITCH, FINISHED)
    page = FakePage()
    episode = run(policy, page, "")
    assert [one.name for one in episode.steps[0].actions] == ["click", "type"]
    assert (page.pressed, page.text) == (True, "hi")
    last = policy.contexts[2]
    first, second, _ = (step.screen for step in episode.steps)
    # screens[-1 - k] was taken before history[-k]: one screenshot for both actions of the answer.
    assert [one is first for one in last.screens] == [True, True, False, False]
    assert last.screens[-2] is second
    assert [one.name for one in last.history] == ["click", "type", "click"]


def reachable(root):
    """Everything that an object leads to."""
    found, left = {}, [root]
    while left:
        one = left.pop()
        if id(one) not in found and not isinstance(one, type):
            found[id(one)] = one
            left += gc.get_referents(one)
    return found


def test_a_policy_is_given_its_context_and_nothing_else():
    page, secret = FakePage(), object()
    policy = Scripted(BUTTON, "nonsense", SWITCH, FINISHED)
    run(policy, page, "Go.", done=lambda: secret is None, on_step=lambda step: None)
    assert len(policy.contexts) == 4
    for context in policy.contexts:
        assert type(context) is Context
        allowed = (Context, Screen, Action, str, int, float, bool, np.ndarray, tuple, dict)
        inside = reachable(context).values()
        strange = [one for one in inside if one is not None and not isinstance(one, allowed)]
        assert strange == []
        assert all(one is not page and one is not secret for one in inside)


HOSTILE = [
    "__import__('os').system('touch pwned')",
    "Thought: x\nAction: __import__('os').system('touch pwned')",
    "Thought: x\nAction: click(start_box=__import__('os').system('touch pwned'))",
    'Thought: x\nAction: click(start_box=\'<bbox>print(open("pwned","w"))or(10) 20</bbox>\')',
    "Action: type(content='$(touch pwned)`touch pwned`; touch pwned')",
    "Thought: exec(\"open('pwned','w')\")\nAction: click(start_box='(30,20)')",
    "Action: hotkey(key='ctrl c; touch pwned')",
]


def test_text_reaches_the_parser_and_no_interpreter(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run(Scripted(BUTTON, FINISHED), FakePage(), "")
    parsed, parse = [], loop.grammar.parse

    def watched(text, dialect):
        parsed.append(text)
        return parse(text, dialect)

    def refused(*arguments, **options):
        raise AssertionError("text of a policy has reached an interpreter")

    monkeypatch.setattr(loop.grammar, "parse", watched)
    for module, name in (
        (builtins, "eval"), (builtins, "exec"), (os, "system"), (os, "popen"),
        (subprocess, "Popen"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, refused)
    for text in HOSTILE:
        policy = Scripted(text, FINISHED)
        episode = run(policy, FakePage(), text)
        assert episode.outcome == "finished"
        assert parsed[-2:] == [text, FINISHED]
    monkeypatch.undo()
    assert not (tmp_path / "pwned").exists()


def test_texts_that_are_no_action_are_told_and_end_after_three():
    policy = Scripted("garbage", "Thought: hm", BUTTON, "garbage")
    page = FakePage()
    episode = run(policy, page, "")
    assert episode.outcome == "error"
    assert len(episode.steps) == 6
    assert [bool(step.error) for step in episode.steps] == [True, True, False, True, True, True]
    assert episode.error == episode.steps[-1].error
    notes = [context.note for context in policy.contexts]
    assert notes[0] == notes[3] == ""
    assert episode.steps[0].error in notes[1]
    # What could not be carried out is no part of the history.
    assert [one.name for one in policy.contexts[-1].history] == ["click"]
    assert len(page.done) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Action: press_back()", "press_back cannot be done here; there are call_user, click"),
        (click(COLUMNS + 9, 5), "lies outside the screenshot of 120 x 90 pixels"),
        (click(5, -3), "lies outside the screenshot"),
    ],
    ids=["unknown", "right", "above"],
)
def test_actions_that_cannot_be_carried_out(text, why):
    page = FakePage()
    policy = Scripted(text, FINISHED)
    episode = run(policy, page, "")
    assert why in episode.steps[0].error
    assert why in policy.contexts[1].note
    assert (episode.outcome, page.done) == ("finished", [])


def test_nothing_of_an_answer_is_done_where_one_action_is_unknown():
    page = FakePage()
    text = "Action: click(start_box='(30,20)')\n\npress_home()"
    run(Scripted(text, FINISHED), page, "")
    assert page.done == []


def test_screenshots_that_fail():
    page = FakePage(fails=[1] * 9)
    episode = run(Scripted(BUTTON, FINISHED), page, "")
    assert (episode.outcome, episode.error) == ("finished", "")
    page = FakePage(fails=[0] + [1] * 10)
    episode = run(Scripted(BUTTON, FINISHED), page, "")
    assert (episode.outcome, len(episode.steps), page.shots) == ("error", 1, 11)
    assert episode.error == "no picture 11"
    assert (episode.steps[0].changed, episode.last) == (None, None)
    # A page that has closed itself after the right click: the judge knows.
    page = FakePage(fails=[0] + [1] * 10)
    assert run(Scripted(BUTTON), page, "", done=lambda: page.pressed).outcome == "done"
    assert run(Scripted(BUTTON), FakePage(fails=[1] * 10), "").steps == ()


def test_a_page_that_is_gone_ends_its_own_episode():
    page = FakePage(breaks="click")
    episode = run(Scripted(BUTTON), page, "")
    assert (episode.outcome, episode.error) == ("error", "the page is gone")
    assert episode.steps[0].error == "the page is gone"
    assert episode.steps[0].actions == ()
    assert run(Scripted(BUTTON, FINISHED), FakePage(), "").outcome == "finished"


def test_limits(monkeypatch):
    different = [click(5 + 9 * at, 80) for at in range(8)]
    episode = run(Scripted(*different), FakePage(), "", max_steps=7)
    assert (episode.outcome, len(episode.steps)) == ("steps", 7)
    now = iter(range(100))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(now)))
    page = FakePage()
    episode = run(Scripted(*different), page, "", max_seconds=11.0)
    assert episode.outcome == "time"
    assert 1 <= len(episode.steps) <= 6
    monkeypatch.undo()
    assert run(Scripted(BUTTON), FakePage(), "", max_seconds=1e-9).outcome == "time"
    for wrong in ({"max_steps": 0}, {"max_seconds": 0.0}, {"max_seconds": float("nan")}):
        with pytest.raises(ValueError, match=r"max_(steps|seconds)="):
            run(Scripted(BUTTON), FakePage(), "", **wrong)
    with pytest.raises(ValueError, match="screenshots=0"):
        run(Scripted(BUTTON, screenshots=0), FakePage(), "")


def test_a_wait_does_not_outlast_the_limit():
    page = FakePage()
    run(Scripted("Action: wait(time='900')", FINISHED), page, "", max_seconds=60)
    assert page.done[0].arguments["time"] <= 60
    page = FakePage()
    run(Scripted("Action: wait()", FINISHED), page, "", max_seconds=60)
    assert page.done[0].arguments == {}


def test_the_judge_is_asked_after_each_step():
    page, asked = FakePage(), []
    episode = run(
        Scripted(NOWHERE, BUTTON, NOWHERE), page, "", done=lambda: asked.append(0) or page.pressed
    )
    assert (episode.outcome, len(episode.steps), len(asked)) == ("done", 2, 2)
    assert episode.last is not None


def test_an_action_that_changes_nothing():
    policy = Scripted(click(60, 80), click(62, 79), click(59, 81))
    episode = run(policy, FakePage(), "")
    assert (episode.outcome, len(episode.steps)) == ("loop", 3)
    assert [step.changed for step in episode.steps] == [False] * 3
    notes = [context.note for context in policy.contexts]
    assert notes[:2] == ["", ""]
    assert "changed nothing, twice in a row. Reflect" in notes[2]
    assert "3 times" in episode.error
    # Another place, or another action, is no repetition.
    policy = Scripted(click(60, 80), click(67, 80), click(60, 80), FINISHED)
    assert run(policy, FakePage(), "").outcome == "finished"
    policy = Scripted(NOWHERE, NOWHERE, BUTTON, NOWHERE, NOWHERE, FINISHED)
    assert run(policy, FakePage(), "").outcome == "finished"


def test_the_same_action_on_a_screen_that_changes_is_none():
    policy = Scripted(*["Action: type(content='a')"] * 9, FINISHED)
    page = FakePage()
    assert run(policy, page, "").outcome == "finished"
    assert page.text == "a" * 9
    assert not any(context.note for context in policy.contexts)


def test_to_and_fro():
    policy = Scripted(*[SWITCH] * 20)
    episode = run(policy, FakePage(), "", max_steps=20)
    # On, off, on, off is a circle of two steps; the third time round ends it.
    assert (episode.outcome, len(episode.steps)) == ("loop", 6)
    notes = [context.note for context in policy.contexts]
    assert notes[:4] == [""] * 4
    assert "2 actions lead back to where they began" in notes[4]
    assert "3 times in a row" in episode.error
    two = Scripted(*[click(60, 80), click(20, 80)] * 3)
    assert run(two, FakePage(), "").outcome == "loop"


def brute_force(codes, states, present):
    """The definition of a circle, word by word."""
    for period in (1, 2, 3):
        for rounds in (3, 2):
            n = len(codes)
            if n < rounds * period:
                continue
            if states[n - period] == present and all(
                (codes[i], states[i]) == (codes[i - period], states[i - period])
                for i in range(n - (rounds - 1) * period, n)
            ):
                return period, rounds
    return 0, 0


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), max_size=12), st.integers(0, 1))
def test_circles_are_those_of_the_definition(walk, present):
    screens = [Screen(np.full((2, 2, 3), shade, np.uint8)) for shade in (0, 1)]
    steps = [
        Step(screens[state], "", (Action("click", {"start_box": (20.0 * code, 5.0)}),))
        for state, code in walk
    ]
    codes, states = [code for _, code in walk], [state for state, _ in walk]
    assert loop._circle(steps, screens[present]) == brute_force(codes, states, present)


def test_an_interrupt_keeps_what_was_done(tmp_path):
    page = FakePage()
    policy = Scripted(BUTTON, SWITCH, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(policy, page, "Go.", folder=tmp_path / "episode")
    kept = Episode.load(tmp_path / "episode")
    assert (kept.outcome, len(kept.steps)) == ("interrupted", 2)
    assert kept.steps[1].actions[0].point == (90.0, 20.0)

    class Interrupted(FakePage):
        def screenshot(self):
            if self.done:
                raise KeyboardInterrupt
            return super().screenshot()

    with pytest.raises(KeyboardInterrupt):
        run(Scripted(BUTTON), Interrupted(), "Go.", folder=tmp_path / "other")
    kept = Episode.load(tmp_path / "other")
    # The click was carried out: it is kept although its step was not over.
    assert [one.name for one in kept.steps[0].actions] == ["click"]
    assert kept.steps[0].changed is None


PIECES = st.sampled_from(
    ["Thought: ", "Action: ", "click(start_box='(", ",", ")')", "30", "-1", "nan", "1e9", "\n\n",
     "type(content='", "finished(", "wait(time=", "drag(", "end_box='", "press_home()", "\x00", "'"]
)  # fmt: skip
ANSWERS = st.one_of(
    st.text('Action: click()\x27\\"<>\n\x00é日\ud800', max_size=30),
    st.lists(PIECES, max_size=9).map("".join),
    st.tuples(st.integers(-9, 140), st.integers(-9, 99)).map(lambda at: click(*at)),
)


@settings(max_examples=40)
@given(st.lists(ANSWERS, min_size=1, max_size=5), st.integers(1, 3))
def test_whatever_a_policy_says_ends_in_an_episode(texts, screenshots):
    page, policy = FakePage(), Scripted(*texts, screenshots=screenshots)
    episode = run(policy, page, "Go.", max_steps=9)
    assert episode.outcome in ("finished", "call_user", "steps", "loop", "error")
    carried_out = [one for step in episode.steps for one in step.actions if one.name not in ENDS]
    assert [(one.name, one.arguments) for one in carried_out] == [
        (one.name, one.arguments) for one in page.done
    ]
    for action in page.done:
        assert action.name in page.actions
        if action.point is not None:
            assert 0 <= action.point[0] <= COLUMNS
            assert 0 <= action.point[1] <= ROWS
    for context in policy.contexts:
        assert len(context.screens) == 1 + min(screenshots - 1, len(context.history))
