"""After the warm-up of each family beside the ensembles, what users call compiles nothing more."""

import subprocess
import sys

import pytest

from paragone._core import catalog
from paragone._core.lazy import resolve

WARM = """
import warnings
warnings.filterwarnings("ignore")
import numpy as np
from paragone.{family}._warmup import CALLS
from paragone.kernels.jit import TALLY
for name in "{method}".split():
    for call in CALLS[name]:
        call()
known = TALLY["compiled"]
random = np.random.default_rng(3)
{use}
print(TALLY["compiled"] - known)
"""

FITS = """
from paragone.estimation import conjugate, fit, rank
x = random.weibull(1.7, 300)
for name in ("weibull", "gamma", "lognormal", "normal", "weibull_3p", "student_t", "skew_normal"):
    found = fit(x, name)
    found.interval(0.9, kind="profile")
    found.predict("quantile", 0.5)
    fit(x, name, weights=np.ones(300, int), truncation=(0.0, 10.0))
    fit(x, name, censoring=x > np.median(x))
    fit((x, x + 0.1), name)
fit(random.weibull(1.7, 60_000), "weibull")
counts = random.poisson(3, 200)
for name in ("poisson", "negative_binomial", "geometric", "zero_inflated_poisson"):
    fit(counts + (name == "geometric"), name)
rank(x, ["weibull", "gamma", "normal"], gof="ad", bootstrap=20, random_state=0)
conjugate.prior("poisson", shape=2, rate=1).update(counts).interval(0.9)
"""

MODELS = """
from paragone.estimation import Model, Parameter, fit
eight = Model("eight_schools").sample(chains=2, draws=50, tune=50, random_state=0)
eight.summary()
prior = {"loc": ("normal", 0, 10), "scale": ("half_normal", 5)}
fit(random.normal(size=30), "normal", method="bayes", prior=prior, random_state=0).summary()
fit(random.normal(size=30), "normal", method="map", prior=prior).summary()
free = Model(lambda v: (-0.5 * v @ v, -v), [Parameter("v", (3,))])
free.sample(chains=2, draws=50, tune=50, random_state=0)
"""

PLANS = """
from paragone.reinforcement import GridWorld, average_reward, evaluate_policy, finite_horizon
from paragone.reinforcement import make, policy_iteration, truncated_policy_iteration
from paragone.reinforcement import value_iteration
grid = GridWorld(["...", ".#.", "..T"], gamma=0.9)
for world in (grid, GridWorld(["...", ".#.", "..T"], slip=0.2, gamma=0.99), make("Taxi-v4").mdp):
    plan = value_iteration(world)
    evaluate_policy(world, plan.policy)
    evaluate_policy(world, plan.policy, method="iterative")
    policy_iteration(world)
    truncated_policy_iteration(world, j=3)
    finite_horizon(world, 5)
average_reward(grid)
"""

LEARNERS = """
from paragone.reinforcement import DQN, PPO, DoubleQLearning, ExpectedSarsa, GridWorld
from paragone.reinforcement import MonteCarloBasic, MonteCarloEpsilonGreedy
from paragone.reinforcement import MonteCarloExploringStarts, QLearning, Reinforce, Sarsa, make_vec
grid = GridWorld(["...", ".#.", "..T"], gamma=0.9)
for kind in (QLearning, DoubleQLearning, Sarsa, ExpectedSarsa):
    kind(grid, random_state=0).train(steps=100).policy
Sarsa(grid, n=3, random_state=0).train(steps=100)
QLearning(grid, behaviour="uniform", random_state=0).train(steps=100)
for kind in (MonteCarloBasic, MonteCarloExploringStarts, MonteCarloEpsilonGreedy):
    kind(grid, horizon=20, random_state=0).train(steps=1000).policy
for name in ("Taxi-v4", "CliffWalking-v1", "Blackjack-v1", "CartPole-v1", "Acrobot-v1"):
    worlds = make_vec(name, 5)
    worlds.reset(seed=1)
    worlds.step(worlds.action_space.sample())
PPO("paragone/CartPole-v1", random_state=0).train(4096).evaluate(2)
DQN("paragone/CartPole-v1", random_state=0).train(1500)
Reinforce("paragone/CartPole-v1", random_state=0).train(500)
"""

STEPS = """
import torch
from paragone.training import Adam, AdamW
for kind in (Adam, AdamW):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for options in (
            {}, {"max_norm": 0.1, "maximize": True}, {"amsgrad": True}, {"states": "8bit"},
            {"rounding": "stochastic", "states": "bfloat16"}, {"epsilon": "hat", "decay": "paper"},
        ):
            many = [torch.nn.Parameter(torch.ones(n, dtype=dtype)) for n in (5000, 3, 65)]
            for p in many:
                p.grad = torch.ones_like(p)
            optimizer = kind(many, weight_decay=0.1, **options)
            optimizer.step()
            optimizer.step()
"""

CASTS = """
import torch
from paragone.training import formats
for x in (torch.linspace(-3, 3, 70), torch.linspace(-3, 3, 70).double(), np.ones(5, np.float32)):
    for name in formats.FORMATS:
        for rounding in ("nearest", "stochastic"):
            for saturate in (True, False):
                formats.cast(x, name, rounding=rounding, saturate=saturate)
"""

MIX = """
import torch
from paragone.mixers import attention, attention_packed, build, names
for name in names():
    options = {"linformer": {"length": 40, "rank": 4}, "window": {"window": 5}}.get(name, {})
    mixer = build(name, 64, heads=2, **options)
    x = torch.randn(2, 33, 64, requires_grad=True)
    lengths = torch.tensor([33, 4])
    mixer(x)[0].sum().backward()
    y, state = mixer(x, lengths=lengths)
    y.sum().backward()
    with torch.no_grad():
        y, state = mixer(x)
        if mixer.causal:
            mixer(x, state=state)
            mixer.step(x[:, 0], state)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    q, k, v = (torch.randn(1, 4, 70, 16, dtype=dtype, requires_grad=True) for _ in range(3))
    bias, mask = torch.zeros(70, 70, requires_grad=True), torch.rand(70, 70) < 0.5
    for more in (
        {}, {"causal": True, "window": 9}, {"mask": mask}, {"bias": bias}, {"alibi": True},
        {"softcap": 3.0}, {"dropout": 0.5, "seed": 1}, {"lengths": torch.tensor([60])},
    ):
        attention(q, k[:, :2], v[:, :2], **more).sum().backward()
    with torch.no_grad():
        attention(q[:, :, :1], k[:, :2], v[:, :2], causal=True)
        attention(q[:, :, :3], k, v, causal=True)
    rows = torch.randn(9, 2, 8, dtype=dtype)
    attention_packed(rows, rows, rows, torch.tensor([4, 0, 5]), causal=True)
"""

USES = [
    # One process for both: the warm-up takes longer than what follows it.
    ("estimation", "bayesian_estimation", FITS + MODELS),
    ("reinforcement", "grid_world", PLANS),
    ("reinforcement", "monte_carlo", LEARNERS),
    ("training", "adamw", STEPS),
    ("training", "mixed_precision", CASTS),
    (
        "mixers",
        "flash_attention latent_attention linear_attention performer state_space",
        MIX,
    ),
]


@pytest.mark.parametrize(
    ("family", "method", "use"), USES,
    ids=["fits and models", "plans", "learners", "steps", "casts", "mixers"],
)  # fmt: skip
def test_nothing_is_compiled_after_the_warm_up(family, method, use):
    code = WARM.format(family=family, method=method, use=use)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "0"


@pytest.mark.parametrize("family", ["estimation", "reinforcement"])
def test_every_method_of_the_family_is_warmed(family):
    calls = resolve(f"paragone.{family}._warmup:CALLS")
    assert list(calls) == [m.id for m in catalog.methods() if m.family == family]
    assert all(calls.values())
