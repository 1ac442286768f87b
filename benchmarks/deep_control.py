"""Deep reinforcement learning on classic control: ours, seed by seed, and beside Stable-Baselines3.

    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/deep_control.py [--seeds 10] [--peer 3]

All times are CPU seconds of one process with one thread, imports and compilation left out (both
are reported). "solved" is a mean return of at least 475 (CartPole), -90 (Acrobot) over 100
episodes played by the likeliest action, looked for after every `look` transitions; the looking is
not part of the time. The second half trains the same number of transitions with the same network,
minibatches and epochs on both sides, interleaved.
"""

import argparse
import datetime
import importlib.util
import platform
import statistics
import time
from pathlib import Path

import numpy as np

from paragone.reinforcement import DQN, PPO, Reinforce

CART, ACRO, PEND = (f"paragone/{name}-v1" for name in ("CartPole", "Acrobot", "Pendulum"))
CASES = {
    "PPO, CartPole-v1": (PPO, CART, 500_000, 25_000, 475, {"anneal_steps": 500_000}),
    "Reinforce, CartPole-v1": (Reinforce, CART, 300_000, 25_000, 475, {}),
    "DQN, CartPole-v1": (DQN, CART, 60_000, 5_000, 475, {"n_step": 5}),
    "PPO, Acrobot-v1": (PPO, ACRO, 500_000, 25_000, -90, {"anneal_steps": 500_000}),
    "PPO, Pendulum-v1": (
        PPO, PEND, 300_000, 50_000, -250,
        {"anneal_steps": 300_000, "gamma": 0.9, "entropy": 0.0, "epochs": 10},
    ),
}  # fmt: skip


def course(make, env, steps, look, goal, options, seed):
    """CPU seconds and samples to the goal and to the end, and the return at the end."""
    spent, solved = 0.0, None
    learner = make(env, random_state=seed, **options)
    while learner.samples < steps:
        start = time.process_time()
        learner.train(min(look, steps - learner.samples))
        spent += time.process_time() - start
        found = learner.evaluate(100).mean()
        if solved is None and found >= goal:
            solved = (spent, learner.samples)
    return solved, spent, learner.samples, found


def ours(seeds):
    """One table a method and task, a line a seed."""
    for title, (make, env, steps, look, goal, options) in CASES.items():
        start = time.process_time()
        make(env, random_state=99, **options).train(3_000)
        yield f"\n## {title}\n"
        said = ", ".join(f"{k}={v}" for k, v in options.items()) or "defaults"
        yield f"Settings: {said}. First call: {time.process_time() - start:.1f} s."
        yield (
            "\n| seed | CPU s to goal | transitions to goal | CPU s in all | transitions | "
            "per second | final return |"
        )
        yield "|---|---|---|---|---|---|---|"
        ends, rates, times = [], [], []
        for seed in range(seeds):
            solved, spent, samples, found = course(make, env, steps, look, goal, options, seed)
            first = f"{solved[0]:.2f} | {solved[1]:,}" if solved else "not | -"
            rate = samples / spent
            yield f"| {seed} | {first} | {spent:.2f} | {samples:,} | {rate:,.0f} | {found:.1f} |"
            ends.append(found), rates.append(samples / spent)
            times.append(solved[0] if solved else np.inf)
        reached = sum(np.isfinite(times))
        held = sum(end >= goal for end in ends)
        yield (
            f"\nGoal {goal} reached on {reached} of {seeds} seeds, held at the end on {held}; "
            f"slowest {max(times):.2f} s, median {statistics.median(times):.2f} s; "
            f"median {statistics.median(rates):,.0f} transitions a second; "
            f"final return {np.mean(ends):.1f} ± {np.std(ends):.1f}."
        )


def peer(seeds):
    """The same work by Stable-Baselines3, interleaved."""
    import gymnasium
    import stable_baselines3 as sb3
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    yield "\n## Beside Stable-Baselines3, same work\n"
    yield (
        f"Stable-Baselines3 {sb3.__version__}, torch {torch.__version__}. PPO: 64 environments x "
        "128 steps, minibatches of 512, 4 epochs, 64-64 tanh; 16,384 transitions. DQN: 8 "
        "environments, 64-64 relu, minibatches of 128, one update in 4 transitions; 4,096 "
        "transitions. Ours on our environments, on Gymnasium's, and with torch's autograd."
    )
    yield "\n| method | seed | ours | ours, Gymnasium's environments | ours, torch | SB3 | ratio |"
    yield "|---|---|---|---|---|---|---|"

    def timed(call):
        start = time.process_time()
        call()
        return time.process_time() - start

    net = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}}
    for method in ("PPO", "DQN"):
        ratios = []
        for seed in range(seeds + 1):
            if method == "PPO":
                steps, options = 16_384, {"random_state": seed}
                other = sb3.PPO(
                    "MlpPolicy", make_vec_env("CartPole-v1", 64), n_steps=128, batch_size=512,
                    n_epochs=4, learning_rate=1e-3, ent_coef=0.01, policy_kwargs=net, seed=seed,
                    device="cpu",
                )  # fmt: skip
                mine = [PPO(CART, **options), PPO("CartPole-v1", **options),
                        PPO(CART, backend="torch", **options)]  # fmt: skip
            else:
                steps, options = 4_096, {"random_state": seed, "n_step": 1}
                other = sb3.DQN(
                    "MlpPolicy", make_vec_env("CartPole-v1", 8), learning_rate=1e-3,
                    batch_size=128, learning_starts=1_000, train_freq=1, gradient_steps=2,
                    policy_kwargs={"net_arch": [64, 64]}, seed=seed, device="cpu",
                )  # fmt: skip
                mine = [DQN(CART, **options), DQN("CartPole-v1", **options),
                        DQN(CART, backend="torch", **options)]  # fmt: skip
            times = [timed(lambda m=m, steps=steps: m.train(steps)) for m in mine]
            times.append(timed(lambda other=other, steps=steps: other.learn(steps)))
            if seed:  # the first round compiles and imports
                ratios.append(times[3] / times[0])
                cells = " | ".join(f"{t:.2f} s" for t in times)
                yield f"| {method} | {seed} | {cells} | {ratios[-1]:.0f} |"
        yield f"| {method} | median | | | | | {statistics.median(ratios):.0f} |"
    yield "\n## Stable-Baselines3 to the goal\n"
    yield "PPO on CartPole-v1 with the settings of RL Zoo (8 environments, 32 steps, 20 epochs, "
    yield "gamma 0.98, lambda 0.8, rate 1e-3 falling, clip 0.2 falling; 100,000 transitions).\n"
    yield "| seed | CPU s | final return |\n|---|---|---|"
    for seed in range(seeds):
        other = sb3.PPO(
            "MlpPolicy", make_vec_env("CartPole-v1", 8), n_steps=32, batch_size=256, n_epochs=20,
            gamma=0.98, gae_lambda=0.8, ent_coef=0.0, learning_rate=lambda left: 1e-3 * left,
            clip_range=lambda left: 0.2 * left, seed=seed, device="cpu",
        )  # fmt: skip
        spent = timed(lambda other=other: other.learn(100_000))
        found = evaluate_policy(other, gymnasium.make("CartPole-v1"), 100, warn=False)[0]
        yield f"| {seed} | {spent:.1f} | {found:.1f} |"


def main():
    """Writes the page, once all of it is measured."""
    ask = argparse.ArgumentParser()
    ask.add_argument("--seeds", type=int, default=10)
    ask.add_argument("--peer", type=int, default=3)
    asked = ask.parse_args()
    if asked.peer and importlib.util.find_spec("stable_baselines3") is None:
        ask.error(
            f"--peer {asked.peer} needs Stable-Baselines3: pip install -c constraints.txt "
            "stable-baselines3 torch==2.13.0; --peer 0 goes without"
        )
    page = []
    head = [
        "# Deep reinforcement learning on classic control\n",
        f"`python benchmarks/deep_control.py --seeds {asked.seeds} --peer {asked.peer}`, "
        f"{platform.processor() or platform.machine()}, {datetime.date.today()}, one thread, CPU "
        "seconds.",
    ]
    for lines in (
        head,
        ours(asked.seeds) if asked.seeds else (),
        peer(asked.peer) if asked.peer else (),
    ):
        for line in lines:
            print(line, flush=True)
            page.append(line + "\n")
    path = Path(__file__).parent / "results" / "deep_control.md"
    path.write_text("".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
