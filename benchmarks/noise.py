r"""How often does the timing verdict err? Studies on a simulated machine with a known truth.

    python benchmarks/noise.py [studies]

The machine's speed drifts (AR(1) in the logarithm from run to run, 15 % standard deviation,
correlation 0.95), each run jitters by 8 %, and one run in thirty is hit by a spike of 1.3 to 3
times. Eight programs run interleaved, in random order within each block. Blocks are added, 5
to 30, for as long as `lab.summary.unsettled` asks for more: the verdict is looked at after
every block, exactly as in a real study. Three truths are tried:

* the same program under two names: "faster" or "slower" is a false verdict (goal: <= 5 %),
* +25 %: "slower" is right (goal: >= 90 %, also when the budget ends after 15 blocks),
* +10 %: "same within 5 %" is false.

The first case is the hardest for repeated looks, since the comparison itself decides when to
stop. A row "sequential" shows what the same statistics say when runs are not interleaved.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from paragone.lab._evidence import plan_of
from paragone.lab.summary import _evidences, _noise, unsettled

NAMES = ("ours", "rival", "ours~2", *(f"other{i}" for i in range(5)))
LEAST, MOST = 5, 30

STUDY = {
    "study": "noise", "timed": True, "threads": 2, "blocks": [LEAST, MOST],
    "measures": [{"name": "fit_s", "title": "fit", "better": "lower", "role": "time",
                  "margin": 0.05, "unit": "s", "primary": True}],
    "workloads": [{"id": "w", "title": "w", "load": ""}],
    "contestants": [{"id": name, "title": name, "make": ""} for name in NAMES[:3]],
}  # fmt: skip


def machine(
    rng: np.random.Generator, effect: float, *, interleaved: bool = True, blocks: int = MOST
) -> np.ndarray:
    """Seconds (blocks, programs) on a drifting machine; "rival" is `effect` times slower."""
    count = len(NAMES)
    shocks = rng.normal(0, 0.15 * np.sqrt(1 - 0.95**2), blocks * count)
    drift = np.empty(blocks * count)
    level = rng.normal(0, 0.15)
    for i, shock in enumerate(shocks):
        level = 0.95 * level + shock
        drift[i] = level
    spikes = np.where(rng.random(drift.size) < 1 / 30, rng.uniform(0.26, 1.1, drift.size), 0.0)
    moments = drift + rng.normal(0, 0.08, drift.size) + spikes
    if interleaved:
        order = np.stack([rng.permutation(count) for _ in range(blocks)])
        logs = np.empty((blocks, count))
        np.put_along_axis(logs, order, moments.reshape(blocks, count), axis=1)
    else:
        logs = moments.reshape(count, blocks).T
    seconds = np.exp(logs)
    seconds[:, NAMES.index("rival")] *= effect
    return seconds


def records(seconds: np.ndarray) -> Iterator[list[dict[str, Any]]]:
    """The records of one block after the other."""
    for block, row in enumerate(seconds):
        yield [
            {"id": f"r{block}{name}", "contestant": name, "workload": "w", "block": block,
             "split": 0, "status": "ok", "values": {"fit_s": float(value)}, "load": {},
             "artifacts": {}}
            for name, value in zip(NAMES[:3], row[:3], strict=True)
        ]  # fmt: skip


def study(
    rng: np.random.Generator, effect: float, *, interleaved: bool = True, most: int = MOST
) -> tuple[str, int, bool]:
    """One adaptive study; returns the word for the rival, the blocks used, and the noise floor.

    Args:
        rng: Source of the machine's moods.
        effect: True time of the rival over ours.
        interleaved: Whether blocks interleave the programs.
        most: Blocks at which the budget ends.
    """
    done: list[dict[str, Any]] = []
    ended, used = "settled", 0
    for used, block in enumerate(records(machine(rng, effect, interleaved=interleaved)), 1):
        done += block
        if used >= LEAST and not unsettled(done, study=STUDY):
            break
        if used == most:
            ended = "most" if most == MOST else "budget"
            break
    plan = plan_of(STUDY)
    evidences = _evidences(plan, done, None, ended=ended)
    found = evidences[0].difference("rival", "ours", plan.measures[0])
    return found.word, used, _noise(plan, evidences).trusted


def share(
    effect: float, studies: int, seed: int, **options: Any
) -> tuple[dict[str, float], float, float]:
    """Shares of the words over many studies, mean blocks, share of distrusted noise floors."""
    rng = np.random.default_rng(seed)
    found = [study(rng, effect, **options) for _ in range(studies)]
    words = Counter(word for word, _, _ in found)
    blocks = float(np.mean([used for _, used, _ in found]))
    distrusted = float(np.mean([not trusted for _, _, trusted in found]))
    names = ("better", "worse", "same", "inconclusive")
    return {name: words[name] / studies for name in names}, blocks, distrusted


def main(studies: int = 400) -> None:
    """Prints the table."""
    print(
        f"{studies} simulated studies a row; drift 15 %, jitter 8 %, spikes; {LEAST}..{MOST} blocks"
    )
    print(f"{'truth':24s} {'faster':>7s} {'slower':>7s} {'same':>7s} {'unclear':>8s} {'blocks':>7s}"
          f" {'A/A alarm':>10s} {'CPU s':>6s}")  # fmt: skip
    cases: list[tuple[str, float, dict[str, Any]]] = [
        ("itself", 1.0, {}), ("itself, 15 blocks", 1.0, {"most": 15}),
        ("+25 %", 1.25, {}), ("+25 %, 15 blocks", 1.25, {"most": 15}),
        ("+10 %", 1.10, {}), ("+10 %, 15 blocks", 1.10, {"most": 15}),
        ("itself, sequential", 1.0, {"interleaved": False}),
    ]  # fmt: skip
    for seed, (name, effect, options) in enumerate(cases):
        start = time.process_time()
        words, blocks, alarm = share(effect, studies, seed, **options)
        shown = " ".join(f"{100 * words[w]:6.1f}%" for w in ("better", "worse", "same"))
        print(f"{name:24s} {shown} {100 * words['inconclusive']:7.1f}% {blocks:7.1f} "
              f"{100 * alarm:9.1f}% {time.process_time() - start:6.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
