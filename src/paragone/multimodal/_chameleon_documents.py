r"""Documents as rows of tokens, packed, and their losses.

A document is `<s>`, its parts and `</s>`; a picture is its begin marker, n codes row by row and
its end marker. Rows lie one behind the other, and each token is scored by what its prefix says:

$$ L = \sum_{t \in \text{text}} \ell_t + \lambda \sum_{t \in \text{codes}} \ell_t
     + \zeta \sum_t \log^2 Z_t, \qquad \ell_t = \log Z_t - z_t[y_t], \quad
   Z_t = \sum_v e^{z_t[v]} . $$

The last term keeps logits from drifting. The head never holds all logits: log Z is the logit of
the label minus its log-probability.

References:
    Chameleon Team (2024), arXiv:2405.09818, section 2.3 (z-loss, 1e-5).
    Wortsman et al. (2023), arXiv:2309.14322, section 3.1.1 (what z-loss is good for).

Shapes: N tokens of a batch, M model width, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from paragone.language.losses import IGNORED, token_log_probs
from paragone.multimodal._chameleon_words import CodeTable
from paragone.multimodal.documents import Document, Part

__all__ = ["CodeMemory", "Row", "row_losses", "rows_of", "strayed", "text_tokens"]

_NEAR = 6
_MOST_KEPT = 1 << 23
"""Codes that are kept in memory, at most."""


class Row(NamedTuple):
    """A document as tokens.

    Attributes:
        ids: Its tokens.
        learned: For each, whether it is to be predicted.
    """

    ids: list[int]
    learned: list[bool]


class CodeMemory:
    """Codes of pictures, kept so that a picture is encoded once in a training.

    Args:
        encode: Pictures of one size to (n, h, w) codes.
        weights: What the codes depend on: when they change, nothing is kept.
    """

    def __init__(self, encode: Any, weights: Sequence[Tensor]) -> None:
        self.encode, self.weights = encode, list(weights)
        self._kept: OrderedDict[bytes, list[int]] = OrderedDict()
        self._version, self._size = -1, 0

    def of(self, pictures: Sequence[np.ndarray]) -> list[list[int]]:
        """Codes of each picture, row by row; all pictures have one size."""
        version = sum(x._version for x in self.weights)
        if version != self._version:
            self._kept.clear()
            self._version, self._size = version, 0
        keys = [
            hashlib.blake2b(one.tobytes() + repr(one.shape).encode(), digest_size=16).digest()
            for one in pictures
        ]
        new = {key: one for key, one in zip(keys, pictures, strict=True) if key not in self._kept}
        if new:
            codes = self.encode(list(new.values())).flatten(1).tolist()
            made = dict(zip(new, codes, strict=True))
        else:
            made = {}
        found = [made[key] if key in made else self._kept[key] for key in keys]
        for key, codes in made.items():
            self._kept[key] = codes
            self._size += len(codes)
        while self._size > _MOST_KEPT:
            self._size -= len(self._kept.popitem(last=False)[1])
        return found


def rows_of(
    model: Any, documents: Sequence[Sequence[Part] | Document], *, ended: bool = True
) -> list[Row]:
    """Tokens of documents.

    Args:
        model: A `Chameleon` with a tokenizer.
        documents: Documents, or parts.
        ended: Whether each ends with `</s>`.

    Raises:
        ValueError: No tokenizer.
    """
    if model.tokenizer is None:
        raise ValueError("the model has no tokenizer: set model.tokenizer")
    config = model.config
    made = [one if isinstance(one, Document) else Document(tuple(one)) for one in documents]
    pictures = [part for one in made for part in one.pictures]
    codes = iter(model.codes_of(pictures)) if pictures else iter(())
    rows = []
    for document in made:
        ids, learned = [config.bos], [False]
        for at, part in enumerate(document.parts):
            if isinstance(part, str):
                new = model.tokenizer.encode(part, bos=False, specials=False)
            else:
                inner = model.words.ids[torch.tensor(next(codes))].tolist()
                new = [config.begin_image, *inner, config.end_image]
            ids += new
            learned += [document.learns(at)] * len(new)
        if ended:
            ids.append(config.eos)
            learned.append(document.learns(len(document.parts) - 1))
        rows.append(Row(ids, learned))
    return rows


@torch.no_grad()
def strayed(model: Any, rows: Sequence[Row], share: float) -> list[Row]:
    """Puts a near code in place of some that are read and not learned.

    Few pictures teach a model their codes by heart; what is near in the codebook looks alike.

    Args:
        model: A `Chameleon`.
        rows: Tokens.
        share: Of such codes.
    """
    book = model.image_tokenizer.quantize.embedding.weight.detach().float()
    chosen = [
        (row, at, id) for row, (ids, learned) in enumerate(rows)
        for at, id in enumerate(ids) if not learned[at] and model.words.codes[id] >= 0
    ]  # fmt: skip
    if not chosen:
        return list(rows)
    codes = model.words.codes[[id for _, _, id in chosen]].to(book.device)
    near = torch.cdist(book[codes], book).topk(min(_NEAR, len(book)), largest=False).indices
    pick = torch.randint(near.shape[1], (len(codes), 1)).to(book.device)
    stray = (torch.rand(len(codes)) < share).to(book.device)
    codes = torch.where(stray, near.gather(1, pick)[:, 0], codes)
    found = [Row(list(row.ids), row.learned) for row in rows]
    for (row, at, _), id in zip(chosen, model.words.tokens_of(codes).tolist(), strict=True):
        found[row].ids[at] = id
    return found


def row_losses(model: Any, rows: Sequence[Row]) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Sums over the learned tokens of packed rows, of text and of codes.

    Args:
        model: A `Chameleon`.
        rows: Tokens.

    Returns:
        "text" and "image" to the sum of losses, the sum of log^2 Z, and the number of tokens.
    """
    where = model.lm_head.weight.device
    ids = torch.tensor([id for row in rows for id in row.ids[:-1]], device=where)
    labels = torch.tensor(
        [
            id if learned else IGNORED
            for row in rows
            for id, learned in zip(row.ids[1:], row.learned[1:], strict=True)
        ],
        device=where,
    )
    lengths = torch.tensor([len(row.ids) - 1 for row in rows], device=where)
    hidden = model.hidden(ids[None], lengths=lengths if len(rows) > 1 else None)[0][0]
    kept = (labels != IGNORED).nonzero()[:, 0]
    hidden, labels = hidden[kept], labels[kept]
    weight = model.lm_head.weight
    scores = token_log_probs(hidden, weight, labels)
    chosen = torch.einsum("nm,nm->n", hidden.to(scores.dtype), weight[labels].to(scores.dtype))
    squares = (chosen - scores).square()
    codes = model.codes[labels] >= 0
    found = {}
    for name, part in (("text", ~codes), ("image", codes)):
        zero = torch.zeros((), dtype=scores.dtype, device=where)
        found[name] = (
            torch.where(part, -scores, zero).sum(), torch.where(part, squares, zero).sum(),
            int(part.sum()),
        )  # fmt: skip
    return found


def text_tokens(tokenizer: Any, table: CodeTable, vocabulary: int, kept: Sequence[int]) -> Tensor:
    """Tokens of text: no codes, nothing special, and none of `kept`.

    Args:
        tokenizer: Says which tokens are special; None: all that are not codes are text.
        table: Which tokens are codes.
        vocabulary: V.
        kept: Markers.
    """
    text = table.codes < 0
    text[list(kept)] = False
    if tokenizer is not None:
        text[tokenizer.vocab_size :] = False
        special = [id for id in range(min(vocabulary, tokenizer.vocab_size))
                   if text[id] and tokenizer.is_special(id)]  # fmt: skip
        text[special] = False
    return text.nonzero()[:, 0]
