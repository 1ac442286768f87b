r"""A model, prompts and what plain decoding makes of them: what drafters are compared on.

The model is the user's (a folder, a llama2.c or GGUF file), the real one of 260,000 weights where
the folder of real data has it (environment variable PARAGONE_DATA), or a small one that is
trained here once, on the standard library's sources.

Prompts are the user's (a text file: parts between empty lines; or JSON Lines with `prompt`, `text`
or a conversation), else beginnings of texts: of sources that were not trained on, or of what the
model itself writes. What lies behind those that are asked may be learned from.

Everything that can be made again is kept in a folder under the hash of the model's weights:
checkpoints in the forms that rivals read, texts of plain decoding, and trained heads.

Shapes: P prompts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve
from paragone.lab.preferences import draw, find_base
from paragone.lab.probe import digest_arrays

__all__ = ["STORIES", "Problem", "chosen_model", "load", "name_of", "read_prompts", "stories"]

STORIES = "language/stories260K"
_BEGINNING = 12
_SOURCE_TOKENS = 48
_LEAST_TEXTS = 16
_KEYS = ("prompt", "text", "question", "instruction")


@dataclasses.dataclass(frozen=True)
class Problem:
    """What all contestants of a block are given.

    Attributes:
        model: The model that decides.
        tokenizer: Its tokenizer.
        prompts: P lists of token ids.
        texts: What heads may be trained on continuations of; None: what the model writes alone.
        length: Most tokens of a continuation.
        temperature: 0, or that of the draws.
        together: Whether all prompts are decoded as one batch.
        seed: Of the draws.
        home: Folder of what is made of this model and can be made again.
        digest: Hash of its weights.
    """

    model: Any
    tokenizer: Any
    prompts: list[list[int]]
    texts: list[str] | None
    length: int
    temperature: float
    together: bool
    seed: int
    home: Path
    digest: str

    def kept(self, name: str, make: Callable[[Path], Any]) -> Path:
        """A folder that is made once, whole or not at all.

        Args:
            name: Its name.
            make: Called with an empty folder to fill.
        """
        folder = self.home / name
        if not folder.is_dir():
            beside = folder.with_name(f"{name}.{os.getpid()}")
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            try:
                make(beside)
                with contextlib.suppress(OSError):
                    os.replace(beside, folder)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        return folder

    def form(self, format: str, model: Any = None, name: str = "") -> str:
        """Path of a model's checkpoint in a form that a rival reads.

        Args:
            format: "hf" or "gguf".
            model: The model (None: the one that decides).
            name: Tells it from others.
        """
        save, told = resolve("paragone.language.checkpoints:save"), "path.txt"

        def make(folder: Path) -> None:
            path = save(model or self.model, self.tokenizer, folder / "given", format=format)
            (folder / told).write_text(str(Path(path).relative_to(folder)), encoding="utf-8")

        folder = self.kept("-".join(filter(None, (format, name))), make)
        return str(folder / (folder / told).read_text(encoding="utf-8"))


def stories() -> str:
    """The real small model, where the folder of real data has it."""
    path = Path(os.environ.get("PARAGONE_DATA", "shared/data"), STORIES)
    return str(path.resolve()) if (path / "config.json").is_file() else ""


def load(
    cache: str, seed: int = 0, model: str = "", tokenizer: str = "", prompts: str = "",
    count: int = 8, length: int = 64, temperature: float = 0.0, together: bool = False,
    tokens: int = 300_000,
) -> Problem:  # fmt: skip
    """Makes a problem; what can be made again is kept in a folder.

    Args:
        cache: The folder.
        seed: Of the draws; prompts are the same for all seeds.
        model: The model's path; "" trains one.
        tokenizer: Its tokenizer's file; "" is what lies with it.
        prompts: File of prompts; "": beginnings of texts.
        count: P.
        length: Most tokens of a continuation.
        temperature: 0, or that of the draws.
        together: Whether all prompts are decoded as one batch.
        tokens: Tokens that a model is trained on.
    """
    network, words = _opened(Path(cache), model, tokenizer, tokens)
    digest = digest_arrays(*network.state_dict().values())
    home = Path(cache) / f"of-{digest[:16]}"
    home.mkdir(parents=True, exist_ok=True)
    room = network.config.max_position_embeddings - length
    if room < 1:
        raise UsageError(f"{model or 'the model'}: made for {room + length} tokens, fewer than the "
                         f"{length} of a continuation")  # fmt: skip
    asked, texts = _asked(network, words, prompts, "" if model else "sources", count, home)
    return Problem(
        network, words, [ids[-room:] for ids in asked], texts, length, temperature, together, seed,
        home, digest,
    )  # fmt: skip


def _opened(cache: Path, model: str, tokenizer: str, tokens: int) -> tuple[Any, Any]:
    open_model = resolve("paragone.language.checkpoints:load")
    if model:
        network, words = open_model(model, tokenizer or None)
        if words is None:
            raise UsageError(f"{model}: no tokenizer beside it; put tokenizer.json or .model there")
        return network.float().eval(), words
    folder = cache / f"model-{tokens}"
    if not folder.is_dir():
        beside = folder.with_name(f"{folder.name}.{os.getpid()}")
        _trained(beside, tokens)
        with contextlib.suppress(OSError):
            os.replace(beside, folder)
        shutil.rmtree(beside, ignore_errors=True)
    network, words = open_model(folder)
    return network.eval(), words


def _sources() -> tuple[list[str], list[str]]:
    """Files of the standard library: to train on, and others."""
    texts = list(resolve("paragone.language.corpus:library_texts")(3_000_000).texts)
    return [t for i, t in enumerate(texts) if i % 10], texts[::10]


def _trained(folder: Path, tokens: int) -> None:
    config = {"hidden_size": 64, "num_hidden_layers": 5, "num_attention_heads": 4,
              "num_key_value_heads": 4, "max_position_embeddings": 512}  # fmt: skip
    resolve("paragone.language.train:train")(
        _sources()[0], folder, model=config, vocab_size=512, length=64, batch=8, tokens=tokens,
        lr=6e-3, compile=False, precision="fp32", validation=0.01, threads=1, device="cpu",
    )  # fmt: skip


def _asked(
    network: Any, words: Any, path: str, kind: str, count: int, home: Path
) -> tuple[list[list[int]], list[str] | None]:
    """P prompts, and texts to learn from; the same whenever they are asked for."""
    if path:
        texts = read_prompts(path)
        order = np.random.default_rng(0).permutation(len(texts))
        chosen = [texts[i] for i in order[:count]]
        rest = [texts[i] for i in order[count:]]
        ids = [words.encode(text, bos=True) for text in chosen]
        return ids, rest if len(rest) >= _LEAST_TEXTS else None
    if kind == "sources":
        learned, held = _sources()
        long = [ids for t in held if len(ids := words.encode(t[:2000], bos=True)) > _SOURCE_TOKENS]
        return [ids[:_SOURCE_TOKENS] for ids in long[:count]], learned
    return _beginnings(network, words, count, home), None


def _beginnings(network: Any, words: Any, count: int, home: Path) -> list[list[int]]:
    """Beginnings of texts that the model writes, all different."""
    place = home / f"beginnings-{count}.json"
    if place.is_file():
        return json.loads(place.read_text(encoding="utf-8"))
    first = words.bos_id if words.bos_id is not None else network.config.eos[0]
    engine = resolve("paragone.language.engine:Engine").make(network)
    found: dict[tuple[int, ...], None] = {}
    for turn in range(8):
        drawn = draw(engine, words, [[first]] * (2 * count), _BEGINNING, 1000 + turn,
                     network.config.eos)  # fmt: skip
        found.update((tuple(ids), None) for ids in drawn.ids if len(ids) == _BEGINNING)
        if len(found) >= count:
            break
    if len(found) < count:
        raise UsageError(f"the model writes only {len(found)} different beginnings of {count}; "
                         "name a file with --prompts")  # fmt: skip
    made = [[first, *ids] for ids in list(found)[:count]]
    beside = place.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(made), encoding="utf-8")
    os.replace(beside, place)
    return made


def read_prompts(path: str) -> list[str]:
    """The user's prompts, in the order of the file.

    Args:
        path: Text (parts between empty lines, or lines where there is none), or JSON Lines.

    Raises:
        UsageError: No such file, or nothing in it that is a prompt.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"--prompts {path}: no such file")
    if file.suffix in (".txt", ".md"):
        text = file.read_text(encoding="utf-8").strip()
        parts = text.split("\n\n") if "\n\n" in text else text.splitlines()
        found = [part.strip("\n") for part in parts if part.strip()]
    else:
        found = list(_of_records(file))
    if not found:
        raise UsageError(
            f"--prompts {path}: no prompt found; text in parts, or JSON Lines with one of "
            f"{', '.join(_KEYS)} or messages are expected"
        )
    return found


def _of_records(file: Path) -> Iterator[str]:
    """Prompts of records; those of conversations are written as the plain template does."""
    try:
        records = list(resolve("paragone.language._tune_read:read_records")(str(file)))
    except (ValueError, OSError) as error:
        raise UsageError(f"--prompts: {error}") from error
    plain = resolve("paragone.language.chat:ChatTemplate").named("plain")
    for _, record in records:
        turns = record.get("messages") or record.get("prompt")
        if isinstance(turns, list):
            spoken = [dict(turn) for turn in turns]
            while spoken and spoken[-1].get("role") == "assistant":
                spoken.pop()
            if spoken:
                yield plain.render(spoken, add_generation_prompt=True)
            continue
        text = next((record[k] for k in _KEYS if isinstance(record.get(k), str)), "")
        if text:
            yield text


def chosen_model(data: str | None) -> Mapping[str, str]:
    """Paths of the model that is meant: the user's, the real small one, or none.

    Args:
        data: What the user named.

    Raises:
        UsageError: There is no model at that place.
    """
    place = stories() if data is None else str(Path(data).expanduser().resolve())
    if not place:
        return {}
    found = find_base(Path(place))
    if found is None:
        raise UsageError(f"{data}: no model there; a folder with config.json and safetensors, a "
                         ".bin of llama2.c or a .gguf is expected")  # fmt: skip
    return {k: str(v) for k, v in zip(("model", "tokenizer"), found, strict=True) if v}


def name_of(*parts: Any) -> str:
    """A short name of what something is made of."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=6).hexdigest()
