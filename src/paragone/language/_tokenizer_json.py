"""tokenizer.json, through the library `tokenizers`, behind the calls of our own encoders.

References:
    The format of Hugging Face's `tokenizers` 0.20 and later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paragone.language._tokenizer_bytes import ALPHABET, BytePairs

__all__ = ["JsonEncoder", "byte_pairs_json"]

_BYTES = {char: byte for byte, char in enumerate(ALPHABET)}


class JsonEncoder:
    """Cuts texts as a tokenizer.json says.

    Args:
        text: Contents of the file.
        name: What messages call it.
    """

    def __init__(self, text: str, name: str = "tokenizer.json") -> None:
        from tokenizers import Tokenizer

        try:
            self.data = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{name}: expected JSON ({error})") from error
        if not isinstance(self.data, dict) or "model" not in self.data:
            raise ValueError(f'{name}: expected a tokenizer.json, found no "model" in it')
        self.tokenizer: Any = Tokenizer.from_str(text)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.special = {
            id for id, token in self.tokenizer.get_added_tokens_decoder().items() if token.special
        }
        self.added = {
            token.content: id for id, token in self.tokenizer.get_added_tokens_decoder().items()
        }
        self.byte_level = _has(self.data.get("decoder"), "ByteLevel")

    @property
    def size(self) -> int:
        """Tokens, those that were added included."""
        return max(self.tokenizer.get_vocab().values()) + 1

    def first_added(self) -> int | None:
        """The token that the file puts before every text, if it does."""
        ids = self.tokenizer.encode("a").ids
        return ids[0] if ids and ids[0] in self.special else None

    def _encoded(self, text: str, specials: bool) -> Any:
        self.tokenizer.encode_special_tokens = not specials
        return self.tokenizer.encode(text, add_special_tokens=False)

    def encode(self, text: str, specials: bool) -> list[int]:
        """Numbers of a text's tokens."""
        return self._encoded(text, specials).ids

    def encode_places(self, text: str, specials: bool) -> list[tuple[int, int, int]]:
        """(number, start, end) of each token."""
        found = self._encoded(text, specials)
        return [(id, *place) for id, place in zip(found.ids, found.offsets, strict=True)]

    def piece(self, id: int) -> str:
        """A token as the file writes it."""
        return self.tokenizer.id_to_token(id)

    def bytes_of(self, id: int, first: bool = False) -> bytes:
        """UTF-8 of a token of a byte-level model."""
        piece = self.piece(id)
        if piece in self.added:
            return b"" if id in self.special else piece.encode()
        return bytes(_BYTES[char] for char in piece)

    def decode(self, ids: list[int]) -> str:
        """Text of tokens; special ones are left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def add(self, words: list[str]) -> None:
        """Adds special tokens."""
        self.tokenizer.add_special_tokens(words)
        found = self.tokenizer.get_added_tokens_decoder()
        self.special |= {id for id, token in found.items() if token.content in words}
        self.added = {token.content: id for id, token in found.items()}

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json."""
        self.tokenizer.save(str(folder / "tokenizer.json"))


def _has(part: Any, kind: str) -> bool:
    if not isinstance(part, dict):
        return False
    return part.get("type") == kind or any(_has(p, kind) for p in part.get("decoders", ()))


def byte_pairs_json(pairs: BytePairs, special: dict[str, int], bos: str | None = None) -> str:
    """The tokenizer.json of byte pieces.

    Args:
        pairs: Pieces and joins.
        special: Special tokens and their numbers.
        bos: The special token that is put before every text; None: none is.
    """
    before = [] if bos is None else [{"SpecialToken": {"id": bos, "type_id": 0}}]
    template = None if bos is None else {
        "type": "TemplateProcessing", "single": [*before, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [*before, *({"Sequence": {"id": name, "type_id": 0}} for name in "AB")],
        "special_tokens": {bos: {"id": bos, "ids": [special[bos]], "tokens": [bos]}},
    }  # fmt: skip
    level = {"add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    added = [
        {
            "id": id, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }
        for token, id in special.items()
    ]  # fmt: skip
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", **level},
        "post_processor": template, "decoder": {"type": "ByteLevel", **level},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": {**special, **pairs.vocab},
            "merges": [list(pair) for pair in pairs.merges],
        },
    }, ensure_ascii=False)  # fmt: skip
