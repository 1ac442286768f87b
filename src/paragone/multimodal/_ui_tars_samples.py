r"""Samples as rows of tokens: the prompt, what is to be said, and where points may be.

A row is the instruction, every earlier step as text, a remark of the loop, and then the answer;
only the answer is learned. With marks in angle brackets,

$$ \langle instruction \rangle \ldots \; (\langle past \rangle\; \text{thought} \;
   \langle do \rangle\; \text{action})^* \; [\langle note \rangle \ldots] \; \langle answer \rangle
   \; [\langle reflection \rangle \ldots \langle thought \rangle]\; \text{thought}
   \; \langle do \rangle \; \text{action} \; \langle eos \rangle . $$

An action is its name and its arguments in a fixed order: a point is one token, a text ends with a
mark. Elements of a page give further rows, (find: text to point, and say: point to text), which
need no history and share the screen's encoding; they stand behind it in its line, unseen by it.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 4.2 (perception), eq. 3 and section 4.3.
    Wu et al. (2025), GUI-Actor, arXiv:2506.03143, section 3.2 (all patches of a box are right).

Shapes: R lines, T tokens.
"""

from __future__ import annotations

import dataclasses
import string
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from paragone.multimodal._ui_tars_words import NAMES, Words
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Box, Context, Element, Sample

__all__ = ["ARGUMENTS", "Row", "Rows", "answer_of", "collated", "perception_rows", "prompt_of",
           "texts_of"]  # fmt: skip

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "click": ("start_box",), "left_double": ("start_box",), "right_single": ("start_box",),
    "drag": ("start_box", "end_box"), "hotkey": ("key",), "type": ("content",),
    "scroll": ("start_box", "direction"), "wait": (), "finished": ("content",), "call_user": (),
    "long_press": ("start_box",), "open_app": ("app_name",), "press_home": (), "press_back": (),
}  # fmt: skip
"""Arguments of each action, in the order in which they are written."""

_LONGEST_ELEMENT = 6
"""Tokens of the longest text of an element that is asked for."""

_ECHOES = 0.125
_LETTERS = string.ascii_letters + string.digits

Spell = Callable[[str], bool] | None
Place = tuple[float, float]


@dataclasses.dataclass
class Row:
    """One row of tokens, growing to the right.

    Attributes:
        tokens: Numbers.
        points: Positions of tokens that are points, and their places in pixels of the model.
        targets: Positions of states that must find a place, and the boxes it may be in.
        start: First position that is learned (-1: none yet).
    """

    tokens: list[int] = dataclasses.field(default_factory=list)
    points: list[tuple[int, Place]] = dataclasses.field(default_factory=list)
    targets: list[tuple[int, tuple[Box, ...]]] = dataclasses.field(default_factory=list)
    start: int = -1

    def point(self, mark: int, place: Place, boxes: Sequence[Box] | None) -> None:
        """A token that is a point; with boxes, the state before it must find one."""
        if boxes is not None:
            self.targets.append((len(self.tokens) - 1, tuple(boxes)))
        self.points.append((len(self.tokens), place))
        self.tokens.append(mark)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Lines of one or more rows each, short lines filled up.

    Attributes:
        tokens: (R, T).
        number: (R, T), the number of the row in its line.
        points: Rows, columns and (n, 2) places of tokens that are points.
        learned: (R, T), True at states whose next token is learned.
        asked: Rows and columns of states that must find a place.
        boxes: The boxes of each.
    """

    tokens: Tensor
    number: Tensor
    points: tuple[Tensor, Tensor, Tensor]
    learned: Tensor
    asked: tuple[Tensor, Tensor]
    boxes: tuple[tuple[Box, ...], ...]

    def mask(self) -> Tensor:
        """(R, T, T), True where a token sees another: of its own row, and not later."""
        own = self.number[:, :, None] == self.number[:, None]
        return own.tril_()


def middle(box: Sequence[float]) -> Place:
    """Centre of a box or a point."""
    return ((box[0] + box[-2]) / 2, (box[1] + box[-1]) / 2)


def _act(
    row: Row, action: Action, words: Words, spell: Spell, scale: Place, box: Box | None,
    learned: bool,
) -> None:  # fmt: skip
    """Appends the name of an action and its arguments."""
    if action.name not in words.names:
        raise ValueError(f"action {action.name!r} is none of {', '.join(NAMES)}")
    row.tokens += [words.marks["do"], words.names[action.name]]
    for name in ARGUMENTS[action.name]:
        value = action.arguments.get(name)
        if name.endswith("_box"):
            if value is None:
                continue
            place = middle([v * scale[i % 2] for i, v in enumerate(value)])
            wanted: Sequence[Box] | None = None
            if learned:
                first = box if name == "start_box" else None
                wanted = [_scaled(first, scale) if first is not None else (*place, *place)]
            row.point(words.marks["point"], place, wanted)
        else:
            row.tokens += [*words.encode(str(value or ""), spell), words.marks["end"]]


def _scaled(box: Box, scale: Place) -> Box:
    return (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])


def prompt_of(
    context: Context, words: Words, longest: int, scale: Place = (1.0, 1.0), spell: Spell = None
) -> Row:
    """What a policy is asked.

    Where it is too long, the thoughts of old steps go first, then old steps, then the end of the
    instruction.

    Args:
        context: What it is given.
        words: Vocabulary.
        longest: Most tokens.
        scale: From pixels of the screenshot to those of the model.
        spell: Which known words are spelled.
    """
    row = Row([words.marks["instruction"], *words.encode(context.instruction, spell)])
    note = words.encode(context.note, spell)
    last = [*([words.marks["note"], *note] if note else []), words.marks["answer"]]
    del row.tokens[max(8, longest - len(last)) :]
    room = longest - len(row.tokens) - len(last)
    steps: list[Row] = []
    for action in reversed(context.history):
        step = _past(action, words, spell, scale, True)
        if len(step.tokens) > room:
            step = _past(action, words, spell, scale, False)
        if len(step.tokens) > room:
            break
        steps.append(step)
        room -= len(step.tokens)
    for step in reversed(steps):
        row.points += [(len(row.tokens) + at, place) for at, place in step.points]
        row.tokens += step.tokens
    row.tokens += last
    return row


def _past(action: Action, words: Words, spell: Spell, scale: Place, thought: bool) -> Row:
    step = Row([words.marks["past"]])
    if thought:
        step.tokens += words.encode(action.thought, spell)
    _act(step, action, words, spell, scale, None, False)
    return step


def answer_of(
    row: Row, action: Action, words: Words, longest: int, scale: Place = (1.0, 1.0),
    box: Box | None = None, spell: Spell = None,
) -> Row:  # fmt: skip
    """Appends what is right to say.

    Args:
        row: A prompt; it is changed.
        action: With a thought; a thought that leaves no room is cut.
        words: Vocabulary.
        longest: Most tokens of the answer.
        scale: From pixels of the screenshot to those of the model.
        box: Where the first point may be (None: in the patch of the action's own point).
        spell: Which known words are spelled.
    """
    row.start = len(row.tokens) - 1
    done = Row([0])
    _act(done, action, words, spell, scale, box, True)
    room = max(0, longest - len(done.tokens) - 2)
    said: list[int] = []
    if action.reflection:
        said += [words.marks["reflection"], *words.encode(action.reflection, spell)[: room // 2]]
        said.append(words.marks["thought"])
    said += words.encode(action.thought, spell)[: max(0, room - len(said))]
    row.tokens += said
    begin = len(row.tokens) - 1
    row.points += [(begin + at, place) for at, place in done.points]
    row.targets += [(begin + at, boxes) for at, boxes in done.targets]
    row.tokens += [*done.tokens[1:], words.marks["eos"]]
    return row


def spelling(share: float, rng: np.random.Generator) -> Spell:
    """Spells a share of words, each word of a sample always or never."""
    if share <= 0:
        return None
    salt = str(int(rng.integers(1 << 30)))
    bound = int(share * (1 << 32))
    return lambda word: zlib.crc32((salt + word).encode()) < bound


def perception_rows(
    elements: Sequence[Element], words: Words, count: int, rng: np.random.Generator,
    scale: Place = (1.0, 1.0), share: float = 0.0,
) -> list[Row]:  # fmt: skip
    """Questions about a page that its elements answer.

    Two of three ask where something is: by its text, by role and text, or by its role where there
    is only one such element. All elements that fit are right. The others ask what is at a place.
    One of eight is none of these: letters and digits without a meaning that are to be said again,
    since names and passwords must be copied to the letter.

    Args:
        elements: What is seen.
        words: Vocabulary.
        count: Most rows.
        rng: What is drawn.
        scale: From pixels of the screenshot to those of the model.
        share: Of known words that are spelled.
    """
    named = [e for e in elements if e.text or sum(o.role == e.role for o in elements) == 1]
    rows: list[Row] = []
    if not named:
        return rows
    echoes = int(rng.binomial(count, _ECHOES))
    rows += [_echo(words, rng) for _ in range(echoes)]
    for at in rng.integers(len(named), size=count - echoes):
        one = named[int(at)]
        spell = spelling(share, rng)
        text, role = words.encode(one.text, spell), words.encode(one.role)
        if len(text) > _LONGEST_ELEMENT:
            continue
        by_role = not text or rng.random() < 0.4
        if rng.random() < 2 / 3 or not text:
            fits = [
                o for o in elements if o.text == one.text and (o.role == one.role or not by_role)
            ]
            row = Row([words.marks["find"], *(role if by_role else []), *text])
            row.tokens.append(words.marks["answer"])
            boxes = [_scaled(o.box, scale) for o in fits]
            row.point(words.marks["point"], middle(boxes[0]), boxes)
        else:
            row = Row([words.marks["say"]])
            box = _scaled(one.box, scale)
            x, y = rng.uniform(0.2, 0.8, 2)
            place = (box[0] + x * (box[2] - box[0]), box[1] + y * (box[3] - box[1]))
            row.point(words.marks["point"], place, None)
            row.tokens.append(words.marks["answer"])
            row.start = len(row.tokens) - 1
            row.tokens += [*text, words.marks["eos"]]
        rows.append(row)
    return rows


def _echo(words: Words, rng: np.random.Generator) -> Row:
    """Says a word again that nobody knows."""
    letters = rng.integers(len(_LETTERS), size=int(rng.integers(2, 9)))
    text = words.encode("".join(_LETTERS[int(at)] for at in letters), lambda word: True)
    row = Row([words.marks["say"], *text, words.marks["answer"]])
    row.start = len(row.tokens) - 1
    row.tokens += [*text, words.marks["eos"]]
    return row


def collated(lines: Sequence[Sequence[Row]], device: torch.device) -> Rows:
    """Lines side by side, each of rows one after the other, which do not see each other.

    Args:
        lines: At least one, of at least one row.
        device: Where tensors go.
    """
    length = max(sum(len(row.tokens) for row in line) for line in lines)
    tokens = np.zeros((len(lines), length), np.int64)
    numbers = np.full((len(lines), length), -1, np.int64)
    learned = np.zeros((len(lines), length), bool)
    spots, asked, boxes = [], [], []
    for at, line in enumerate(lines):
        start = 0
        for number, row in enumerate(line):
            stop = start + len(row.tokens)
            tokens[at, start:stop] = row.tokens
            numbers[at, start:stop] = number
            if row.start >= 0:
                learned[at, start + row.start : stop - 1] = True
            spots += [(at, start + column, *place) for column, place in row.points]
            asked += [(at, start + column) for column, _ in row.targets]
            boxes += [one for _, one in row.targets]
            start = stop
    where = np.array(spots, np.float32).reshape(-1, 4)
    ask = np.array(asked, np.int64).reshape(-1, 2)

    def put(x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(device)

    index = where[:, :2].astype(np.int64)
    return Rows(
        put(tokens), put(numbers), (put(index[:, 0]), put(index[:, 1]), put(where[:, 2:])),
        put(learned), (put(ask[:, 0]), put(ask[:, 1])), tuple(boxes),
    )  # fmt: skip


def texts_of(samples: Iterable[Sample]) -> list[list[str]]:
    """All that is read or written in each exercise of samples, for `Words.learn`."""
    found: dict[tuple[str, int, str], list[str]] = {}
    for sample in samples:
        texts = found.setdefault((sample.task, sample.seed, sample.context.instruction), [])
        texts += [sample.context.instruction, sample.context.note]
        for action in (sample.wanted.action, *sample.rejected):
            texts += [action.thought, action.reflection]
            texts += [v for v in action.arguments.values() if isinstance(v, str)]
        for element in sample.elements:
            texts += [element.text, element.role]
    return list(found.values())
