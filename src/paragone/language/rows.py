"""Rows to learn from, as the usual files hold them, and as tokens of which some are learned.

What is read becomes a conversation: a list of `{"role", "content"}`. What is learned is what the
assistant writes, its end included, and that is decided by characters: the whole text is rendered
and tokenised once, and a token is learned if it holds a character of an answer. Counting the
prompt's tokens apart would be wrong where a token runs over the boundary, and by one where the
prompt ends in a blank.

Formats of rows: the 52k format (instruction, input, output; also a seed task's instances), messages
(role, content), ShareGPT (conversations of from, value), prompt and completion, question and
answer. Of pairs: prompt, chosen, rejected as strings or messages; chosen and rejected as whole
conversations; ShareGPT pairs; question, response_j, response_k.

References:
    Taori et al. (2023), Stanford Alpaca, section "Data Release" (the 52k format).
    Bai et al. (2022), arXiv:2204.05862 (transcripts of "Human:" and "Assistant:").

Shapes: lists of tokens; T tokens of a row.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

from paragone.language._tune_read import read_records

__all__ = [
    "Conversation", "Encoded", "EncodedPair", "Found", "Message", "Pair", "encode_pair",
    "encode_row", "read_pairs", "read_rows",
]  # fmt: skip

Message = dict[str, Any]
Conversation = list[Message]
T = TypeVar("T")

_ROLES = {
    "user": "user", "human": "user", "prompter": "user", "assistant": "assistant",
    "gpt": "assistant", "bot": "assistant", "model": "assistant", "function_call": "assistant",
    "system": "system", "developer": "system", "tool": "tool", "function": "tool",
    "observation": "tool", "ipython": "tool",
}  # fmt: skip
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROW_FORMATS = (
    "instruction (input) output | messages | conversations | prompt completion | question answer"
)
_PAIR_FORMATS = (
    "prompt chosen rejected | chosen rejected | conversations chosen rejected | "
    "question response_j response_k | instruction (input) chosen rejected"
)


class Template(Protocol):
    """What `paragone.language.ChatTemplate` can do, as far as it is needed here."""

    def render_with_spans(self, messages: Conversation, /) -> tuple[str, list[tuple[int, int]]]: ...


class SkippedError(ValueError):
    """A record that is left out, with the reason that it is counted under."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, one of them preferred.

    Attributes:
        prompt: What comes before.
        chosen: The preferred answer: messages, of which the first is the assistant's.
        rejected: The other one.
    """

    prompt: Conversation
    chosen: Conversation
    rejected: Conversation


class Found(list[T], Generic[T]):
    """What was read: a list that also tells what was left out.

    Attributes:
        skipped: Reason to the number of records.
        problems: One line for each record that was left out: file, record, reason.
    """

    def __init__(self) -> None:
        super().__init__()
        self.skipped: Counter[str] = Counter()
        self.problems: list[str] = []

    def told(self) -> str:
        """A line on what was left out; empty if nothing was."""
        parts = [f"{count} {reason}" for reason, count in self.skipped.items()]
        return f"left out: {', '.join(parts)}" if parts else ""


def read_rows(source: Any) -> Found[Conversation]:
    """Reads conversations to learn from.

    Args:
        source: A file (.json, .jsonl, .csv, .parquet, also .gz), a folder of them, a list of
            mappings, or a data frame. Conversations that are already lists of messages are taken.

    Returns:
        A list of conversations; `.skipped` and `.problems` tell what was left out and why.

    Raises:
        ValueError: A broken file, an unknown format, or nothing that can be used.
        FileNotFoundError: No such file.

    Example:
        >>> read_rows([{"instruction": "Add.", "input": "2, 3", "output": "5"}])[0][1]
        {'role': 'assistant', 'content': '5'}
    """
    return _read(source, _conversations, _ROW_FORMATS)


def read_pairs(source: Any) -> Found[Pair]:
    """Reads preferred and rejected answers.

    Args:
        source: As in `read_rows`; `Pair`s are taken as they are.

    Returns:
        A list of `Pair`; `.skipped` and `.problems` tell what was left out and why.

    Raises:
        ValueError: A broken file, an unknown format, or nothing that can be used.
        FileNotFoundError: No such file.

    Example:
        >>> read_pairs([{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}])[0].prompt
        [{'role': 'user', 'content': 'Hi'}]
    """
    if isinstance(source, Sequence) and source and all(isinstance(p, Pair) for p in source):
        found: Found[Pair] = Found()
        found.extend(source)
        return found
    return _read(source, _pairs, _PAIR_FORMATS)


def _read(
    source: Any, convert: Callable[[Mapping[str, Any]], Iterator[T]], formats: str
) -> Found[T]:
    found: Found[T] = Found()
    count = 0
    for place, record in read_records(source):
        count += 1
        try:
            found.extend(convert(record))
        except SkippedError as reason:
            found.skipped[str(reason)] += 1
            found.problems.append(f"{place}: {reason}")
        except KeyError as error:
            raise ValueError(
                f"{place}: has {', '.join(map(str, record)) or 'nothing'}; expected {formats}"
            ) from error
    if not found:
        why = found.told() or "no record in it"
        raise ValueError(f"nothing to learn from: {count} records read, {why}")
    return found


def _conversations(record: Mapping[str, Any]) -> Iterator[Conversation]:
    names = record.keys()
    lead = _system(record)
    if "messages" in names or "conversations" in names:
        turns = _messages(record["messages" if "messages" in names else "conversations"])
        yield _usable([*([] if turns and turns[0]["role"] == "system" else lead), *turns])
    elif "instances" in names:
        for instance in record["instances"]:
            asked = _instruction(record["instruction"], instance.get("input"))
            yield _usable([*lead, asked, _said("assistant", instance["output"])])
    elif "instruction" in names:
        for question, answer in record.get("history") or ():
            lead += [_said("user", question), _said("assistant", answer)]
        asked = _instruction(record["instruction"], record.get("input"))
        yield _usable([*lead, asked, _said("assistant", record["output"])])
    else:
        ask, answer = ("prompt", "completion") if "prompt" in names else ("question", "answer")
        turns = [*_turns(record[ask], "user"), *_turns(record[answer], "assistant")]
        yield _usable([*lead, *turns])


def _pairs(record: Mapping[str, Any]) -> Iterator[Pair]:
    names = record.keys()
    lead = _system(record)
    if "response_j" in names:
        prompt, good, bad = record["question"], record["response_j"], record["response_k"]
    elif "chosen" not in names and isinstance(record.get("output"), list):
        prompt = [_instruction(record["instruction"], record.get("input"))]
        if len(record["output"]) != 2:
            raise SkippedError("without two answers")
        good, bad = record["output"]
    else:
        good, bad = record["chosen"], record["rejected"]
        prompt = next(
            (record[n] for n in ("prompt", "conversations", "question") if n in names), ""
        )
        if "instruction" in names:
            prompt = [_instruction(record["instruction"], record.get("input"))]
    if isinstance(good, str) and isinstance(bad, str) and not prompt:
        good, bad = _transcript(good), _transcript(bad)
    before = [*lead, *(_turns(prompt, "user") if prompt else [])]
    chosen, rejected = _turns(good, "assistant"), _turns(bad, "assistant")
    if not prompt:
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        if shared and shared == min(len(chosen), len(rejected)):
            raise SkippedError("with equal answers")
        before, chosen, rejected = [*before, *chosen[:shared]], chosen[shared:], rejected[shared:]
    elif before and chosen[: len(before)] == before == rejected[: len(before)]:
        chosen, rejected = chosen[len(before) :], rejected[len(before) :]
    if not before:
        raise SkippedError("without a prompt")
    for answer in (chosen, rejected):
        if not answer or answer[0]["role"] != "assistant" or not answer[0]["content"].strip():
            raise SkippedError("without two answers")
    if chosen == rejected:
        raise SkippedError("with equal answers")
    yield Pair(before, chosen, rejected)


def _usable(turns: Conversation) -> Conversation:
    if not any(turn["role"] == "assistant" and turn["content"].strip() for turn in turns):
        raise SkippedError("without an answer")
    return turns


def _system(record: Mapping[str, Any]) -> Conversation:
    for name in ("system", "system_prompt"):
        if record.get(name):
            return [_said("system", record[name])]
    return []


def _instruction(instruction: Any, given: Any) -> Message:
    """One message; the two parts stand beside it for templates that set them apart."""
    asked = _said("user", instruction)
    if given is None or not str(given).strip() or given == "<noinput>":
        return asked
    parts = {"instruction": asked["content"], "input": str(given)}
    return {"role": "user", "content": f"{parts['instruction']}\n\n{parts['input']}", **parts}


def _turns(value: Any, role: str) -> Conversation:
    """A string, one message, or messages."""
    if isinstance(value, Mapping):
        return _messages([value])
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _messages(value)
    return [_said(role, value)]


def _said(role: str, content: Any) -> Message:
    if content is None:
        raise SkippedError("with an empty field")
    return {"role": role, "content": _plain(content)}


def _messages(turns: Any) -> Conversation:
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except ValueError as error:
            raise SkippedError("with messages that are no JSON") from error
    found = []
    for turn in turns or ():
        if not isinstance(turn, Mapping):
            raise SkippedError("with messages that are no mappings")
        role = turn.get("role", turn.get("from"))
        if role not in _ROLES:
            raise SkippedError(f"with a message of unknown role {role!r}")
        content = turn.get("content", turn.get("value"))
        rest = {k: v for k, v in turn.items() if k not in ("role", "from", "content", "value")}
        if content is None and not rest.get("tool_calls"):
            raise SkippedError("with a message without content")
        found.append({"role": _ROLES[role], "content": _plain(content or ""), **rest})
    return found


def _plain(content: Any) -> str:
    """The text of a content that may come in parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = [p.get("text") if isinstance(p, Mapping) else p for p in content]
        if not all(isinstance(part, str) for part in parts):
            raise SkippedError("with content that is no text")
        return "".join(map(str, parts))
    return str(content)


def _transcript(text: str) -> Conversation | str:
    r"""Turns of "\n\nHuman: … \n\nAssistant: …"."""
    parts = _TURN.split(text)
    if len(parts) < 3:
        return text
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return [
        {"role": "user" if who == "Human" else "assistant", "content": words.strip()}
        for who, words in turns
    ]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Tokens of a row.

    Attributes:
        ids: (T,) tokens, those of the prompt and of the answers.
        targets: (T,) whether a token is learned, that is, predicted from those before it.
        cut: Tokens beyond the longest length, which were left out at the end.
    """

    ids: list[int]
    targets: list[bool]
    cut: int = 0


@dataclasses.dataclass(frozen=True)
class EncodedPair:
    """Tokens of a pair; a text is `prompt + chosen` or `prompt + rejected`.

    Attributes:
        prompt: Tokens that both texts begin with, before the answers; never scored.
        chosen: Further tokens of the chosen text.
        rejected: Further tokens of the rejected text.
        chosen_targets: Which tokens of `chosen` are the answer's and scored; all but where a
            token runs over the end of the prompt in one text only, and other roles' turns.
        rejected_targets: The same of `rejected`.
        cut: Tokens beyond the longest length, in both together.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    chosen_targets: list[bool]
    rejected_targets: list[bool]
    cut: int = 0


def encode_row(
    tokenizer: Any,
    conversation: Conversation,
    template: Template,
    max_length: int | None = None,
    *,
    learn: Literal["all", "last"] = "all",
) -> Encoded | None:
    """Renders and tokenises a conversation, and marks what is learned.

    Every answer ends with a token that is learned: the template's own mark of an end of turn, or
    the tokenizer's EOS where it has none.

    Args:
        tokenizer: With `encode_with_offsets`, `bos_id` and `eos_id`.
        conversation: Messages.
        template: With `render_with_spans`.
        max_length: Most tokens; what lies beyond is cut off at the end and counted in `cut`.
        learn: "all" answers, or the "last" one only.

    Returns:
        The tokens; None if nothing to learn is left within `max_length`.

    Raises:
        ValueError: The conversation has no answer, or `learn` is neither.
    """
    if learn not in ("all", "last"):
        raise ValueError(f"learn={learn!r} is neither 'all' nor 'last'")
    text, spans = template.render_with_spans(conversation)
    if not spans:
        raise ValueError("the conversation has no message of the assistant to learn from")
    ids, targets = _marked(tokenizer, conversation, text, spans, 0 if learn == "all" else -1)
    kept = slice(max_length)
    if not any(targets[kept]):
        return None
    return Encoded(ids[kept], targets[kept], max(len(ids) - len(ids[kept]), 0))


def encode_pair(
    tokenizer: Any, pair: Pair, template: Template, max_length: int | None = None
) -> EncodedPair | None:
    """Renders and tokenises both texts whole, and parts them behind what they share.

    Args:
        tokenizer: As in `encode_row`.
        pair: Prompt and two answers.
        template: As in `encode_row`.
        max_length: Most tokens of a text; what lies beyond is cut off at the end.

    Returns:
        The tokens; None if of one answer nothing is left within `max_length`.
    """
    earlier = sum(turn["role"] == "assistant" for turn in pair.prompt)
    texts = []
    for answer in (pair.chosen, pair.rejected):
        whole = [*pair.prompt, *answer]
        text, spans = template.render_with_spans(whole)
        texts.append(_marked(tokenizer, whole, text, spans, earlier))
    cut = 0
    for at, (ids, targets) in enumerate(texts):
        kept = slice(max_length)
        cut += len(ids) - len(ids[kept])
        texts[at] = ids[kept], targets[kept]
        if not any(targets[kept]):
            return None
    (good, good_targets), (bad, bad_targets) = texts
    shared = 0
    # At least one token stays before the answers, which predicts their first.
    most = min(good_targets.index(True), bad_targets.index(True))
    while shared < most and good[shared] == bad[shared]:
        shared += 1
    return EncodedPair(
        good[:shared], good[shared:], bad[shared:], good_targets[shared:], bad_targets[shared:], cut
    )


def _marked(
    tokenizer: Any,
    conversation: Conversation,
    text: str,
    spans: list[tuple[int, int]],
    first: int,
) -> tuple[list[int], list[bool]]:
    """All tokens, and whether each holds a character of an answer from number `first` on."""
    ids, offsets = tokenizer.encode_with_offsets(text, bos=True)
    if tokenizer.bos_id is not None and list(ids[:2]) == [tokenizer.bos_id] * 2:
        ids, offsets = ids[1:], offsets[1:]
    answers = [turn["content"] for turn in conversation if turn["role"] == "assistant"]
    learned = range(len(spans))[first:]
    found: list[int] = []
    targets: list[bool] = []
    at = 0
    for number, (start, end) in enumerate(spans):
        while at < len(ids) and offsets[at][0] < end:
            low, high = offsets[at]
            found.append(ids[at])
            inside = high > start if high > low else low > start
            targets.append(number in learned and inside)
            at += 1
        ends = text[start:end].rstrip().endswith(answers[number].rstrip())
        if ends and tokenizer.eos_id is not None:
            found.append(tokenizer.eos_id)
            targets.append(number in learned)
    return [*found, *ids[at:]], [*targets, *[False] * (len(ids) - at)]
