"""Baselines: chance is uniform, widgets come in order, the oracle does what the page says."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from paragone.multimodal.agent.actions import parse
from paragone.multimodal.agent.baselines import BASELINES, FirstWidget, Oracle, RandomClick
from paragone.multimodal.agent.contract import Context, Element, Policy, Screen

SPEC = importlib.util.spec_from_file_location(
    "worlds_of_baselines", Path(__file__).with_name("agent_worlds.py")
)
worlds = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(worlds)


def context(rows=30, columns=50, history=(), fill=0):
    return Context("Do it.", (Screen(np.full((rows, columns, 3), fill, np.uint8)),), history)


def point_of(policy, asked):
    (action,) = parse(policy.propose(asked), policy.dialect)
    assert action.name == "click"
    return policy.coordinates(asked.screens[-1]).to_screenshot(*action.point)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_baselines_are_policies(name):
    assert isinstance(BASELINES[name](worlds.Page(0, 1)), Policy)


def test_random_clicks_are_uniform_and_repeat():
    asked = [context(fill=fill) for fill in range(250)]
    policy = RandomClick(1)
    points = np.array([point_of(policy, one) for one in asked])
    assert points.tolist() == [list(point_of(RandomClick(1), one)) for one in asked]
    assert points.tolist() != [list(point_of(RandomClick(2), one)) for one in asked]
    assert (points >= 0).all()
    assert (points < [50, 30]).all()
    assert points.max(0).tolist() >= [45, 26]
    # The mean of n uniform numbers of (0, 1) has a spread of 1 / sqrt(12 n).
    assert np.abs(points.mean(0) / [50, 30] - 0.5).max() < 4 / np.sqrt(12 * 250) + 0.02
    page = worlds.Page(0, 1)
    step = [context(history=(page.wanted().action,) * k) for k in range(5)]
    assert len({point_of(policy, one) for one in step}) > 1


class Listed:
    """An exercise that only has elements."""

    def __init__(self, *elements):
        self.found = elements

    def elements(self):
        return self.found


def test_first_widget_goes_through_the_page_and_starts_again():
    page = worlds.Page(3, 1)
    policy = FirstWidget(page)
    wanted = [page.box(name) for name in (*page.order, page.order[0])]
    for left, top, right, bottom in wanted:
        x, y = point_of(policy, context(40, 90))
        assert left <= x <= right
        assert top <= y <= bottom


def test_equal_widgets_are_told_apart():
    boxes = [(0.0, 0.0, 4.0, 4.0), (10.0, 0.0, 14.0, 4.0)]
    policy = FirstWidget(Listed(*(Element("", "checkbox", box) for box in boxes)))
    found = [point_of(policy, context()) for _ in range(3)]
    assert found == [(2.0, 2.0), (12.0, 2.0), (2.0, 2.0)]


def test_pages_without_widgets():
    text = Element("Read me", "text", (2.0, 2.0, 8.0, 6.0))
    assert point_of(FirstWidget(Listed(text)), context()) == (5.0, 4.0)
    (action,) = parse(FirstWidget(Listed()).propose(context()), "ui-tars-1.5")
    assert action.name == "wait"


def test_the_oracle_does_what_is_wanted():
    page = worlds.Page(5, 2)
    policy = Oracle(page)
    while page.reward() is None:
        (action,) = parse(policy.propose(context(40, 90)), policy.dialect)
        assert action.thought
        page.execute(action.moved(policy.coordinates(page.screenshot()).to_screenshot))
    assert page.reward() == 1.0
    (action,) = parse(policy.propose(context()), policy.dialect)
    assert action.name == "call_user"
