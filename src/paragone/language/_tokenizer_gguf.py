"""Tokenizers in GGUF's fields: SentencePiece models as "llama", byte-level BPE as "gpt2".

References:
    ggml-org, "GGUF specification": keys `tokenizer.ggml.*` and `tokenizer.chat_template`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paragone.language._tokenizer_bytes import BytePairs
from paragone.language._tokenizer_json import JsonEncoder, byte_pairs_json
from paragone.language._tokenizer_pieces import PieceEncoder
from paragone.language._tokenizer_proto import CONTROL, NORMAL, UNKNOWN, USER, Pieces

if TYPE_CHECKING:
    from paragone.language.tokenizer import Tokenizer

__all__ = ["read", "write"]

_KEY = "tokenizer.ggml."
_SPLITS = {
    "gpt-2": None,
    "default": None,
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
"""Patterns of words by the name in `tokenizer.ggml.pre` (None: GPT-2's)."""


def read(fields: Mapping[str, Any]) -> Tokenizer:
    """Makes the tokenizer that a file's fields describe; see `Tokenizer.from_gguf`."""
    from paragone.language._tokenizer_files import _template
    from paragone.language.tokenizer import Tokenizer

    kind, tokens = fields.get(_KEY + "model"), fields.get(_KEY + "tokens")
    if kind is None or tokens is None:
        raise ValueError("GGUF: no tokenizer.ggml.model or no tokenizer.ggml.tokens in the file")
    tokens = [str(token) for token in tokens]
    types = [int(kind) for kind in fields.get(_KEY + "token_type", [NORMAL] * len(tokens))]
    names = {
        "bos_id": fields.get(_KEY + "bos_token_id"), "eos_id": fields.get(_KEY + "eos_token_id"),
        "pad_id": fields.get(_KEY + "padding_token_id"),
    }  # fmt: skip
    ids: dict[str, Any] = {k: None if v is None else int(v) for k, v in names.items()}
    if kind == "llama":
        scores = fields.get(_KEY + "scores")
        if scores is None or not len(scores) == len(types) == len(tokens):
            raise ValueError(
                f"GGUF: {len(tokens)} tokens, {len(types)} types and "
                f"{'no' if scores is None else len(scores)} scores; equal numbers are expected"
            )
        if UNKNOWN not in types:
            types[int(fields.get(_KEY + "unknown_token_id", 0))] = UNKNOWN
        numbers: dict[str, Any] = {name: -1 if id is None else id for name, id in ids.items()}
        model = Pieces(
            tokens, [float(score) for score in scores], types, byte_fallback=True,
            add_dummy_prefix=bool(fields.get(_KEY + "add_space_prefix", True)),
            remove_extra_whitespaces=bool(fields.get(_KEY + "remove_extra_whitespaces", False)),
            **numbers,
        )  # fmt: skip
        encoder: Any = PieceEncoder(model)
    elif kind == "gpt2":
        encoder = JsonEncoder(_byte_level(fields, tokens, types), "GGUF")
    else:
        raise ValueError(f"GGUF: tokenizer.ggml.model is {kind!r}; 'llama' and 'gpt2' can be read")
    adds = bool(fields.get(_KEY + "add_bos_token", kind == "llama"))
    tokenizer = Tokenizer(encoder, adds_bos=adds, **ids)
    if fields.get("tokenizer.chat_template"):
        tokenizer.chat_template = _template(tokenizer, fields["tokenizer.chat_template"])
    return tokenizer


def _byte_level(fields: Mapping[str, Any], tokens: list[str], types: list[int]) -> str:
    split = fields.get(_KEY + "pre", "gpt-2")
    if split not in _SPLITS:
        raise ValueError(f"GGUF: tokenizer.ggml.pre is {split!r}; known: {', '.join(_SPLITS)}")
    special = {
        t: i for i, (t, k) in enumerate(zip(tokens, types, strict=True)) if k in (CONTROL, USER)
    }
    vocab = {token: id for id, token in enumerate(tokens) if token not in special}
    merges = [tuple(str(merge).split(" ")) for merge in fields.get(_KEY + "merges", ())]
    made = json.loads(byte_pairs_json(BytePairs(vocab, merges), special))  # pyright: ignore
    if _SPLITS[split] is not None:
        made["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": _SPLITS[split]}, "behavior": "Isolated",
                 "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                 "use_regex": False},
            ],
        }  # fmt: skip
        made["model"]["ignore_merges"] = split == "llama-bpe"
    return json.dumps(made)


def write(tokenizer: Tokenizer) -> dict[str, Any]:
    """The fields of a tokenizer; see `Tokenizer.to_gguf`."""
    encoder, size = tokenizer.encoder, tokenizer.vocab_size
    fields: dict[str, Any] = {}
    if isinstance(encoder, PieceEncoder):
        model = encoder.model
        if model.kind != "bpe":
            raise ValueError("GGUF's kind 'llama' is BPE; a unigram model cannot be written")
        more = size - len(model.pieces)
        fields = {
            "model": "llama",
            "tokens": [tokenizer.piece(id) for id in range(size)],
            "scores": [*model.scores, *[0.0] * more],
            "token_type": [*model.types, *[CONTROL] * more],
            "unknown_token_id": model.unk_id,
            "add_space_prefix": model.add_dummy_prefix,
            "remove_extra_whitespaces": model.remove_extra_whitespaces,
        }
    else:
        pairs = encoder if isinstance(encoder, BytePairs) else None
        merges = pairs.merges if pairs else _merges(encoder)
        fields = {
            "model": "gpt2",
            "pre": "gpt-2" if pairs else _split_name(encoder),
            "tokens": [tokenizer.piece(id) for id in range(size)],
            "token_type": [CONTROL if tokenizer.is_special(id) else NORMAL for id in range(size)],
            "merges": [" ".join(pair) for pair in merges],
        }
    for name in ("bos", "eos"):
        if getattr(tokenizer, f"{name}_id") is not None:
            fields[f"{name}_token_id"] = getattr(tokenizer, f"{name}_id")
    if tokenizer.pad_id is not None:
        fields["padding_token_id"] = tokenizer.pad_id
    fields["add_bos_token"] = tokenizer.adds_bos
    made = {_KEY + key: value for key, value in fields.items()}
    if tokenizer.chat_template is not None:
        made["tokenizer.chat_template"] = tokenizer.chat_template.template
    return made


def _merges(encoder: Any) -> list[tuple[str, str]]:
    assert isinstance(encoder, JsonEncoder)
    model = encoder.data["model"]
    if model.get("type") != "BPE" or not encoder.byte_level:
        raise ValueError(
            f"GGUF has no kind for a tokenizer.json of {model.get('type')}; byte-level BPE has one"
        )
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    return [(first, second) for first, second in pairs]


def _split_name(encoder: Any) -> str:
    text = json.dumps(encoder.data.get("pre_tokenizer"))
    for name, pattern in _SPLITS.items():
        if pattern is not None and json.dumps(pattern) in text:
            return name
    return "gpt-2"
