r"""The grammar of texts and pictures: which tokens may come next, for many rows in any states.

A picture is a begin marker, exactly n codes and an end marker; between pictures stands text, and
an end closes the document:

$$ \text{document} \to (\text{text} \mid \text{begin}\; \text{code}^{\,n}\; \text{end})^{*}\;
   [\text{stop}] . $$

Each row is in one of six states, a state is a row of one table over the vocabulary, and what is
not allowed there gets the logit minus infinity before anything is drawn. A picture is only begun
where all of it fits into what is left, so no row can end within one, and no draw can leave the
language, whatever the logits are (NaN and infinities included).

Cost: one look-up of (B, V) a step. Rows in different states share a step.

References:
    Chameleon Team (2024), arXiv:2405.09818, section 2.4 (masking of logits by modality, forced
    markers in decoding).

Shapes: B rows, V vocabulary, n codes of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["Grammar", "GrammarState", "Pictures"]

Pictures = Literal["none", "one", "free"]
"""No picture; one picture and nothing else; texts and pictures as the model wants."""

_MODES = ("none", "one", "free")
TEXT, MIXED, BEGIN, CODES, END, DONE = range(6)


class GrammarState(NamedTuple):
    """Where rows stand.

    Attributes:
        rule: (B,) row of the table of what is allowed.
        count: (B,) codes of the picture that is open.
        left: (B,) tokens that may still come.
        mode: (B,) place of the mode in ("none", "one", "free").
    """

    rule: Tensor
    count: Tensor
    left: Tensor
    mode: Tensor

    @property
    def done(self) -> Tensor:
        """(B,) whether nothing more comes."""
        return self.rule == DONE

    @property
    def drawing(self) -> Tensor:
        """(B,) whether the next token is a code."""
        return self.rule == CODES

    def select(self, rows: Tensor) -> GrammarState:
        """The states of some rows, in that order."""
        return GrammarState(*(x[rows] for x in self))


class Grammar:
    """What may follow, as masks of logits.

    Prefer it to checking finished texts: a model under it cannot make a broken picture, and rows
    of a batch may write and draw side by side.

    Args:
        vocabulary: Tokens V, as many as there are logits.
        text: Tokens of text.
        image: Tokens of codes.
        begin: The token that begins a picture.
        end: The token that ends it.
        stops: Tokens that end a document; the first one fills rows that are done.
        length: Codes n of a picture.
        device: Where the table lies.

    Raises:
        ValueError: Tokens out of range, or one with two meanings.

    Example:
        >>> grammar = Grammar(8, text=[4, 5], image=[6, 7], begin=2, end=3, stops=[1], length=2)
        >>> state = grammar.start(["free", "one"], [9, 4])
        >>> grammar.allowed(state).long().tolist()
        [[0, 1, 1, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]]
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        text: Sequence[int] | Tensor,
        image: Sequence[int] | Tensor,
        begin: int,
        end: int,
        stops: Sequence[int],
        length: int,
        device: Any = None,
    ) -> None:
        if length < 1 or not len(stops):
            raise ValueError(
                f"length={length}, stops={list(stops)}: a picture has at least one code, and a "
                "document at least one token that ends it"
            )
        self.begin, self.end, self.stops, self.length = begin, end, tuple(stops), length
        self.vocabulary = vocabulary
        kinds = [torch.as_tensor(ids, dtype=torch.int64).cpu().reshape(-1) for ids in (
            text, image, [begin], [end], list(stops),
        )]  # fmt: skip
        together = torch.cat([*kinds])
        if len(together) != len(together.unique()):
            raise ValueError(
                "a token has two meanings: text, codes, the markers and what ends a document must "
                "have different tokens"
            )
        if len(together) and not 0 <= int(together.min()) <= int(together.max()) < vocabulary:
            raise ValueError(
                f"tokens go from {int(together.min())} to {int(together.max())}; a vocabulary of "
                f"{vocabulary} has those from 0 to {vocabulary - 1}"
            )
        words, codes, first, last, ends = kinds
        table = torch.zeros(6, vocabulary, dtype=torch.bool)
        for rule, ids in (
            (TEXT, [words, ends]), (MIXED, [words, ends, first]), (BEGIN, [first]),
            (CODES, [codes]), (END, [last]), (DONE, [ends[:1]]),
        ):  # fmt: skip
            table[rule, torch.cat(ids)] = True
        self.table = table.to(device)
        self.stopping = torch.zeros(vocabulary, dtype=torch.bool)
        self.stopping[ends] = True
        self.stopping = self.stopping.to(device)

    @property
    def room(self) -> int:
        """Tokens that a picture takes with its markers."""
        return self.length + 2

    def start(self, modes: Pictures | Sequence[Pictures], left: Sequence[int]) -> GrammarState:
        """States of rows behind their prompts, in which no picture is open.

        Args:
            modes: "none", "one" or "free", for all rows or for each.
            left: Tokens that may come in each row, from 0 on.

        Raises:
            ValueError: An unknown mode, or a picture that does not fit where one must come.
        """
        names = [modes] * len(left) if isinstance(modes, str) else list(modes)
        for name, room in zip(names, left, strict=True):
            if name not in _MODES:
                raise ValueError(f"pictures={name!r} is none of {', '.join(_MODES)}")
            if room < 0 or (name == "one" and room < self.room):
                raise ValueError(
                    f"{room} tokens are left, and a picture takes {self.room} with its markers: "
                    "shorten the prompt"
                )
        where = self.table.device
        mode = torch.tensor([_MODES.index(name) for name in names], device=where)
        rest = torch.tensor(list(left), dtype=torch.int64, device=where)
        return self._between(torch.zeros_like(rest), rest, mode, rest == 0)

    def _between(self, count: Tensor, left: Tensor, mode: Tensor, done: Tensor) -> GrammarState:
        """States in which no picture is open."""
        fits = (mode == 2) & (left >= self.room)
        rule = torch.where(fits, MIXED, TEXT)
        rule = torch.where(mode == 1, BEGIN, rule)
        return GrammarState(torch.where(done | (left <= 0), DONE, rule), count, left, mode)

    def allowed(self, state: GrammarState) -> Tensor:
        """(B, V) True where a token may come next."""
        return self.table[state.rule]

    def mask(self, logits: Tensor, state: GrammarState) -> Tensor:
        """Logits with minus infinity where a token may not come.

        Args:
            logits: (B, V).
            state: Of the B rows.

        Raises:
            ValueError: Another vocabulary.
        """
        if logits.shape != (len(state.rule), self.vocabulary):
            raise ValueError(
                f"logits have shape {tuple(logits.shape)}; ({len(state.rule)}, {self.vocabulary}) "
                "is expected"
            )
        return logits.masked_fill(~self.allowed(state), -torch.inf)

    def advance(self, state: GrammarState, tokens: Tensor) -> GrammarState:
        """States after one more token in each row that is not done.

        Args:
            state: Of the B rows.
            tokens: (B,) what came; in rows that are done it is not looked at.

        Raises:
            ValueError: A token that is not allowed where its row stands.
        """
        live = ~state.done
        wrong = live & ~self.table[state.rule, tokens.clamp(0, self.vocabulary - 1)]
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0, 0])
            raise ValueError(
                f"row {row}: token {int(tokens[row])} may not come in state {int(state.rule[row])}"
            )
        left = state.left - live.to(state.left.dtype)
        opened = live & (tokens == self.begin)
        inside = opened | (live & state.drawing)
        count = torch.where(opened, 0, state.count + (live & state.drawing).to(state.count.dtype))
        closed = live & (tokens == self.end)
        stopped = ~live | self.stopping[tokens] | (closed & (state.mode == 1))
        outside = self._between(torch.where(closed, 0, count), left, state.mode, stopped)
        rule = torch.where(inside, torch.where(count < self.length, CODES, END), outside.rule)
        return GrammarState(rule, count, left, state.mode)

    def parts(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Splits a finished row into ("text", tokens) and ("image", n tokens of codes).

        Args:
            tokens: What was generated; what ends it is left out.

        Raises:
            ValueError: A picture without its end, or of another length.

        Example:
            >>> grammar = Grammar(8, text=[4, 5], image=[6, 7], begin=2, end=3, stops=[1], length=2)
            >>> grammar.parts([4, 2, 6, 7, 3, 5, 1])
            [('text', [4]), ('image', [6, 7]), ('text', [5])]
        """
        found: list[tuple[str, list[int]]] = []
        at, row = 0, list(tokens)
        while at < len(row):
            if row[at] == self.begin:
                codes = row[at + 1 : at + 1 + self.length]
                if len(codes) < self.length or row[at + self.room - 1 : at + self.room] != [
                    self.end
                ]:
                    raise ValueError(
                        f"the picture at token {at} is not {self.length} codes and an end marker"
                    )
                found.append(("image", codes))
                at += self.room
            elif row[at] in self.stops:
                break
            else:
                if not found or found[-1][0] != "text":
                    found.append(("text", []))
                found[-1][1].append(row[at])
                at += 1
        return found
