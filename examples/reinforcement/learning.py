"""
Learning to act without a model
===============================

The grid of Zhao's book, its forbidden cells in the way of the target. With the model the best
policy is computed; without it, it has to be found by trying. How many steps does that take, and
what do the methods make of them? Then a cliff, where exploring has its price, and blackjack, where
an estimate comes with its standard error.
"""

import numpy as np

from paragone.reinforcement import (
    GridWorld,
    MonteCarloEpsilonGreedy,
    MonteCarloExploringStarts,
    MonteCarloPrediction,
    QLearning,
    Sarsa,
    make,
    value_iteration,
)

grid = GridWorld([".....", "..##.", "..#..", ".#T#.", ".#..."], gamma=0.9, r_forbidden=-10)
truth = value_iteration(grid).values
print(grid.text(values=truth, policy=value_iteration(grid).policy))

# %%
# Every learner gets the same steps. Q-learning may watch a policy that acts at random; Monte Carlo
# with exploring starts begins anywhere; the others pay for their exploring in what they learn:
# their values are those of a policy that errs now and then.
learners = {
    "Q-learning, watching": QLearning(grid, behaviour="uniform", random_state=0),
    "Q-learning": QLearning(grid, horizon=100, random_state=0),
    "Sarsa": Sarsa(grid, horizon=100, random_state=0),
    "Monte Carlo, any start": MonteCarloExploringStarts(
        grid, horizon=100, alpha=0.1, random_state=0
    ),
    "Monte Carlo, epsilon": MonteCarloEpsilonGreedy(
        grid, horizon=100, truncation="bootstrap", random_state=0
    ),
}
print(f"{'root mean square error after':<28}{'10,000':>10}{'100,000':>10}{'1,000,000':>10}")
for name, learner in learners.items():
    errors = []
    for steps in (10_000, 100_000, 1_000_000):
        learner.train(steps=steps - learner.samples)
        errors.append(np.sqrt(np.mean((learner.values - truth) ** 2)))
    print(f"{name:<28}" + "".join(f"{error:>10.4f}" for error in errors))

# %%
# Along the cliff the shortest way is also the one where a slip costs most. Q-learning finds it,
# and falls while it goes on exploring; Sarsa learns the way that is best for one who slips.
for method in (Sarsa, QLearning):
    learner = method(make("CliffWalking-v1"), 1.0, epsilon=0.1, random_state=0)
    learner.train(steps=400_000).train(steps=100_000, every=100_000)
    env = make("CliffWalking-v1", render_mode="ansi")
    state, rows = env.reset()[0], [list(line) for line in ["." * 12] * 3 + ["S" + "C" * 10 + "G"]]
    for _ in range(30):
        rows[state // 12][state % 12] = "*"
        state, _, ended, _, _ = env.step(learner.act(state))
        if ended:
            break
    print(f"{method.__name__}: return while learning {learner.history['mean_return'][-1]:.0f}")
    print("\n".join("".join(row) for row in rows))

# %%
# Blackjack: what is 20 worth, and what 16, against each card of the dealer, if the player sticks
# on 20 and 21 only? A million games take a fraction of a second.
policy = np.array([int(sight // 22 < 20) for sight in range(704)])
player = MonteCarloPrediction(make("Blackjack-v1"), policy, 1.0, random_state=0)
player.train(episodes=1_000_000)
values = player.values.reshape(32, 11, 2)
errors = player.standard_errors.reshape(32, 11, 2)
print("dealer shows " + "".join(f"{card:>8}" for card in ["A", *range(2, 11)]))
for total in (16, 20):
    print(f"{total:>12} " + "".join(f"{value:>8.2f}" for value in values[total, 1:, 0]))
print(f"largest standard error of these: {errors[[16, 20], 1:, 0].max():.4f}")
