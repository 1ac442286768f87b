"""Scores: attempts, intervals, paired differences, resuming, pages in trouble, workers."""

import contextlib
import importlib
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paragone.multimodal.agent import _scoring_statistics as statistics
from paragone.multimodal.agent.baselines import BASELINES, Oracle
from paragone.multimodal.agent.loop import Episode
from paragone.multimodal.agent.scoring import FIRST_TEST_SEED, Attempt, Scores, score


@pytest.fixture(scope="module")
def worlds():
    """The helper beside this file, by a name that other processes can import."""
    here = str(Path(__file__).parent)
    sys.path.insert(0, here)
    yield importlib.import_module("agent_worlds")
    sys.path.remove(here)
    sys.modules.pop("agent_worlds", None)


def scored(worlds, agent, tasks=None, **options):
    tasks = [worlds.Buttons()] if tasks is None else tasks
    return score(agent, tasks, browser=worlds.FakeBrowser, **{"episodes": 8, **options})


def test_the_oracle_succeeds_and_one_who_only_says_so_fails(worlds):
    tasks = [worlds.Buttons(), worlds.Buttons("fake:two", clicks=2)]
    best = scored(worlds, "oracle", tasks)
    assert best.success == 1.0
    assert [row.steps for row in best.tasks] == [1.0, 2.0]
    assert best.outcomes == {"done": 16}
    assert best.failures == []
    low, high = best.interval[1:]
    assert low < 1.0 == high
    said = scored(worlds, worlds.Stubborn, tasks)
    assert said.success == 0.0
    assert said.outcomes == {"finished": 16}
    assert len(said.failures) == 16
    assert {one.seed for one in said.attempts} == set(range(FIRST_TEST_SEED, FIRST_TEST_SEED + 8))
    gap = best.difference(said)
    assert (gap.estimate, gap.n) == (1.0, 16)
    assert gap.p == pytest.approx(2 * 0.5**16)
    assert "+100.0" in str(gap)


def test_texts_that_are_no_actions_fail_and_are_told(worlds):
    found = scored(worlds, worlds.Mumbling, episodes=2)
    assert found.outcomes == {"error": 2}
    assert all(one.error for one in found.attempts)
    assert found.steps >= 1


def test_an_agent_that_looks_into_the_page_is_caught(worlds):
    found = scored(worlds, worlds.Cheating, episodes=2)
    assert found.outcomes == {"error": 2}
    assert "agent's turn" in found.attempts[0].error


def test_pages_in_trouble_cost_their_own_episode(worlds):
    first = FIRST_TEST_SEED
    troubles = {first + 1: "start", first + 3: "blind", first + 4: "judge"}
    browser = worlds.FakeBrowser()
    found = score("oracle", [worlds.Buttons(troubles=troubles)], episodes=6,
                  browser=lambda: browser)  # fmt: skip
    assert [one.success for one in found.attempts] == [True, False, True, False, False, True]
    assert [one.outcome for one in found.attempts][1::2] == ["error", "error", "done"]
    assert "does not start" in found.attempts[1].error
    assert "gone" in found.attempts[3].error
    assert browser.starts == -1
    assert found.success == pytest.approx(0.5)


def test_browsers_in_trouble_are_restarted(worlds):
    starts = []

    class Counting(worlds.FakeBrowser):
        def restart(self):
            starts.append(1)

    troubles = {FIRST_TEST_SEED: "start", FIRST_TEST_SEED + 1: "blind"}
    score("oracle", [worlds.Buttons(troubles=troubles)], episodes=3, browser=Counting)
    assert len(starts) == 2


def test_a_score_goes_on_where_it_stopped(worlds, tmp_path):
    whole = scored(worlds, "random-click", out=tmp_path / "a")
    told = []

    def stop(one, done, count):
        told.append((done, count))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scored(worlds, "random-click", out=tmp_path / "b", progress=stop)
    assert told == [(1, 8), (2, 8), (3, 8)]
    log = tmp_path / "b" / "episodes.jsonl"
    # What a killed process leaves: a line that is cut off.
    log.write_text(log.read_text() + '{"agent": "random-click", "ta')
    again = []
    found = scored(worlds, "random-click", out=tmp_path / "b",
                   progress=lambda one, done, count: again.append(done))  # fmt: skip
    assert again == [4, 5, 6, 7, 8]
    assert [(a.seed, a.success) for a in found.attempts] == [
        (a.seed, a.success) for a in whole.attempts
    ]
    lines = log.read_text().splitlines()
    assert sum('"success"' in line for line in lines) == 8
    scored(worlds, "random-click", out=tmp_path / "b", progress=lambda *told: pytest.fail("again"))
    # Another limit of steps, another agent: other episodes.
    told.clear()
    scored(worlds, "random-click", out=tmp_path / "b", max_steps=1,
           progress=lambda one, done, count: told.append(done))  # fmt: skip
    assert len(told) == 8


def test_first_episodes_are_kept_for_replays(worlds, tmp_path):
    tasks = [worlds.Buttons(), worlds.Buttons("fake:two", clicks=2)]
    found = scored(worlds, "first-widget", tasks, out=tmp_path, kept=1, episodes=12)
    kept = [one for one in found.attempts if one.kept]
    outcomes = {(one.task, one.success) for one in found.attempts}
    assert {(one.task, one.success) for one in kept} == outcomes
    assert len(kept) == len(outcomes)
    for one in kept:
        episode = Episode.load(one.kept)
        assert (episode.instruction, len(episode.steps)) == (one.instruction, one.steps)
        assert episode.success is one.success
        assert Path(one.kept).is_relative_to(tmp_path)
    assert not list(tmp_path.glob("episodes/*random*"))
    assert scored(worlds, "oracle", tasks).attempts[0].kept == ""


def test_instructions_that_training_had_are_told_apart(worlds):
    plain = scored(worlds, "oracle")
    assert plain.on_unseen() is None
    instructions = sorted({one.instruction for one in plain.attempts})
    found = scored(worlds, "oracle", seen=instructions[:1])
    hits, count, low, high = found.on_unseen()
    assert hits == count == sum(a.instruction != instructions[0] for a in plain.attempts)
    assert low < 1 == high
    assert scored(worlds, "oracle", seen=instructions).on_unseen() == (0, 0, 0.0, 1.0)


def test_times_are_split(worlds):
    found = scored(worlds, "oracle", episodes=2)
    row = found.tasks[0]
    assert row.policy_ms > 0
    assert row.browser_ms > 0
    assert row.step_ms == pytest.approx(found.step_ms)
    told = json.loads(json.dumps(found.as_dict()))
    assert told["tasks"][0]["outcomes"] == {"done": 2}


def test_workers_find_the_same_and_survive_pages_that_kill(worlds, tmp_path):
    tasks = [worlds.Buttons(troubles={FIRST_TEST_SEED + 1: "dies"})]
    found = score("oracle", tasks, episodes=4, workers=2, browser="agent_worlds:FakeBrowser",
                  out=tmp_path)  # fmt: skip
    assert [one.success for one in found.attempts] == [True, False, True, True]
    assert "code 7" in found.attempts[1].error
    assert (tmp_path / "episodes.jsonl").read_text().count("\n") == 4


def test_pages_that_hang_cost_their_own_episodes(worlds):
    tasks = [worlds.Buttons(troubles=dict.fromkeys(range(10**6, 10**6 + 2), "hangs"))]
    found = score("oracle", tasks, episodes=2, workers=2, browser="agent_worlds:FakeBrowser",
                  patience=1.0)  # fmt: skip
    assert found.outcomes == {"error": 2}
    assert all("no answer for 1 s" in one.error for one in found.attempts)


def test_a_worker_that_cannot_open_its_agent_says_why(worlds):
    with pytest.raises(RuntimeError, match=r"did not start.*no agent"):
        score("nowhere", [worlds.Buttons()], episodes=2, workers=2, agent="x",
              browser="agent_worlds:FakeBrowser")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"episodes": 0}, "episodes=0"),
        ({"workers": 2}, "module:name"),
        ({"tasks": []}, "0 tasks"),
        ({"max_seconds": 0}, "max_seconds=0"),
    ],
    ids=["episodes", "workers", "tasks", "seconds"],
)
def test_bad_arguments_are_told(worlds, options, words):
    with pytest.raises(ValueError, match=words):
        scored(worlds, worlds.Stubborn, **options)
    with pytest.raises(ValueError, match="same name"):
        scored(worlds, "oracle", [worlds.Buttons(), worlds.Buttons()])
    with pytest.raises(ValueError, match="agent="):
        scored(worlds, lambda exercise: Oracle(exercise))
    with pytest.raises(ValueError, match="nowhere"):
        scored(worlds, "nowhere")


def test_a_planted_wrong_reward_is_seen(worlds):
    class Generous(worlds.Page):
        def reward(self):
            found = super().reward()
            return 0.9 if found == 0.0 else found

    class Kind(worlds.Buttons):
        def start(self, browser, seed):
            return Generous(seed, self.clicks)

    found = scored(worlds, "first-widget", [Kind()], episodes=20)
    assert 0 < found.success < 1
    assert found.tasks[0].reward > found.success


def attempts(shares, episodes, agent="a"):
    """Attempts of which the first share of each task's succeed."""
    return Scores(agent, tuple(
        Attempt(agent, f"t{i}", k, success=k < round(share * episodes), steps=1, outcome="done")
        for i, share in enumerate(shares) for k in range(episodes)
    ))  # fmt: skip


def test_wilson_is_where_the_test_of_a_share_just_fails():
    for hits, count in ((1, 10), (9, 10), (37, 120), (0, 7)):
        for end in statistics.wilson(hits, count):
            if 0 < end < 1:
                z = (hits / count - end) / math.sqrt(end * (1 - end) / count)
                assert abs(z) == pytest.approx(1.959964, abs=1e-5)
    assert statistics.wilson(0, 5)[0] == 0.0
    assert statistics.wilson(5, 5)[1] == 1.0
    with pytest.raises(ValueError, match="6 hits of 5"):
        statistics.wilson(6, 5)


def test_mcnemar_is_the_count_of_signs():
    for a, b in itertools.product(range(5), range(5)):
        tosses = np.array(list(itertools.product((0, 1), repeat=a + b)))
        far = np.abs(2 * tosses.sum(1) - (a + b)) >= abs(a - b) if a + b else np.ones(1)
        assert statistics.exact_mcnemar(a, b) == pytest.approx(np.mean(far))


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=4))
def test_the_mean_lies_in_its_interval(values):
    mean, low, high = statistics.mean_of_tasks([np.array(one, float) for one in values])
    assert 0 <= low <= mean + 1e-12
    assert mean <= high + 1e-12 <= 1 + 2e-12


def test_the_bootstrap_knows_the_spread_within_tasks():
    shares, n = (0.2, 0.5, 0.9), 40
    mean, low, high = attempts(shares, n).interval
    error = math.sqrt(sum(p * (1 - p) / n for p in shares)) / len(shares)
    assert mean == pytest.approx(np.mean(shares))
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.1)
    # Equal outcomes: five episodes do not prove certainty.
    assert attempts([1.0], 5).interval[1] == pytest.approx(0.025 ** (1 / 5))


def test_paired_differences():
    a, b = attempts((0.9, 0.8), 20), attempts((0.5, 0.6), 20, "b")
    gap = a.difference(b)
    assert gap.estimate == pytest.approx(0.3)
    assert 0 < gap.low < 0.3 < gap.high
    assert gap.p == pytest.approx(statistics.exact_mcnemar(12, 0))
    back = b.difference(a)
    assert back.estimate == pytest.approx(-0.3)
    same = a.difference(a)
    assert same.estimate == 0.0
    assert same.p == 1.0
    assert same.low < 0 < same.high
    with pytest.raises(ValueError, match="in common"):
        a.difference(Scores("c", (Attempt("c", "other", 0),)))


def test_all_baselines_have_names():
    assert set(BASELINES) == {"random-click", "first-widget", "oracle"}


def test_in_a_real_browser_the_page_is_out_of_an_agents_reach(browser, worlds, tmp_path):
    from paragone.multimodal.agent.open_tasks import open_tasks

    pytest.importorskip("miniwob", reason="the pages of MiniWoB++ are not installed")
    tasks = open_tasks("miniwob:click-test-2")

    def held():
        return contextlib.nullcontext(browser)

    best = score("oracle", tasks, episodes=2, browser=held, out=tmp_path)
    assert best.success == 1.0
    assert best.browser_ms > 0
    spied = score(worlds.Cheating, tasks, episodes=1, browser=held, max_steps=2)
    assert spied.outcomes == {"error": 1}
    assert "agent's turn" in spied.attempts[0].error
