r"""Documents as Kimi-VL reads them: tokens of text, and placeholders where a picture stands.

$$ [\text{BOS}]\ \text{text}\ \langle\text{start}\rangle\, \text{image}\,
   \langle\text{content}\rangle\, \underbrace{\langle\text{pad}\rangle \dots}_{hw/4}\,
   \langle\text{end}\rangle\ \text{text}\ [\text{EOS}] $$

Texts of documents are strangers' texts: words of special tokens within them are read letter by
letter, so that no caption can claim to be a picture.

References:
    Kimi Team (2025), Kimi-VL technical report, arXiv:2504.07491, section 2.

Shapes: B rows, T time, n pictures, L patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.language.losses import IGNORED
from paragone.multimodal._kimi_config import KimiVLConfig
from paragone.multimodal.documents import Document
from paragone.multimodal.kimi_image_processor import KimiImageProcessor

__all__ = ["PlaceholderError", "Rows", "checked_places", "rows_of"]


class PlaceholderError(ValueError):
    """Placeholders and the merged tokens of pictures that should stand in their place differ."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """A batch.

    Attributes:
        input_ids: (B, T) tokens, filled up on the right.
        labels: (B, T) the token that follows where it is learned, else -100.
        lengths: (B,) tokens of each row.
        patches: (L, C, p, p) of all pictures, row by row.
        grid_hws: (n, 2), on the CPU.
        learned: Labels that count.
    """

    input_ids: Tensor
    labels: Tensor
    lengths: Tensor
    patches: Tensor
    grid_hws: Tensor
    learned: int


def rows_of(
    documents: Sequence[Document],
    config: KimiVLConfig,
    processor: KimiImageProcessor,
    tokenizer: Any,
    device: torch.device,
    *,
    ended: bool = True,
) -> Rows:
    """Documents as a batch.

    Args:
        documents: At least one.
        config: Tokens and the longest text.
        processor: Cuts pictures.
        tokenizer: Cuts texts.
        device: Where the batch is to be.
        ended: Whether EOS follows; without it nothing is learned, as for prompts.

    Raises:
        ValueError: No document, no tokenizer or one that does not fit, or a text that is too long.
    """
    if not documents:
        raise ValueError("no document is given; at least one is expected")
    _check_tokenizer(tokenizer, config)
    found = [_row(one, config, processor, tokenizer, ended) for one in documents]
    lengths = [len(ids) for ids, _ in found]
    most = config.text_config.max_position_embeddings
    if max(lengths) > most:
        raise ValueError(
            f"document {lengths.index(max(lengths))} takes {max(lengths)} tokens; "
            f"max_position_embeddings={most} is the most. Shorten it, shrink its pictures "
            "(in_token_limit), or use the model that lengthened() returns"
        )
    ids = np.full((len(found), max(lengths)), config.pad_token_id, np.int64)
    labels = np.full_like(ids, IGNORED)
    for at, (row, learned) in enumerate(found):
        ids[at, : len(row)] = row
        labels[at, : len(row) - 1] = np.where(learned[1:], row[1:], IGNORED)
    patches, grids = processor([x for one in documents for x in one.pictures])
    return Rows(
        torch.from_numpy(ids).to(device), torch.from_numpy(labels).to(device),
        torch.tensor(lengths, device=device), patches.to(device), grids,
        int((labels != IGNORED).sum()),
    )  # fmt: skip


def _row(
    document: Document, config: KimiVLConfig, processor: KimiImageProcessor, tokenizer: Any,
    ended: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Tokens, and whether each is learned."""
    bos = config.text_config.bos_token_id
    ids = [] if bos is None else [bos]
    learned = [False] * len(ids)
    for at, part in enumerate(document.parts):
        if isinstance(part, str):
            more = tokenizer.encode(part, bos=False, specials=False)
            flag = ended and document.learns(at)
        else:
            more = _picture_ids(processor.tokens(*part.shape[:2]), config, tokenizer)
            flag = False
        ids += more
        learned += [flag] * len(more)
    last = isinstance(document.parts[-1], str) and document.learns(len(document.parts) - 1)
    if ended and config.text_config.eos:
        ids.append(config.text_config.eos[0])
        learned.append(last)
    if not ids:
        ids, learned = [config.pad_token_id], [False]
    return np.array(ids, np.int64), np.array(learned, bool)


def _picture_ids(count: int, config: KimiVLConfig, tokenizer: Any) -> list[int]:
    head = [config.media_start_token_id]
    if config.media_content_token_id is not None:
        head += [*tokenizer.encode("image", bos=False), config.media_content_token_id]
    return [*head, *[config.media_placeholder_token_id] * count, config.media_end_token_id]


def _check_tokenizer(tokenizer: Any, config: KimiVLConfig) -> None:
    if tokenizer is None:
        raise ValueError(
            "the model has no tokenizer: set model.tokenizer to the one it was made for"
        )
    most = config.text_config.vocab_size
    if len(tokenizer) > most:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {most}: give it to from_config, "
            "which makes room for it"
        )


def checked_places(there: Tensor, counts: Sequence[int]) -> None:
    """Refuses placeholders that are not those of the pictures.

    Args:
        there: (B, T) whether a token is a placeholder.
        counts: Merged tokens of each picture, in the order of rows.

    Raises:
        PlaceholderError: Another number, or a picture whose placeholders are not in one piece.
    """
    at = there.flatten().nonzero()[:, 0].cpu()
    if len(at) != sum(counts):
        raise PlaceholderError(
            f"there are {len(at)} placeholders, but {len(counts)} pictures give {sum(counts)} "
            f"merged tokens ({', '.join(map(str, counts[:8]))}); one placeholder each is expected"
        )
    ends = torch.tensor(counts, dtype=torch.int64).cumsum(0)
    time, begun = there.shape[1], 0
    for number, end in enumerate(ends.tolist()):
        if end == begun:
            continue
        first, last = int(at[begun]), int(at[end - 1])
        if last - first != end - begun - 1 or first // time != last // time:
            raise PlaceholderError(
                f"the {end - begun} placeholders of picture {number} do not stand side by side in "
                f"one row (row {first // time}, place {first % time}, to row {last // time}, place "
                f"{last % time})"
            )
        begun = end
