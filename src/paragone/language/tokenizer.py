r"""Tokenizers: texts to numbers and back, from every usual file, or trained here.

One face for SentencePiece models (BPE and unigram, our own encoder, exact to the library), byte-
level BPE (our own) and tokenizer.json (through `tokenizers`). A text is first cut at the words of
special tokens; what lies between is normalised and encoded.

What comes back from a model comes token by token, and a character may take several tokens. A
stream holds back bytes that do not yet make a character, so that its parts join to the text.

Cost: O(1) a known word of a text; the first sight of a word costs O(n log n).

References:
    Kudo and Richardson (2018), SentencePiece, arXiv:1808.06226.
    Sennrich, Haddow and Birch (2016), arXiv:1508.07909.

Shapes: lists of tokens; places are (start, end) in characters of the text.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paragone.language._tokenizer_bytes import BytePairs
from paragone.language._tokenizer_json import JsonEncoder
from paragone.language._tokenizer_normal import longest_first
from paragone.language._tokenizer_pieces import PieceEncoder
from paragone.language._tokenizer_proto import CONTROL
from paragone.language._tokenizer_stream import TextStream

if TYPE_CHECKING:
    from paragone.language.chat import ChatTemplate

__all__ = ["TextStream", "Tokenizer"]

Encoder = PieceEncoder | BytePairs | JsonEncoder


class Tokenizer:
    """Turns texts into tokens and tokens into texts; `load` and `train` make one.

    Prefer it to the fast tokenizers of transformers where a SentencePiece model's own flags count
    (double spaces, bytes, user symbols): the answers are those of the library itself.

    Args:
        encoder: What cuts texts.
        bos_id: Beginning of a text, None: there is none.
        eos_id: End of a text.
        pad_id: Padding.
        adds_bos: Whether texts begin with `bos_id` unless told otherwise.
        added: Special tokens beyond the encoder's own, and their numbers.
        chat_template: How conversations are written.

    Example:
        >>> tokenizer = Tokenizer.train(["low lower lowest"] * 9, 270)
        >>> tokenizer.decode(tokenizer.encode("lower slower"))
        'lower slower'
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
        adds_bos: bool = True,
        added: Mapping[str, int] | None = None,
        chat_template: ChatTemplate | None = None,
    ) -> None:
        self.encoder = encoder
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id
        self.adds_bos, self.chat_template = adds_bos, chat_template
        self.added = dict(added or {})
        self._index()

    def _index(self) -> None:
        self._added_names = {id: word for word, id in self.added.items()}
        self._special = dict(self.added)
        if isinstance(self.encoder, PieceEncoder):
            model = self.encoder.model
            pairs = zip(model.pieces, model.types, strict=True)
            self._special |= {p: i for i, (p, kind) in enumerate(pairs) if kind == CONTROL}
        self._cut = longest_first(list(self._special))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Tokenizer:
        """Reads a tokenizer.

        Args:
            path: A SentencePiece `.model`, Meta's of Llama 3, a `tokenizer.json`, llama2.c's
                `tok….bin`, a `.gguf` file, or a folder that holds one of them
                (tokenizer_config.json and a chat template beside it are read as well).

        Raises:
            FileNotFoundError: Nothing is there.
            ValueError: It is no tokenizer; the text names the file and the place.
        """
        from paragone.language import _tokenizer_files

        return _tokenizer_files.load(Path(path))

    @staticmethod
    def from_gguf(fields: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer in the fields of a GGUF file: a mapping with `tokenizer.ggml.*`.

        Raises:
            ValueError: A field is missing or of an unknown kind.
        """
        from paragone.language import _tokenizer_gguf

        return _tokenizer_gguf.read(fields)

    @staticmethod
    def train(
        texts: Iterable[str],
        vocab_size: int,
        kind: Literal["bpe", "sentencepiece"] = "bpe",
        *,
        special: Sequence[str] = (),
    ) -> Tokenizer:
        """Learns pieces from texts.

        Args:
            texts: What to learn from; read once.
            vocab_size: Tokens V, those for begin, end and single bytes included.
            kind: "bpe" (byte-level, saved as tokenizer.json) or "sentencepiece" (BPE with byte
                fallback, saved as tokenizer.model).
            special: Further special tokens, such as `<|im_start|>`.

        Raises:
            ValueError: A `vocab_size` too small for the bytes, or a kind of no such name.
        """
        from paragone.language import _tokenizer_train

        return _tokenizer_train.train(texts, vocab_size, kind, tuple(special))

    @property
    def vocab_size(self) -> int:
        """Tokens V, added ones included."""
        encoder = self.encoder
        if isinstance(encoder, JsonEncoder):
            return encoder.size
        pieces = isinstance(encoder, PieceEncoder)
        own = len(encoder.model.pieces) if pieces else max(encoder.names) + 1
        return max(own, 1 + max(self.added.values(), default=-1))

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        name = type(self.encoder).__name__
        return f"Tokenizer({name}, {self.vocab_size} tokens, bos {self.bos_id}, eos {self.eos_id})"

    def encode(
        self, text: str, bos: bool = True, eos: bool = False, *, specials: bool = True
    ) -> list[int]:
        """Numbers of a text's tokens.

        Args:
            text: Any text.
            bos: Whether the token for the beginning comes first, where the model uses one and the
                text does not begin with its word already.
            eos: Whether the token for the end comes last.
            specials: Whether words of special tokens in the text stand for these tokens; False
                where the text is a stranger's.
        """
        out: list[int] = []
        if isinstance(self.encoder, JsonEncoder):
            out = self.encoder.encode(text, specials)
        else:
            for part, id, prefix, _ in self._parts(text, specials):
                if id is None:
                    out += self.encoder.encode(part, prefix)
                else:
                    out.append(id)
        if self._wants_bos(bos, out):
            out.insert(0, self.bos_id)  # pyright: ignore[reportArgumentType]
        if eos and self.eos_id is not None:
            out.append(self.eos_id)
        return out

    def _wants_bos(self, bos: bool, ids: Sequence[int]) -> bool:
        if not bos or not self.adds_bos or self.bos_id is None:
            return False
        return not ids or ids[0] != self.bos_id

    def encode_with_offsets(
        self, text: str, bos: bool = True, eos: bool = False, *, specials: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Numbers of a text's tokens, and the characters (start, end) that each stands for.

        Tokens that are bytes of one character all have the place of that character. Begin, end
        and a space that was put in front have empty places.

        Args:
            text: Any text.
            bos: As in `encode`.
            eos: As in `encode`.
            specials: As in `encode`.
        """
        found: list[tuple[int, int, int]] = []
        if isinstance(self.encoder, JsonEncoder):
            found = self.encoder.encode_places(text, specials)
        else:
            for part, id, prefix, at in self._parts(text, specials):
                if id is None:
                    places = self.encoder.encode_places(part, prefix)
                    found += [(token, at + start, at + end) for token, start, end in places]
                else:
                    found.append((id, at, at + len(part)))
        if self._wants_bos(bos, [id for id, _, _ in found[:1]]):
            found.insert(0, (self.bos_id, 0, 0))  # pyright: ignore[reportArgumentType]
        if eos and self.eos_id is not None:
            found.append((self.eos_id, len(text), len(text)))
        return [id for id, _, _ in found], [(start, end) for _, start, end in found]

    def _parts(self, text: str, specials: bool) -> list[tuple[str, int | None, bool, int]]:
        """(text, special token or None, whether a text begins here, place) of each part."""
        if not specials or self._cut is None:
            return [(text, None, True, 0)]
        parts: list[tuple[str, int | None, bool, int]] = []
        at, prefix = 0, True
        for found in self._cut.finditer(text):
            if found.start() > at:
                parts.append((text[at : found.start()], None, prefix, at))
            word = found.group()
            parts.append((word, self._special[word], False, found.start()))
            prefix = word not in self.added
            at = found.end()
        if at < len(text):
            parts.append((text[at:], None, prefix, at))
        return parts

    def decode(self, ids: Iterable[int], *, after: Sequence[int] = ()) -> str:
        """The text of tokens; special tokens are left out.

        Args:
            ids: Tokens.
            after: Tokens before them: what comes back is how their text goes on.

        Raises:
            ValueError: A number that is no token.
        """
        stream = self.stream(after=after)
        return "".join([*(stream.push(id) for id in ids), stream.flush()])

    def stream(self, *, after: Sequence[int] = ()) -> TextStream:
        """An object whose `push(id)` returns what text is new; `flush()` gives the rest.

        Args:
            after: Tokens before the first one that is pushed, such as a prompt's.
        """
        return TextStream(self, after)

    def token_bytes(self, id: int) -> bytes:
        """UTF-8 that a token adds inside a text; empty for special tokens.

        Raises:
            ValueError: A number that is no token.
        """
        self._checked(id)
        if id in self._added_names:
            return b""
        if isinstance(self.encoder, JsonEncoder) and not self.encoder.byte_level:
            return self.encoder.decode([id]).encode()
        return self.encoder.bytes_of(id, False)

    def piece(self, id: int) -> str:
        """A token as files write it: <s>, or a piece with U+2581 for a space.

        Raises:
            ValueError: A number that is no token.
        """
        self._checked(id)
        if id in self._added_names:
            return self._added_names[id]
        encoder = self.encoder
        if isinstance(encoder, JsonEncoder):
            return encoder.piece(id)
        return encoder.model.pieces[id] if isinstance(encoder, PieceEncoder) else encoder.names[id]

    def id_of(self, piece: str) -> int | None:
        """The number of a piece or special token; None if there is no such piece."""
        if piece in self._special:
            return self._special[piece]
        encoder = self.encoder
        if isinstance(encoder, JsonEncoder):
            return encoder.tokenizer.token_to_id(piece)
        known = encoder.all_ids if isinstance(encoder, PieceEncoder) else encoder.vocab
        return known.get(piece)

    def is_special(self, id: int) -> bool:
        """Whether a token stands for no text."""
        if isinstance(self.encoder, JsonEncoder):
            return id in self.encoder.special
        return id in self._added_names or id in self._special.values()

    def _checked(self, id: int) -> None:
        if not 0 <= id < self.vocab_size:
            raise ValueError(f"{id} is no token; they are numbered from 0 to {self.vocab_size - 1}")

    def add_tokens(self, words: Sequence[str]) -> int:
        """Adds special tokens behind the others; a model's embedding must be resized to fit.

        Args:
            words: Their words; those that are tokens already stay as they are.

        Returns:
            How many are new.

        Raises:
            ValueError: An empty word.
        """
        if "" in words:
            raise ValueError("an empty word cannot be a token")
        before = self.vocab_size
        if isinstance(self.encoder, JsonEncoder):
            self.encoder.add([w for w in words if w not in self.encoder.added])
        else:
            for word in words:
                if word not in self._special:
                    self.added[word] = self.vocab_size
            self._index()
        return self.vocab_size - before

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes tokenizer.model or tokenizer.json, tokenizer_config.json and the chat template.

        Args:
            folder: Where to; made if it is not there.
        """
        from paragone.language import _tokenizer_files

        _tokenizer_files.save(self, Path(folder))

    def to_gguf(self) -> dict[str, Any]:
        """The fields `tokenizer.*` of a GGUF file.

        Raises:
            ValueError: A tokenizer.json that GGUF has no kind for.
        """
        from paragone.language import _tokenizer_gguf

        return _tokenizer_gguf.write(self)
