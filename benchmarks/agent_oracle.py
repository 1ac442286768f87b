r"""How often the teachers of agents succeed: by the pages' own reward, and after wrong actions.

    python benchmarks/agent_oracle.py [--tasks miniwob:40,pages:all] [--seeds 20] [--noise 0]

A row a task: exercises done, those that a wrong action of `--noise` left or ended without a way
back, steps, and milliseconds a sample (by the clock; the browser's work is in it). With noise,
"done" counts the exercises that ended well although some actions were wrong.
"""

from __future__ import annotations

import argparse
import time

from paragone.multimodal.agent.browser import Browser
from paragone.multimodal.agent.demonstrations import demonstrate
from paragone.multimodal.agent.open_tasks import open_tasks, view_of


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="miniwob:40,pages:all")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.0)
    asked = parser.parse_args()
    tasks = open_tasks(asked.tasks)
    width, height = view_of(tasks)
    totals = [0, 0, 0]
    with Browser(width=width, height=height) as browser:
        for task in tasks:
            done = ended = steps = 0
            failed = []
            started = time.perf_counter()
            for seed in range(asked.first, asked.first + asked.seeds):
                samples, reward = demonstrate(task, browser, seed, noise=asked.noise)
                slipped = reward != 1 and bool(samples and samples[-1].rejected)
                done, ended, steps = done + (reward == 1), ended + slipped, steps + len(samples)
                if reward != 1 and not slipped:
                    failed.append(seed)
            spent = time.perf_counter() - started
            totals = [totals[0] + done, totals[1] + ended, totals[2] + asked.seeds]
            print(
                f"{task.name:40s} {done:4d}/{asked.seeds}  ended by a slip {ended:3d}  "
                f"{steps / asked.seeds:5.1f} steps  {1000 * spent / max(steps, 1):5.0f} ms a sample"
                + (f"  failed: {failed}" if failed else ""),
                flush=True,
            )
    print(f"{'all':40s} {totals[0]:4d}/{totals[2]}  ended by a slip {totals[1]:3d}")


if __name__ == "__main__":
    main()
