"""`generate`: a model continues a text in the shell.

Importing this module loads the standard library alone; the function imports what it needs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Literal

from paragone.lab.language_models import drafts, opened

__all__ = ["Continued", "generate"]


@dataclasses.dataclass(frozen=True)
class Continued:
    """A text and how it came about.

    Attributes:
        text: The continuation.
        tokens: Its tokens.
        finish_reason: "stop" or "length".
        tokens_per_second: Of the whole call.
        shown: Whether it has been printed as it came.
        tokens_per_step: Tokens by passes of the model; 1 without drafts.
        accepted_by_depth: Share of steps that agreed to a draft at each depth.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    tokens_per_second: float
    shown: bool
    tokens_per_step: float = 1.0
    accepted_by_depth: list[float] = dataclasses.field(default_factory=list)

    def json(self) -> str:
        found = dataclasses.asdict(self)
        return json.dumps({k: v for k, v in found.items() if k != "shown"}, ensure_ascii=False)

    def print(self) -> None:
        """Prints what has not been printed, and the speed on the standard error."""
        print("" if self.shown else self.text)
        told = f"{len(self.tokens)} tokens, {self.tokens_per_second:,.0f}/s, {self.finish_reason}"
        if self.accepted_by_depth:
            shares = ", ".join(f"{share:.2f}" for share in self.accepted_by_depth)
            told += f"; {self.tokens_per_step:.2f} tokens a step, accepted by depth {shares}"
        print(told, file=sys.stderr)


def generate(
    model: str | os.PathLike[str],
    prompt: str = "-",
    *,
    tokenizer: str | None = None,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    beams: int = 1,
    seed: int = 0,
    stop: str = "",
    backend: str = "auto",
    weights: str = "float32",
    threads: int | None = None,
    speculate: str | None = None,
    draft: str = "auto",
    acceptance: Literal["exact", "typical"] = "exact",
    quiet: bool = False,
) -> Continued:
    """Continues a text; it is printed as it comes.

    Args:
        model: A model's folder (such as runs/NAME), a llama2.c .bin or a .gguf.
        prompt: The text to continue; - reads it from the standard input.
        tokenizer: Its tokenizer, if it does not lie beside it.
        max_tokens: Most tokens of the continuation.
        temperature: 0 takes the likeliest token.
        top_k: Draw among so many tokens.
        top_p: Share of the probability to draw from.
        repetition_penalty: Above 1, what was there gets less likely.
        beams: Above 1, beam search by that many.
        seed: Seed of the draws.
        stop: A text that ends the continuation.
        backend: auto, numba or torch.
        weights: float32 or int8.
        threads: Threads of the engine.
        speculate: Who guesses tokens ahead: prompt-lookup, or a folder of heads or of a smaller
            model. The text stays the same.
        draft: How many tokens are guessed in a step; auto: as many as pay here, or none.
        acceptance: typical is quicker, and changes what texts come.
        quiet: Print the text when it is done, as --json wants it.
    """
    from paragone._core.errors import UsageError
    from paragone.language._draft_files import drafter_of
    from paragone.language.generate import generate as continued

    try:
        network, words = opened(model, tokenizer)
        text = sys.stdin.read() if prompt == "-" else prompt
        made = continued(
            network, words, text, max_new_tokens=max_tokens, temperature=temperature, top_k=top_k,
            top_p=top_p, repetition_penalty=repetition_penalty, beams=beams, seed=seed,
            stop=(stop,) if stop else (), backend=backend, weights=weights, threads=threads,
            stream=None if quiet else _show, speculate=drafter_of(speculate, network, words),
            draft=drafts(draft), acceptance=acceptance,
        )  # fmt: skip
    except UsageError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return Continued(
        str(made), list(made.tokens), made.finish_reason, made.tokens_per_second, not quiet,
        made.tokens_per_step, made.accepted_by_depth,
    )  # fmt: skip


def _show(piece: str) -> None:
    print(piece, end="", flush=True)
