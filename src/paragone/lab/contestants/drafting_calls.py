"""Decoding with drafts behind one call for the study `drafting_speed`.

Two operations. *decode*: `(op, problem, count)`, a continuation of the first prompts at
temperature 0, with heads that are trained once and kept; `truth` is plain decoding. *pass*:
`(op, model, n)`, one pass of a model of random weights over n tokens behind 64: what it costs to
check n - 1 guesses. A pass gives only its number of rows.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab.contestants import decoding
from paragone.lab.contestants.llama_calls import SHAPES
from paragone.lab.drafting_problem import load
from paragone.lab.tasks.decoding import Stage

__all__ = ["Assisted", "Ours", "decode_inputs", "pass_inputs", "truth"]

PROMPTS, PAST = 4, 64
_FIT: dict[str, Any] = {
    "plain": decoding.plain, "medusa": decoding.medusa, "eagle": decoding.autoregressive,
    "prompt_lookup": decoding.look_up, "draft_model": decoding.draft_model,
    "multi_token_prediction": functools.partial(decoding.several_tokens, kind="sequential"),
}  # fmt: skip


def decode_inputs(count: int, cache: str, model: str = "", tokenizer: str = "") -> tuple[Any, ...]:
    """Prompts of a small trained model.

    Args:
        count: Tokens of a continuation.
        cache: Folder of what can be made again.
        model: The model's path; "" trains one.
        tokenizer: Its tokenizer.
    """
    return "decode", _Kept(cache, count, model, tokenizer), count


class _Kept:
    """A problem, made when it is wanted; its digest is what it is made of."""

    def __init__(self, cache: str, count: int, model: str, tokenizer: str) -> None:
        self.options = {"cache": cache, "model": model, "tokenizer": tokenizer,
                        "count": PROMPTS, "length": count}  # fmt: skip
        self.made: Any = None

    def __call__(self) -> Any:
        if self.made is None:
            self.made = load(**self.options)
        return self.made

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kept, tuple(self.options[k] for k in ("cache", "length", "model", "tokenizer"))


def pass_inputs(shape: str, tokens: int) -> tuple[str, str, int]:
    """A shape of random weights, and the tokens of a pass.

    Args:
        shape: A key of `llama_calls.SHAPES`.
        tokens: n.
    """
    return "pass", shape, tokens


def _random(shape: str) -> Any:
    torch = resolve("torch")
    config = resolve("paragone.language.config:LlamaConfig")(
        **SHAPES[shape], max_position_embeddings=512, tie_word_embeddings=True
    )
    return resolve("paragone.language.llama:Llama")(
        config, generator=torch.Generator().manual_seed(0)
    ).requires_grad_(False)


class Ours:
    """paragone's engine, with someone who drafts.

    Args:
        drafter: A key of the contestants' names.
        budget: Seconds that training may take.
    """

    def __init__(self, drafter: str = "plain", budget: float = 30.0) -> None:
        self.drafter, self.budget = drafter, budget
        self.engine: Any = None
        self.made: Any = None

    def __call__(self, op: str, what: Any, count: int) -> np.ndarray:
        return self._pass(what, count) if op == "pass" else self._decode(what(), count)

    def _decode(self, problem: Any, count: int) -> np.ndarray:
        threads = resolve("torch").get_num_threads()
        if self.engine is None:
            self.engine = resolve("paragone.language.engine:engine_of")(
                problem.model, threads=threads
            )
            self.made = _FIT[self.drafter](Stage(problem, {"budget": self.budget}, threads))
        generate, found = resolve("paragone.language.generate:generate"), []
        for prompt in problem.prompts:
            found += generate(self.engine, None, prompt, max_new_tokens=count,
                              speculate=self.made).tokens  # fmt: skip
        return np.array(found, np.float64)

    def _pass(self, shape: str, count: int) -> np.ndarray:
        if self.engine is None:
            threads = resolve("torch").get_num_threads()
            self.engine = resolve("paragone.language.engine:Engine").make(
                _random(shape), threads=threads
            )
            self.pool = self.engine.new_pool(8)
            self.table = np.arange(8)[None]
            self.engine.forward(self.pool, np.arange(PAST), [PAST], [0], self.table, logits="none")
        found = self.engine.forward(
            self.pool, np.arange(count), [count], [PAST], self.table, logits="all"
        )
        return np.array([len(found)], np.float64)


class Assisted:
    """transformers' assisted generation with a small draft model, and its passes.

    Args:
        budget: Seconds that training may take.
    """

    def __init__(self, budget: float = 30.0) -> None:
        self.budget = budget
        self.model: Any = None

    def __call__(self, op: str, what: Any, count: int) -> np.ndarray:
        return self._pass(what, count) if op == "pass" else self._decode(what(), count)

    def _decode(self, problem: Any, count: int) -> np.ndarray:
        if self.model is None:
            threads = resolve("torch").get_num_threads()
            self.model = decoding.Hugging(
                Stage(problem, {"budget": self.budget}, threads), aid="draft"
            )
        found = [token for prompt in problem.prompts for token in self.model(prompt, count)]
        return np.array(found, np.float64)

    def _pass(self, shape: str, count: int) -> np.ndarray:
        torch = resolve("torch")
        with torch.inference_mode():
            if self.model is None:
                resolve("paragone.lab.torchvision_cpu:prepare")()
                config = resolve("transformers:LlamaConfig")(**SHAPES[shape])
                self.model = resolve("transformers:LlamaForCausalLM")(config).eval()
                self.past = self.model(torch.arange(PAST)[None], use_cache=True).past_key_values
            out = self.model(torch.arange(count)[None], past_key_values=self.past, use_cache=True)
            self.past.crop(PAST)
        return np.array([out.logits.shape[1]], np.float64)


def truth(op: str, what: Any, count: int) -> np.ndarray:
    """Tokens of plain decoding; of a pass, its rows."""
    return np.array([count], np.float64) if op == "pass" else Ours()(op, what, count)
