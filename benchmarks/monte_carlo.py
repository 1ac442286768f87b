r"""How fast are the tabular learners beside loops written in Python?

    python benchmarks/monte_carlo.py [--rounds 5] [--out]

Monte Carlo control with an epsilon-greedy policy (Zhao, algorithm 5.3) on the book's 5 x 5 grid:
episodes of 1,000 steps, returns and averages of every visit included, then the policy improved.
And off-policy Q-learning on the same grid. The same work is done

- literally: a Gymnasium environment, NumPy tables, `random.choice` by the policy's probabilities;
- by a tuned loop: lists, tables of transitions looked up without an environment, bits of one draw;
- by ours, with 1 and with 64 episodes between two improvements.

Interleaved; processor time; a figure is the median over the rounds, a ratio the median of the
rounds' ratios. Compilation is done before and said below the table.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from paragone.reinforcement import GridWorld, MonteCarloEpsilonGreedy, QLearning

HERE = Path(__file__).resolve().parent
BOOK = [".....", "..##.", "..#..", ".#T#.", ".#..."]
GAMMA, EPSILON, ALPHA, T = 0.9, 0.1, 0.1, 1000


def grid() -> GridWorld:
    """The grid of the book's chapter 5."""
    return GridWorld(BOOK, gamma=GAMMA, r_forbidden=-10)


def literal_monte_carlo(steps: int) -> np.ndarray:
    """Algorithm 5.3 as it stands, over a Gymnasium environment."""
    env, rng = grid(), np.random.default_rng(0)
    S, A = env.n_states, env.n_actions
    sums, counts, q = np.zeros((S, A)), np.zeros((S, A)), np.zeros((S, A))
    policy = np.full((S, A), 1 / A)
    for _ in range(steps // T):
        state, _ = env.reset()
        episode = []
        for _ in range(T):
            action = rng.choice(A, p=policy[state])
            following, reward, _, _, _ = env.step(int(action))
            episode.append((state, action, reward))
            state = following
        g = 0.0
        for s, a, r in reversed(episode):
            g = GAMMA * g + r
            sums[s, a] += g
            counts[s, a] += 1
            q[s, a] = sums[s, a] / counts[s, a]
            policy[s] = EPSILON / A
            policy[s, np.argmax(q[s])] += 1 - EPSILON
    return q


def tuned_monte_carlo(steps: int) -> np.ndarray:
    """The same with lists, one number a transition, and one division a value."""
    world = grid()
    S, A = world.n_states, world.n_actions
    following = (world.next_state * A).reshape(-1).tolist()
    rewards = world.rewards.reshape(-1).tolist()
    sums, counts, q = [0.0] * (S * A), [0] * (S * A), [0.0] * (S * A)
    greedy = [random.randrange(A) for _ in range(S * A)]
    draw, few = random.random, EPSILON / A
    for _ in range(steps // T):
        base = random.randrange(S) * A
        trace = []
        append = trace.append
        for _ in range(T):
            u = draw()
            k = base + (int(u / few) if u < EPSILON else greedy[base])
            append(k)
            base = following[k]
        g = 0.0
        for k in reversed(trace):
            g = GAMMA * g + rewards[k]
            sums[k] += g
            counts[k] += 1
        for k in set(trace):
            q[k] = sums[k] / counts[k]
        for base in {k // A * A for k in trace}:
            values = q[base : base + A]
            greedy[base] = values.index(max(values))
    return np.array(q).reshape(S, A)


def literal_q_learning(steps: int) -> np.ndarray:
    """Off-policy Q-learning as it stands, uniform behaviour."""
    env, rng = grid(), np.random.default_rng(0)
    q = np.zeros((env.n_states, env.n_actions))
    state, _ = env.reset()
    for _ in range(steps):
        action = rng.integers(env.n_actions)
        following, reward, _, _, _ = env.step(int(action))
        q[state, action] += ALPHA * (reward + GAMMA * np.max(q[following]) - q[state, action])
        state = following
    return q


def tuned_q_learning(steps: int) -> np.ndarray:
    """The same with lists of lists."""
    world = grid()
    A = world.n_actions
    following, rewards = world.next_state.tolist(), world.rewards.tolist()
    q = [[0.0] * A for _ in range(world.n_states)]
    state, draw = 0, random.random
    for _ in range(steps):
        action = int(draw() * A)
        to, row = following[state][action], q[state]
        row[action] += ALPHA * (rewards[state][action] + GAMMA * max(q[to]) - row[action])
        state = to
    return np.array(q)


def contestants() -> dict[str, dict[str, tuple[int, Callable[[int], object]]]]:
    """For each task each contestant's steps and its run."""
    one = MonteCarloEpsilonGreedy(grid(), epsilon=EPSILON, horizon=T, random_state=0)
    many = MonteCarloEpsilonGreedy(grid(), epsilon=EPSILON, horizon=T, chains=64, random_state=0)
    q = QLearning(grid(), alpha=ALPHA, behaviour="uniform", random_state=0)
    return {
        "Monte Carlo": {
            "ours, 64 episodes": (6_400_000, lambda n: many.train(steps=n)),
            "ours, 1 episode": (4_000_000, lambda n: one.train(steps=n)),
            "tuned Python": (200_000, tuned_monte_carlo),
            "literal NumPy": (10_000, literal_monte_carlo),
        },
        "Q-learning": {
            "ours": (4_000_000, lambda n: q.train(steps=n)),
            "tuned Python": (200_000, tuned_q_learning),
            "literal NumPy": (10_000, literal_q_learning),
        },
    }


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", action="store_true", help="write results/monte_carlo.md")
    given = parser.parse_args()
    before, tasks = time.process_time(), contestants()
    for runs in tasks.values():
        for steps, run in runs.values():
            run(min(steps, 2000))
    first = time.process_time() - before
    rows = [
        "Millions of steps a second of one core, returns, averages and updates included.",
        "",
        f"`python benchmarks/monte_carlo.py --rounds {given.rounds}`",
        "",
        "| task | contestant | million steps/s | slower than the first by |",
        "|---|---|---|---|",
    ]
    for task, runs in tasks.items():
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(given.rounds):
            for name, (steps, run) in runs.items():
                before = time.process_time()
                run(steps)
                times[name].append((time.process_time() - before) / steps)
        best = np.array(times[next(iter(runs))])
        for name, costs in times.items():
            speed, ratio = 1e-6 / np.median(costs), np.median(np.array(costs) / best)
            rows.append(f"| {task} | {name} | {speed:.3f} | {ratio:.3g}x |")
    rows += ["", f"First calls of all, compiled or from the disk: {first:.1f} s of processor time."]
    print("\n".join(rows))
    if given.out:
        (HERE / "results" / "monte_carlo.md").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
