"""The controller against simulated engines, drafters and texts: no clock, no luck of the day."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from paragone.language._draft_pace import Pace, worth_trying
from paragone.language._pace_memory import Chances, Times, between
from paragone.language.drafting import Drafter, Plan

CHAINS = tuple(Plan(n, n) for n in (1, 2, 4, 7))
TREES = (*CHAINS[:2], Plan(4, 2, 2), Plan(7, 3, 3))


class Says(Drafter):
    """Promises chances, whatever it keeps."""

    def __init__(self, chances, plans=CHAINS):
        self.said, self.kinds = chances, plans

    def plans(self):
        return self.kinds

    def chances(self, plan):
        return np.full(plan.depth, self.said)


class World:
    """A machine and a text: what passes and drafts cost, and how often drafts are agreed to.

    `slope`: what a further token of a pass costs; `draft`: a drafted token; both in plain steps.
    `truth`: token to the chance that a draft is agreed to.
    """

    def __init__(self, slope, draft, truth, seed=0, noise=0.0, rows=1, slow_start=0.0):
        self.slope, self.draft, self.truth, self.rows = slope, draft, truth, rows
        self.noise, self.slow_start = noise, slow_start
        self.draws = np.random.default_rng(seed)

    def seconds(self, value):
        return value * 1e-2 * float(np.exp(self.noise * self.draws.standard_normal()))

    def run(self, engine, drafter, length, plan: Plan | str = "auto"):
        """Plain steps by those that it took, and how often each plan was taken."""
        pace, made, spent, plans, ideal = Pace(engine, drafter, plan), 0, 0.0, {}, 0.0
        while made < length:
            left = math.ceil(length - made)
            chosen = pace.choose(self.rows, left)
            plans[chosen] = plans.get(chosen, 0) + 1
            if chosen is None:
                steps = min(pace.stretch, left)
                seconds = sum(self.seconds(1) for _ in range(steps))
                pace.told(None, self.rows, 0.0, seconds, steps=steps)
                made, spent, ideal = made + steps, spent + seconds, ideal + steps
                continue
            assert chosen.depth < left or plan != "auto"
            alive, held = self.rows, np.zeros(chosen.depth)
            for depth in range(chosen.depth):
                held[depth] = alive = self.draws.binomial(alive, self.truth(made))
            offered = np.concatenate([[self.rows], held[:-1]])
            drafting = self.seconds(self.draft * chosen.depth) + self.slow_start
            self.slow_start = 0.0
            passing = self.seconds(1 + self.slope * chosen.nodes)
            pace.told(chosen, self.rows, drafting, passing, offered, held)
            # Rows go on together here: what counts is tokens of all rows.
            made += 1 + held.sum() / self.rows
            spent += drafting + passing
        return made * 1e-2 / spent, plans


class Machine:
    """Stands for an engine, of `size` float32 weights if that is told."""

    trees, weights = True, "float32"

    def __init__(self, size=None):
        if size is not None:
            panels = np.broadcast_to(np.float32(0), (size,))
            self.packed = SimpleNamespace(panels=panels)


@pytest.mark.parametrize(
    ("slope", "draft", "said"),
    [(0.03, 0.02, 0.7), (0.03, 0.3, 0.9), (0.6, 0.02, 0.5), (0.3, 0.1, 0.8), (0.05, 1.0, 0.7)],
)
def test_a_drafter_that_keeps_no_word_costs_three_hundredths_at_most(slope, draft, said):
    speeds = []
    for length in (16, 60, 200, 1000):
        for seed in range(4):
            engine, drafter = Machine(), Says(said)
            world = World(slope, draft, lambda at: 0.02, seed)
            short = [world.run(engine, drafter, length)[0] for _ in range(3)]
            speeds.append(3 / sum(1 / speed for speed in short))
    assert min(speeds) > 0.97, speeds


@pytest.mark.parametrize("rows", [1, 3])
def test_a_drafter_that_keeps_its_word_comes_near_the_best_plan(rows):
    for slope, draft, chance in ((0.03, 0.02, 0.7), (0.03, 0.2, 0.7), (0.2, 0.05, 0.8)):
        world = World(slope, draft, lambda at, chance=chance: chance, rows=rows)
        drafter = Says(chance)
        best = max(world.run(Machine(), drafter, 2000, plan)[0] for plan in CHAINS)
        found, plans = world.run(Machine(), drafter, 1000)
        assert best > 1.1
        assert found > 0.9 * best, (slope, draft, found, best, plans)


def test_one_that_promises_little_is_found_out_in_the_end():
    engine, drafter = Machine(), Says(0.05)
    world = World(0.03, 0.02, lambda at: 0.8)
    assert world.run(engine, drafter, 2000)[0] > 1.5
    # The next text knows.
    assert world.run(engine, drafter, 60)[0] > 1.5


def test_a_text_that_turns_is_followed_both_ways():
    world = World(0.04, 0.02, lambda at: 0.8 if 600 < at < 1200 else 0.02)
    found, plans = world.run(Machine(), Says(0.3), 1800)
    assert found > 1.15, plans
    turned = World(0.04, 0.02, lambda at: 0.8 if at < 200 else 0.02)
    assert turned.run(Machine(), Says(0.7), 1500)[0] > 0.99


def test_what_costs_nothing_is_left_alone_where_passes_cost_their_tokens():
    found, plans = World(0.9, 0.0, lambda at: 0.6).run(Machine(), Says(0.6), 500)
    assert found > 0.97
    assert plans[None] > 5


def test_noise_and_a_slow_first_call_lead_nowhere_bad():
    for seed in range(3):
        bad = World(0.05, 0.05, lambda at: 0.02, seed, noise=0.25)
        assert bad.run(Machine(), Says(0.6), 1000)[0] > 0.95
        good = World(0.05, 0.05, lambda at: 0.75, seed, noise=0.25, slow_start=0.5)
        good.run(engine := Machine(), drafter := Says(0.7), 400)
        assert good.run(engine, drafter, 400)[0] > 1.5


def test_trees_are_taken_where_the_engine_has_them():
    drafter, chains = Says(0.6, TREES), Machine()
    chains.trees = False
    assert all(plan.width == 1 for plan in Pace(chains, drafter).plans)
    assert Pace(Machine(), drafter).plans == list(TREES)


def test_a_given_plan_is_taken_always():
    pace = Pace(None, Drafter(), CHAINS[2])
    pace.told(CHAINS[2], 1, 1.0, 1.0)
    assert pace.choose(1, 1) == CHAINS[2]
    with pytest.raises(ValueError, match="'auto', None or a Plan"):
        Pace(None, Drafter(), "often")


def test_a_model_whose_steps_are_shorter_than_python_is_left_to_the_compiled_loop():
    assert worth_trying(Machine(), Says(0.1))
    assert not worth_trying(small := Machine(1 << 18), Says(0.7))
    assert worth_trying(small, Says(0.7), rows=2)
    assert worth_trying(Machine(1 << 27), Says(0.1))


def test_the_end_of_a_text_is_not_drafted_beyond():
    engine, drafter = Machine(), Says(0.9)
    World(0.03, 0.0, lambda at: 0.9).run(engine, drafter, 300)
    pace = Pace(engine, drafter)
    assert pace.choose(1, 1) is None
    plan = pace.choose(1, 3)
    assert plan is not None
    assert plan.depth <= 2


def test_parts():
    chances = Chances()
    chances.add(np.array([4.0, 2.0]), np.array([2.0, 2.0]))
    assert chances.mean(np.array([0.5, 0.5, 0.25])).tolist() == [0.5, 4 / 6, 0.25]
    chances.fade(0.0)
    assert chances.mean(np.array([0.5])).tolist() == [0.5]
    times = Times()
    for seconds in (1.0, 9.0):
        times.add(seconds)
    assert times.seconds == 1.0
    assert between({0: 1.0, 2: 3.0, 4: 3.0}, 1) == 2.0
    assert between({0: 1.0, 2: 3.0, 4: 3.0}, 9) == 3.0
