r"""A base model, prompts, a reward that can be computed, and preferences drawn from it.

What a preference method learns can only be judged by a reward that is known. Here it is a program:

- *words*: how many different ones of a list of wanted words an answer has, as a share of five;
- *brevity*: the mean over its sentences of min(1, 5 / words).

The list is the one of two (cheerful words of stories, words of programs) that the base already
uses now and then; if it uses neither, words that it writes in about one answer of fifteen.

Everything else follows from the base: prompts are the first tokens of texts that it writes itself,
some to train on and others to judge by; of K answers that it draws to a prompt, the best and the
worst make a pair, then the second best and second worst, as long as their rewards differ.

The base is a model of the user's (a folder, a llama2.c or GGUF file), or a small one that is
trained here, once: on the standard library's sources, or on the texts of the user's own pairs.

Shapes: P prompts, K answers to each, T tokens of an answer at most.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve

__all__ = ["Drawn", "Problem", "brevity", "draw", "find_base", "load", "log_probs", "paired",
           "read_pairs", "wanted"]  # fmt: skip

PROMPT_TOKENS = 12
_ENOUGH = 5
_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE = re.compile(r"[.!?\n]+")
_RARE, _OFTEN = 0.03, 0.6
_LEAST_PAIRS = 30

THEMES: dict[str, tuple[str, ...]] = {
    "cheerful words": (
        "happy", "fun", "play", "played", "friend", "friends", "love", "loved", "smile", "smiled",
        "laugh", "laughed", "glad", "nice", "kind", "good", "best", "hug", "hugged", "joy",
    ),
    "words of programs": (
        "return", "none", "raise", "not", "true", "false", "else", "except", "import", "while",
        "class", "yield", "assert", "isinstance", "lambda",
    ),
}  # fmt: skip
"""Name to words, in lower case."""

Reward = Callable[[Sequence[Any], Sequence[str]], list[float]]


def wanted(words: Sequence[str]) -> Reward:
    """Reward of different wanted words, five being enough.

    Example:
        >>> wanted(["fun", "play"])(["Once"], ["Play is fun, play!"])
        [0.4]
    """
    known = frozenset(words)

    def reward(prompts: Sequence[Any], answers: Sequence[str]) -> list[float]:
        found = (len(known & set(_WORD.findall(text.lower()))) for text in answers)
        return [min(count / _ENOUGH, 1.0) for count in found]

    return reward


def brevity(prompts: Sequence[Any], answers: Sequence[str]) -> list[float]:
    """Reward of short sentences, five words being short; an answer without a word gets 0.

    Example:
        >>> brevity([""], ["One two three four five. One two three four five six seven a b c."])
        [0.75]
    """
    told = []
    for text in answers:
        sizes = [len(_WORD.findall(part)) for part in _SENTENCE.split(text)]
        sizes = [size for size in sizes if size]
        told.append(sum(min(1.0, _ENOUGH / s) for s in sizes) / len(sizes) if sizes else 0.0)
    return told


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Answers, as tokens and as texts.

    Attributes:
        prompts: Tokens of each answer's prompt.
        ids: Tokens of each answer.
        log_probs: Summed log-probability of each under what drew it.
        texts: Each answer as text.
    """

    prompts: list[list[int]]
    ids: list[list[int]]
    log_probs: np.ndarray
    texts: list[str]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What all contestants of a block are given.

    Attributes:
        base: The model that all begin from; not to be changed.
        tokenizer: Its tokenizer.
        prompts: Token ids of the prompts to train on.
        held: Token ids of those to judge by.
        reward: Prompts and answers as texts to a number for each; None where only pairs are known.
        words: What the reward is about, in words.
        pairs: `EncodedPair`s to learn from.
        held_pairs: Others, to judge by.
        labels: Answers whose reward was asked to make the pairs.
        length: Most tokens of an answer.
    """

    base: Any
    tokenizer: Any
    prompts: list[list[int]]
    held: list[list[int]]
    reward: Reward | None
    words: str
    pairs: list[Any]
    held_pairs: list[Any]
    labels: int
    length: int


def draw(
    engine: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], length: int, seed: int,
    stop: Sequence[int] = (),
) -> Drawn:  # fmt: skip
    """An answer to each prompt, at temperature 1.

    Args:
        engine: Of the model that answers.
        tokenizer: For the texts.
        prompts: Token ids.
        length: Most tokens of an answer.
        seed: Of the draws.
        stop: Tokens that end an answer.
    """
    sampling = resolve("paragone.language.sampling:Sampling")(temperature=1.0, seed=seed)
    sample = resolve("paragone.language.generate:sample_batch")
    found = sample(engine, [list(p) for p in prompts], sampling, length, tuple(stop))
    ids = [one.tolist() for one in found.ids]
    texts = []
    for prompt, answer in zip(prompts, ids, strict=True):
        spoken = answer[:-1] if answer and answer[-1] in stop else answer
        texts.append(tokenizer.decode(spoken, after=list(prompt)))
    sums = np.array([float(np.asarray(one, np.float64).sum()) for one in found.log_probs])
    return Drawn([list(p) for p in prompts], ids, sums, texts)


@torch.no_grad()
def log_probs(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> np.ndarray:
    """Summed log-probability of each answer after its prompt, by one forward pass of padded rows.

    Args:
        model: A `Llama`.
        prompts: Token ids.
        answers: Token ids, one list for each prompt.
    """
    told: list[float] = []
    for first in range(0, len(prompts), 64):
        part = slice(first, first + 64)
        pairs = zip(prompts[part], answers[part], strict=True)
        rows = [(list(p), list(a)) for p, a in pairs]
        longest = max(len(p) + len(a) for p, a in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        mask = torch.zeros(len(rows), longest)
        for at, (prompt, answer) in enumerate(rows):
            ids[at, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            mask[at, len(prompt) : len(prompt) + len(answer)] = 1
        # Rows are padded behind their ends, where a causal model does not look back from.
        logs = model(ids[:, :-1]).logits.float().log_softmax(-1)
        each = logs.gather(2, ids[:, 1:, None])[:, :, 0].double() * mask[:, 1:]
        told += each.sum(1).tolist()
    return np.array(told)


def paired(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]],
    rewards: np.ndarray, most: int = 2,
) -> list[Any]:  # fmt: skip
    """Best against worst answer of each prompt, then the next, where their rewards differ.

    Args:
        prompts: P lists of tokens.
        answers: P lists of K answers.
        rewards: (P, K) of them.
        most: Pairs of a prompt.
    """
    kind, found = resolve("paragone.language.rows:EncodedPair"), []
    for prompt, drawn, scores in zip(prompts, answers, rewards, strict=True):
        order = np.argsort(-scores, kind="stable")
        for rank in range(min(most, len(order) // 2)):
            good, bad = int(order[rank]), int(order[-1 - rank])
            if scores[good] > scores[bad]:
                chosen, rejected = list(drawn[good]), list(drawn[bad])
                found.append(kind(list(prompt), chosen, rejected, [True] * len(chosen),
                                  [True] * len(rejected)))  # fmt: skip
    return found


def find_base(path: Path) -> tuple[Path, Path | None] | None:
    """A model that lies at a path or in a folder, and its tokenizer; None if there is none.

    A tokenizer beside the model, or in the folder above, is taken if it has as many tokens.
    """
    found = path if _is_model(path) else None
    if found is None and path.is_dir():
        inside = sorted(p for p in path.iterdir() if _is_model(p))
        found = inside[0] if inside else None
    if found is None:
        return None
    return found, _tokenizer_near(found)


def _is_model(path: Path) -> bool:
    if path.is_dir():
        return (path / "config.json").is_file() and any(path.glob("*.safetensors"))
    if path.suffix == ".gguf":
        return True
    return path.suffix == ".bin" and not path.name.startswith("tok")


def _tokenizer_near(model: Path) -> Path | None:
    if model.is_dir() and any((model / n).is_file() for n in ("tokenizer.json", "tokenizer.model")):
        return None
    if model.suffix == ".gguf":
        return None
    for folder in (model, model.parent):
        if folder.is_dir():
            names = [
                *folder.glob("tok*.model"),
                *folder.glob("tok*.json"),
                *folder.glob("tok*.bin"),
            ]
            names = [name for name in names if not name.name.endswith("_config.json")]
            if names:
                return sorted(names)[-1]
    return None


def load(
    kind: str, cache: str, seed: int, path: str = "", model: str = "", tokenizer: str = "",
    prompts: int = 128, answers: int = 8, length: int = 40, tokens: int = 300_000,
) -> Problem:  # fmt: skip
    """Makes a problem; what can be made again is kept in a folder.

    Args:
        kind: "words", "brevity", or "pairs" of the user's.
        cache: Folder of what can be made again.
        seed: Of the draws.
        path: File of the user's pairs.
        model: The base; "" trains one.
        tokenizer: Its tokenizer's file; "" is what lies with it.
        prompts: P to train on; half as many are held out.
        answers: K.
        length: Most tokens of an answer.
        tokens: Tokens that a base is trained on.
    """
    Path(cache).mkdir(parents=True, exist_ok=True)
    base, words = _base(Path(cache), path, model, tokenizer, tokens)
    if kind == "pairs":
        return _given(base, words, path, length, seed)
    engine = resolve("paragone.language.engine:Engine").make(base, threads=1)
    asked = _prompts(engine, words, base, prompts + prompts // 2)
    train, held = asked[:prompts], asked[prompts:]

    def drawn(some: Sequence[list[int]], each: int, number: int) -> tuple[Any, Any]:
        name = _name(model, path, tokens, prompts, each, length, number)
        return _answers(Path(cache) / f"drawn-{name}", engine, words, base, some, each, length,
                        number)  # fmt: skip

    # The list of words is the same for all seeds.
    reward, told = _reward(kind, drawn(train[:64], 4, 0)[0])
    texts, ids = drawn(asked, answers, seed + 1)
    flat = [text for group in texts for text in group]
    scores = np.array(reward([""] * len(flat), flat)).reshape(len(asked), answers)
    return Problem(
        base, words, train, held, reward, told, paired(train, ids[:prompts], scores[:prompts]),
        paired(held, ids[prompts:], scores[prompts:]), prompts * answers, length,
    )  # fmt: skip


def _name(*parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


def _base(cache: Path, path: str, model: str, tokenizer: str, tokens: int) -> tuple[Any, Any]:
    open_model = resolve("paragone.language.checkpoints:load")
    if model:
        base, words = open_model(model, tokenizer or None)
        if words is None:
            raise UsageError(f"{model}: no tokenizer beside it; put tokenizer.json or .model there")
        if words.vocab_size > base.config.vocab_size:
            raise UsageError(f"{model}: {base.config.vocab_size} tokens, but its tokenizer has "
                             f"{words.vocab_size}")  # fmt: skip
        return base.float().eval(), words
    folder = cache / f"base-{_name(path, tokens)}"
    if not folder.is_dir():
        beside = folder.with_name(f"{folder.name}.{os.getpid()}")
        _trained(path, beside, tokens)
        with contextlib.suppress(OSError):
            os.replace(beside, folder)
        shutil.rmtree(beside, ignore_errors=True)
    base, words = open_model(folder)
    return base.eval(), words


def _trained(path: str, folder: Path, tokens: int) -> None:
    """A small model of the standard library's sources, or of the texts of pairs."""
    corpus = resolve("paragone.language.corpus:library_texts")(3_000_000)
    data: Any = corpus if not path else _texts_of(path)
    config = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
              "num_key_value_heads": 4, "max_position_embeddings": 256}  # fmt: skip
    resolve("paragone.language.train:train")(
        data, folder, model=config, vocab_size=512, length=64, batch=8, tokens=tokens, lr=6e-3,
        compile=False, precision="fp32", validation=0.01, threads=1, device="cpu",
    )  # fmt: skip


def _texts_of(path: str) -> list[str]:
    return ["\n".join(str(turn["content"]) for turn in (*pair.prompt, *answer))
            for pair in read_pairs(path) for answer in (pair.chosen, pair.rejected)]  # fmt: skip


def read_pairs(path: str) -> list[Any]:
    """The user's pairs.

    Raises:
        UsageError: None can be read.
    """
    try:
        return list(resolve("paragone.language.rows:read_pairs")(path))
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def _prompts(engine: Any, tokenizer: Any, base: Any, count: int) -> list[list[int]]:
    """Beginnings of texts that the base writes, all different."""
    first = tokenizer.bos_id if tokenizer.bos_id is not None else base.config.eos[0]
    found: dict[tuple[int, ...], None] = {}
    for turn in range(8):
        drawn = draw(engine, tokenizer, [[first]] * (2 * count), PROMPT_TOKENS, 1000 + turn,
                     base.config.eos)  # fmt: skip
        for ids in drawn.ids:
            if len(ids) == PROMPT_TOKENS and ids[-1] not in base.config.eos:
                found.setdefault(tuple(ids))
        if len(found) >= count:
            break
    if len(found) < count:
        raise UsageError(f"the base writes only {len(found)} different beginnings; {count} are "
                         "needed for prompts")  # fmt: skip
    return [[first, *ids] for ids in list(found)[:count]]


def _answers(
    place: Path, engine: Any, tokenizer: Any, base: Any, prompts: Sequence[list[int]], answers: int,
    length: int, seed: int,
) -> tuple[list[list[str]], list[list[list[int]]]]:  # fmt: skip
    """K answers of the base to each prompt, from the cache where they are known."""
    if place.is_file():
        kept = json.loads(place.read_text(encoding="utf-8"))
        return kept["texts"], kept["ids"]
    asked = [prompt for prompt in prompts for _ in range(answers)]
    drawn = draw(engine, tokenizer, asked, length, 10_000 * seed, base.config.eos)
    texts = [drawn.texts[i : i + answers] for i in range(0, len(asked), answers)]
    ids = [drawn.ids[i : i + answers] for i in range(0, len(asked), answers)]
    partial = place.with_name(f"{place.name}.{os.getpid()}")
    partial.write_text(json.dumps({"texts": texts, "ids": ids}), encoding="utf-8")
    os.replace(partial, place)
    return texts, ids


def _reward(kind: str, texts: Sequence[Sequence[str]]) -> tuple[Reward, str]:
    flat = [text for group in texts for text in group]
    if kind == "brevity":
        return brevity, "short sentences"
    best, words = "", ()
    for name, theme in THEMES.items():
        mean = float(np.mean(wanted(theme)([""] * len(flat), flat)))
        if _RARE <= mean <= _OFTEN and not best:
            best, words = name, theme
    if not best:
        counts = Counter(w for text in flat for w in set(_WORD.findall(text.lower())) if len(w) > 2)
        near = sorted(counts, key=lambda w: (abs(counts[w] / len(flat) - 1 / 15), w))
        best, words = "some of its own rarer words", tuple(sorted(near[:20]))
    return wanted(words), f"{best} ({', '.join(words[:5])} ...)"


def _given(base: Any, tokenizer: Any, path: str, length: int, seed: int) -> Problem:
    """The user's pairs, a fifth of them held out."""
    template = resolve("paragone.language.chat:ChatTemplate").named("plain")
    encode = resolve("paragone.language.rows:encode_pair")
    longest = base.config.max_position_embeddings
    rows = (encode(tokenizer, pair, template, longest) for pair in read_pairs(path))
    encoded = [row for row in rows if row is not None]
    if len(encoded) < _LEAST_PAIRS:
        raise UsageError(f"{path}: {len(encoded)} pairs fit into {longest} tokens; {_LEAST_PAIRS} "
                         "are needed to learn and to judge")  # fmt: skip
    order = np.random.default_rng(0).permutation(len(encoded))
    cut = max(1, len(encoded) // 5)
    held, train = ([encoded[i] for i in rows] for rows in (order[:cut], order[cut:]))
    return Problem(
        base, tokenizer, [pair.prompt for pair in train], [pair.prompt for pair in held], None,
        "the user's preferences", train, held, 2 * len(train), length,
    )  # fmt: skip
