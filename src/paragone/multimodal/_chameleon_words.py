r"""Codes of pictures as words of the vocabulary: `IMGIMG`, decimal digits as letters, `Z`.

Code 407 is the word IMGIMGEAHZ (A to J stand for 0 to 9), and a vocabulary puts words wherever it
likes. So the number of a token says nothing about its code: sorting both and hoping for the same
order is wrong for other vocabularies. Here both directions are tables that are checked once,

$$ \text{id}[c] = v, \qquad \text{code}[v] = c, \qquad \text{code}[\text{id}[c]] = c . $$

References:
    Chameleon Team (2024), arXiv:2405.09818, section 2.2 (codes inside the vocabulary of text).

Shapes: K codes, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = [
    "BEGIN_IMAGE",
    "BOS",
    "END_IMAGE",
    "END_TURN",
    "EOS",
    "IMAGE",
    "PAD",
    "CodeTable",
    "code_of",
    "code_word",
    "is_marker",
    "published_words",
]

BOS, PAD, EOS = "<s>", "<pad>", "</s>"
BEGIN_IMAGE, END_IMAGE = "<racm3:break>", "<eoss>"
END_TURN, IMAGE = "<reserved08706>", "<image>"

_WORD = re.compile("IMGIMG([A-J]+)Z")
_MARKER = re.compile("<[^<>]+>")


def code_word(code: int) -> str:
    """The word of a code.

    Args:
        code: From 0 on.

    Example:
        >>> code_word(407)
        'IMGIMGEAHZ'
    """
    if code < 0:
        raise ValueError(f"code={code}: codes are numbered from 0")
    return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"


def code_of(word: str) -> int | None:
    """The code that a word stands for; None for other words.

    Args:
        word: Any word of a vocabulary.

    Example:
        >>> code_of("IMGIMGEAHZ"), code_of("image")
        (407, None)
    """
    found = _WORD.fullmatch(word)
    return None if found is None else int("".join(str(ord(c) - ord("A")) for c in found[1]))


def is_marker(word: str) -> bool:
    """Whether a word of a vocabulary is no text: `<s>`, `<eoss>`, `<reserved08706>`.

    Args:
        word: Any word of a vocabulary.
    """
    return _MARKER.fullmatch(word) is not None


def published_words(codes: int = 8192) -> dict[str, int]:
    """Where the published vocabulary has its special words; codes in their own order.

    A folder's own `vocabulary_map` takes its place when weights are read.

    Args:
        codes: K.
    """
    words = {BOS: 0, PAD: 1, EOS: 2, "<unk>": 3}
    words |= {code_word(code): 4 + code for code in range(codes)}
    after = 4 + codes
    # In the published vocabulary the words from <reserved08194> to <reserved08705> lie between.
    return words | {
        END_IMAGE: after, BEGIN_IMAGE: after + 1, END_TURN: after + 514, IMAGE: after + 515,
    }  # fmt: skip


class CodeTable:
    """Tokens of codes and codes of tokens.

    Args:
        words: Word to token.
        codes: K, how many codes the image tokenizer has.
        vocabulary: V.

    Attributes:
        ids: (K,) int64 tokens.
        codes: (V,) int64 codes, -1 for other tokens.

    Raises:
        ValueError: A code without a word, two words for one, or a token out of range.

    Example:
        >>> table = CodeTable({"IMGIMGBZ": 5, "IMGIMGAZ": 7}, codes=2, vocabulary=8)
        >>> table.ids.tolist(), table.codes[table.ids].tolist()
        ([7, 5], [0, 1])
    """

    def __init__(self, words: Mapping[str, int], codes: int, vocabulary: int) -> None:
        found: dict[int, int] = {}
        for word, token in words.items():
            code = code_of(word)
            if code is None:
                continue
            if not 0 <= token < vocabulary:
                raise ValueError(f"{word} is token {token}; the vocabulary has {vocabulary}")
            if code in found:
                raise ValueError(f"code {code} has two words, tokens {found[code]} and {token}")
            found[code] = token
        if sorted(found) != list(range(codes)):
            missing = [code for code in range(codes) if code not in found]
            raise ValueError(
                f"the vocabulary has words for {len(found)} codes, and the image tokenizer has "
                f"{codes}" + (f"; the first without one is {missing[0]}" if missing else "")
            )
        if len(set(found.values())) != codes:
            raise ValueError("two codes have one token; each needs its own")
        self.ids = torch.tensor([found[code] for code in range(codes)], dtype=torch.int64)
        self.codes = torch.full((vocabulary,), -1, dtype=torch.int64)
        self.codes[self.ids] = torch.arange(codes)

    def tokens_of(self, codes: Tensor) -> Tensor:
        """Codes of any shape to tokens, on the device of the codes."""
        return self.ids.to(codes.device)[codes]

    def codes_of(self, tokens: Tensor) -> Tensor:
        """Tokens of any shape to codes.

        Raises:
            ValueError: A token that is no code.
        """
        found = self.codes.to(tokens.device)[tokens]
        if bool((found < 0).any()):
            raise ValueError(f"token {int(tokens[found < 0][0])} is no code of a picture")
        return found
