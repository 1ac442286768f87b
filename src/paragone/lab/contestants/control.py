"""Who meets in the study `control`, ours first: strings only, nothing is imported here."""

from __future__ import annotations

from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["contestants"]

_HERE = "paragone.lab.contestants.controllers:"
_OURS = "paragone.reinforcement:"
_TABLE = {"kind": ["grid", "table"]}
_LEARNT = {**_TABLE, "learnt": [True]}
_FULL = {"quick": [False]}
_GYM = {"learnt": [True], "kind": ["grid", "table"]}


def _planner(id: str, title: str, name: str, note: str, **more: Any) -> Contestant:
    params = {"target": _OURS + name, **more.pop("params", {})}
    return Contestant(
        id=id, title=f"paragone {title}", make=_HERE + "Planner", method="grid_world",
        params=params, needs={**_TABLE, **more.pop("needs", {})}, note=f"plans: {note}",
    )  # fmt: skip


def _learner(id: str, title: str, name: str, note: str, **more: Any) -> Contestant:
    needs = {**_LEARNT, **more.pop("needs", {})}
    return Contestant(
        id=id, title=f"paragone {title}", make=_HERE + "Learner", method="monte_carlo",
        params={"target": _OURS + name, "horizon": 200, **more}, needs=needs,
        note=f"learns: {note}",
    )  # fmt: skip


def _deep(id: str, title: str, name: str, note: str, **more: Any) -> Contestant:
    needs = {"kind": ["classic"], **more.pop("needs", {})}
    return Contestant(
        id=id, title=f"paragone {title}", make=_HERE + "DeepLearner", method="monte_carlo",
        params={"target": _OURS + name}, needs=needs, note=f"learns: {note}",
    )  # fmt: skip


def _rival(id: str, title: str, name: str, distribution: str, **more: Any) -> Contestant:
    return Contestant(
        id=id, title=title, make=_HERE + name, origin="rival", distribution=distribution,
        install=f"pip install {distribution}", **more,
    )  # fmt: skip


def _ours() -> list[Contestant]:
    steps = {"explores": True, "alpha": 0.5, "omega": 0.5}
    return [
        _planner("value_iteration", "value iteration", "value_iteration",
                 "in four directions on grids, else modified policy iteration in place"),
        _planner("policy_iteration", "policy iteration", "policy_iteration",
                 "Howard's, sparse solves"),
        _planner("truncated_policy_iteration", "truncated PI", "truncated_policy_iteration",
                 "20 sweeps of each policy", needs=_FULL),
        _planner("textbook_vi", "textbook VI", "value_iteration", "v = T v, out of place",
                 params={"method": "jacobi"}, needs=_FULL),
        _learner("mc_epsilon", "MC eps-greedy", "MonteCarloEpsilonGreedy",
                 "first visits, alpha 0.01; episodes of 200 steps at most", explores=True,
                 visit="first", alpha=0.01),
        _learner("mc_exploring", "MC exploring starts", "MonteCarloExploringStarts",
                 "episodes start in every state and action, which a simulator can", needs=_FULL),
        _learner("mc_basic", "MC basic", "MonteCarloBasic",
                 "first returns only, of all states and actions", needs=_FULL),
        _learner("mc_short", "MC, episodes of 3 steps", "MonteCarloExploringStarts",
                 "to show what too short episodes do", needs=_FULL, horizon=3),
        _learner("sarsa", "Sarsa", "Sarsa", "on-policy, one step", **steps),
        _learner("expected_sarsa", "Expected Sarsa", "ExpectedSarsa", "on-policy in the mean",
                 needs=_FULL, **steps),
        _learner("q_learning", "Q-learning", "QLearning", "off-policy, one step", **steps),
        _learner("q_uniform", "Q-learning, uniform behaviour", "QLearning",
                 "acts at random throughout", behaviour="uniform", alpha=0.5, omega=0.5),
        _learner("double_q", "double Q-learning", "DoubleQLearning", "two tables", needs=_FULL,
                 **steps),
        _deep("ppo", "PPO", "PPO", "networks"),
        _deep("reinforce", "REINFORCE", "Reinforce", "networks", needs=_FULL),
        _deep("dqn", "DQN", "DQN", "networks", needs=_FULL),
    ]  # fmt: skip


def contestants() -> list[Contestant]:
    """Returns paragone's planners and learners, the rivals, and the floor."""
    small = {**_TABLE, "size": ["small"]}
    return [
        *_ours(),
        _rival("quantecon_mpi", "QuantEcon MPI {version}", "QuantEcon", "quantecon",
               params={"method": "mpi"}, needs=_TABLE, note="plans: modified policy iteration"),
        _rival("quantecon_pi", "QuantEcon PI {version}", "QuantEcon", "quantecon",
               params={"method": "pi"}, needs={**_TABLE, **_FULL}, note="plans: Howard's"),
        _rival("pymdptoolbox_vi", "pymdptoolbox VI {version}", "Toolbox", "pymdptoolbox",
               params={"method": "ValueIteration"}, needs=small, note="plans"),
        _rival("pymdptoolbox_pi", "pymdptoolbox PI {version}", "Toolbox", "pymdptoolbox",
               params={"method": "PolicyIteration"}, needs={**small, **_FULL}, note="plans"),
        _rival("gymnasium_q", "Q-learning loop, Gymnasium {version}", "LoopQ", "gymnasium",
               needs=_GYM, note="learns: one Gymnasium step, one NumPy update; alpha 0.1"),
        _rival("gymnasium_mc_epsilon", "MC loop, Gymnasium {version}", "LoopMonteCarlo",
               "gymnasium", needs={**_GYM, "loops": [True]}, note="learns: algorithm 5.3"),
        _rival("envpool_mc_epsilon", "MC loop, EnvPool {version}", "EnvPoolMonteCarlo", "envpool",
               needs={**_GYM, "loops": [True], "pooled": [True]},
               note="learns: 64 environments a step, returns in NumPy"),
        _rival("sb3_ppo", "Stable-Baselines3 PPO {version}", "StableBaselines",
               "stable-baselines3", needs={"kind": ["classic"]}, note="learns: its defaults"),
        Contestant(
            id="scipy_vi", title="textbook VI (SciPy)", make=_HERE + "Sweeps", origin="baseline",
            distribution="scipy", install="pip install scipy", needs=small,
            note="plans: v = T v on sparse matrices; the floor",
        ),
    ]  # fmt: skip
