"""Prompt look-up against a search through the whole text, and as a drafter of generation."""

import numpy as np
import pytest

from paragone.language import PromptLookup
from paragone.language.drafting import Plan


def brute(text, longest, shortest, depth):
    """What followed the latest earlier place of the longest run that the text ends with."""
    for size in range(longest, shortest - 1, -1):
        for end in range(len(text) - 1, size - 1, -1):
            if size <= len(text) and text[end - size : end] == text[len(text) - size :]:
                grown = list(text)
                for step in range(depth):
                    grown.append(grown[end + step])
                return grown[len(text) :]
    return []


@pytest.mark.parametrize(("longest", "shortest"), [(1, 1), (3, 1), (4, 2)])
def test_drafts_are_those_of_a_search(longest, shortest):
    rng = np.random.default_rng(longest)
    drafting = PromptLookup(longest, shortest).open(None)
    text = []
    drafting.add("a", [], None)
    drafting.add("b", [9, 9, 9], None)
    while len(text) < 150:
        new = rng.integers(0, 4, rng.integers(1, 5))
        text += new.tolist()
        drafting.observe(["a"], [new], [None])
        draft = drafting.draft(["b", "a"], Plan(5, 5))[1]
        assert draft.tokens.tolist() == brute(text, longest, shortest, 5)
        assert draft.parents.tolist() == list(range(-1, len(draft.tokens) - 1))
    drafting.drop("a")
    drafting.observe(["b"], [np.array([9])], [None])


def test_trees_merge_what_followed():
    drafting = PromptLookup(2, 1).open(None)
    text = [1, 2, 7, 8, 3, 2, 7, 9, 3, 1, 2]
    drafting.add(0, text, None)
    draft = drafting.draft([0], Plan(6, 3, 2))[0]
    assert draft.tokens.tolist() == [7, 8, 3, 9, 3]
    assert draft.parents.tolist() == [-1, 0, 1, 0, 3]
    small = drafting.draft([0], Plan(4, 3, 2))[0]
    assert small.tokens.tolist() == [7, 8, 3, 9]
    assert len(drafting.draft([0], Plan(1, 1))[0].tokens) == 1


def test_plans_chances_and_refusals():
    lookup = PromptLookup()
    for plan in lookup.plans():
        chances = lookup.chances(plan)
        assert chances.shape == (plan.depth,)
        assert ((chances > 0) & (chances < 1)).all()
    nodes = [plan.nodes for plan in lookup.plans()]
    assert nodes == sorted(nodes)
    for longest, shortest in ((0, 0), (2, 3), (2, 0)):
        with pytest.raises(ValueError, match="1 <= shortest <= longest"):
            PromptLookup(longest, shortest)
