"""Planners and learners behind one interface, for the study `control`; see `lab.tasks.control`.

All planners are asked for the same accuracy. All learners get the same budget and, where they
explore on their own, the same exploration: from 1 to 0.1 along a straight line over half of the
budget. Libraries are imported when an object is made, in the run's own process.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from paragone._core.lazy import resolve

__all__ = [
    "DeepLearner", "EnvPoolMonteCarlo", "Learner", "LoopMonteCarlo", "LoopQ", "Planner",
    "QuantEcon", "StableBaselines", "Sweeps", "Toolbox",
]  # fmt: skip

TOLERANCE = 1e-6
HORIZON = 200
FIRST_MARK = 1_000
Told = tuple[tuple[int, float], Any]


def _marks(budget: int) -> list[int]:
    """Where learners are judged: doubling, and at the end."""
    found = [FIRST_MARK << i for i in range(40) if FIRST_MARK << i < budget]
    return [*found, budget]


class Planner:
    """One of paragone's planners."""

    def __init__(self, target: str, **options: Any) -> None:
        self._plan, self._options = resolve(target), options

    def solve(self, world: Any) -> tuple[np.ndarray, np.ndarray]:
        plan = self._plan(world.mdp, tol=TOLERANCE, **self._options)
        return plan.values, plan.policy


class QuantEcon:
    """QuantEcon's DiscreteDP in its sparse state-action form."""

    def __init__(self, method: str) -> None:
        self._make, self._method = resolve("quantecon.markov:DiscreteDP"), method
        self._known: tuple[Any, Any] | None = None

    def solve(self, world: Any) -> tuple[np.ndarray, np.ndarray]:
        import scipy.sparse as sparse

        if self._known is None or self._known[0] is not world:
            # Conversion is no part of the time: the model is its own, given once.
            P, R = world.mdp.to_arrays()
            S, A = R.shape
            order = np.arange(S * A).reshape(A, S).T.ravel()
            stacked = sparse.csr_matrix(sparse.csr_matrix(sparse.vstack(P))[order])
            s, a = np.repeat(np.arange(S), A), np.tile(np.arange(A), S)
            self._known = world, (R.ravel(), stacked, world.mdp.gamma, s, a)
        process = self._make(*self._known[1])
        found = process.solve(method=self._method, epsilon=TOLERANCE, max_iter=10**6)
        return found.v, found.sigma


class Toolbox:
    """pymdptoolbox, with sparse matrices."""

    def __init__(self, method: str) -> None:
        self._make, self._method = resolve(f"mdptoolbox.mdp:{method}"), method
        self._known: tuple[Any, Any] | None = None

    def solve(self, world: Any) -> tuple[np.ndarray, np.ndarray]:
        import scipy.sparse as sparse

        if self._known is None or self._known[0] is not world:
            P, R = world.mdp.to_arrays()
            self._known = world, ([sparse.csr_matrix(p) for p in P], R)
        more = {"epsilon": TOLERANCE} if self._method == "ValueIteration" else {}
        with warnings.catch_warnings():
            # Its checks compare sparse matrices with 0, which SciPy calls inefficient.
            warnings.simplefilter("ignore", sparse.SparseEfficiencyWarning)
            solver = self._make(*self._known[1], world.mdp.gamma, **more)
            solver.run()
        return np.asarray(solver.V), np.asarray(solver.policy)


class Sweeps:
    """Value iteration as the books have it, on SciPy's sparse matrices: the floor."""

    def solve(self, world: Any) -> tuple[np.ndarray, np.ndarray]:
        m = world.mdp
        reward, onward, gamma = m.expected_reward, m.gamma * m.continuation, m.gamma
        v, change = np.zeros(m.n_states), np.inf
        q = reward
        while change > TOLERANCE * (1 - gamma):
            q = reward + (onward @ v).reshape(reward.shape)
            new = q.max(axis=1)
            change, v = float(np.abs(new - v).max()), new
        return v, q.argmax(axis=1)


class Learner:
    """One of paragone's tabular learners, in its compiled loop."""

    seeds = 8

    def __init__(self, target: str, explores: bool = False, **options: Any) -> None:
        self._make, self._explores, self._options = resolve(target), explores, options

    def learn(self, world: Any, seed: int) -> Iterator[Told]:
        options = dict(self._options)
        if self._explores:
            options["epsilon"] = (1.0, 0.1, world.budget // 2)
        learner = self._make(world.mdp, world.mdp.gamma, random_state=seed, **options)
        for mark in _marks(world.budget):
            before = len(learner.history.get("samples", ()))
            learner.train(steps=max(mark - learner.samples, 0), every=max(mark, 1))
            late = learner.history["mean_return"][before:] or [np.nan]
            yield (learner.samples, late[-1]), learner.policy


class _Loop:
    """Exploration and steps of the plain loops over Gymnasium's interface."""

    seeds = 1

    def _epsilon(self, step: int, budget: int) -> float:
        return max(0.1, 1.0 - 0.9 * step / max(budget // 2, 1))

    def _choose(self, q: np.ndarray, epsilon: float, rng: np.random.Generator) -> int:
        if rng.random() < epsilon:
            return int(rng.integers(len(q)))
        return int(rng.choice(np.flatnonzero(q == q.max())))


class LoopQ(_Loop):
    """Q-learning as tutorials write it: one Gymnasium step, one update of a NumPy table."""

    def __init__(self, alpha: float = 0.1) -> None:
        resolve("gymnasium:make")
        self._alpha = alpha

    def learn(self, world: Any, seed: int) -> Iterator[Told]:
        env, rng, gamma = world.gymnasium(), np.random.default_rng(seed), world.mdp.gamma
        q = np.zeros((world.mdp.n_states, world.mdp.n_actions))
        state, _ = env.reset(seed=seed)
        returns, total, age, done = [0.0], 0.0, 0, 0
        for mark in _marks(world.budget):
            while done < mark:
                action = self._choose(q[state], self._epsilon(done, world.budget), rng)
                after, reward, ended, _, _ = env.step(action)
                goal = reward if ended else reward + gamma * q[after].max()
                q[state, action] += self._alpha * (goal - q[state, action])
                done, age, total, state = done + 1, age + 1, total + float(reward), after
                if ended or age == HORIZON:
                    returns.append(total)
                    total, age = 0.0, 0
                    state, _ = env.reset()
            late = returns[len(returns) // 2 :]
            yield (done, float(np.mean(late))), q.argmax(axis=1)


class LoopMonteCarlo(_Loop):
    """Monte Carlo control as Zhao's algorithm 5.3 reads, over Gymnasium's interface."""

    def __init__(self) -> None:
        resolve("gymnasium:make")

    def learn(self, world: Any, seed: int) -> Iterator[Told]:
        env, rng, gamma = world.gymnasium(), np.random.default_rng(seed), world.mdp.gamma
        shape = world.mdp.n_states, world.mdp.n_actions
        q, sums, counts = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        returns, done, first = [0.0], 0, seed
        for mark in _marks(world.budget):
            while done < mark:
                state, _ = env.reset(seed=first)
                first, episode, ended = None, [], False
                while not ended and len(episode) < HORIZON:
                    action = self._choose(q[state], self._epsilon(done, world.budget), rng)
                    after, reward, ended, _, _ = env.step(action)
                    episode.append((state, action, float(reward)))
                    state, done = after, done + 1
                returns.append(sum(reward for _, _, reward in episode))
                gain = 0.0
                for s, a, reward in reversed(episode):
                    gain = gamma * gain + reward
                    sums[s, a] += gain
                    counts[s, a] += 1
                    q[s, a] = sums[s, a] / counts[s, a]
            yield (done, float(np.mean(returns[len(returns) // 2 :]))), q.argmax(axis=1)


class EnvPoolMonteCarlo(_Loop):
    """The same over EnvPool's vector of environments: actions in one call, returns in NumPy."""

    def __init__(self, envs: int = 64) -> None:
        self._make, self._envs = resolve("envpool:make_gymnasium"), envs

    def learn(self, world: Any, seed: int) -> Iterator[Told]:
        n, rng, gamma = self._envs, np.random.default_rng(seed), world.mdp.gamma
        env = self._make(world.name, num_envs=n, seed=seed, max_episode_steps=HORIZON)
        shape = world.mdp.n_states, world.mdp.n_actions
        q, sums, counts = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        episodes: list[list[tuple[int, int, float]]] = [[] for _ in range(n)]
        states, _ = env.reset()
        over, done, returns = np.zeros(n, np.bool_), 0, [0.0]
        for mark in _marks(world.budget):
            while done < mark:
                greedy = (q[states] + 1e-9 * rng.random((n, shape[1]))).argmax(axis=1)
                explore = rng.random(n) < self._epsilon(done, world.budget)
                actions = np.where(explore, rng.integers(shape[1], size=n), greedy)
                after, rewards, ended, cut, _ = env.step(actions.astype(np.int32))
                for i in np.flatnonzero(~over):
                    episodes[i].append((int(states[i]), int(actions[i]), float(rewards[i])))
                done += int((~over).sum())
                # After an end EnvPool's next step is a reset, which is no transition.
                over, states = ended | cut, after
                for i in np.flatnonzero(over):
                    gain = 0.0
                    returns.append(sum(reward for _, _, reward in episodes[i]))
                    for s, a, reward in reversed(episodes[i]):
                        gain = gamma * gain + reward
                        sums[s, a] += gain
                        counts[s, a] += 1
                        q[s, a] = sums[s, a] / counts[s, a]
                    episodes[i] = []
            yield (done, float(np.mean(returns[len(returns) // 2 :]))), q.argmax(axis=1)


class DeepLearner:
    """One of paragone's learners with networks; judged by 50 episodes of its greedy policy."""

    seeds = 1

    def __init__(self, target: str, **options: Any) -> None:
        self._make, self._options = resolve(target), options

    def learn(self, world: Any, seed: int) -> Iterator[Told]:
        learner = self._make(f"paragone/{world.name}", random_state=seed, **self._options)
        for share in range(1, 6):
            learner.train(max(world.budget * share // 5 - learner.samples, 1))
            played = learner.evaluate(50, random_state=seed)
            late = learner.history["return"][-1]
            yield (learner.samples, late), float(np.mean(played))


class StableBaselines:
    """Stable-Baselines3's PPO with its own defaults for CartPole."""

    seeds = 1

    def __init__(self) -> None:
        self._make = resolve("stable_baselines3:PPO")

    def learn(self, world: Any, seed: int) -> Iterator[Told]:
        import gymnasium

        evaluate = resolve("stable_baselines3.common.evaluation:evaluate_policy")
        watched = resolve("stable_baselines3.common.monitor:Monitor")
        learner = self._make("MlpPolicy", world.name, seed=seed, device="cpu")
        judged = watched(gymnasium.make(world.name))
        for share in range(1, 6):
            learner.learn(world.budget // 5, reset_num_timesteps=share == 1)
            mean, _ = evaluate(learner, judged, n_eval_episodes=50)
            yield (learner.num_timesteps, float(mean)), float(mean)
