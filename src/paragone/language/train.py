r"""Pre-training: from raw text to a model that `load`, `generate` and `serve` open, in one call.

Text becomes tokens (a tokenizer is trained if none is given), tokens become packed rows, and the
model learns to predict each next one. What is compared between runs does not depend on the
tokenizer: bits a byte of text that was held back,

$$ \mathrm{bpb} = \frac{-\sum_t \log_2 p(x_t \mid x_{<t})}{\text{bytes}} . $$

The run's folder is a model's folder in the layout of Hugging Face at every instant, and holds what
the same call goes on from, bit for bit:

    config.json, model.safetensors, tokenizer files    the model as of the last validation
    run.json, last.pt, tokens.npz                      the run, its state, its text as tokens
    metrics.jsonl                                      a line for each part of the run

Cost: 6 N operations a token for N weights; 16 N bytes and the activations of a micro-batch.

References:
    Touvron et al. (2023), LLaMA, arXiv:2302.13971, section 2.3 (AdamW, cosine, clipping at 1).
    Hoffmann et al. (2022), arXiv:2203.15556, table 3 (about 20 tokens a weight).
    Gao et al. (2020), The Pile, arXiv:2101.00027, section 3.1 (bits a byte).

Shapes: B rows of N tokens in a step.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from paragone._core.lazy import resolve
from paragone._core.network import agreed, choose_interface
from paragone.language import _train_data as data_of
from paragone.language import _train_hosts as hosts
from paragone.language import _train_setup as setup
from paragone.language._mtp_losses import weights_of
from paragone.language._train_loss import LossHead, WithAhead, next_token_loss, step_loss
from paragone.language._train_ranks import Ranks
from paragone.language.checkpoints import load, save
from paragone.language.config import PRESETS, LlamaConfig
from paragone.language.corpus import Corpus, library_texts, read_texts
from paragone.language.fitting import Loop, Loss, Progressed, Recipe
from paragone.language.llama import Llama
from paragone.language.multi_token_prediction import MultiTokenPrediction
from paragone.language.packing import Row
from paragone.language.tokenizer import Tokenizer
from paragone.training.by_name import RATES
from paragone.training.run_folder import Folder, seeded, write_files

__all__ = ["Trained", "next_token_loss", "train"]

_TOKENS_A_WEIGHT = 20
_MOST_EPOCHS = 2.0
"""Passes over the data that a run without a budget makes, at most."""
_VALIDATIONS = 10
_VALIDATION_SHARE = 0.1
"""Share of a run's work that validations before the last one may take."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run has come to.

    Attributes:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        metrics: Of the last validation: "validation_loss" (nats a token), "bits_per_byte".
        history: A dict for each line of metrics.jsonl.
        tokens: Tokens that it was trained on.
        seconds: Seconds, over all parts of the run.
        folder: Where it lies, or None.
        ahead: The modules that were trained with it, or None.
    """

    model: Llama
    tokenizer: Tokenizer
    metrics: dict[str, float]
    history: list[dict[str, Any]]
    tokens: int
    seconds: float
    folder: Path | None
    ahead: MultiTokenPrediction | None = None


def train(
    data: Any = None,
    out: str | os.PathLike[str] | None = None,
    *,
    preset: str | None = None,
    model: Llama | LlamaConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
    vocab_size: int | None = None,
    key: str | None = None,
    length: int | None = None,
    batch: int = 8,
    accumulate: int = 1,
    tokens: float | None = None,
    seconds: float | None = None,
    lr: float | None = None,
    warmup: float = 0.05,
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine",
    optimizer: str = "adamw",
    weight_decay: float = 0.1,
    clip_norm: float | None = 1.0,
    mixer: str | None = None,
    ahead: int = 0,
    ahead_kind: Literal["sequential", "parallel"] = "sequential",
    ahead_weight: float | Sequence[float] | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    compile: Literal["auto"] | bool = "auto",
    validation: float = 0.05,
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
    zero: int = 0,
    engine: Literal["own", "fsdp2"] = "own",
    memory: float | None = None,
    timeout: float | None = None,
    resume: bool = True,
    progress: Callable[[Progressed], None] | None = None,
) -> Trained:
    """Trains a language model on text; the same call with the same folder goes on.

    Prefer it to a framework of several nodes up to what one machine trains in a week. Under
    `torchrun -m paragone train …` each process is a rank, and `batch` is that of one rank. A run
    that goes on with fewer or more ranks keeps the rows of its steps.

    Args:
        data: A text or JSON Lines file (also .gz), a folder, strings, or a `Corpus`; None: sources
            of Python's standard library.
        out: The run's folder; None: nothing is written.
        preset: Sizes by name, one of `config.PRESETS` ("tiny" without a model).
        model: In place of a preset: a configuration, fields that differ from the preset's, a
            model to go on from, or its folder.
        tokenizer: A tokenizer or its path, "bytes" for single bytes; None: one is trained.
        vocab_size: Tokens of a tokenizer that is trained.
        key: Field of JSON records that has the text.
        length: Tokens of a row (None: what the model is made for, at most 1024).
        batch: Rows of a micro-batch.
        accumulate: Micro-batches of a step.
        tokens: Budget in tokens. None, and no seconds: 20 a weight, at most the data twice.
        seconds: Budget in seconds, validations included; the schedule ends with it.
        lr: Largest learning rate.
        warmup: Share of the run in which it rises.
        schedule: How it falls to a tenth.
        optimizer: One of `paragone.training.by_name.OPTIMIZERS`.
        weight_decay: Decay of matrices.
        clip_norm: Largest norm of a step's gradients, or None.
        mixer: A causal mixer of `paragone.mixers`, or several for the layers, commas in between.
        ahead: Modules that predict the tokens behind the next one and are trained with the model
            (`MultiTokenPrediction`); saved beside it. "loss" stays that of the next token.
        ahead_kind: "sequential" or "parallel".
        ahead_weight: Weight of their losses, as in `MultiTokenPrediction.losses`.
        precision: "auto" measures whether bf16 is faster here.
        compile: "auto" measures whether it pays within the run.
        validation: Share of the text that is held back.
        seed: Of weights, order and cuts.
        threads: Threads of torch; None: as they are.
        device: "auto", "cpu", "cuda" and so on.
        zero: Under several ranks, the ZeRO stage; 0: each rank has everything.
        engine: "own", or "fsdp2" for stage 3.
        memory: Bytes that the run may take (None: what is free).
        timeout: Seconds to wait for another rank (None: torch's half an hour).
        resume: Whether to go on from what lies in `out`; False starts anew.
        progress: Called with each event.

    Raises:
        ValueError: An argument out of range, no text, a folder of another run, a model that does
            not fit into memory, a loss that is no number, or hosts that read other text.
        LostRankError: Another rank has ended, or does not answer.

    Example:
        >>> done = train(["to be or not to be, that is the question. "] * 60, tokens=2000,
        ...     model={"hidden_size": 32, "num_hidden_layers": 1}, vocab_size=300, length=32)
        >>> done.metrics["bits_per_byte"] < 8
        True
    """
    begun = time.monotonic()
    asked = {
        "preset": preset, "model": _described(model), "tokenizer": _described(tokenizer),
        "vocab_size": vocab_size, "length": length, "batch": batch, "accumulate": accumulate,
        "tokens": tokens, "seconds": seconds, "precision": precision, "compile": compile,
        "mixer": mixer, "validation": validation,
    }  # fmt: skip
    if ahead:
        asked["ahead"] = [ahead, ahead_kind, list(weights_of(ahead_weight, ahead, ahead_kind))]
    options = {
        "lr": lr, "warmup": warmup, "schedule": schedule, "optimizer": optimizer,
        "weight_decay": weight_decay, "clip_norm": clip_norm, "seed": seed, "zero": zero,
        "engine": engine, "seconds": seconds,
    }  # fmt: skip
    _checked(batch=batch, accumulate=accumulate, length=length, tokens=tokens, seconds=seconds,
             timeout=timeout)  # fmt: skip
    if ahead < 0 or (ahead and zero == 3):
        raise ValueError(f"ahead={ahead}, zero={zero}: at least 0, and with modules ZeRO up to 2")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is none of {', '.join(PRESETS)}")
    place = _place(device, timeout)
    run = _Run(out, asked, resume, progress, place)
    with setup.threads_of(threads):
        run.texts(lambda: _read(data, key), validation)
        run.words(tokenizer, model, vocab_size, preset or "tiny")
        config = run.shape(model, preset, mixer, length)
        # A module is about as large as a layer.
        deeper = config.replace(num_hidden_layers=config.num_hidden_layers + ahead)
        run.plan(deeper, batch, accumulate, options, precision, memory)
        run.build(model, config, seed, zero)
        if ahead:
            run.look_ahead(ahead, ahead_kind, ahead_weight, seed)
        loop = run.loop(options, batch, accumulate, tokens, precision, compile, begun)
        loop.run()
        return run.finished(loop)


class _Run:
    """The parts of a run in the order in which they are made."""

    def __init__(
        self, out: str | os.PathLike[str] | None, asked: dict[str, Any], resume: bool,
        progress: Callable[[Progressed], None] | None, device: str,
    ) -> None:  # fmt: skip
        self.device, self.progress = device, progress
        there = dist.is_available() and dist.is_initialized()
        self.rank = (dist.get_rank(), dist.get_world_size()) if there else (0, 1)
        self.folder = None if out is None else Folder(out)
        if self.folder is not None and not resume:  # by all: hosts may have disks of their own
            for name in ("last.pt", "run.json", "tokens.npz", "metrics.jsonl"):
                (self.folder.path / name).unlink(missing_ok=True)
        if self.folder is not None and self.rank[0] == 0:
            for left in self.folder.path.glob(".export.*"):
                shutil.rmtree(left, ignore_errors=True)
        self._wait()
        self.asked = json.loads(json.dumps(asked))
        self.before = self._earlier()

    def tell(self, text: str) -> None:
        """A note to the user."""
        if self.progress is not None and self.rank[0] == 0:
            self.progress(Progressed("note", text=text))

    def _wait(self) -> None:
        if self.rank[1] > 1:
            dist.barrier()

    def _earlier(self) -> dict[str, Any] | None:
        """What an earlier part of this run has chosen; another run is refused by the loop."""
        return None if self.folder is None else hosts.settings(self.folder, Ranks())

    def texts(self, read: Callable[[], Corpus], share: float) -> None:
        """Takes the text apart: to learn from, and to validate on."""
        corpus = agreed("reading the text", read, Ranks().told)
        self.key = corpus.fingerprint()
        size = f"{len(corpus.texts)} documents of {corpus.bytes} bytes in {corpus.name}"
        hosts.same_text(self.key, size, Ranks())
        self.tell(f"{corpus.name}: {len(corpus.texts)} documents, {corpus.bytes / 1e6:.2f} MB")
        for line in corpus.notes():
            self.tell(line)
        self.parts = data_of.split(corpus, share)

    def words(self, given: Any, model: Any, vocab_size: int | None, preset: str) -> None:
        """Makes the tokenizer, and tokens of the text."""
        path = None if self.folder is None else self.folder.path
        kept = self.before is not None and self.before.get("text") == self.key
        if isinstance(given, Tokenizer):
            self.tokenizer = given
        elif given is not None and given != "bytes":
            self.tokenizer = Tokenizer.load(given)
        elif isinstance(model, str | os.PathLike):
            self.tokenizer = Tokenizer.load(model)
        elif kept and path is not None and (path / "tokenizer.json").is_file():
            self.tokenizer = Tokenizer.load(path)
        else:
            self._learn_words(given, vocab_size, preset)
        if path is not None and self.rank[0] == 0 and not kept:
            self.tokenizer.save(path)
        self._wait()
        file = None if path is None else path / "tokens.npz"
        mark = f"{self.key} {self.tokenizer!r} {self.asked['validation']}"
        found = None if file is None or not kept else data_of.read_documents(file, mark, 2)
        if found is None:
            found = [data_of.tokenized(part, self.tokenizer, self._told()) for part in self.parts]
            if file is not None and self.rank[0] == 0:
                data_of.write_documents(file, mark, found)
        self.training, self.held = found
        crc = zlib.crc32(self.training.ids.tobytes())
        hosts.same_text(f"{crc:08x}", f"{self.training.tokens} tokens ({crc:08x})", Ranks())
        ratio = self.training.bytes / max(self.training.tokens, 1)
        self.tell(
            f"{self.training.tokens:,} tokens to learn from, {self.held.tokens:,} to validate on, "
            f"{ratio:.2f} bytes a token"
        )

    def _learn_words(self, given: Any, vocab_size: int | None, preset: str) -> None:
        small = {"tiny": 2048}
        size = vocab_size or small.get(preset, 8192)
        if given == "bytes":
            self.tokenizer = byte_tokenizer()
            return
        self.tell(f"learning {size} tokens from the text")
        self.tokenizer = Tokenizer.train(self.parts[0].texts, size)

    def _told(self) -> Callable[[int, int], None]:
        last = [time.monotonic()]

        def tell(done: int, total: int) -> None:
            if time.monotonic() - last[0] > 5:
                last[0] = time.monotonic()
                self.tell(f"encoding: {done} of {total} documents")

        return tell

    def shape(
        self, model: Any, preset: str | None, mixer: str | None, length: int | None
    ) -> LlamaConfig:
        """The model's configuration, and the length of rows."""
        vocabulary = self.tokenizer.vocab_size
        ends = {"bos_token_id": self.tokenizer.bos_id, "eos_token_id": self.tokenizer.eos_id,
                "pad_token_id": self.tokenizer.pad_id}  # fmt: skip
        if isinstance(model, LlamaConfig):
            config = model.replace(vocab_size=vocabulary, **ends)
        elif isinstance(model, Llama):
            config = model.config
        elif isinstance(model, str | os.PathLike):
            self.loaded, _ = load(model)
            config = self.loaded.config
        else:
            config = LlamaConfig(**{**PRESETS[preset or "tiny"], **ends, "vocab_size": vocabulary,
                                    **(model or {})})  # fmt: skip
        if config.vocab_size < vocabulary:
            raise ValueError(
                f"the model has {config.vocab_size} tokens, its tokenizer {vocabulary}; give the "
                "tokenizer that it was made with"
            )
        if mixer is not None:
            names = tuple(word.strip() for word in mixer.split(","))
            config = config.replace(mixer=names[0] if len(names) == 1 else names)
        self.length = length or min(config.max_position_embeddings, 1024)
        return config

    def plan(
        self, config: LlamaConfig, rows: int, accumulate: int, options: dict[str, Any],
        precision: str, memory: float | None,
    ) -> None:  # fmt: skip
        """Refuses what would not fit, before anything is computed."""
        needed, words = setup.needed_memory(
            config, Llama, rows, self.length, optimizer=options["optimizer"],
            precision="fp32" if precision == "auto" else precision, accumulate=accumulate,
            ranks=self.rank[1], zero=options["zero"], device=self.device,
        )  # fmt: skip
        free = setup.free_memory(self.device) if memory is None else int(memory)
        self.tell(f"memory: {words}" + ("" if free is None else f"; {free / 1e9:.1f} GB are free"))
        if free is not None and needed > free:
            raise ValueError(
                f"training needs {words}, but {free / 1e9:.2f} GB are free on {self.device}: take "
                f"fewer rows (batch={rows}) and accumulate={accumulate * 2}, a shorter "
                f"length={self.length}, a smaller preset, or several ranks with zero=3"
            )

    def build(self, model: Any, config: LlamaConfig, seed: int, zero: int) -> None:
        """Makes the model, or takes the one that was given."""
        if isinstance(model, Llama):
            self.model = model
        elif isinstance(model, str | os.PathLike):
            self.model = self.loaded
        else:
            with seeded(seed):
                self.model = Llama(config)
        self.zero = zero
        self.model.to(self.device)
        if zero == 3:
            self.model.lm_head.__class__ = LossHead
        self.trained: Any = self.model
        count = sum(p.numel() for p in self.model.parameters())
        self.tell(f"{count / 1e6:.2f} M weights on {self.device}, rows of {self.length} tokens")

    def look_ahead(self, depth: int, kind: Any, weight: Any, seed: int) -> None:
        """Makes modules that are trained with the model."""
        with seeded(seed, 1):
            found = MultiTokenPrediction(self.model, depth, kind)
        self.trained = WithAhead(self.model, found, weight)
        count = sum(p.numel() for p in found.modules.parameters())
        self.tell(f"{depth} {kind} modules look further ahead: {count / 1e6:.2f} M weights")

    def loop(
        self, options: dict[str, Any], rows: int, accumulate: int, tokens: float | None,
        precision: str, compiled: str | bool, begun: float,
    ) -> Loop:  # fmt: skip
        """Chooses what is to be measured, and makes the loop."""
        seed, optimizer = options["seed"], options["optimizer"]
        chosen = None if self.before is None else self.before.get("chosen")
        asked = rows * accumulate * self.rank[1]
        begun_with = asked if chosen is None else chosen.get("rows", asked)
        accumulate = hosts.micro_batches(begun_with, rows, accumulate, self.rank[1])
        feed = data_of.Feed(
            self.training, self.length, rows, accumulate, seed, self.rank, self.device
        )
        if chosen is None:
            chosen = self._choose(feed, tokens, options["seconds"], precision, compiled)
        if chosen["compile"]:
            setup.compile_layers(self.trained)
        width = self.model.config.hidden_size
        usual = 3e-3 * (128 / width) ** 0.5 * RATES[optimizer] / RATES["adamw"] if (
            optimizer in RATES) else 1e-3  # fmt: skip
        recipe = Recipe(**{
            **options, "lr": options["lr"] or usual, "steps": chosen["steps"],
            "precision": chosen["precision"], "evaluate_every": chosen["evaluate_every"],
        })  # fmt: skip
        rows_held = data_of.validation_rows(self.held, self.length, rows, self.device)
        some, last = (
            rows_held[:: max(1, round(1 / max(share, 1e-9)))] for share in chosen["validation"]
        )

        def evaluate() -> dict[str, float]:
            return self._evaluate(loop.way.value, last if loop.finished else some)

        loop = Loop(
            self.trained, recipe, feed, lambda row: step_loss(self.trained, row), self.folder,
            self.progress, evaluate, export=self.export, begun=begun, after=self._after(),
            identity={"asked": self.asked, "text": self.key, "chosen": chosen},
        )  # fmt: skip
        self.step_tokens = feed.step_tokens
        return loop

    def _after(self) -> Callable[[], Any] | None:
        if not self.model.config.n_routed_experts:
            return None
        balance = resolve("paragone.language.moe:balance_experts")
        return lambda: balance(self.trained)

    def _choose(
        self, feed: data_of.Feed, tokens: float | None, seconds: float | None, precision: str,
        compiled: str | bool,
    ) -> dict[str, Any]:  # fmt: skip
        """Steps, type and compiler: what is measured once and then belongs to the run."""
        micro = feed(0)[0]

        def step(model: Any) -> torch.Tensor:
            found = step_loss(model, micro)
            return found.total / found.count

        alone = self.rank[1] == 1
        if precision == "auto":
            precision = setup.probed_precision(self.trained, step, self.device) if alone else "fp32"
            self.tell(f"precision: {precision}" + (", measured" if alone else ""))
        if tokens is None and seconds is None:
            weights = sum(p.numel() for p in self.model.parameters())
            tokens = min(_TOKENS_A_WEIGHT * weights, _MOST_EPOCHS * self.training.tokens)
        if tokens is None:
            assert seconds is not None
            took = self._step_seconds(step) * feed.accumulate
            # More than will be reached: the clock ends the run.
            steps = max(_VALIDATIONS, math.ceil(2 * seconds / took))
            every = max(1, steps // (2 * _VALIDATIONS))
        else:
            steps = max(1, round(tokens / feed.step_tokens))
            every = max(1, steps // _VALIDATIONS)
        if compiled == "auto":
            compiled, why = False, ""
            if alone and self.device != "cpu":
                compiled, why = setup.pays_to_compile(self.trained, step, steps, self.device)
                self.tell(why)
        work = steps * feed.step_tokens / max(self.held.tokens, 1)
        shares = (3 * _VALIDATION_SHARE / _VALIDATIONS * work, work)
        return {
            "steps": steps, "evaluate_every": every, "precision": precision,
            "compile": bool(compiled), "validation": [min(1.0, share) for share in shares],
            "rows": feed.each,
        }  # fmt: skip

    def _step_seconds(self, step: Callable[[Any], torch.Tensor]) -> float:
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            step(self.trained).backward()
            times.append(time.perf_counter() - begun)
        self.trained.zero_grad()
        found = torch.tensor(min(times), dtype=torch.float64)
        if self.rank[1] > 1:
            dist.broadcast(found, 0)
        return float(found)

    def _evaluate(self, value: Callable[[Row], Loss], rows: list[Row]) -> dict[str, float]:
        """Loss over rows, shared out over the ranks."""
        sums: dict[str, list[float]] = {}
        mine = rows[self.rank[0] :: self.rank[1]] if self.rank[1] > 1 else rows
        for at in range(-(-len(rows) // self.rank[1])):
            # Every rank makes as many passes, since with ZeRO-3 a pass needs all.
            found = value(mine[at] if at < len(mine) else rows[0])
            for name, pair in {"loss": (found.total, found.count), **found.metrics}.items():
                so_far = sums.setdefault(name, [0.0, 0.0])
                if at < len(mine):
                    so_far[0] += float(pair[0])
                    so_far[1] += float(pair[1])
        flat = Ranks().added([x for pair in sums.values() for x in pair])
        (total, count), *more = zip(flat[::2], flat[1::2], strict=True)
        loss = total / max(count, 1)
        a_byte = self.held.tokens / max(self.held.bytes, 1)
        names = [f"validation_{name}" for name in sums][1:]
        further = {name: a / max(b, 1) for name, (a, b) in zip(names, more, strict=True)}
        if isinstance(self.trained, WithAhead):
            self.trained.ahead.accuracies = tuple(
                x for name, x in further.items() if name.startswith("validation_agreed")
            )
        return {
            "validation_loss": loss, "bits_per_byte": loss / math.log(2) * a_byte, **further,
        }  # fmt: skip

    def export(self, folder: Folder) -> None:
        """Writes the model so that a reader finds the old one or the new one."""
        # Writers hand memory on, and that of ZeRO-3's weights must stay free to come and go.
        whole = copied(self.model) if self.rank[1] > 1 or self.zero else self.model

        def write(beside: Path) -> None:
            save(whole, self.tokenizer, beside)
            if isinstance(self.trained, WithAhead):
                self.trained.ahead.save(beside)

        write_files(folder.path, write)

    def finished(self, loop: Loop) -> Trained:
        """What the run has come to."""
        last = next((line for line in reversed(loop.history) if "validation_loss" in line), {})
        names = [k for k in last if k.startswith("validation_") or k == "bits_per_byte"]
        self.trained.eval()
        ahead = self.trained.ahead if isinstance(self.trained, WithAhead) else None
        if ahead is not None and self.rank[0] == 0:
            ahead.certify()
            if self.folder is not None:
                ahead.save(self.folder.path)
        return Trained(
            self.model, self.tokenizer, {k: last[k] for k in names if k in last}, loop.history,
            loop.step * self.step_tokens, loop.seconds,
            None if self.folder is None else self.folder.path, ahead,
        )  # fmt: skip


def copied(model: Llama) -> Llama:
    """A copy on the CPU that shares nothing."""
    other = Llama(model.config, device="meta").to_empty(device="cpu")
    state = {name: x.detach().cpu().clone() for name, x in model.state_dict().items()}
    other.load_state_dict(state)
    return other


def byte_tokenizer() -> Tokenizer:
    """A tokenizer whose tokens are single bytes, and the ends of a text."""
    return Tokenizer.train(["a"], 258)


def _described(value: Any) -> Any:
    """A model or tokenizer as the identity of a run knows it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, LlamaConfig):
        return json.loads(json.dumps(dataclasses.asdict(value)))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, nn.Module):
        return f"a model of {sum(p.numel() for p in value.parameters())} weights"
    return str(value) if isinstance(value, os.PathLike) else repr(value)


def _read(data: Any, key: str | None) -> Corpus:
    return library_texts() if data is None else read_texts(data, key=key)


def _checked(**given: float | None) -> None:
    for name, value in given.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value}: more than 0 is expected")


def _place(device: str, timeout: float | None) -> str:
    """The device of this process; under torchrun the process group is made here."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available() and device in ("auto", "cuda")
    if ranks > 1 and dist.is_available() and not dist.is_initialized():
        choose_interface()
        wait = None if timeout is None else datetime.timedelta(seconds=timeout)
        dist.init_process_group("nccl" if cuda else "gloo", timeout=wait)
    if device != "auto" and not (cuda and ranks > 1):
        return str(torch.device(device))
    if not cuda:
        return "cpu"
    place = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if ranks > 1 else "cuda"
    torch.cuda.set_device(torch.device(place).index or 0)
    return place
