"""`draft-heads`: heads that guess for a model, trained and measured as the shell calls it.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from paragone.lab import units
from paragone.lab.language_models import opened

__all__ = ["DraftHeads", "draft_heads"]

Kind = Literal["medusa", "medusa-2", "eagle", "mtp", "mtp-parallel"]

_SAMPLES, _TRIED, _SHARE = 300_000, 512, 0.4
"""Tokens that a model draws; those of a trial of its speed; share of a budget for drawing."""
_TOLD, _LENGTH = 200, 256


@dataclasses.dataclass(frozen=True)
class DraftHeads:
    """Heads that were trained, and what they are worth; `str()` is what the shell prints.

    Attributes:
        folder: Where they lie.
        model: Path of the model that they guess for.
        kind: Which.
        accepted_by_depth: Share agreed to at each depth, once the depth before was.
        tokens_per_step: Tokens by passes of the model with these drafts.
        plain: Tokens a second without drafts.
        drafted: Tokens a second with as many as pay here.
        seconds: Of drawing and training.
    """

    folder: str
    model: str
    kind: str
    accepted_by_depth: list[float]
    tokens_per_step: float
    plain: float
    drafted: float
    seconds: float

    def json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    def __str__(self) -> str:
        from paragone.lab import format as fmt

        shares = " / ".join(f"{share:.2f}" for share in self.accepted_by_depth)
        words = shlex.join(["paragone", "generate", self.model, "--speculate", self.folder])
        return "\n".join([
            f"{self.folder}: {self.kind}, {fmt.seconds(self.seconds)}",
            f"accepted    {shares} by depth, {self.tokens_per_step:.2f} tokens a step",
            f"speed here  {self.drafted:,.0f} tokens/s, {self.plain:,.0f} without",
            f"next: {words} TEXT",
        ])  # fmt: skip


def draft_heads(
    model: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    kind: Kind = "medusa",
    data: str | None = None,
    tokenizer: str | None = None,
    budget: str | float | None = None,
    samples: int | None = None,
    depth: int | None = None,
    vocabulary: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
    progress: Callable[[Any], None] | None = None,
) -> DraftHeads:
    """Trains heads that guess tokens ahead for a model, on its own texts. The same call continues.

    generate, chat and serve-model take the folder as --speculate. The model stays as it is, but
    for medusa-2, which trains a copy along: the folder's model/ then is the one to use.

    Args:
        model: Its folder, a llama2.c .bin or a .gguf.
        out: Folder of the heads and of their run.
        kind: medusa: several heads on the last layer, the cheapest; eagle and mtp: a block that
            goes on from its own guesses, the most agreed to; mtp-parallel: a block for each depth;
            medusa-2: medusa, with the model trained along.
        data: Texts that its samples begin with: a file or a folder of text, JSON Lines or Parquet.
            Without it the model begins by itself.
        tokenizer: Its tokenizer, if it does not lie beside it.
        budget: Time for drawing samples and for training, such as 2m.
        samples: Tokens that the model draws to be learnt from; without it 300000, or what the
            budget allows.
        depth: Tokens that are guessed one behind the other: heads, or blocks; without it four, of
            mtp one block that is used again and again.
        vocabulary: Guess only among so many tokens, the most frequent; all without it.
        temperature: Of the samples; 0 fits what is served greedily.
        seed: Of draws, weights and order.
        threads: Threads of torch.
        device: Where it runs: auto, cpu, cuda.
        progress: Called with each event.
    """
    from paragone._core.errors import UsageError

    began = time.monotonic()
    try:
        network, words = opened(model, tokenizer, device=device, threads=threads)
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        seconds = units.seconds(budget, "--budget")
        count = _samples(folder, network, samples, seconds)
        left = None if seconds is None else max(seconds * (1 - _SHARE), 1.0)
        heads = _trained(kind, network, words, data, {
            "depth": depth, "vocabulary": vocabulary, "samples": count, "seconds": left,
            "temperature": temperature, "seed": seed, "folder": folder, "progress": progress,
            "length": min(_LENGTH, network.config.max_position_embeddings),
        })  # fmt: skip
        spent = time.monotonic() - began
        return _measured(folder, model, kind, heads, network, spent)
    except UsageError:
        raise
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        raise UsageError(str(error)) from error


def _samples(folder: Path, network: Any, wanted: int | None, seconds: float | None) -> int:
    """How many tokens to draw; a run that goes on draws what it drew before."""
    from paragone.language._heads_data import own_samples
    from paragone.training.run_folder import write_whole

    if wanted is not None or seconds is None:
        return _SAMPLES if wanted is None else wanted
    path = folder / "samples.json"
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["budget"] == seconds:
            return known["tokens"]
    length = min(64, network.config.max_position_embeddings)
    rates = []
    for _ in range(2):
        # The first call also loads compiled code.
        began = time.perf_counter()
        drawn = own_samples(network, None, [[0]], _TRIED, prefix=(1, 1), length=length)
        rates.append(sum(map(len, drawn)) / max(time.perf_counter() - began, 1e-9))
    tokens = int(min(max(rates[-1] * seconds * _SHARE, 8 * length), _SAMPLES))
    write_whole(path, json.dumps({"budget": seconds, "tokens": tokens}).encode())
    return tokens


def _trained(kind: str, network: Any, words: Any, data: Any, given: dict[str, Any]) -> Any:
    """Trains heads of a kind and saves them."""
    folder, depth = given["folder"], given.pop("depth")
    few = given.pop("vocabulary")
    if kind == "eagle":
        from paragone.language.eagle import Eagle

        made = Eagle.train(network, words, data, depth=depth or 4, vocabulary=few, **given)
    elif kind.startswith("mtp"):
        from paragone.language.multi_token_prediction import MultiTokenPrediction

        parallel = kind == "mtp-parallel"
        given["tokens"], given["out"] = given.pop("samples"), given.pop("folder")
        made = MultiTokenPrediction.train(
            network, words, data, depth or (4 if parallel else 1),
            "parallel" if parallel else "sequential", draft_vocab=few or "auto", **given,
        )  # fmt: skip
    else:
        from paragone.language.medusa import Medusa

        made = Medusa.train(
            network, words, data, heads=depth or 4,
            kind="medusa-2" if kind == "medusa-2" else "medusa-1", vocabulary=few, **given,
        )  # fmt: skip
    made.save(folder)
    if kind == "medusa-2":
        from paragone.language.checkpoints import save

        save(network, words, folder / "model")
    return made


def _measured(
    folder: Path, model: Any, kind: str, heads: Any, network: Any, seconds: float
) -> DraftHeads:
    """What the heads are worth for this model on this machine."""
    from paragone.language._draft_stale import agreement
    from paragone.language.engine import engine_of
    from paragone.language.generate import generate

    found = agreement(heads, network)
    engine = engine_of(network)
    first = engine.config.bos_token_id
    prompt = [0 if first is None else int(first)]
    most = min(_TOLD, engine.config.max_position_embeddings - 1)
    speeds: dict[bool, float] = {False: 0.0, True: 0.0}
    for _ in range(3):
        for drafted, best in speeds.items():
            made = generate(
                engine, None, prompt, max_new_tokens=most, speculate=heads if drafted else None
            )
            speeds[drafted] = max(best, made.tokens_per_second)
    place = folder / "model" if kind == "medusa-2" else model
    return DraftHeads(
        str(folder), str(place), kind, [round(share, 4) for share in found.by_depth],
        round(found.tokens_per_step, 4), round(speeds[False], 1), round(speeds[True], 1),
        round(seconds, 1),
    )  # fmt: skip
