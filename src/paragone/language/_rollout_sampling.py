r"""Answers drawn from the policy as it is now, with the log-probability of every token.

Policy optimisation needs $\log \pi(y_t | x, y_{<t})$ of the very distribution that was drawn from:
logits over the temperature, no filter. A draw depends on the seed, the step and the row alone.

Shapes: A answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from paragone.kernels import choice

__all__ = ["Answer", "checked_temperature", "draw", "sampler_of"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """One sampled answer.

    Attributes:
        ids: Its tokens, the one that ends it included.
        log_probs: Log-probability of each.
        finished: Whether it ended by itself; if not, it was cut.
    """

    ids: list[int]
    log_probs: list[float]
    finished: bool


def checked_temperature(temperature: float) -> float:
    """Returns a temperature that can be learned from.

    Args:
        temperature: What logits are divided by.

    Raises:
        ValueError: It is not above 0.
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature={temperature}: answers must be drawn to be learned from; above 0, 1 is "
            "usual"
        )
    return temperature


@torch.no_grad()
def draw(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    stop: Sequence[int] = (),
    seed: tuple[int, ...] = (0,),
) -> list[Answer]:
    """Draws an answer to each prompt.

    Args:
        model: A `Llama`.
        prompts: Token ids; at least one each.
        max_new_tokens: Longest answer.
        temperature: What logits are divided by.
        stop: Tokens that end an answer.
        seed: Numbers that the draws follow from.
    """
    checked_temperature(temperature)
    device = model.lm_head.weight.device
    count = len(prompts)
    uniform = np.random.default_rng(np.random.SeedSequence(seed)).random((max_new_tokens, count))
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ids = torch.zeros(count, int(lengths.max()), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.as_tensor(prompt)
    same = bool((lengths == lengths[0]).all())
    out = model(
        ids.to(device), lengths=None if same else lengths.to(device), logits="last"
    )  # fmt: skip
    alive = np.arange(count)
    tokens: list[list[int]] = [[] for _ in prompts]
    scores: list[list[float]] = [[] for _ in prompts]
    ended = np.zeros(count, bool)
    for step in range(max_new_tokens):
        logs = torch.log_softmax(out.logits[:, -1].double() / temperature, -1)
        below = torch.from_numpy(uniform[step, alive]).to(device)[:, None]
        picked = (logs.exp().cumsum(-1) <= below).sum(-1).clamp(max=logs.shape[-1] - 1)
        chosen = logs.gather(1, picked[:, None])[:, 0].cpu().numpy()
        for row, token, score in zip(alive, picked.tolist(), chosen, strict=True):
            tokens[row].append(token)
            scores[row].append(float(score))
        over = np.isin(picked.cpu().numpy(), np.asarray(stop, np.int64))
        ended[alive[over]] = True
        state = out.state
        if over.any():
            left = torch.from_numpy(np.flatnonzero(~over)).to(device)
            state = [one.select(left) for one in state] if len(left) else state
            picked, alive = picked[left], alive[~over]
        if not len(alive) or step + 1 == max_new_tokens:
            break
        out = model(picked[:, None], state=state)
    return [
        Answer(ids, logs, bool(end)) for ids, logs, end in zip(tokens, scores, ended, strict=True)
    ]


def sampler_of(model: Any, backend: str = "auto") -> Callable[..., list[Answer]]:
    """Returns a function like `draw`, through the decoding engine where that is the quicker way.

    Args:
        model: The policy; the engine takes its weights anew before it draws.
        backend: "auto", "numba" for the engine, or "torch" for `draw`.

    Raises:
        ValueError: The engine cannot serve this model.
    """
    from paragone.language.engine import Engine
    from paragone.language.generate import sample_batch
    from paragone.language.sampling import Sampling

    if backend == "torch":
        return draw
    if backend == "auto" and choice.choose(
        "decoding", "auto", model=model, weights="float32"
    ) != "numba":  # fmt: skip
        return draw
    engine = Engine.make(model, backend)

    def drawn(
        policy: Any, prompts: Sequence[Sequence[int]], *, max_new_tokens: int,
        temperature: float = 1.0, stop: Sequence[int] = (), seed: tuple[int, ...] = (0,),
    ) -> list[Answer]:  # fmt: skip
        checked_temperature(temperature)
        engine.refresh(policy)
        word = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
        sampling = Sampling(temperature=temperature, seed=word >> 1)
        found = sample_batch(engine, prompts, sampling, max_new_tokens, stop)
        rows = zip(found.ids, found.log_probs, found.finished, strict=True)
        return [Answer(ids.tolist(), logs.tolist(), bool(end)) for ids, logs, end in rows]

    return drawn
