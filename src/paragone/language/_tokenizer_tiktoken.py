"""Meta's `tokenizer.model` of Llama 3: a line for each piece, its bytes in base64 and its rank.

The file has no joins. A piece was joined from the two parts that its bytes fall into when only
pieces of lower rank are joined, so the joins are found again, and the whole becomes a
tokenizer.json.

Cost: some 20 us a piece, once.

References:
    Dubey et al. (2024), The Llama 3 herd of models, arXiv:2407.21783, section 3.2.
    Llama 3.1's model card: names of the special tokens.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from typing import TYPE_CHECKING

from paragone.language._tokenizer_bytes import ALPHABET

if TYPE_CHECKING:
    from paragone.language.tokenizer import Tokenizer

__all__ = ["is_ranks", "read_ranks"]

_FIRST = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|step_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
)  # fmt: skip
_SPECIAL = 256


def is_ranks(data: bytes) -> bool:
    """Whether a file begins with a piece in base64 and a rank."""
    words = data[:200].split(b"\n", 1)[0].split()
    return len(words) == 2 and words[1].isdigit()


def _halves(piece: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts that a piece was joined from; None if lower ranks do not lead to two."""
    parts = [piece[at : at + 1] for at in range(len(piece))]
    while len(parts) > 2:
        found = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
        least = min(found)
        if least >= rank:
            return None
        at = found.index(least)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def read_ranks(data: bytes, name: str) -> Tokenizer:
    """Reads the file.

    Args:
        data: Its bytes.
        name: What messages call it.

    Raises:
        ValueError: A line is broken.
    """
    from paragone.language import _tokenizer_gguf

    ranks: dict[bytes, int] = {}
    for at, line in enumerate(data.splitlines(), 1):
        try:
            piece, rank = line.split()
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(f"{name}, line {at}: expected base64 and a rank ({error})") from error
    pieces = sorted(ranks, key=ranks.__getitem__)
    if [ranks[piece] for piece in pieces] != list(range(len(pieces))):
        raise ValueError(f"{name}: {len(pieces)} pieces, but their ranks do not count them")
    spelled = {piece: "".join(ALPHABET[byte] for byte in piece) for piece in pieces}
    merges = []
    for piece in pieces:
        halves = _halves(piece, ranks[piece], ranks) if len(piece) > 1 else None
        if halves is not None:
            merges.append(f"{spelled[halves[0]]} {spelled[halves[1]]}")
    special = [*_FIRST, *(f"<|reserved_special_token_{at}|>" for at in range(2, 247))][:_SPECIAL]
    size = len(pieces)
    return _tokenizer_gguf.read({
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [*spelled.values(), *special],
        "tokenizer.ggml.token_type": [1] * size + [3] * len(special),
        "tokenizer.ggml.merges": merges, "tokenizer.ggml.bos_token_id": size,
        "tokenizer.ggml.eos_token_id": size + 1, "tokenizer.ggml.padding_token_id": size + 4,
        "tokenizer.ggml.add_bos_token": True,
    })  # fmt: skip
