"""`serve-model` and `chat`: a model of one's own for OpenAI clients, or in the terminal.

Importing this module loads the standard library alone; the functions import what they need.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from paragone.lab.language_models import drafts

__all__ = ["chat", "serve_model"]

_HELP = """\
/system TEXT  tell the model something before everything else (alone: forget it)
/reset        forget what was said
/exit         end (or Ctrl-D)
Ctrl-C stops an answer."""
_PLAIN = "the model has no chat template; User: and Assistant: are written"


def serve_model(
    model: str | os.PathLike[str],
    *,
    tokenizer: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    adapters: str = "",
    chat_template: str | None = None,
    api_key: str | None = None,
    context: int | None = None,
    batch: int = 32,
    chunk: int = 256,
    memory: str | None = None,
    waiting: int = 256,
    backend: str = "auto",
    weights: str = "float32",
    threads: int | None = None,
    speculate: str | None = None,
    draft: str = "auto",
) -> None:
    """Serves a model to OpenAI clients: /v1/completions and /v1/chat/completions, until Ctrl-C.

    Args:
        model: A model's folder (such as runs/NAME), a llama2.c .bin or a .gguf.
        tokenizer: Its tokenizer, if it does not lie beside it.
        host: Address to listen on.
        port: TCP port; 0 takes any free one.
        name: What clients call the model; the name of its folder without it.
        adapters: Further models, such as cook=runs/cook,poet=runs/poet: LoRA folders.
        chat_template: alpaca, chatml, llama2, llama3 or plain; without it the tokenizer's own, or
            plain.
        api_key: What clients must show; PARAGONE_API_KEY in the environment does the same.
        context: Most tokens of prompt and text.
        batch: Most texts in a step.
        chunk: Most tokens in a step.
        memory: For keys and values, such as 2GB; without it what is of use, at most a quarter of
            what is free.
        waiting: Texts that may wait; more requests get status 429.
        backend: auto, numba or torch.
        weights: float32 or int8.
        threads: Threads of the engine.
        speculate: Who guesses tokens ahead: prompt-lookup, or a folder of heads or of a smaller
            model. Texts stay the same.
        draft: How many tokens are guessed in a step; auto: as many as pay here, or none.
    """
    from paragone._core.errors import UsageError
    from paragone.language._serve_loading import default_name, loaded
    from paragone.language.serve import serve

    try:
        weighted, words = loaded(model, tokenizer)
        if chat_template is None and words.chat_template is None:
            chat_template = "plain"
        serve(
            weighted, words, host, port, name=name or default_name(model),
            adapters=_named(adapters),
            chat_template=chat_template, api_key=api_key, context=context, batch=batch,
            chunk=chunk, memory=_bytes(memory), waiting=waiting, backend=backend, weights=weights,
            threads=threads, speculate=speculate, draft=drafts(draft),
        )  # fmt: skip
    except UsageError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error


def chat(
    model: str | os.PathLike[str],
    *,
    tokenizer: str | None = None,
    system: str = "",
    adapter: str | None = None,
    chat_template: str | None = None,
    temperature: float = 0.7,
    top_p: float = 0.95,
    max_tokens: int = 512,
    seed: int = 0,
    context: int | None = None,
    backend: str = "auto",
    weights: str = "float32",
    threads: int | None = None,
    speculate: str | None = None,
    draft: str = "auto",
) -> None:
    """Talks with a model in the terminal; what is piped in is answered line by line.

    Args:
        model: A model's folder (such as runs/NAME), a llama2.c .bin or a .gguf.
        tokenizer: Its tokenizer, if it does not lie beside it.
        system: What the model is told before everything else.
        adapter: A LoRA folder for the model.
        chat_template: alpaca, chatml, llama2, llama3 or plain; the tokenizer's own without it.
        temperature: 0 takes the likeliest token.
        top_p: Share of the probability to draw from.
        max_tokens: Most tokens of an answer.
        seed: Seed of the draws.
        context: Most tokens of the whole conversation; the oldest turns are left out.
        backend: auto, numba or torch.
        weights: float32 or int8.
        threads: Threads of the engine.
        speculate: Who guesses tokens ahead: prompt-lookup, or a folder of heads or of a smaller
            model. Texts stay the same.
        draft: How many tokens are guessed in a step; auto: as many as pay here, or none.
    """
    from paragone._core.errors import UsageError
    from paragone.language._serve_chat import Conversation
    from paragone.language._serve_loading import (
        adapted,
        default_name,
        loaded,
        served_models,
        template_of,
    )

    plain = False
    try:
        weighted, words = loaded(model, tokenizer)
        models = served_models(
            weighted if adapter is None else adapted(weighted, adapter), words,
            name=default_name(model), adapters=None, chat_template=chat_template, most=1,
            context=context, batch=1, backend=backend, weights=weights, threads=threads,
            speculate=speculate, draft=drafts(draft),
        )  # fmt: skip
        (served,) = models.values()
        if served.template is None:
            plain = True
            served.use_template(template_of(words, "plain"))
        talk = Conversation(
            served, system, max_tokens=max_tokens, stops=("\nUser:",) if plain else (), seed=seed,
            temperature=temperature, top_p=top_p,
        )  # fmt: skip
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    if plain:
        _tell(_PLAIN)
    if sys.stdin.isatty():
        _terminal(talk, served.name)
    else:
        for line in _lines(sys.stdin):
            _turn(talk, line, sys.stdout)


def _terminal(talk: Any, name: str) -> None:
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401

    print(f"{name}: /help, Ctrl-D ends")
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\nCtrl-D or /exit ends")
            continue
        if line.strip() == "/exit":
            return
        if line.strip():
            _turn(talk, line, sys.stdout)


def _lines(source: TextIO) -> Iterable[str]:
    for line in source:
        if line.strip() == "/exit":
            return
        if line.strip():
            yield line.rstrip("\n")


def _turn(talk: Any, line: str, out: TextIO) -> None:
    """A command, or something to be answered."""
    word, _, rest = line.strip().partition(" ")
    if word == "/reset":
        talk.reset()
    elif word == "/system":
        talk.system = rest.strip()
    elif word.startswith("/") and word[1:].isalpha():
        print(_HELP, file=sys.stderr if word != "/help" else out)
    else:
        _answer(talk, line, out)


def _answer(talk: Any, line: str, out: TextIO) -> None:
    from paragone.training.run_folder import Interrupt

    left_out, begun = talk.left_out, False
    answer = talk.say(line)
    with Interrupt() as stop:
        try:
            for piece in answer:
                # The first piece often begins with the space that the tokenizer writes.
                piece = piece if begun else piece.lstrip()
                begun = begun or bool(piece)
                out.write(piece)
                out.flush()
                if stop.pending:
                    break
        except ValueError as error:
            _tell(str(error))
        finally:
            answer.close()
    print(" ..." if stop.pending else "", file=out, flush=True)
    if talk.left_out > left_out:
        _tell(f"the context is full: {talk.left_out - left_out} older turns were left out")


def _tell(words: str) -> None:
    print(f"paragone: {words}", file=sys.stderr, flush=True)


def _named(text: str) -> dict[str, str]:
    """Folders by name of a text such as cook=runs/cook,poet=runs/poet."""
    from paragone._core.errors import UsageError

    found = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, sign, path = part.partition("=")
        if not sign or not name or not path:
            raise UsageError(f"--adapters {part!r} is not understood; write NAME=FOLDER")
        found[name] = path
    return found


def _bytes(text: str | None) -> float | None:
    from paragone.lab import units

    return None if text is None else units.size(text, "--memory")
