r"""Chat templates: conversations as one text, and which characters of it the assistant writes.

A template is a Jinja text as published models carry it. Training needs more than the text: the
span of what the assistant writes, its end-of-turn marker included, because that is what is
learned. Where a template marks it by `{% generation %}`, the marks are used; else the span is
where the text grows from "prompt, and now the assistant" to "prompt with its answer".

A template comes with a checkpoint, so it is foreign code: it runs in Jinja's immutable sandbox,
and its loops, calls and output are counted against limits.

References:
    Taori et al. (2023), Stanford Alpaca: the prompt of 52k rows.
    Touvron et al. (2023), Llama 2, arXiv:2307.09288, appendix A.3.3; Llama 3's model card.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from paragone.language._tokenizer_chats import NAMED

__all__ = ["NAMED", "ChatTemplate"]

_MARKER = re.compile(r"<\|[a-z_0-9]+\|>")
MOST_TEXT = 4_000_000
MOST_WORK = 200_000_000
_MOST_NUMBER = 1_000_000


class _Generation(Extension):
    """`{% generation %}` puts a mark before and behind what the assistant writes."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        first, last = (
            nodes.Output([nodes.Name(name, "load")]).set_lineno(line)
            for name in ("_first_mark", "_last_mark")
        )
        return nodes.Scope([first, *body, last]).set_lineno(line)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with a budget: turns, calls and texts are paid for in characters.

    A turn of a loop and a call cost the template's length, which is what they can write at most
    besides values; a value costs its own.
    """

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, length: int, **options: Any) -> None:
        super().__init__(**options)
        self.price, self.purse = max(length, 200), threading.local()
        self.finalize = self.written

    def _parse(self, source: str, name: Any, filename: Any) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            line = loop.lineno
            loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None).set_lineno(line)
        return _Joined().visit(tree)

    def spend(self, characters: int) -> None:
        """Takes from the budget."""
        left = getattr(self.purse, "left", MOST_WORK) - characters
        self.purse.left = left
        if left < 0:
            raise SecurityError(f"more work than {MOST_WORK} characters: too many turns or texts")

    def written(self, value: Any) -> Any:
        """A value that is put out."""
        self.spend(len(value) if isinstance(value, str) else 100)
        return value

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """Items of a loop, each paid for."""
        for item in items:
            self.spend(self.price)
            yield item

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore
        self.spend(self.price)
        _bounded(*args, *kwargs.values())
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            # Joining, replacing and filling in give at most so much.
            _product(len(owner) + 1, sum(_size(value) for value in (*args, *kwargs.values())) + 1)
        return super().call(context, obj, *args, **kwargs)

    def joined(self, parts: Sequence[Any]) -> str:
        """The operator `~`."""
        return _short("".join(map(str, parts)))

    def join(self, parts: Iterable[Any], between: str = "", attribute: Any = None) -> str:
        """The filter `join`."""
        words = [
            str(part if attribute is None else self.getitem(part, attribute)) for part in parts
        ]
        _product(1, sum(map(len, words)) + len(words) * len(between))
        return between.join(words)

    def replace(self, text: str, old: str, new: str, count: int = -1) -> str:
        """The filter `replace`."""
        _product(len(text) + 1, len(str(new)) + 1)
        return str(text).replace(str(old), str(new), count)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.spend(self.price)
        if operator == "*" and not isinstance(left, int | float):
            left, right = right, left
        if operator == "*" and isinstance(right, str | list | tuple):
            _product(len(right), max(int(left), 0))
        elif operator == "**" or (operator == "%" and isinstance(left, str)):
            raise SecurityError(f"the operator {operator} is not allowed here")
        return _short(super().call_binop(context, operator, left, right))


class _Joined(NodeTransformer):
    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        parts = nodes.List([self.visit(part) for part in node.nodes]).set_lineno(node.lineno)
        return nodes.Filter(parts, "_joined", [], [], None, None).set_lineno(node.lineno)


def _size(value: Any) -> int:
    """Characters that a value has as text, at most about."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_size(k) + _size(v) for k, v in value.items())
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 20


def _product(length: int, times: int) -> None:
    if length * times > MOST_WORK:
        raise SecurityError(f"a text of more than {MOST_WORK} characters")


def _short(value: Any) -> Any:
    if isinstance(value, str | list | tuple) and len(value) > MOST_TEXT:
        raise SecurityError(f"a text of more than {MOST_TEXT} characters")
    if isinstance(value, int) and abs(value) > 1 << 64:
        raise SecurityError("a number beyond 64 bits")
    return value


def _bounded(*values: Any) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > _MOST_NUMBER:
            raise SecurityError(f"an argument of {value}; at most {_MOST_NUMBER}")


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _as_json(value: Any, indent: int | None = None, **options: Any) -> str:
    _bounded(indent)
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


_NO_FILTERS = ("center", "indent", "format", "wordwrap", "xmlattr", "urlize", "pprint", "random")


@functools.lru_cache(maxsize=64)
def _compiled(text: str) -> tuple[_Sandbox, jinja2.Template]:
    sandbox = _Sandbox(
        len(text),
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols, _Generation],
        cache_size=0,
    )
    sandbox.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    for name in _NO_FILTERS:
        del sandbox.filters[name]
    sandbox.filters |= {
        "tojson": _as_json, "_counted": sandbox.counted, "_joined": sandbox.joined,
        "join": sandbox.join, "replace": sandbox.replace,
    }  # fmt: skip
    try:
        return sandbox, sandbox.from_string(text)
    except (jinja2.TemplateError, RecursionError) as error:
        raise ValueError(f"the chat template is no Jinja that runs here: {error}") from error


class ChatTemplate:
    """How a conversation is written.

    Prefer `Tokenizer.chat_template`, which a checkpoint brings along, to any other for a model
    that was tuned; a named one for a model that is to be tuned.

    Args:
        template: A Jinja text; it sees `messages`, `add_generation_prompt`, `bos_token`,
            `eos_token` and `tools`.
        bos_token: Beginning of a text.
        eos_token: End of a text.

    Raises:
        ValueError: The text is no Jinja, or uses what is not allowed.

    Example:
        >>> chat = ChatTemplate.named("chatml")
        >>> text, spans = chat.render_with_spans([{"role": "assistant", "content": "Hi"}])
        >>> [text[start:end] for start, end in spans]
        ['Hi<|im_end|>']
    """

    def __init__(self, template: str, *, bos_token: str = "<s>", eos_token: str = "</s>") -> None:
        if len(template) > _MOST_NUMBER:
            raise ValueError(
                f"a chat template of {len(template)} characters; at most {_MOST_NUMBER}"
            )
        _compiled(template)
        self.template, self.bos_token, self.eos_token = template, bos_token, eos_token

    @classmethod
    def named(cls, name: str, *, bos_token: str = "<s>", eos_token: str = "</s>") -> ChatTemplate:
        """A template by name: "alpaca", "chatml", "llama2", "llama3" or "plain".

        Raises:
            ValueError: No such name.
        """
        if name not in NAMED:
            raise ValueError(f"template {name!r} is none of {', '.join(NAMED)}")
        return cls(NAMED[name], bos_token=bos_token, eos_token=eos_token)

    def with_tokens(self, bos_token: str | None, eos_token: str | None) -> ChatTemplate:
        """The same template with other words for begin and end ("" for None)."""
        return ChatTemplate(self.template, bos_token=bos_token or "", eos_token=eos_token or "")

    def for_tokenizer(self, tokenizer: Any) -> ChatTemplate:
        """The same template with a tokenizer's own words for begin and end."""
        ids = tokenizer.bos_id, tokenizer.eos_id
        return self.with_tokens(*(None if id is None else tokenizer.piece(id) for id in ids))

    def special_tokens(self) -> list[str]:
        """Markers such as `<|im_start|>` that the template writes; a tokenizer should hold them."""
        return sorted(set(_MARKER.findall(self.template)))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """Writes a conversation.

        Args:
            messages: Mappings with "role" and "content".
            add_generation_prompt: Whether the text ends where the assistant is to begin.
            tools: Descriptions of functions, for templates that know them.
            variables: What else the template reads.

        Raises:
            ValueError: The template refuses the conversation, fails, or passes a limit.
        """
        return self._run(messages, add_generation_prompt, ("", ""), tools=tools, **variables)

    def _run(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        marks: tuple[str, str],
        **variables: Any,
    ) -> str:
        _checked(messages)
        sandbox, template = _compiled(self.template)
        sandbox.purse.left = MOST_WORK
        parts, size = [], 0
        try:
            for part in template.generate(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt, bos_token=self.bos_token,
                eos_token=self.eos_token, _first_mark=marks[0], _last_mark=marks[1], **variables,
            ):  # fmt: skip
                size += len(part)
                if size > MOST_TEXT:
                    raise SecurityError(f"a text of more than {MOST_TEXT} characters")
                parts.append(part)
        except (
            jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError,
            ArithmeticError, RecursionError,
        ) as error:  # fmt: skip
            raise ValueError(
                f"the chat template could not write these messages: {error or 'too deep'}"
            ) from error
        return "".join(parts)

    def render_with_spans(
        self, messages: Sequence[Mapping[str, Any]], **variables: Any
    ) -> tuple[str, list[tuple[int, int]]]:
        """Writes a conversation and says what of it the assistant writes.

        Returns:
            The text, and (start, end) in characters for each message of the assistant, its end
            marker included.

        Raises:
            ValueError: As `render`; or the answers cannot be found, because the text before one
                changes once it is there, and the template has no generation marks.
        """
        if "generation" in self.template and "endgeneration" in self.template:
            return self._marked(messages, variables)
        text = self.render(messages, **variables)
        spans, least = [], 0
        for at, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.render(messages[:at], True, **variables)
            until = self.render(messages[: at + 1], **variables)
            if not text.startswith(before) or len(before) < least:
                raise ValueError(
                    f"the chat template writes the text before message {at} differently once it "
                    "is answered; mark the answer by {% generation %} … {% endgeneration %}"
                )
            end = _shared(until, text)
            written = text[len(before) : end]
            end = len(before) + max(len(written.rstrip()), _end_of(written, message["content"]))
            spans.append((len(before), end))
            least = end
        return text, spans

    def _marked(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> tuple[str, list[tuple[int, int]]]:
        used = (
            set(self.template)
            | set(repr((messages, variables)))
            | set(json.dumps([*messages, *variables.values()], default=str, ensure_ascii=False))
        )
        unused = (c for c in map(chr, range(0xF0000, 0xFFFFD)) if c not in used)
        first, last = next(unused), next(unused)
        marked = self._run(messages, False, (first, last), **variables)
        parts, spans, at = [], [], 0
        for piece in marked.split(first):
            inside, mark, after = piece.partition(last)
            if mark:
                spans.append((at, at + len(inside)))
            parts += [inside, after]
            at += len(inside) + len(after)
        return "".join(parts), spans


def _checked(messages: Sequence[Mapping[str, Any]]) -> None:
    for at, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"message {at} is {message!r}; a mapping with role and content is")


def _shared(a: str, b: str) -> int:
    """Length of the common beginning."""
    if b.startswith(a):
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(b))


def _end_of(written: str, content: Any) -> int:
    """Where an answer's own words end, blanks at its end included."""
    if not isinstance(content, str):
        return 0
    at = written.find(content)
    return at + len(content) if at >= 0 else 0
