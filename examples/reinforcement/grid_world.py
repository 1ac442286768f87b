"""
One grid, four meanings
=======================

A robot shall reach T. Whether it may cross the marked cells, whether the task ends at T, and how
far it looks ahead changes what is best, although the picture stays the same. Where the model is
known, all of it is computed exactly; nothing is simulated.
"""

import numpy as np

from paragone.reinforcement import (
    GridWorld,
    MonteCarloBasic,
    evaluate_policy,
    finite_horizon,
    policy_iteration,
    truncated_policy_iteration,
    value_iteration,
)

layout = [
    ".....",
    ".##..",
    "..#..",
    ".#T#.",
    ".#...",
]
grid = GridWorld(layout, gamma=0.9, r_boundary=-1, r_forbidden=-1, r_target=1, actions=5)
plan = value_iteration(grid)
print(grid.text(values=plan.values, policy=plan.policy))
print(f"values are certain to {plan.bound:.1e}, after {plan.iterations} passes")

# %%
# As a picture. In a notebook the drawing shows itself; `.save("grid.svg")` writes it to a file.
picture = grid.draw(values=plan.values, policy=plan.policy)
print(f"{len(picture.svg())} characters of SVG, {len(picture.png())} bytes of PNG")

# %%
# Forbidden cells cost 1 here, so it pays to run through them. At 10 it does not: from the left
# the robot walks around.
dear = GridWorld(layout, r_forbidden=-10)
around = value_iteration(dear)
changed = np.flatnonzero(around.policy != plan.policy)
print(dear.text(policy=around.policy))
print(f"at a price of 10 another action is best in {len(changed)} of 25 cells")

# %%
# A short-sighted robot (gamma = 0.5) and one that cannot see at all (gamma = 0).
for gamma in (0.9, 0.5, 0.0):
    values = value_iteration(grid, gamma=gamma).values
    print(f"gamma {gamma}: value of the corner {values[0]:8.4f}, of the target {values[17]:8.4f}")

# %%
# The same cells as walls, and an end at the target: every state is worth what its way is worth.
walls = GridWorld(layout, forbidden="block", target="terminal", r_step=-0.04)
print(walls.text(policy=value_iteration(walls).policy))

# %%
# What is a policy worth that tosses a die? And one that slips on ice?
uniform = np.full((grid.n_states, grid.n_actions), 0.2)
print(f"random walk: {evaluate_policy(grid, uniform).values.mean():.2f} on average")
for slip in (0.0, 0.2, 2 / 3):
    icy = GridWorld(layout, slip=slip)
    print(f"slip {slip:.2f}: {value_iteration(icy).values.mean():.2f} on average")

# %%
# Near the end of the game other things are best: with t steps left, from the upper left corner.
steps = finite_horizon(grid, 12)
for left in (12, 9, 8, 4):
    value = steps.values[12 - left, 0]
    print(f"{left:2d} steps left: reward to come {value:5.1f}")

# %%
# Three ways to the same plan, and a fourth that only samples: policy iteration solves a policy's
# equations before it improves it, truncated policy iteration sweeps a few times instead, and Monte
# Carlo in its basic form averages returns of episodes from every state and action.
plans = {
    "value iteration": plan,
    "policy iteration": policy_iteration(grid),
    "truncated policy iteration": truncated_policy_iteration(grid, j=5),
}
for name, found in plans.items():
    apart = np.abs(found.values - plan.values).max()
    print(f"{name:26} {found.iterations:3} iterations, values {apart:.0e} apart")
sampled = MonteCarloBasic(grid, horizon=60, random_state=0).train(steps=300_000)
worth = evaluate_policy(grid, sampled.policy).values.mean()
print(f"Monte Carlo: its policy is worth {worth:.3f}, the best one {plan.values.mean():.3f}")
