"""Files of tokenizers: which there are, and what is read from the ones beside them.

References:
    Hugging Face: tokenizer_config.json, tokenizer.json, chat_template.jinja.
    Karpathy (2023), llama2.c: the layout of tokenizer.bin.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paragone.language._tokenizer_bytes import BytePairs
from paragone.language._tokenizer_json import JsonEncoder, byte_pairs_json
from paragone.language._tokenizer_normal import SPACE
from paragone.language._tokenizer_pieces import PieceEncoder
from paragone.language._tokenizer_proto import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    Pieces,
    read_model,
    write_model,
)
from paragone.language._tokenizer_tiktoken import is_ranks, read_ranks

if TYPE_CHECKING:
    from paragone.language.tokenizer import Tokenizer

__all__ = ["load", "save"]

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer.bin")


def load(path: Path) -> Tokenizer:
    """Reads a tokenizer from a file or a folder."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        return _from_folder(path)
    if path.suffix == ".gguf":
        from paragone._core.lazy import resolve
        from paragone.language import _tokenizer_gguf

        return _tokenizer_gguf.read(resolve("paragone.language._format_gguf:read_fields")(path))
    if path.suffix == ".json":
        return _from_json(path, {})
    data = path.read_bytes()
    if path.suffix == ".bin":
        return _from_pieces(_read_llama2c(data, str(path)))
    if is_ranks(data):
        return read_ranks(data, str(path))
    return _from_pieces(read_model(data, str(path)))


def _from_pieces(model: Pieces, **more: Any) -> Tokenizer:
    from paragone.language.tokenizer import Tokenizer

    ids = {
        name: id if 0 <= id < len(model.pieces) else None
        for name, id in (
            ("bos_id", model.bos_id), ("eos_id", model.eos_id), ("pad_id", model.pad_id)
        )
    }  # fmt: skip
    return Tokenizer(PieceEncoder(model), **{**ids, **more})


def _read_llama2c(data: bytes, name: str) -> Pieces:
    """llama2.c's file: the longest length, then score, length and bytes of each piece."""
    pieces, scores, at = [], [], 4
    try:
        (longest,) = struct.unpack_from("<i", data)
        while at < len(data):
            score, size = struct.unpack_from("<fi", data, at)
            at += 8
            if not 0 <= size <= longest or at + size > len(data):
                raise ValueError(f"a length of {size}, the longest is {longest}")
            pieces.append(data[at : at + size].decode())
            scores.append(score)
            at += size
    except (struct.error, ValueError) as error:
        raise ValueError(
            f"{name}: expected llama2.c's tokenizer, piece {len(pieces)} is broken: {error}"
        ) from error
    if len(pieces) < 259:
        raise ValueError(f"{name}: {len(pieces)} pieces; llama2.c's have 259 or more")
    types = [BYTE if _BYTE.fullmatch(piece) else NORMAL for piece in pieces]
    types[:3] = UNKNOWN, CONTROL, CONTROL
    pieces = [piece.replace(" ", SPACE) for piece in pieces]
    pieces[:3] = "<unk>", "<s>", "</s>"
    return Pieces(
        pieces, scores, types, add_dummy_prefix=True, remove_extra_whitespaces=False,
        byte_fallback=True,
    )  # fmt: skip


def _read_json(path: Path) -> Any:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON ({error})") from error


def _from_folder(folder: Path) -> Tokenizer:
    config = _read_json(folder / "tokenizer_config.json")
    found = [folder / name for name in _FILES if (folder / name).exists()]
    if not found:
        found = sorted([*folder.glob("*.model"), *folder.glob("tok*.bin"), *folder.glob("*.gguf")])
    if not found:
        raise ValueError(
            f"{folder}: no tokenizer there; expected one of {', '.join(_FILES)} or *.gguf"
        )
    if found[0].name == "tokenizer.json":
        tokenizer = _from_json(found[0], config)
    else:
        tokenizer = load(found[0])
        words = {**_read_json(folder / "added_tokens.json")}
        for id, token in config.get("added_tokens_decoder", {}).items():
            words.setdefault(token["content"], int(id))
        base = tokenizer.vocab_size
        tokenizer.added = {word: id for word, id in words.items() if id >= base}
        tokenizer._index()
        _name_specials(tokenizer, config)
    template = config.get("chat_template")
    if (folder / "chat_template.jinja").exists():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default", next(iter(named.values()), None))
    if template:
        tokenizer.chat_template = _template(tokenizer, template)
    return tokenizer


def _template(tokenizer: Tokenizer, text: str) -> Any:
    from paragone.language.chat import ChatTemplate

    bos, eos = (
        "" if id is None else tokenizer.piece(id) for id in (tokenizer.bos_id, tokenizer.eos_id)
    )
    return ChatTemplate(text, bos_token=bos, eos_token=eos)


def _name_specials(tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    """Takes begin, end and padding from tokenizer_config.json."""
    for name in ("bos", "eos", "pad"):
        token = config.get(f"{name}_token")
        word = token.get("content") if isinstance(token, dict) else token
        id = None if word is None else tokenizer.id_of(word)
        if id is not None:
            setattr(tokenizer, f"{name}_id", id)
    if config.get("add_bos_token") is False:
        tokenizer.adds_bos = False


def _from_json(path: Path, config: dict[str, Any]) -> Tokenizer:
    from paragone.language.tokenizer import Tokenizer

    encoder = JsonEncoder(path.read_text(encoding="utf-8"), str(path))
    first = encoder.first_added()
    tokenizer = Tokenizer(encoder, bos_id=first, adds_bos=first is not None)
    _name_specials(tokenizer, config)
    if first is None and config.get("add_bos_token") is True:
        tokenizer.adds_bos = True
    if not config:
        for name, words in _USUAL.items():
            found = [id for id in map(tokenizer.id_of, words) if id is not None]
            if found and getattr(tokenizer, name) is None:
                setattr(tokenizer, name, found[0])
    return tokenizer


_USUAL = {
    "bos_id": ("<s>", "<|begin_of_text|>", "<bos>"),
    "eos_id": ("</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"),
    "pad_id": ("<pad>", "<|finetune_right_pad_id|>"),
}


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a tokenizer's files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = tokenizer.encoder
    config: dict[str, Any] = {"add_bos_token": tokenizer.adds_bos, "add_eos_token": False}
    for name in ("bos", "eos", "pad"):
        id = getattr(tokenizer, f"{name}_id")
        config[f"{name}_token"] = None if id is None else tokenizer.piece(id)
    if isinstance(encoder, PieceEncoder):
        (folder / "tokenizer.model").write_bytes(write_model(encoder.model))
        model = encoder.model
        controls = [i for i, kind in enumerate(model.types) if kind in (CONTROL, UNKNOWN)]
        words = {model.pieces[i]: i for i in controls} | tokenizer.added
        config |= {"tokenizer_class": "LlamaTokenizer", "legacy": False}
        config["unk_token"] = model.pieces[model.unk_id]
        config["added_tokens_decoder"] = {
            str(id): {"content": word, "special": True, "normalized": False}
            for word, id in words.items()
        }
    else:
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        if isinstance(encoder, BytePairs):
            bos = tokenizer.bos_id if tokenizer.adds_bos else None
            first = None if bos is None else tokenizer.piece(bos)
            text = byte_pairs_json(encoder, tokenizer.added, first)
            (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        else:
            encoder.save(folder)
    text = json.dumps(config, indent=1, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    if tokenizer.chat_template is not None:
        template = tokenizer.chat_template.template
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
