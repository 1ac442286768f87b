"""What is kept has earned its reward and passed each filter; who was refused is counted."""

import dataclasses

import pytest
from tests.multimodal.agent_learners import PERFECT, TinyAgent
from tests.multimodal.agent_learning import FakeBrowser, SquaresTask, opened

from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.bootstrap import FILTERS, Try, bootstrap
from paragone.multimodal.agent.contract import Context
from paragone.multimodal.agent.loop import Episode, Step

SLOPPY = (2.0, 0.0, -2.0, 0.0, 0.0, 0.0)


def test_what_is_kept_succeeds_again():
    """Each kept episode, done again from its samples, earns the page's reward in as many steps."""
    tasks = {"fake:tick": SquaresTask(), "fake:click": SquaresTask("fake:click")}
    done = bootstrap(TinyAgent(SLOPPY), tasks.values(), FakeBrowser(), range(30), temperature=1.0)
    assert done.tried == 60
    assert 0 < done.kept < done.succeeded < 60
    assert done.kept + sum(done.refused.values()) == done.tried
    assert done.refused["reward"] == done.tried - done.succeeded
    episodes: dict = {}
    for sample in done.samples:
        episodes.setdefault((sample.task, sample.seed), []).append(sample)
    assert len(episodes) == done.kept
    for (name, seed), steps in episodes.items():
        assert [sample.step for sample in steps] == list(range(len(steps)))
        assert len(steps) <= 4
        with opened(tasks[name], seed) as exercise:
            for sample in steps:
                assert exercise.reward() is None
                assert len(sample.elements) == 4
                left, top, right, bottom = sample.wanted.box
                x, y = sample.wanted.action.point
                assert left <= x <= right
                assert top <= y <= bottom
                exercise.operator.execute(sample.wanted.action)
            assert exercise.reward() == 1.0


def test_the_agent_is_given_its_context_alone():
    """The judge is asked beside the agent; nothing of what it says gets to the agent."""
    agent = TinyAgent(PERFECT)
    bootstrap(agent, [SquaresTask()], FakeBrowser(), range(2), temperature=0.5)
    assert agent.asked
    for context in agent.asked:
        assert type(context) is Context
        assert len(context.screens) <= agent.screenshots
        for action in context.history:
            assert action.thought == "I look."


def step(number, *, changed=True, error="", name="click", screen=None):
    with opened(SquaresTask(), number if screen is None else screen) as exercise:
        seen = exercise.operator.screenshot()
    actions = () if error else (Action(name, {"start_box": (number, 1)}),)
    return Step(seen, "", actions, changed, 0.0, error)


GOOD = (step(0), step(1), step(2))


def tried(steps=GOOD, outcome="done", **more):
    contexts = tuple(Context("tick", (one.screen,)) for one in steps)
    episode = Episode("tick", tuple(steps), outcome, 1.0)
    return Try(**{
        "task": "fake", "seed": 0, "episode": episode, "reward": 1.0, "contexts": contexts,
        "shortest": 3, "extra": 0, "known": False, **more,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("one", "refusing"),
    [
        (tried(), []),
        (tried(reward=0.5), ["reward"]),
        (tried((*GOOD[:2], step(3, error="no action"))), ["readable"]),
        (tried(contexts=()), ["readable"]),
        (tried((GOOD[0], step(1, changed=False), GOOD[2])), ["busy"]),
        (tried((*GOOD[:2], step(2, changed=False, name="finished"))), []),
        (tried((*GOOD[:2], step(3, screen=0))), ["straight"]),
        (tried(outcome="loop"), ["straight"]),
        (tried(known=True), ["new"]),
        (tried(shortest=2), ["short"]),
        (tried(shortest=1, extra=1), ["short"]),
        (tried(shortest=1, extra=2), []),
        (tried(shortest=None), []),
    ],
    ids=range(13),
)
def test_each_filter_refuses_what_it_is_for(one, refusing):
    assert [name for name, passes in FILTERS.items() if not passes(one)] == refusing


def test_filters_are_counted_by_their_names():
    """An episode is counted at the first filter that refuses it, and the same one only once."""
    agent, task = TinyAgent(PERFECT), SquaresTask()
    told = []
    done = bootstrap(
        agent, [task], FakeBrowser(), [0, 1, 0], temperature=0.0,
        tell=lambda name, seed, one, samples: told.append((seed, len(samples))),
    )  # fmt: skip
    assert done.refused["new"] == 1
    assert told == [(0, 2), (1, 2), (0, 0)]
    assert str(done) == "3 episodes, 3 succeeded, 2 kept (refused: new 1)"
    none = bootstrap(
        agent, [task], FakeBrowser(), [0, 1], temperature=0.0, filters={"never": lambda one: False}
    )
    assert none.refused == {"never": 2, "broken": 0}
    assert none.samples == []


class Hesitant(TinyAgent):
    """Waits once, which changes nothing, and then ticks."""

    def propose(self, context):
        if not context.history:
            return "Thought: Hm.\nAction: wait()"
        return super().propose(context)


def test_bad_habits_are_refused():
    task, browser = SquaresTask(), FakeBrowser()
    slow = bootstrap(Hesitant(PERFECT), [task], browser, range(3), temperature=0.0)
    assert (slow.succeeded, slow.kept, slow.refused["busy"]) == (3, 0, 3)
    broken = SquaresTask(breaks=(1,))
    done = bootstrap(TinyAgent(PERFECT), [broken], browser, range(3), temperature=0.0)
    assert (done.kept, done.refused["broken"], browser.restarts) == (2, 1, 1)


def test_one_temperature_and_seed_give_one_result():
    runs = [
        bootstrap(TinyAgent(SLOPPY), [SquaresTask()], FakeBrowser(), range(8), temperature=1.0)
        for _ in range(2)
    ]
    first, second = ([(s.seed, s.step, s.wanted) for s in run.samples] for run in runs)
    assert first == second
    assert dataclasses.replace(runs[0], samples=[]) == dataclasses.replace(runs[1], samples=[])
    calls = iter([False, False, True])
    cut = bootstrap(
        TinyAgent(SLOPPY), [SquaresTask()], FakeBrowser(), range(8), stop=lambda: next(calls)
    )
    assert cut.tried == 2


@pytest.mark.parametrize(("options", "words"), [
    ({"temperature": -0.1}, "temperature=-0.1"), ({"extra": -1}, "extra=-1"),
])  # fmt: skip
def test_what_the_user_can_mend(options, words):
    with pytest.raises(ValueError, match=words):
        bootstrap(TinyAgent(), [SquaresTask()], FakeBrowser(), [0], **options)
