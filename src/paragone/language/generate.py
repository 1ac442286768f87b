r"""Generation: a model continues texts.

A prompt is read once, then tokens come one by one until one of them, or a string, ends the text:

$$ x_{t+1} \sim p_\theta(\,\cdot \mid x_{\le t}), \qquad t < T + \mathrm{max\_new\_tokens} . $$

On the CPU the loop of one text runs in compiled code from the prompt to the last token, the draws
included. A list of prompts is decoded together, and gives what single calls give, to the bit.

Cost: reading the prompt takes 2 N operations a token, each new token one reading of the weights.

References:
    Pope et al. (2022), arXiv:2211.05102, section 2. Samplers: see `sampling`.

Shapes: V vocabulary.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from paragone.language._generate_beams import beam_search
from paragone.language._generate_loop import Row, decode
from paragone.language._generate_text import StopText
from paragone.language.drafting import Drafter
from paragone.language.engine import Engine, engine_of
from paragone.language.llama import Llama
from paragone.language.sampling import Sampling, log_probability

__all__ = ["Generated", "Samples", "draft_of", "generate", "sample_batch"]


class Generated(str):
    """A continuation: the text itself, without the prompt, and how it came about.

    Attributes:
        tokens: Its tokens, without the one that ended it.
        log_probs: Their log-probabilities under softmax(logits / temperature).
        tokens_per_second: Tokens by the seconds of the whole call, the prompt's included; of a
            list of prompts those of all rows together.
        finish_reason: "stop" or "length".
        tokens_per_step: Tokens by passes of the model, prompts left out; 1 in plain decoding.
        accepted_by_depth: Of the steps that had a draft at depth 1, 2, … with its parent agreed
            to, the share that agreed to one; empty in plain decoding.
    """

    tokens: list[int]
    log_probs: list[float]
    tokens_per_second: float
    finish_reason: str
    tokens_per_step: float
    accepted_by_depth: list[float]


class Samples(NamedTuple):
    """What `sample_batch` gives, a list entry for each prompt.

    Attributes:
        ids: (T,) int64 tokens, the one that ended it included.
        log_probs: (T,) float32 under softmax(logits / temperature).
        finished: (R,) whether a stop token ended it.
    """

    ids: list[np.ndarray]
    log_probs: list[np.ndarray]
    finished: np.ndarray


def generate(
    model: Any,
    tokenizer: Any,
    prompt: Any,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    typical_p: float | None = None,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    beams: int = 1,
    length_penalty: float = 1.0,
    seed: int | None = None,
    stop: str | int | Sequence[str | int] = (),
    stream: Callable[[str], Any] | None = None,
    backend: str = "auto",
    weights: str = "float32",
    threads: int | None = None,
    speculate: Any = None,
    draft: Any = "auto",
    acceptance: str = "exact",
) -> Any:
    """Continues a text, or several.

    Prefer it to `transformers`' generate on the CPU at batch 1, where it is several times as fast
    and needs no padding; prefer `serve` for many clients.

    Args:
        model: A `Llama`, or an `Engine` made of one.
        tokenizer: A `Tokenizer`, or None if prompts are token ids and no text is wanted.
        prompt: A text, or its token ids; or a list of those.
        max_new_tokens: Most tokens of a continuation.
        temperature: 0 takes the most likely token each time; above, draws.
        top_k: As in `Sampling`, like those below.
        top_p: Share of the probability to choose from.
        min_p: Least probability as a share of the greatest.
        typical_p: Share of the probability to choose from, typical tokens first.
        repetition_penalty: Divides the scores of tokens that were there.
        presence_penalty: Taken off the scores of tokens that were generated.
        frequency_penalty: The same, times how often.
        logit_bias: Token to what is added to its score.
        beams: Above 1, beam search by that many; nothing is drawn, and no score is changed.
        length_penalty: Power of the length that a beam's score is divided by.
        seed: Of the draws; a row's draws do not depend on other rows.
        stop: Strings or token ids that end a text, besides the model's own.
        stream: Called with each piece of the text as it comes (one prompt only).
        backend: As in `Engine.make`.
        weights: As in `Engine.make`.
        threads: As in `Engine.make`.
        speculate: Who guesses tokens ahead: "prompt-lookup", a `Drafter` (`Medusa`, …), or a
            smaller `Llama` of the same vocabulary (None: nobody). The text stays the same, or with
            drawn drafts its distribution.
        draft: How much is guessed: "auto" (what pays here), a number of tokens, or a `Plan`.
        acceptance: "exact"; or "typical", quicker and **lossy**: the distribution changes.

    Returns:
        A `Generated`, or a list of them for a list of prompts.

    Raises:
        ValueError: An empty prompt, or an option out of its range.

    Example:
        >>> from paragone.language import Llama, LlamaConfig
        >>> model = Llama(LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1,
        ...                           num_attention_heads=4))
        >>> len(generate(model, None, [1, 2, 3], max_new_tokens=5).tokens) <= 5
        True
    """
    began = time.perf_counter()
    sampling = Sampling(
        temperature, top_k, top_p, min_p, typical_p, repetition_penalty, presence_penalty,
        frequency_penalty, logit_bias, seed,
    )  # fmt: skip
    prompts, several = _prompts(tokenizer, prompt)
    if stream is not None and several:
        raise ValueError(f"stream with {len(prompts)} prompts: it takes one")
    stops = [stop] if isinstance(stop, str | int) else list(stop)
    engine = engine_of(model, backend, weights, threads)
    ends = {*engine.config.eos, *(s for s in stops if isinstance(s, int))}
    if tokenizer is not None and tokenizer.eos_id is not None:
        ends.add(tokenizer.eos_id)
    texts = [StopText(tokenizer, [s for s in stops if isinstance(s, str)]) for _ in prompts]

    def tell(row: int, token: int) -> bool:
        if token in ends:
            return True
        piece = texts[row].push(token)
        if stream is not None and piece:
            stream(piece)
        return texts[row].stopped

    drafter = draft_of(speculate)
    if beams > 1:
        if drafter is not None:
            raise ValueError(f"beams={beams} with speculate: beam search takes no drafts; use one")
        rows = _by_beams(engine, prompts, sampling, max_new_tokens, ends, beams, length_penalty)
        for at, row in enumerate(rows):
            _until(row, lambda token, at=at: tell(at, token))
    else:
        if beams != 1:
            raise ValueError(f"beams={beams}: at least 1")
        same = [sampling] * len(prompts)
        rows = decode(
            engine, prompts, same, max_new_tokens, sorted(ends), tell, drafter, draft, acceptance
        )
    for text in texts:
        piece = text.flush()
        if stream is not None and piece:
            stream(piece)
    made = [_generated(row, text, ends) for row, text in zip(rows, texts, strict=True)]
    seconds = max(time.perf_counter() - began, 1e-9)
    for one in made:
        one.tokens_per_second = sum(len(other.tokens) for other in made) / seconds
    _warn_of_length(engine, rows)
    return made if several else made[0]


def sample_batch(
    engine: Engine,
    prompts_ids: Sequence[Sequence[int]],
    sampling: Sampling,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    speculate: Any = None,
    draft: Any = "auto",
) -> Samples:
    """Continues prompts with draws of their own: what rollouts (PPO, GRPO) and studies want.

    Row r draws with the seed `sampling.key + r`, so equal prompts get different texts.

    Args:
        engine: Made by `Engine.make`; after a step of training `refresh` it.
        prompts_ids: Tokens of each prompt.
        sampling: How rows draw.
        max_new_tokens: Most tokens of a continuation.
        stop_ids: Tokens that end one, and are its last.
        speculate: As in `generate`.
        draft: As in `generate`.
    """
    own = [sampling.replace(seed=sampling.key + at) for at in range(len(prompts_ids))]
    rows = decode(
        engine, prompts_ids, own, max_new_tokens, stop_ids, None, draft_of(speculate), draft
    )
    return Samples(
        [np.array(row.ids, np.int64) for row in rows],
        [np.array(row.log_probs, np.float32) for row in rows],
        np.array([row.reason == "stop" for row in rows], bool),
    )


@functools.cache
def _prompt_lookup() -> Drafter:
    """One for all texts, so that what is learned of its pace stays."""
    from paragone.language.prompt_lookup import PromptLookup

    return PromptLookup()


def draft_of(speculate: Any) -> Drafter | None:
    """The drafter that a user means.

    Args:
        speculate: None, "prompt-lookup", a `Drafter`, or a `Llama` that drafts for a larger one.

    Raises:
        ValueError: Something else.
    """
    if speculate is None or isinstance(speculate, Drafter):
        return speculate
    if speculate == "prompt-lookup":
        return _prompt_lookup()
    if isinstance(speculate, Llama):
        from paragone.language.draft_model import DraftModel

        return DraftModel(speculate)
    raise ValueError(
        f"speculate={speculate!r}: 'prompt-lookup', a Drafter or a smaller Llama is expected"
    )


def _by_beams(
    engine: Engine, prompts: list[list[int]], sampling: Sampling, most: int, ends: set[int],
    beams: int, length_penalty: float,
) -> list[Row]:  # fmt: skip
    if sampling.replace(seed=0) != Sampling(temperature=0.0, seed=0):
        raise ValueError(
            f"beams={beams} with {sampling}: beam search draws nothing; leave temperature at 0 and "
            "the filters and penalties out"
        )
    rows = []
    for at, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {at} has no token; begin with that of the beginning (BOS)")
        ids, _ = beam_search(engine, prompt, beams, most, sorted(ends), length_penalty)
        rows.append(Row(prompt, ids, _log_probs(engine, prompt, ids)))
    return rows


def _log_probs(engine: Engine, prompt: list[int], ids: list[int]) -> list[float]:
    """Log-probabilities of given tokens."""
    both = [*prompt, *ids[:-1]]
    pool = engine.new_pool(-(-len(both) // 16))
    scores = engine.forward(
        pool, both, [len(both)], [0], [np.arange(pool.pages)], logits="all"
    )[len(prompt) - 1 :]  # fmt: skip
    return [log_probability(row, token) for row, token in zip(scores, ids, strict=True)]


def _until(row: Row, tell: Callable[[int], bool]) -> None:
    """Cuts a row behind the token that ends it."""
    for count, token in enumerate(row.ids, 1):
        if tell(token):
            row.ids, row.log_probs, row.reason = row.ids[:count], row.log_probs[:count], "stop"
            return


def _prompts(tokenizer: Any, prompt: Any) -> tuple[list[list[int]], bool]:
    """Token ids of each prompt, and whether there may be several."""
    if isinstance(prompt, str):
        if tokenizer is None:
            raise ValueError("the prompt is text: a tokenizer is needed")
        return [tokenizer.encode(prompt, bos=True)], False
    items = prompt.tolist() if hasattr(prompt, "tolist") else list(prompt)
    if not items or isinstance(items[0], int | np.integer):
        return [[int(token) for token in items]], False
    return [_prompts(tokenizer, item)[0][0] for item in items], True


def _generated(row: Row, text: StopText, ends: set[int]) -> Generated:
    ended = bool(row.ids) and row.ids[-1] in ends
    made = Generated(text.text)
    made.tokens = row.ids[:-1] if ended else row.ids
    made.log_probs = row.log_probs[: len(made.tokens)]
    made.finish_reason = row.reason
    made.tokens_per_step = (len(row.ids) - 1) / row.steps if row.steps else 1.0
    made.accepted_by_depth = [
        float(a / o) for a, o in zip(row.accepted, row.offered, strict=True) if o
    ]
    return made


def _warn_of_length(engine: Engine, rows: list[Row]) -> None:
    longest = max((len(row.prompt) + len(row.ids) for row in rows), default=0)
    if longest > engine.config.max_position_embeddings:
        warnings.warn(
            f"a text of {longest} tokens is longer than the model was made for "
            f"(max_position_embeddings={engine.config.max_position_embeddings})",
            stacklevel=3,
        )
