r"""From a path to what is served: model, adapters, engine, pages, template.

Keys and values of a token take $2 L G D$ numbers of four bytes; the memory for them is what
`batch` texts of full length need, or a quarter of what is free, and never less than one text.

Shapes: L layers, G key heads, D head width.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paragone.language._serve_lane import Lane
from paragone.language._serve_model import Served

__all__ = [
    "adapted", "default_name", "free_memory", "lane_of", "loaded", "served_models", "template_of",
]  # fmt: skip


def served_models(
    model: Any,
    tokenizer: Any,
    *,
    name: str | None,
    adapters: Mapping[str, Any] | None,
    chat_template: Any,
    most: int,
    context: int | None = None,
    backend: str = "auto",
    weights: str = "float32",
    threads: int | None = None,
    speculate: Any = None,
    draft: Any = "auto",
    **lane: Any,
) -> dict[str, Served]:
    """Makes what `Server` takes; the arguments are those of `serve`.

    Raises:
        ValueError: No tokenizer, an unusable context, memory for less than one text, or nobody that
            guesses for this model.
    """
    from paragone.language._draft_files import drafter_of
    from paragone.language.engine import Engine

    names = [name or default_name(model), *(adapters or {})]
    if len(set(names)) < len(names):
        raise ValueError(f"models of the same name: {', '.join(names)}")
    model, tokenizer = loaded(model, tokenizer)
    template = template_of(tokenizer, chat_template)
    drafter = drafter_of(speculate, model, tokenizer)
    models = [model, *(adapted(model, adapter) for adapter in (adapters or {}).values())]
    found = {}
    for at, (title, one) in enumerate(zip(names, models, strict=True)):
        config = one.config
        length = config.max_position_embeddings if context is None else context
        if not 2 <= length <= config.max_position_embeddings:
            raise ValueError(
                f"context={length}: 2 to {config.max_position_embeddings} tokens are possible"
            )
        engine = Engine.make(one, backend=backend, weights=weights, threads=threads)
        ends = {*config.eos, *(() if tokenizer.eos_id is None else (tokenizer.eos_id,))}
        found[title] = Served(
            title, lane_of(engine, config, length, drafter=drafter, draft=draft, **lane),
            tokenizer, template,
            min(config.vocab_size, tokenizer.vocab_size), length, frozenset(ends), most,
            namespace="" if at == 0 else title,
        )  # fmt: skip
    return found


def lane_of(
    engine: Any,
    config: Any,
    context: int,
    *,
    batch: int = 32,
    chunk: int = 256,
    memory: float | None = None,
    page_size: int = 16,
    drafter: Any = None,
    draft: Any = "auto",
) -> Lane:
    """Makes a lane with as many pages as are of use and as fit.

    Args:
        engine: The engine.
        config: The model's.
        context: Most tokens of a sequence.
        batch: Most sequences in a step.
        chunk: Most tokens in a step.
        memory: Bytes for keys and values (None: a quarter of what is free).
        page_size: Tokens of a page.
        drafter: Who guesses tokens ahead.
        draft: How much.

    Raises:
        ValueError: The memory does not hold one sequence.
    """
    each = 8 * config.num_hidden_layers * config.kv_heads * config.head_size * page_size
    one = -(-context // page_size)
    fit = int((free_memory() / 4 if memory is None else memory) // each)
    if memory is not None and fit < one:
        raise ValueError(
            f"memory={memory:g} bytes hold {fit} pages; a text of {context} tokens takes {one} "
            f"({one * each} bytes): give more memory or a shorter context"
        )
    pages = max(one, min(fit, batch * one))
    return Lane(engine, pages, page_size, batch, chunk, drafter=drafter, draft=draft)


def free_memory() -> int:
    """Bytes of memory that are free."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def template_of(tokenizer: Any, wanted: Any) -> Any:
    """The chat template: as wanted, or the tokenizer's own, or None.

    Args:
        tokenizer: The model's tokenizer.
        wanted: A template, a name such as "chatml", or None.
    """
    if not isinstance(wanted, str):
        return tokenizer.chat_template if wanted is None else wanted
    from paragone.language.chat import ChatTemplate

    begin, end = (
        "" if token is None else tokenizer.piece(token)
        for token in (tokenizer.bos_id, tokenizer.eos_id)
    )  # fmt: skip
    return ChatTemplate.named(wanted, bos_token=begin, eos_token=end)


def default_name(model: Any) -> str:
    """The name that clients use if none is given: that of the folder."""
    if isinstance(model, str | os.PathLike):
        return Path(model).resolve().name or "paragone"
    return "paragone"


def loaded(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Model and tokenizer, read where a path is given.

    Args:
        model: A `Llama`, or a path.
        tokenizer: A tokenizer, a path, or None: what lies beside the model.

    Raises:
        ValueError: There is no tokenizer.
    """
    if isinstance(model, str | os.PathLike):
        from paragone.language.checkpoints import load

        beside = tokenizer if isinstance(tokenizer, str | os.PathLike) else None
        source, (model, found) = model, load(Path(model), tokenizer=beside)  # pyright: ignore
        tokenizer = found if beside is not None or tokenizer is None else tokenizer
        if tokenizer is None:
            raise ValueError(f"{source}: there is no tokenizer beside the model; name its file")
    elif isinstance(tokenizer, str | os.PathLike):
        from paragone.language.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(tokenizer)
    if tokenizer is None:
        raise ValueError("tokenizer=None: a model in memory needs a tokenizer or the path of one")
    return model, tokenizer


def adapted(model: Any, adapter: Any) -> Any:
    """The model with an adapter merged into a copy of its weights.

    Args:
        model: A `Llama`.
        adapter: A LoRA folder, or a `Llama` that is returned as it is.
    """
    if not isinstance(adapter, str | os.PathLike):
        return adapter
    from paragone.language.lora import load_adapter, merge_lora

    one = copy.deepcopy(model)
    load_adapter(one, adapter)
    merge_lora(one)
    return one
