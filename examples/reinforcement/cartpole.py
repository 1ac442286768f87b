"""
Balancing a pole, learnt three ways
===================================

A pole stands on a cart; pushing the cart left or right must keep it upright for 500 steps. Nobody
tells the learner how carts and poles move. Three ways to learn it from experience: follow the
gradient of the expected return (REINFORCE), the same with several cautious steps on each batch
(PPO), or learn what each action is worth (DQN).
"""

import time

import numpy as np

from paragone.reinforcement import DQN, PPO, Reinforce

CART = "paragone/CartPole-v1"
learners = {
    "REINFORCE": Reinforce(CART, random_state=0),
    "PPO": PPO(CART, anneal_steps=200_000, random_state=0),
    "DQN": DQN(CART, n_step=5, epsilon_steps=10_000, random_state=0),
}
print(f"untrained: {learners['PPO'].evaluate(100, deterministic=False).mean():.0f} steps")

# %%
# Each learns for a while and is then judged by a hundred episodes of its best guess. DQN wants
# few transitions and much work on each; the other two want many and little.
for name, learner in learners.items():
    for _ in range(4):
        start = time.process_time()
        learner.train(5_000 if name == "DQN" else 50_000)
        spent = time.process_time() - start
        steps = learner.evaluate(100).mean()
        print(f"{name:9} {learner.samples:7,} transitions  {steps:5.1f} steps  {spent:.1f} s")

# %%
# What has PPO learnt? How likely it pushes right, by the pole's angle and how fast it turns: to
# the side to which the pole falls, and earlier the faster it falls.
ppo = learners["PPO"]
angles, speeds = np.linspace(-0.15, 0.15, 7), (-1.0, 0.0, 1.0)
print("push right   " + "".join(f"{np.degrees(a):7.1f}°" for a in angles))
for speed in speeds:
    seen = [[0.0, 0.0, angle, speed] for angle in angles]
    print(f"{speed:+.0f} rad/s    " + "".join(f"{p:8.2f}" for p in ppo.policy(seen)[:, 1]))
