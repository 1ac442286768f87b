"""Text that grows token by token, and never shows half a character.

Tokens give bytes; what does not yet make a character is held back. SentencePiece drops the space
that its encoder put in front, so the first token of a text is treated apart. A tokenizer.json
whose pieces are no bytes is decoded over a window of tokens, and its text is held back while it
ends in a replacement character.

References:
    Kudo and Richardson (2018), arXiv:1808.06226, section 3.1 (lossless decoding).
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

from paragone.language._tokenizer_json import JsonEncoder
from paragone.language._tokenizer_normal import SPACE
from paragone.language._tokenizer_pieces import PieceEncoder
from paragone.language._tokenizer_proto import BYTE, CONTROL

if TYPE_CHECKING:
    from paragone.language.tokenizer import Tokenizer

__all__ = ["TextStream"]

_EACH = "paragone.each-byte"


def _each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd", error.start + 1


codecs.register_error(_EACH, _each_byte)


class TextStream:
    """Takes tokens and gives text.

    Args:
        tokenizer: Whose tokens.
        after: Tokens before the first one.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        encoder = tokenizer.encoder
        self._window = isinstance(encoder, JsonEncoder) and not encoder.byte_level
        self._pieces = encoder if isinstance(encoder, PieceEncoder) else None
        self._ids: list[int] = []
        self._done = ""
        self._first, self._seen = True, False
        errors = _EACH if self._pieces is not None else "replace"
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        for id in after:
            self.push(id)

    def push(self, id: int) -> str:
        """Takes a token; returns the text that is now certain.

        Raises:
            ValueError: A number that is no token.
        """
        id = int(id)
        tokenizer = self.tokenizer
        tokenizer._checked(id)
        if self._window:
            self._ids.append(id)
            return self._grown(last=False)
        if self._pieces is None:
            return self._decoder.decode(tokenizer.token_bytes(id))
        return self._pushed(self._pieces, id)

    def _pushed(self, encoder: PieceEncoder, id: int) -> str:
        """One piece of SentencePiece's."""
        if id in self.tokenizer._added_names:
            self._first = False
            return self._decoder.decode(b"", final=True)
        model = encoder.model
        if model.types[id] == BYTE:
            text = self._decoder.decode(encoder.bytes_of(id, False))
            self._first &= not text
            return text
        text = self._decoder.decode(b"", final=True)
        first = self._first and not self._seen and not text
        self._first = first
        data = encoder.bytes_of(id, first)
        self._seen = (
            first
            and model.types[id] != CONTROL
            and model.pieces[id].startswith(SPACE)
            and model.add_dummy_prefix
            and not model.remove_extra_whitespaces
        )
        self._first &= not data
        return text + data.decode()

    def _grown(self, last: bool) -> str:
        """What a window of tokens has more than before; the window is kept short."""
        encoder = self.tokenizer.encoder
        assert isinstance(encoder, JsonEncoder)
        text = encoder.decode(self._ids)
        if text.endswith("\ufffd") and not last:
            return ""
        new = text[len(self._done) :]
        self._done = text
        if new and len(self._ids) > 16:
            self._ids = self._ids[-8:]
            self._done = encoder.decode(self._ids)
        return new

    def flush(self) -> str:
        """Returns what was held back, incomplete characters replaced."""
        return self._grown(last=True) if self._window else self._decoder.decode(b"", final=True)
