"""The contestants of `alignment`: each trains `stage.model`, from pairs or from a reward.

One rate serves all policies. Two were tried beforehand, on another seed but the same prompts, with
DPO, SFT, PPO and GRPO; the reward model was tried in five settings, IPO, KTO, cDPO and hinge in
none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab.spec import Contestant
from paragone.lab.tasks.preference import Stage

__all__ = ["contestants", "group_relative", "keep", "pairwise", "policy", "rated"]

RATE = 3e-4


def keep(stage: Stage) -> None:
    """Leaves the base as it is."""


def pairwise(
    stage: Stage, loss: str, lr: float, beta: float = 0.1, label_smoothing: float = 0.0,
    **options: Any,
) -> None:  # fmt: skip
    """One stage on pairs.

    Args:
        stage: What to train, and from what.
        loss: A loss of `paragone.language.dpo`; "sft" learns the chosen answers.
        lr: Largest learning rate.
        beta: Strength of the leash.
        label_smoothing: Share of labels that are taken as wrong.
        options: Further arguments of `dpo`.
    """
    batch, epochs = 16, stage.effort["epochs"]
    steps = max(1, round(epochs * len(stage.pairs)) // batch)
    resolve("paragone.language:dpo")(
        stage.model, None, stage.pairs, beta, loss, label_smoothing=label_smoothing, epochs=epochs,
        batch=batch, lr=lr * stage.pace, evaluate_every=stage.every(steps), samples=0, cache=None,
        seed=stage.seed, progress=stage.watch("validated"), **options,
    )  # fmt: skip


def rated(stage: Stage, lr: float = 1e-3) -> Any:
    """A reward model of the pairs, which also ranks held-out pairs."""
    model = resolve("paragone.language:reward_model")(
        stage.base, None, stage.pairs, epochs=4, lr=lr * stage.pace, seed=stage.seed
    )
    group = resolve("paragone.language._preference_forward:Group")

    def ranks(prompts: Any, answers: Any) -> np.ndarray:
        groups = [group(p, [a]) for p, a in zip(prompts, answers, strict=True)]
        return model.group_rewards(groups).numpy()

    stage.ranks = ranks
    return model


def policy(stage: Stage, lr: float, kl: float = 0.05, asks: bool = False, **options: Any) -> None:
    """A reward model of the pairs, then PPO on it.

    Args:
        stage: What to train, and from what.
        lr: Learning rate of the policy.
        kl: Coefficient of the leash.
        asks: Whether the reward itself is asked in place of a reward model.
        options: Further arguments of `ppo`.
    """
    reward = stage.reward if asks else rated(stage)
    steps = int(stage.effort["steps"])
    resolve("paragone.language:ppo")(
        stage.model, stage.tokenizer, stage.prompts, reward, steps=steps, batch=48,
        epochs=1, max_new_tokens=stage.length, truncated="score", kl=kl,
        lr=lr * stage.pace, seed=stage.seed,
        backend=stage.backend,
        progress=stage.watch("step", stage.every(steps)), **options,
    )  # fmt: skip


def group_relative(
    stage: Stage, lr: float, kl: float = 0.04, asks: bool = False, **options: Any
) -> None:  # fmt: skip
    """A reward model of the pairs, or the reward itself, then GRPO.

    Args:
        stage: What to train, and from what.
        lr: Learning rate.
        kl: Weight of the divergence.
        asks: Whether the reward itself is asked in place of a reward model.
        options: Further arguments of `grpo`.
    """
    reward = stage.reward if asks else rated(stage)
    steps = int(stage.effort["steps"])
    resolve("paragone.language:grpo")(
        stage.model, stage.tokenizer, stage.prompts, reward, steps=steps, batch=6, size=8,
        max_new_tokens=stage.length, truncated="score", kl=kl, lr=lr * stage.pace, seed=stage.seed,
        backend=stage.backend,
        progress=stage.watch("step", stage.every(steps)), **options,
    )  # fmt: skip


_HERE = "paragone.lab.contestants.alignment:"
_PAIRS, _REWARD = ["words", "brevity", "pairs"], ["words", "brevity"]


def _one(
    id: str, title: str, make: str, note: str, *, method: str = "dpo", kinds: Any = None,
    crews: Any = ("all",), origin: Any = "paragone", **params: Any,
) -> Contestant:  # fmt: skip
    if make in ("pairwise", "policy", "group_relative"):
        params = {"lr": RATE, **params}
    return Contestant(
        id=id, title=title, make=_HERE + make, params=params, method=method, note=note,
        origin=origin,
        needs={"kind": list(kinds or _PAIRS), "crew": list(crews)},
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """The base, one-stage losses, and policies that follow a learned or the true reward."""
    both = ("all", "quick")
    return [
        _one("dpo", "DPO", "pairwise", "beta 0.1", crews=both, loss="sigmoid"),
        _one("ipo", "IPO", "pairwise", "beta 0.1, log-ratios summed", crews=both, loss="ipo",
             ipo="sum", beta=0.05),
        _one("kto", "KTO", "pairwise", "beta 0.1", crews=both, loss="kto"),
        _one("cdpo", "cDPO", "pairwise", "a tenth of the labels taken as wrong", loss="sigmoid",
             label_smoothing=0.1),
        _one("hinge", "Hinge (SLiC)", "pairwise", "beta 0.1", loss="hinge"),
        _one("sft", "SFT on the best", "pairwise", "likelihood of the chosen answers", crews=both,
             loss="sft", method="alpaca"),
        _one("rm_ppo", "Reward model + PPO", "policy", "PPO on a reward model of the same pairs",
             crews=both, kinds=_REWARD),
        _one("rm_grpo", "Reward model + GRPO", "group_relative",
             "GRPO on a reward model of the same pairs", crews=both, kinds=_REWARD),
        _one("grpo", "GRPO, true reward", "group_relative",
             "asks the true reward of every answer: knows more than the others", kinds=_REWARD,
             asks=True),
        _one("reward_model", "Reward model", "rated", "ranks answers and writes none",
             kinds=("pairs",), crews=both),
        _one("base", "base, untrained", "keep", "", crews=both, origin="baseline",
             method="", kinds=_REWARD),
    ]  # fmt: skip
