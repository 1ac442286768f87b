r"""Documents as tokens, and the rows of each step, which depend on the seed and the step alone.

In every epoch documents are cut anew: the first piece of a long one has a length that is drawn,
so that a token is seen with a context of every length, and pieces are packed into rows. An epoch
has as many steps as full rows would give; what packing leaves over waits for another epoch.

Shapes: B rows of N tokens in a step.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paragone.language.corpus import Corpus
from paragone.language.packing import IGNORED, Row, join, shifted
from paragone.training.run_folder import write_whole

__all__ = ["Documents", "Feed", "split", "tokenized"]


@dataclasses.dataclass(frozen=True)
class Documents:
    """Tokens of documents end to end.

    Attributes:
        ids: All tokens.
        ends: Where each document ends.
        bytes: UTF-8 bytes of their texts.
    """

    ids: np.ndarray
    ends: np.ndarray
    bytes: int

    @property
    def tokens(self) -> int:
        return len(self.ids)

    def pieces(self, length: int, generator: np.random.Generator | None = None) -> np.ndarray:
        """(P, 3) first, end and document's end of pieces of at most `length` tokens."""
        starts = np.concatenate([[0], self.ends[:-1]])
        found = []
        for start, end in zip(starts.tolist(), self.ends.tolist(), strict=True):
            first = length
            if generator is not None and end - start > length:
                first = int(generator.integers(1, length + 1))
            edges = [start, *range(start + first, end, length), end]
            found += [(a, b, end) for a, b in itertools.pairwise(edges)]
        return np.array(found, np.int64).reshape(-1, 3)

    def piece(self, piece: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and labels; the last label is the token behind the piece, if it has one."""
        first, last, end = piece.tolist()
        ids = self.ids[first : min(last + 1, end)].astype(np.int64)
        if last < end:
            return ids[:-1], ids[1:]
        return ids, shifted(ids)


def split(corpus: Corpus, share: float) -> tuple[Corpus, Corpus]:
    """Parts of a corpus: whole documents to validate on, spread evenly, or the end of the only one.

    Raises:
        ValueError: A share outside (0, 1), or a single document too short to be cut.
    """
    if not 0 < share < 1:
        raise ValueError(f"validation={share}: a share above 0 and below 1 is expected")
    texts = list(corpus.texts)
    if len(texts) < 2:
        at = int(len(texts[0]) * (1 - share))
        if not 0 < at < len(texts[0]):
            raise ValueError("the only document is too short to be cut into two parts")
        parts = [(texts[0][:at],), (texts[0][at:],)]
    else:
        count = min(max(1, round(len(texts) * share)), len(texts) - 1)
        chosen = {round((i + 0.5) * len(texts) / count - 0.5) for i in range(count)}
        parts = [tuple(t for i, t in enumerate(texts) if (i in chosen) == held)
                 for held in (False, True)]  # fmt: skip
    return tuple(dataclasses.replace(corpus, texts=part) for part in parts)  # pyright: ignore


def tokenized(corpus: Corpus, tokenizer: Any, tell: Callable[[int, int], None]) -> Documents:
    """Encodes every document between begin and end, where the tokenizer has these.

    Args:
        corpus: What to encode.
        tokenizer: What with.
        tell: Called with documents done and all of them.
    """
    kind = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    parts, ends, total = [], [], 0
    for number, text in enumerate(corpus.texts):
        ids = np.array(tokenizer.encode(text, bos=True, eos=True), kind)
        parts.append(ids)
        total += len(ids)
        ends.append(total)
        tell(number + 1, len(corpus.texts))
    return Documents(np.concatenate(parts), np.array(ends, np.int64), corpus.bytes)


def write_documents(path: Path, key: str, parts: Sequence[Documents]) -> None:
    """Keeps tokens, so that a run that goes on need not encode again."""
    data = io.BytesIO()
    arrays = {f"{name}{i}": getattr(part, name) for i, part in enumerate(parts)
              for name in ("ids", "ends", "bytes")}  # fmt: skip
    np.savez(data, key=np.array(key), **arrays)
    write_whole(path, data.getvalue())


def read_documents(path: Path, key: str, count: int) -> list[Documents] | None:
    """What `write_documents` kept under the same key, or None."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            if str(data["key"]) != key:
                return None
            return [Documents(data[f"ids{i}"], data[f"ends{i}"], int(data[f"bytes{i}"]))
                    for i in range(count)]  # fmt: skip
    except (OSError, ValueError, KeyError):
        return None


class Feed:
    """Rows for each step.

    Args:
        documents: What to learn from.
        length: Tokens N of a row.
        rows: Rows B of a micro-batch.
        accumulate: Micro-batches of a step.
        seed: Of cuts and order.
        rank: Number of this rank, and how many there are.
        device: Where to put the rows.
    """

    def __init__(
        self, documents: Documents, length: int, rows: int, accumulate: int, seed: int,
        rank: tuple[int, int] = (0, 1), device: str = "cpu",
    ) -> None:  # fmt: skip
        self.documents, self.length, self.rows = documents, length, rows
        self.accumulate, self.seed, self.rank, self.device = accumulate, seed, rank, device
        self.each = rows * accumulate * rank[1]
        self.steps = max(1, documents.tokens // (length * self.each))
        self._epoch = -1
        self._order: list[list[int]] = []
        self._pieces = np.zeros((0, 3), np.int64)

    @property
    def step_tokens(self) -> int:
        """Tokens of a step, on all ranks."""
        return self.each * self.length

    def __call__(self, step: int) -> list[Row]:
        """Micro-batches of this rank."""
        epoch, at = divmod(step, self.steps)
        if epoch != self._epoch:
            self._begin(epoch)
        first = at * self.each + self.rank[0] * self.rows * self.accumulate
        found = []
        for micro in range(self.accumulate):
            start = first + micro * self.rows
            rows = [self._order[i % len(self._order)] for i in range(start, start + self.rows)]
            pieces = [self._pieces[i] for row in rows for i in row]
            found.append(self._joined(pieces))
        return found

    def _begin(self, epoch: int) -> None:
        generator = np.random.default_rng([self.seed, epoch, 0x7061636B])
        self._pieces = self.documents.pieces(self.length, generator)
        bins = packed(self._pieces[:, 1] - self._pieces[:, 0], self.length)
        self._order = [bins[i] for i in generator.permutation(len(bins))]
        self._epoch = epoch

    def _joined(self, pieces: Sequence[np.ndarray]) -> Row:
        """One packed row, or, where all pieces are of full length, a batch."""
        found = [self.documents.piece(piece) for piece in pieces]
        row = join([ids for ids, _ in found], [labels for _, labels in found])
        if all(len(ids) == self.length for ids, _ in found):
            shape = (len(found), self.length)
            row = dataclasses.replace(
                row, input_ids=row.input_ids.view(shape), labels=row.labels.view(shape)
            )
        return row.to(self.device)


def packed(lengths: np.ndarray, length: int) -> list[list[int]]:
    """Numbers of the pieces of each row: longest first, each into the fullest row that has room."""
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(length + 1)]
    for at in np.argsort(-lengths, kind="stable").tolist():
        need = int(lengths[at])
        room = next((r for r in range(need, length + 1) if by_room[r]), None)
        if room is None:
            bins.append([])
            room, number = length, len(bins) - 1
        else:
            number = by_room[room].pop()
        bins[number].append(at)
        if room - need:
            by_room[room - need].append(number)
    return bins


def validation_rows(documents: Documents, length: int, rows: int, device: str) -> list[Row]:
    """All tokens in rows of whole pieces, each label once."""
    pieces = documents.pieces(length)
    order = packed(pieces[:, 1] - pieces[:, 0], length)
    found = []
    feed = Feed(documents, length, rows, 1, 0, device=device)
    for start in range(0, len(order), rows):
        chosen = [pieces[i] for row in order[start : start + rows] for i in sorted(row)]
        row = feed._joined(chosen)
        if int((row.labels != IGNORED).sum()):
            found.append(row)
    return found


def output_of(model: Any, row: Row) -> Any:
    """What the model gives for a row, without logits; packed documents do not see each other."""
    lengths = None if row.input_ids.shape[0] > 1 or len(row.lengths) == 1 else row.lengths
    return model(row.input_ids, lengths=lengths, logits=False)
