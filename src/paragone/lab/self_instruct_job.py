"""`self-instruct`: rows to tune on, written by a teacher, as the shell calls it.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Made", "self_instruct"]


@dataclasses.dataclass(frozen=True)
class Made:
    """A finished run; `str()` is what the shell prints."""

    written: Any

    @property
    def exit_code(self) -> int:
        return 0 if self.written.finish_reason == "count" else 1

    def json(self) -> str:
        w = self.written
        return json.dumps({
            "folder": str(w.folder), "rows": len(w), "requests": w.requests,
            "prompt_tokens": w.prompt_tokens, "completion_tokens": w.completion_tokens,
            "cost": w.cost, "dropped": dict(w.dropped), "finish_reason": w.finish_reason,
        })  # fmt: skip

    def __str__(self) -> str:
        w = self.written
        why = {
            "count": "", "cost": "stopped: the cost was reached",
            "stalled": "stopped: request after request gave nothing new",
        }[w.finish_reason]  # fmt: skip
        rows = w.folder / "rows.json"
        lines = [w.told(), why]
        if w:
            lines.append(f"next: paragone finetune MODEL --rows {rows} --out FOLDER")
        return "\n".join(filter(None, lines))


def self_instruct(
    teacher: str,
    *,
    out: str | os.PathLike[str],
    name: str = "",
    seeds: str | None = None,
    count: int = 100,
    examples: int = 3,
    own_examples: int = 0,
    similarity: float = 0.7,
    temperature: float = 1.0,
    max_tokens: int = 3072,
    parallel: int = 1,
    prices: str = "",
    most_cost: float | None = None,
    completions: bool = False,
    head: str | None = None,
    compat: bool = False,
    seed: int = 0,
    progress: Callable[[Any], None] | None = None,
) -> Made:
    """Makes instruction rows from a few seeds and a teacher. The same call continues.

    Args:
        teacher: URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1 (the key is
            taken from OPENAI_API_KEY), or a model of one's own: its folder or file.
        out: Folder of the rows and of all requests.
        name: The model's name on the server.
        seeds: JSON or JSONL of rows with instruction, input and output, or of the published seed
            tasks; without it a dozen simple ones.
        count: Rows wanted.
        examples: Seeds that each prompt shows.
        own_examples: Rows made before that each prompt shows besides.
        similarity: F-measure of ROUGE-L above which an instruction is not new.
        temperature: Of the teacher's draws.
        max_tokens: Longest answer.
        parallel: Requests under way at once.
        prices: Price of a million tokens read and written, such as 0.15,0.6.
        most_cost: Stop once so much has been spent.
        completions: Ask as a completion, not as a chat.
        head: A file whose text replaces the prompt's demands.
        compat: Number the demands as the published prompt does.
        seed: Of the choice of examples.
        progress: Called after each request.
    """
    from paragone._core.errors import UsageError
    from paragone.language._instruct_seeds import SEEDS
    from paragone.language.self_instruct import TeacherError
    from paragone.language.self_instruct import self_instruct as make

    try:
        written = make(
            SEEDS if seeds is None else Path(seeds), _teacher(teacher, name, not completions),
            count=count, folder=Path(out), examples=examples, own_examples=own_examples,
            similarity=similarity, temperature=temperature, max_tokens=max_tokens,
            parallel=parallel, prices=_prices(prices), most_cost=most_cost, compat=compat,
            head=None if head is None else Path(head).read_text(encoding="utf-8"), seed=seed,
            progress=progress,
        )  # fmt: skip
    except UsageError:
        raise
    except (ValueError, FileNotFoundError, TeacherError) as error:
        raise UsageError(str(error)) from error
    return Made(written)


def _teacher(teacher: str, name: str, chat: bool) -> Any:
    from paragone._core.errors import UsageError
    from paragone.language._instruct_teacher import Endpoint, LocalTeacher

    if teacher.startswith(("http://", "https://")):
        if not name:
            raise UsageError(f"{teacher}: name the server's model with --name")
        return Endpoint(teacher, name, chat=chat)
    from paragone.language import load

    model, tokenizer = load(Path(teacher))
    if tokenizer is None:
        raise UsageError(f"{teacher}: no tokenizer beside it")
    return LocalTeacher(model, tokenizer, chat=chat)


def _prices(text: str) -> tuple[float, float] | None:
    from paragone._core.errors import UsageError

    if not text:
        return None
    try:
        read, written = (float(word) for word in text.split(","))
    except ValueError as error:
        raise UsageError(f"--prices {text!r} is not understood; write two like 0.15,0.6") from error
    return read, written
