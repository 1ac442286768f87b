"""`main()`: from the words on the command line to an exit code."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import App, CycloptsError, Parameter

import paragone
from paragone._core.errors import MissingPackageError, UsageError
from paragone._core.lazy import resolve

__all__ = ["COMMANDS", "PYTHON_ONLY", "build_app", "main"]

_OF_API = {
    "list": "list_methods", "show": "show", "compare": "compare", "run": "run",
    "report": "report", "diff": "diff", "replay": "replay", "export": "export",
    "bench": "bench", "tour": "tour", "serve": "serve", "doctor": "doctor", "warmup": "warmup",
    "memory": "memory", "threads": "threads", "train-vision": "train_vision",
    "detect": "detect", "map": "mean_average_precision",
}  # fmt: skip
_OF_JOBS = {
    "serve-model": "serving_jobs:serve_model", "chat": "serving_jobs:chat",
    "finetune": "finetune_job:finetune", "dpo": "dpo_job:dpo",
    "train": "language_train_job:train", "generate": "generate_job:generate",
    "self-instruct": "self_instruct_job:self_instruct",
    "draft-heads": "draft_heads_job:draft_heads",
    "train-vl": "vl_job:train_vl", "caption": "vl_use_jobs:caption", "ask": "vl_use_jobs:ask",
    "draw": "vl_use_jobs:draw",
    "agent record": "agent_data_jobs:record", "agent generate": "agent_data_jobs:generate",
    "agent train": "agent_train_job:train", "agent run": "agent_run_job:run",
    "agent score": "agent_score_job:score",
    "new contestant": "new_job:contestant", "new package": "new_job:package",
}  # fmt: skip
COMMANDS = {
    **{name: f"paragone.lab.api:{function}" for name, function in _OF_API.items()},
    **{name: f"paragone.lab.{function}" for name, function in _OF_JOBS.items()},
}
"""Words of the shell to the function behind them, which is imported when it is asked for."""

_GROUPS = {
    "agent": "Agents that see screenshots: record, generate, train, run, score.",
    "new": "Files to start from: contestant, package.",
}
"""First words of commands of two words."""

PYTHON_ONLY = {"contestants", "progress"}
"""Arguments that take Python objects; the shell has no word for them."""

_TEXT: dict[str, Any] = {
    "data": str | None, "methods": str, "against": str, "with_": list[str] | None,
    "budget": str | None, "repeats": str, "max_latency": str | None, "max_memory": str | None,
    "out": str | None, "model": str, "folder": str, "to": str, "a": str, "b": str, "images": str,
    "gt": str, "detections": str, "compare": str | None, "studies": str,
}  # fmt: skip
_WITH_JSON = {
    "list", "doctor", "warmup", "memory", "threads", "train-vision", "detect", "map", "finetune",
    "train", "self-instruct", "dpo", "generate", "draft-heads", "train-vl", "caption", "ask",
    "draw",
}  # fmt: skip
_JOBS = {
    "tour": "paragone.lab.tour_progress:TourProgress",
    "train-vision": "paragone.lab.vision_jobs:JobProgress",
    "detect": "paragone.lab.vision_jobs:JobProgress",
    "finetune": "paragone.lab.language_progress:LanguageProgress",
    "dpo": "paragone.lab.language_progress:LanguageProgress",
    "draft-heads": "paragone.lab.language_progress:LanguageProgress",
    "train": "paragone.lab.language_progress:LanguageProgress",
    "self-instruct": "paragone.lab.self_instruct_progress:InstructProgress",
    "train-vl": "paragone.lab.language_progress:LanguageProgress",
    "agent generate": "paragone.lab.agent_data_progress:CollectingProgress",
    "agent train": "paragone.lab.agent_train_progress:AgentTrainProgress",
    "agent score": "paragone.lab.language_progress:LanguageProgress",
}
"""Commands that tell steps of one run, not runs of a study, and what shows them."""


def _shell_signature(function: Callable[..., Any], json: bool) -> inspect.Signature:
    """The function's signature in words of the shell."""
    plain = inspect.signature(function, eval_str=False)
    hints = {k: v for k, v in function.__annotations__.items() if k != "return"}
    named = vars(sys.modules[function.__module__]) | vars(resolve("paragone.lab.api"))
    parameters = []
    for name, parameter in plain.parameters.items():
        if name in PYTHON_ONLY:
            continue
        hint = _TEXT[name] if name in _TEXT else eval(hints[name], named)
        if hint is str and parameter.default is None:
            hint = str | None
        if name == "out" and parameter.default not in (None, inspect.Parameter.empty):
            hint = str
        empty = parameter.default == ()
        default = "" if empty and hint is str else None if empty else parameter.default
        parameters.append(parameter.replace(annotation=hint, default=default))
    if json:
        option = inspect.Parameter(
            "json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool
        )
        parameters.append(option)
    return plain.replace(parameters=parameters, return_annotation=inspect.Signature.empty)


def _command(name: str, function: Callable[..., Any]) -> Callable[..., int]:
    json = name in _WITH_JSON
    signature = _shell_signature(function, json)

    def call(*arguments: Any, **options: Any) -> int:
        as_json = options.pop("json", False)
        if options.get("with_", ()) is None:
            options["with_"] = ()
        if "progress" in inspect.signature(function).parameters:
            return _with_progress(name, function, arguments, options, as_json)
        return _present(function(*arguments, **options), as_json)

    call.__name__ = name
    # A description of several lines is one paragraph.
    text = re.sub(r"\n {8,}", " ", inspect.getdoc(function) or "")
    if "study" in signature.parameters:
        known = resolve("paragone.lab.studies:ids")()
        questions = ", ".join(name for name in known if not name.endswith("_speed"))
        text = text.replace("\n\nArgs:", f"\n\nStudies: {questions}.\n\nArgs:")
    if json:
        text += ("" if "Args:" in text else "\n\nArgs:") + "\n    json: Print data, not text."
    call.__doc__ = text
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return call


def _with_progress(
    name: str,
    function: Callable[..., Any],
    arguments: Sequence[Any],
    options: dict[str, Any],
    as_json: bool,
) -> int:
    if options.get("dry_run"):
        return _present(function(*arguments, **options), False)
    with resolve(_JOBS.get(name, "paragone.lab.progress:Progress"))() as progress:
        result = function(*arguments, **options, progress=progress)
    return _present(result, as_json)


def _present(result: Any, as_json: bool) -> int:
    if result is None:
        return 0
    show = getattr(result, "print", None)
    if as_json:
        print(result.json())
    elif show is not None:
        show()
    else:
        print(result)
    return int(getattr(result, "exit_code", 0))


def _told(default: Any) -> str | None:
    """A default as the help shows it: none of a switch, or of what is empty."""
    return None if default in (None, "") or default is False else str(default)


def _meant(words: Sequence[str]) -> list[str]:
    """The commands that begin with the first word; all if none does."""
    first = words[0] if words else ""
    return [name for name in COMMANDS if name.partition(" ")[0] == first] or list(COMMANDS)


def build_app(words: Sequence[str] = ()) -> App:
    """Builds the application.

    Args:
        words: What it will be called with: of `COMMANDS` it gets those that may be meant.
    """
    app = App(
        name="paragone",
        help="Which method should I use, for my data, on my machine?",
        version=paragone.__version__,
        help_format="plaintext",
        default_parameter=Parameter(negative=(), show_default=_told),
        suppress_keyboard_interrupt=False,
    )
    groups = {name: App(name=name, help=text) for name, text in _GROUPS.items()}
    for name in _meant(words):
        group, _, last = name.rpartition(" ")
        if group and group not in app:
            app.command(groups[group])
        (groups[group] if group else app).command(
            _command(name, resolve(COMMANDS[name])), name=last
        )
    return app


def main(tokens: Sequence[str] | None = None) -> None:
    """Runs a command and exits with its code."""
    words = list(sys.argv[1:] if tokens is None else tokens)
    code = _guarded(words)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (such as `head`) has left: nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(code)


def _guarded(words: list[str]) -> int:
    try:
        code = build_app(words)(
            words, print_error=False, exit_on_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        return _tell(_one_line(error), 2)
    except UsageError as error:
        return _tell(str(error), 2)
    except MissingPackageError as error:
        return _tell(str(error), 2)
    except KeyboardInterrupt:
        return _tell("interrupted; the same command goes on from here", 130)
    except BrokenPipeError:
        return 0
    return int(code or 0)


def _one_line(error: CycloptsError) -> str:
    text = " ".join(str(error).split())
    return f"{text} (paragone --help shows all)"


def _tell(message: str, code: int) -> int:
    print(f"paragone: {' '.join(message.split())}", file=sys.stderr)
    return code
