"""A model as it is served: its names, its words, and how a request becomes a job.

Shapes: V vocabulary.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from paragone.language._serve_asking import Fields, is_token, wishes
from paragone.language._serve_choice import Failure, Job, Wishes
from paragone.language._serve_lane import Lane
from paragone.language._serve_replies import Asked

__all__ = ["Served", "plain_messages"]

_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclasses.dataclass
class Served:
    """A model under one name.

    Attributes:
        name: What clients call it.
        lane: Where it runs.
        tokenizer: Its tokens.
        template: How conversations are written, or None.
        vocabulary: Tokens V.
        context: Most tokens of a sequence, prompt and text.
        ends: Tokens that end a text.
        most: Most texts of a request.
        namespace: What its keys and values depend on besides the tokens.
        created: When it was loaded, in seconds of the epoch.
    """

    name: str
    lane: Lane
    tokenizer: Any
    template: Any
    vocabulary: int
    context: int
    ends: frozenset[int]
    most: int = 64
    namespace: str = ""
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.chat_ends: tuple[frozenset[int], tuple[str, ...]] = (frozenset(), ())
        if self.template is not None:
            self.use_template(self.template)

    def use_template(self, template: Any) -> None:
        """Writes conversations in another way.

        Args:
            template: A `ChatTemplate`.
        """
        self.template = template
        self.chat_ends = self._ends_of_turn()

    def asked(self, kind: str, body: Any) -> Asked:
        """Reads a request.

        Args:
            kind: "completion" or "chat".
            body: What was sent.

        Raises:
            Failure: It cannot be met.
        """
        fields = Fields(body, kind)
        ends = self.ends | self.chat_ends[0] if kind == "chat" else self.ends
        wanted = wishes(fields, kind, self.vocabulary, ends, self.most)
        if kind == "chat":
            wanted.stops += self.chat_ends[1]
            prompts, texts = [self._conversation(fields)], [""]
        else:
            prompts, texts = self._prompts(fields, wanted.echo)
        count = fields.integer("n", 1, 1, self.most) or 1
        stream, usage = fields.flag("stream"), fields.include_usage()
        if stream and wanted.rank:
            raise Failure("best_of above n cannot be streamed: all texts must be known first",
                          param="best_of", code="unsupported_value")  # fmt: skip
        self._check_lengths(fields, wanted, prompts)
        job = Job(
            self.tokenizer, prompts, wanted, texts=texts, stream=stream, context=self.context,
            vocabulary=self.vocabulary, namespace=self.namespace,
        )  # fmt: skip
        return Asked(job, kind, self.name, count, usage)

    def _check_lengths(
        self, fields: Fields, wanted: Wishes, prompts: Sequence[Sequence[int]]
    ) -> None:
        if len(prompts) * len(wanted.samplings) > self.most:
            raise Failure(
                f"{len(prompts)} prompts with {len(wanted.samplings)} texts each; at most "
                f"{self.most} texts in all", param="n", code="invalid_value",
            )  # fmt: skip
        given = "max_tokens" in fields.body or "max_completion_tokens" in fields.body
        for ids in prompts:
            least = wanted.max_tokens if given and wanted.max_tokens is not None else 1
            if len(ids) + least > self.context:
                param = "messages" if "messages" in fields.body else "prompt"
                if len(ids) < self.context:
                    param = "max_tokens"
                raise Failure(
                    f"the prompt has {len(ids)} tokens and {least} are to follow; the context "
                    f"holds {self.context}", param=param, code="context_length_exceeded",
                )  # fmt: skip

    def _prompts(self, fields: Fields, echo: bool) -> tuple[list[list[int]], list[str]]:
        given = fields.body.get("prompt", "")
        several = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
        prompts, texts = [], []
        for prompt in given if several else [given]:
            if isinstance(prompt, str):
                ids = self._encode(prompt, "prompt")
                texts.append(prompt)
            elif isinstance(prompt, list) and all(is_token(t, self.vocabulary) for t in prompt):
                ids = list(prompt)
                texts.append(self.tokenizer.decode(ids) if echo else "")
            else:
                raise Failure(
                    "prompt: a string, a list of tokens from 0 to "
                    f"{self.vocabulary - 1}, or a list of those is expected",
                    param="prompt", code="invalid_value",
                )  # fmt: skip
            if not ids:
                raise Failure("prompt: there is no token in it, and no begin-of-text token to "
                              "start from", param="prompt", code="invalid_value")  # fmt: skip
            prompts.append(ids)
        return prompts, texts

    def _encode(self, text: str, param: str, bos: bool = True) -> list[int]:
        try:
            ids = list(self.tokenizer.encode(text, bos=bos))
        except ValueError as error:
            raise Failure(f"{param}: {error}", param=param, code="invalid_value") from error
        if max(ids, default=0) >= self.vocabulary:
            raise Failure(f"{param}: token {max(ids)} is unknown to the model, which has "
                          f"{self.vocabulary}", param=param, code="invalid_value")  # fmt: skip
        return ids

    def _conversation(self, fields: Fields) -> list[int]:
        if self.template is None:
            raise Failure(
                f"{self.name} has no chat template; serve it with one (alpaca, chatml, llama2, "
                "llama3, plain), or ask /v1/completions",
                code="no_chat_template",
            )  # fmt: skip
        messages = plain_messages(fields.body.get("messages"))
        tools = fields.body.get("tools") or None
        if fields.body.get("tool_choice") == "none":
            tools = None
        if tools is not None and not (
            isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)
        ):
            raise Failure("tools: a list of objects is expected", param="tools")
        return self.conversation(messages, tools)

    def conversation(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None
    ) -> list[int]:
        """Tokens of a conversation, up to where the assistant begins.

        Args:
            messages: Mappings with role and content.
            tools: Descriptions of functions.

        Raises:
            Failure: The template refuses them, or has no place for tools.
        """
        try:
            text = self.template.render(messages, add_generation_prompt=True)
            if tools is not None:
                plain, text = text, self.template.render(
                    messages, add_generation_prompt=True, tools=tools
                )  # fmt: skip
                if text == plain:
                    raise Failure("the chat template of this model has no place for tools",
                                  param="tools", code="unsupported_value")  # fmt: skip
        except ValueError as error:
            raise Failure(str(error), param="messages", code="invalid_value") from error
        return self._encode(text, "messages")

    def _ends_of_turn(self) -> tuple[frozenset[int], tuple[str, ...]]:
        """What the template writes behind an answer, as a token or as a stop string."""
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "zqz"}]
        try:
            text, spans = self.template.render_with_spans(turns)
        except ValueError:
            return frozenset(), ()
        if not spans:
            return frozenset(), ()
        start, end = spans[-1]
        mark = text[start:end].rpartition("zqz")[2].strip()
        if not mark or mark == getattr(self.template, "eos_token", ""):
            return frozenset(), ()
        ids = self._encode(mark, "template", bos=False)
        return (frozenset(ids), ()) if len(ids) == 1 else (frozenset(), (mark,))


def plain_messages(given: Any) -> list[dict[str, Any]]:
    """Messages with their content as one text.

    Args:
        given: The field `messages` of a request.

    Raises:
        Failure: They are no messages, or hold something else than text.
    """
    if not isinstance(given, list) or not given:
        raise Failure("messages: a list with at least one message is expected", param="messages")
    found = []
    for at, message in enumerate(given):
        where = f"messages[{at}]"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise Failure(f"{where}: an object with a role of {', '.join(_ROLES)} is expected",
                          param="messages")  # fmt: skip
        content = message.get("content")
        if isinstance(content, list):
            texts = [
                part["text"] for part in content
                if isinstance(part, dict) and part.get("type") == "text"
                and isinstance(part.get("text"), str)
            ]  # fmt: skip
            if len(texts) < len(content):
                raise Failure(f"{where}: only parts of the type text can be read",
                              param="messages", code="unsupported_value")  # fmt: skip
            content = "".join(texts)
        if content is None and message["role"] == "assistant":
            content = ""
        if not isinstance(content, str):
            raise Failure(f"{where}: content is to be a text", param="messages")
        role = "system" if message["role"] == "developer" else message["role"]
        found.append({**message, "role": role, "content": content})
    return found
