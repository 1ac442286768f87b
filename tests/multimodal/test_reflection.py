"""Mistakes are the judge's to find, and preference follows its closed form."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.multimodal.agent_learners import PERFECT, TinyAgent
from tests.multimodal.agent_learning import FakeBrowser, SquaresTask, box_of, cell_of, opened

from paragone.multimodal.agent._mistakes import judge_steps, mistakes_in
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Context, Sample, Wanted
from paragone.multimodal.agent.reflection import agrees, find_mistakes, prefer

FIRST_PLACE = (0.0, 0.0, 0.0, 9.0, 3.0, 1.0)
"""An agent that always clicks the same square."""


def click(x, y, **more):
    return Action("click", {"start_box": (x, y)}, **more)


@pytest.mark.parametrize(
    ("action", "wanted", "right"),
    [
        (click(5, 5), Wanted(click(1, 1), (0, 0, 9, 9)), True),
        (click(0, 9), Wanted(click(1, 1), (0, 0, 9, 9)), True),
        (click(9.01, 5), Wanted(click(1, 1), (0, 0, 9, 9)), False),
        (Action("click", {"start_box": (0, 0, 9, 9)}), Wanted(click(4, 4), (4, 4, 5, 5)), True),
        (Action("left_double", {"start_box": (5, 5)}), Wanted(click(5, 5), (0, 0, 9, 9)), False),
        (click(5, 5), Wanted(click(5, 12)), True),
        (click(5, 5), Wanted(click(5, 14)), False),
        (Action("type", {"content": "ab\n"}), Wanted(Action("type", {"content": "ab\n"})), True),
        (Action("type", {"content": "ab"}), Wanted(Action("type", {"content": "ab\n"})), False),
        (Action("hotkey", {"key": "Ctrl A"}), Wanted(Action("hotkey", {"key": "ctrl a"})), True),
        (Action("wait"), Wanted(Action("finished", {"content": ""})), False),
        (Action("finished"), Wanted(Action("finished", {"content": ""})), False),
        (
            Action("drag", {"start_box": (5, 5), "end_box": (50, 50)}),
            Wanted(Action("drag", {"start_box": (4, 4), "end_box": (52, 51)}), (0, 0, 9, 9)),
            True,
        ),
        (
            Action("drag", {"start_box": (5, 5), "end_box": (70, 50)}),
            Wanted(Action("drag", {"start_box": (4, 4), "end_box": (52, 51)}), (0, 0, 9, 9)),
            False,
        ),
    ],
    ids=range(14),
)
def test_what_agrees(action, wanted, right):
    assert agrees(action, wanted) is right


@given(st.integers(0, 10**6), st.lists(st.floats(-4, 4), min_size=6, max_size=6))
def test_pairs_are_true_to_the_page(seed, weights):
    """Whatever the agent does: what is rejected is wrong, and what is wanted leads to success."""
    task = SquaresTask()
    found = mistakes_in(TinyAgent(weights), task, FakeBrowser(), seed)
    if not found:
        return
    first, *rest = found
    named = first.context.instruction
    (action,) = first.rejected
    assert not agrees(action, first.wanted)
    with opened(task, seed) as exercise:
        for past in first.context.history:
            exercise.operator.execute(past)
        before = len(exercise.operator.ticked ^ set(exercise.names))
        exercise.operator.execute(action)
        assert len(exercise.operator.ticked ^ set(exercise.names)) > before
        for number, sample in enumerate(rest):
            assert sample.context.history[first.step] == action
            assert sample.step == first.step + 1 + number == len(sample.context.history)
            assert (sample.context.instruction, sample.rejected) == (named, ())
            shown = exercise.operator.screenshot().pixels
            np.testing.assert_array_equal(sample.context.screens[-1].pixels, shown)
            exercise.operator.execute(sample.wanted.action)
        assert exercise.reward() == 1.0
    assert rest[0].wanted.action.reflection == "The last step was wrong."
    assert rest[0].wanted.action.thought.startswith("Tick ")
    assert not any(sample.wanted.action.reflection for sample in [first, *rest[1:]])
    assert all(len(sample.context.screens) <= 2 for sample in found)


def test_another_order_is_no_mistake():
    """Ticking the second of two boxes first differs from the judge, and is as good."""
    task, agent = SquaresTask(), TinyAgent(PERFECT)
    differs = 0
    for seed in range(12):
        with opened(task, seed) as exercise:
            context = Context(exercise.instruction, (exercise.operator.screenshot(),))
            wanted = exercise.wanted()
            point = box_of(int((agent.features(context) @ agent.weights).argmax()))[:2]
            differs += not agrees(click(*point), wanted)
        assert mistakes_in(agent, task, FakeBrowser(), seed) == []
        assert judge_steps(task, FakeBrowser(), seed) == 2
    assert differs


def test_where_nothing_can_be_mended():
    """The first click decides: there is a pair, and nothing behind it."""
    agent = TinyAgent(FIRST_PLACE)
    samples = find_mistakes(agent, [SquaresTask("fake:click")], FakeBrowser(), range(8))
    assert 4 <= len(samples) <= 8
    assert all(len(sample.rejected) == 1 and sample.step == 0 for sample in samples)
    assert all(len(sample.elements) == 4 for sample in samples)


class Odd(TinyAgent):
    """Proposes one text, whatever it sees."""

    def __init__(self, text):
        super().__init__()
        self.text = text

    def propose(self, context):
        return self.text


def test_actions_that_cannot_be_carried_out():
    task, browser = SquaresTask(), FakeBrowser()
    assert mistakes_in(Odd("I would rather not."), task, browser, 0) == []
    for text in ("finished(content='done')", "hotkey(key='ctrl a')"):
        (only,) = mistakes_in(Odd(f"Thought: So.\nAction: {text}"), task, browser, 0)
        assert only.rejected[0].name == text.partition("(")[0]
    wait = "Thought: So.\nAction: wait()"
    first, mended, *_ = mistakes_in(Odd(wait), task, browser, 0)
    assert first.rejected[0].name == "wait"
    assert mended.wanted.action.reflection == "The last step changed nothing."


def test_a_broken_page_costs_its_own_exercise():
    task, browser, told = SquaresTask(breaks=(1,)), FakeBrowser(), []
    agent = TinyAgent(FIRST_PLACE)
    whole = find_mistakes(
        agent, [task], browser, range(3), following=False,
        tell=lambda name, seed, samples: told.append((name, seed, len(samples))),
    )  # fmt: skip
    assert browser.restarts == 1
    assert [seed for _, seed, _ in told] == [0, 1, 2]
    assert told[1] == ("fake:tick", 1, 0)
    assert len(whole) == sum(count for *_, count in told)
    assert find_mistakes(agent, [task], browser, range(3), stop=lambda: len(told) >= 3) == []


@pytest.fixture(scope="module")
def samples():
    tasks = [SquaresTask(), SquaresTask("fake:click")]
    return find_mistakes(TinyAgent(FIRST_PLACE), tasks, FakeBrowser(), range(24))


def pairs_of(samples):
    return [(s, a) for s in samples for a in s.rejected]


def test_gradient_in_closed_form(samples):
    """One step of plain descent is minus the mean of beta sigma(-h) (phi_w - E phi ...) by hand."""
    pairs = [sample for sample in samples if sample.rejected][:7]
    model = TinyAgent((0.3, -0.2, 0.1, 0.5, 0.2, -0.4))
    reference = TinyAgent((0.1, 0.1, 0.0, 0.2, -0.1, 0.3))
    beta, lr, lam = 0.7, 0.25, 0.3
    before = model.weights.detach().clone()
    gradient = torch.zeros(6, dtype=torch.float64)
    for sample, action in pairs_of(pairs):
        phi = model.features(sample.context)
        mean = torch.softmax(phi @ before, 0) @ phi
        good, bad = phi[cell_of(sample.wanted.action.point)], phi[cell_of(action.point)]
        # The normalisation of policy and reference cancels between two actions of one state.
        h = beta * (good - bad) @ (before - reference.weights.detach())
        gradient += -beta * torch.sigmoid(-h) * (good - bad) - lam * (good - mean)
    prefer(
        model, pairs, beta=beta, sft=lam, reference=reference, steps=1, batch=7, lr=lr, warmup=0.0,
        optimizer="sgd", clip_norm=None,
    )  # fmt: skip
    # The rate of the only step is that of its middle, half of the largest on a straight fall; the
    # optimizer's step (Nesterov, 0.9) makes 1.9 of a first gradient.
    moved = model.weights.detach() - before
    torch.testing.assert_close(moved, -lr * 0.5 * 1.9 * gradient / 7, rtol=1e-6, atol=1e-12)


def test_loss_and_margin_by_hand(samples):
    """At the start the margin is nothing and the loss is log 2, plus the likelihood's share."""
    pairs = [sample for sample in samples if sample.rejected]
    model = TinyAgent((0.3, -0.2, 0.1, 0.5, 0.2, -0.4))
    right = model.log_probability(pairs).detach()
    done = prefer(model, pairs, steps=1, batch=len(pairs), lr=1e-12, sft=0.5)
    assert done.history[-1]["loss"] == pytest.approx(math.log(2) - 0.5 * right.mean().item())
    assert done.history[-1]["nll"] == pytest.approx(-right.mean().item())
    assert abs(done.margin) < 1e-9
    assert done.pairs == len(pairs)


def test_right_ways_round_and_wrong_ways_round(samples):
    """A planted bug: with wanted and rejected exchanged, the true margin falls."""
    pairs = [sample for sample in samples if sample.rejected]
    swapped = [
        dataclasses.replace(
            s, wanted=Wanted(s.rejected[0], None), rejected=(s.wanted.action,)
        ) for s in pairs
    ]  # fmt: skip
    start = TinyAgent(FIRST_PLACE)

    def margin(model):
        with torch.no_grad():
            good, bad = (
                model.log_probability(pairs) - start.log_probability(pairs),
                model.log_probability(pairs, [s.rejected[0] for s in pairs])
                - start.log_probability(pairs, [s.rejected[0] for s in pairs]),
            )
            return float((good - bad).mean())

    learned, spoiled = copy.deepcopy(start), copy.deepcopy(start)
    done = prefer(learned, pairs, steps=60, lr=0.1, sft=0.0)
    wrong = prefer(spoiled, swapped, steps=60, lr=0.1, sft=0.0)
    assert margin(learned) > 1 > -1 > margin(spoiled)
    assert done.margin == pytest.approx(0.1 * margin(learned))
    assert done.accuracy > 0.9
    assert wrong.margin > 0


def success(agent, task, seeds):
    done = 0
    for seed in seeds:
        with opened(task, seed) as exercise:
            for _ in range(task.max_steps):
                screen = exercise.operator.screenshot()
                text = agent.propose(Context(exercise.instruction, (screen,)))
                point = [int(v) for v in text.split("'(")[1].split(")'")[0].split(",")]
                exercise.operator.execute(click(*point))
                if exercise.reward() is not None:
                    break
            done += exercise.reward() == 1.0
    return done / len(seeds)


def test_mistakes_teach(samples):
    """Closed loop on unseen seeds: from chance to (nearly) always."""
    agent, task = TinyAgent(FIRST_PLACE), SquaresTask()
    unseen = range(1_000_000, 1_000_020)
    before = success(agent, task, unseen)
    prefer(agent, samples, steps=150, lr=0.2, sft=0.5, beta=0.5)
    assert before <= 0.3 < 0.9 <= success(agent, task, unseen)


def test_goes_on_where_it_ended(samples, tmp_path):
    """Interrupted after some steps, the same call comes to the same weights, bit for bit."""
    whole, parts = TinyAgent(FIRST_PLACE), TinyAgent(FIRST_PLACE)
    options = {"steps": 12, "batch": 4, "lr": 0.1, "seed": 3}
    prefer(whole, samples, **options)
    calls = 0
    score = parts.log_probability

    def interrupted(*arguments, **named):
        nonlocal calls
        calls += 1
        # Two calls a step, and one pair of calls for each 32 that the reference scores.
        if calls == 2 * 6 + 2:
            import signal

            signal.raise_signal(signal.SIGINT)
        return score(*arguments, **named)

    parts.log_probability = interrupted
    with pytest.raises(KeyboardInterrupt):
        prefer(parts, samples, out=tmp_path / "run", **options)
    assert (tmp_path / "run" / "config.json").exists()
    again = TinyAgent((1.0,) * 6)
    done = prefer(again, samples, out=tmp_path / "run", **options)
    assert done.steps == 12
    torch.testing.assert_close(again.weights, whole.weights, rtol=0, atol=0)
    with pytest.raises(ValueError, match="holds another run"):
        prefer(again, samples, out=tmp_path / "run", **{**options, "batch": 5})


def test_what_cannot_be_written_is_left_out(samples):
    odd = dataclasses.replace(samples[0], rejected=(Action("hotkey", {"key": "a"}),))
    done = prefer(TinyAgent(), [odd, *samples], steps=1)
    assert done.pairs == len(pairs_of(samples))
    assert done.notes == ("1 pairs have an action that the model cannot write",)
    with pytest.raises(ValueError, match="these are all pairs"):
        prefer(TinyAgent(), [odd], steps=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 0.0}, "beta=0.0: above 0"),
        ({"sft": -1.0}, "sft=-1.0"),
        ({"batch": 0}, "batch=0"),
        ({"epochs": 0.0}, "epochs=0.0"),
        ({"label_smoothing": 0.5}, "label_smoothing=0.5"),
        ({"seconds": -1.0}, "seconds=-1.0"),
    ],
)
def test_what_the_user_can_mend(samples, options, words):
    with pytest.raises(ValueError, match=words):
        prefer(TinyAgent(), samples, **options)


def test_nothing_to_prefer(samples):
    model = TinyAgent()
    plain = [sample for sample in samples if not sample.rejected]
    for nothing in ([], plain):
        with pytest.raises(ValueError, match="nothing to prefer"):
            prefer(model, nothing)
    with pytest.raises(ValueError, match="the model that is trained"):
        prefer(model, samples, reference=model)
    assert isinstance(plain[0], Sample)
