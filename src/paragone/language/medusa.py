r"""Medusa: heads on the model's last stream that guess the next but one token, and those behind it.

A decoder reads all its weights for one token, though reading them for eight costs little more.
Heads k = 0, 1, … on the stream $h_t$ that the model has made anyway guess what it will say later,

$$ q_k(\,\cdot \mid h_t) \approx p(x_{t+k+2} \mid x_{\le t}) , $$

their guesses make a tree behind the token that is certain, $x_{t+1}$, and the next pass checks the
whole tree. No second model has to be kept in step, and a draft costs one small pass. What is said
stays what the model says: see `drafting`.

Heads learn from the model's own samples, on a frozen model ("medusa-1"), or then together with it
("medusa-2"), which makes them better and changes the model a little:

$$ L = L_\text{model} + 0.2 \sum_k 0.8^k L_k . $$

Cost: a head shares the model's own matrix over the vocabulary, and has 2 M F weights beside it; a
draft reads K of these and the matrix once, on the CPU with 8 bits a weight where they are many.

References:
    Cai et al. (2024), "Medusa", arXiv:2401.10774, sections 2.1, 2.2 (eq. 1-2), 2.3.3.
    Stern et al. (2018), "Blockwise parallel decoding", arXiv:1811.03115, section 3.

Shapes: K heads, M width, F inner width of a block, V vocabulary, V' drafted tokens, W ranks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from paragone.language import _draft_stale as stale
from paragone.language._heads_data import own_samples, streams
from paragone.language._heads_fit import Fitted, fit_heads, main_loss
from paragone.language._medusa_draft import HeadsPass, MedusaDrafting
from paragone.language._medusa_files import read_heads, write_heads
from paragone.language._medusa_heads import MedusaHeads, heads_loss, true_ranks
from paragone.language.draft_trees import Path as TreePath
from paragone.language.draft_trees import path_shares, static_tree
from paragone.language.drafting import Drafter, Plan
from paragone.language.fitting import Loss, Progressed
from paragone.language.packing import IGNORED

__all__ = ["Medusa"]

_RANKS = 10
_NODES = (2, 4, 8, 16, 32, 63)
_PUBLISHED = (
    (0.560, 0.220), (0.316, 0.247), (0.201, 0.216), (0.147, 0.193), (0.118, 0.182),
)  # fmt: skip
"""Of each head of the paper's 7B model: how often its first guess is right, and its next four."""
_JOINT = 0.2
_LARGE = 1 << 20


class Medusa(Drafter):
    """Medusa heads, as drafter for `generate(speculate=…)` and `serve`.

    Prefer it to a draft model where none is at hand, or memory is short, and to `PromptLookup`
    where answers do not repeat their prompts. `Eagle` and sequential `MultiTokenPrediction` guess
    better, one token after the other, and cost more a token: prefer them where a pass of the model
    is long beside theirs.

    Args:
        heads: K heads.
        model: The `Llama` that they read.
        ids: (V',) tokens that are drafted (None: all).
        accuracies: (K, W) how often the r-th guess of each head is right (None: those of the
            paper's 7B model).
        paths: What `path_shares` gives (None: products of accuracies).
        tree: "dynamic", by what heads say in each place, or "static".
        card: What `_draft_stale.card` gives.

    Attributes:
        fitted: History and metrics of the training, after `train`.
    """

    name = "medusa"

    def __init__(
        self, heads: MedusaHeads, model: Any, *, ids: Tensor | None = None,
        accuracies: np.ndarray | None = None, paths: Mapping[TreePath, float] | None = None,
        tree: Literal["dynamic", "static"] = "dynamic", card: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        if tree not in ("dynamic", "static"):
            raise ValueError(f"tree={tree!r} is none of 'dynamic', 'static'")
        self.heads, self.model, self.ids, self.tree, self.card = heads, model, ids, tree, card
        self.accuracies = _usual(len(heads)) if accuracies is None else accuracies
        self.paths = paths
        self.fitted: Fitted | None = None
        self._runs: dict[Any, tuple[Any, HeadsPass]] = {}

    @classmethod
    def train(
        cls,
        model: Any,
        tokenizer: Any,
        texts: Any = None,
        heads: int = 4,
        kind: Literal["medusa-1", "medusa-2"] = "medusa-1",
        *,
        shared: bool = True,
        layers: int = 1,
        inner: int | None = None,
        vocabulary: int | None = None,
        soft: bool = False,
        samples: int = 300_000,
        temperature: float = 1.0,
        rows: Sequence[np.ndarray] | None = None,
        seconds: float | None = None,
        steps: int | None = None,
        tokens: float | None = None,
        lr: float = 4e-3,
        base_rate: float = 0.005,
        batch: int = 8,
        length: int = 256,
        optimizer: str = "adamw",
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        tree: Literal["dynamic", "static"] = "dynamic",
        start: Medusa | None = None,
        folder: str | os.PathLike[str] | None = None,
        progress: Callable[[Progressed], None] | None = None,
        seed: int = 0,
    ) -> Medusa:
        """Trains heads for a model, on what it says itself; the same call with `folder` goes on.

        Args:
            model: A `Llama`; with "medusa-2" trained, too, in place: save it beside the heads.
            tokenizer: Its `Tokenizer`; None where `texts` are token ids, or None.
            texts: Beginnings that the model goes on from, as `read_texts` takes them: best such
                prompts as it will be asked; None: it begins by itself.
            heads: K: how far to look ahead.
            kind: "medusa-1": the model stays as it is. "medusa-2": half of the budget like that,
                then both together.
            shared: Whether heads share the model's matrix over the vocabulary, so that a draft is
                cheap; else each has one of its own, as published heads do.
            layers: Blocks of a head.
            inner: Inner width F of blocks (None: 2 M where the matrix is shared, else the
                published blocks); 0: the published blocks.
            vocabulary: How many tokens are drafted, the most frequent of the samples (None: all).
            soft: Whether to learn from the model's whole distribution: better heads a token, for
                more time a step.
            samples: Tokens that the model draws to be learnt from.
            temperature: Of these draws; near that of later decoding is best.
            rows: Token ids to learn from in place of samples.
            seconds: Budget by the clock, without the draws (None: see `fit_heads`).
            steps: Budget in steps.
            tokens: Budget in tokens.
            lr: Largest learning rate of the heads.
            base_rate: With "medusa-2" the model's, as a share of it.
            batch: Rows of a step.
            length: Most tokens of a row.
            optimizer: Any of `paragone.training`, in lower case.
            precision: "fp32", "bf16" or "fp16".
            tree: As in the class.
            start: Heads to go on from, such as those of the model before it was tuned; K, layers
                and vocabulary are theirs.
            folder: The run's folder; None: nothing is written.
            progress: Called with each event.
            seed: Of draws and order.

        Raises:
            ValueError: An option out of range, heads of another model, a folder of another run.

        Example:
            >>> from paragone.language import Llama, LlamaConfig
            >>> llama = Llama(LlamaConfig(8, 8, num_hidden_layers=1, num_attention_heads=1))
            >>> ids = [np.arange(8), np.arange(8)]
            >>> Medusa.train(llama, None, rows=ids, heads=2, steps=1).plans()[0]
            Plan(nodes=1, depth=1, width=1)
        """
        if kind not in ("medusa-1", "medusa-2"):
            raise ValueError(f"kind={kind!r} is none of 'medusa-1', 'medusa-2'")
        if heads < 1 or layers < 0 or (inner or 0) < 0:
            raise ValueError(f"heads={heads}, layers={layers}, inner={inner}: 1 head or more, and "
                             "no negative number")  # fmt: skip
        if rows is None:
            length = min(length, model.config.max_position_embeddings)
            rows = own_samples(
                model, tokenizer, texts, samples, temperature=temperature, length=length,
                seed=seed, progress=progress,
            )  # fmt: skip
        if start is None:
            ids = _frequent(model, rows, vocabulary)
            made = cls._new(model, heads, shared, layers, inner, ids, seed)
        else:
            made = cls._from(start, model)
        made.tree = tree
        own = made.heads
        identity = {
            "kind": kind, "soft": soft, "heads": [len(own), own.layers, own.words, own.inner],
        }  # fmt: skip
        options: dict[str, Any] = {
            "lr": lr, "batch": batch, "length": length, "optimizer": optimizer, "seed": seed,
            "precision": precision, "progress": progress, "identity": identity,
        }  # fmt: skip
        budget = {"seconds": seconds, "steps": steps, "tokens": tokens}
        made._fit(rows, budget, kind, soft, base_rate, folder, options)
        assert made.fitted is not None
        made.measure(made.fitted.held)
        if model.config.max_position_embeddings > 16:
            made.card = stale.card(made, model)
        return made

    @classmethod
    def _new(
        cls, model: Any, count: int, shared: bool, layers: int, inner: int | None,
        ids: Tensor | None, seed: int = 0,
    ) -> Medusa:  # fmt: skip
        weight = model.lm_head.weight.detach()
        width = weight.shape[1]
        rows = (2 * width if shared else 0) if inner is None else inner
        words = 0 if shared else (len(weight) if ids is None else len(ids))
        generator = torch.Generator().manual_seed(seed)
        heads = MedusaHeads(count, width, layers, words, rows, dtype=torch.float32)
        with torch.no_grad():
            for k in range(count):
                for block in heads.blocks(k) if rows else []:
                    block.linear.weight.normal_(0, width**-0.5, generator=generator)
                    block.linear.bias.zero_()
                if words:
                    heads.matrix(k, weight).copy_(weight if ids is None else weight[ids])
        return cls(heads.to(weight.device), model, ids=ids)

    @classmethod
    def _from(cls, start: Medusa, model: Any) -> Medusa:
        own = start.heads
        made = cls(
            MedusaHeads(len(own), own.width, own.layers, own.words, own.inner), model, ids=start.ids
        )
        made.heads.to(model.lm_head.weight.device).load_state_dict(own.state_dict())
        _fits(made.heads, model)
        return made

    def _fit(
        self, rows: Sequence[np.ndarray], budget: Mapping[str, Any], kind: str, soft: bool,
        base_rate: float, folder: Any, options: Mapping[str, Any],
    ) -> None:  # fmt: skip
        model, joint = self.model, kind == "medusa-2"

        def loss(batch: Any) -> Loss:
            return heads_loss(self.heads, self._matrix(), batch, self._places(), soft=soft)

        def both(batch: Any) -> Loss:
            found = loss(batch)
            total, count = main_loss(model, batch)
            metrics = {**found.metrics, "main": (total.detach(), count)}
            share = _JOINT * count / max(int(found.count), 1)
            return Loss(total + share * found.total, count, metrics, found.tokens)

        parts = [None if folder is None else Path(folder)] * 2
        if joint:
            budget = {name: None if x is None else x / 2 for name, x in budget.items()}
            budget["steps"] = None if budget["steps"] is None else max(1, int(budget["steps"]))
            parts = [None if path is None else path / name for path, name in zip(
                parts, ("heads", "joint"), strict=True)]  # fmt: skip
        self.fitted = fit_heads(self.heads, model, rows, loss, folder=parts[0], **budget, **options)
        if joint:
            second = fit_heads(
                self.heads, model, rows, both, folder=parts[1], joint=True, base_rate=base_rate,
                **budget, **options,
            )  # fmt: skip
            self.fitted = Fitted(
                [*self.fitted.history, *second.history], second.metrics,
                self.fitted.tokens + second.tokens, self.fitted.seconds + second.seconds,
                second.held,
            )  # fmt: skip

    def _matrix(self) -> Tensor:
        """(V', M) rows of the model's matrix."""
        weight = self.model.lm_head.weight
        return weight if self.ids is None else weight[self.ids.to(weight.device)]

    def _places(self) -> Tensor | None:
        if self.ids is None:
            return None
        weight = self.model.lm_head.weight
        found = torch.full((len(weight),), IGNORED, dtype=torch.int64, device=weight.device)
        found[self.ids.to(weight.device)] = torch.arange(len(self.ids), device=weight.device)
        return found

    def measure(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """Counts on text of the model how often guesses are right; trees then go by that.

        Args:
            rows: (T,) tokens of each row, such as `own_samples` draws; none that heads learnt from.

        Returns:
            (K, W) share of places in which the r-th guess of each head was the token that came.

        Raises:
            ValueError: No row has a token for each head.
        """
        batches = [streams(self.model, rows[i : i + 16]) for i in range(0, len(rows), 16)]
        words = len(self._matrix())
        ranks = true_ranks(
            self.heads, self._matrix(), batches, self._places(), min(_RANKS, words)
        )  # fmt: skip
        if not len(ranks):
            raise ValueError(
                f"{len(rows)} rows, none of which has more than {len(self.heads) + 1} tokens: "
                "nothing to measure on"
            )
        width = min(_RANKS, words)
        self.accuracies = np.stack(
            [np.bincount(own, minlength=width + 1)[:width] / len(ranks) for own in ranks.T]
        )
        self.paths = path_shares(ranks, width) or None
        return self.accuracies

    def plans(self) -> Sequence[Plan]:
        depth = len(self.heads)
        trees = [Plan(n, min(n, depth), min(n, self.accuracies.shape[1])) for n in _NODES]
        chains = [Plan(d, d) for d in range(1, depth + 1)]
        return sorted([*trees, *chains], key=lambda plan: (plan.nodes, -plan.width))

    def chances(self, plan: Plan) -> np.ndarray:
        return self._shape(plan).chances(plan.depth)

    def _shape(self, plan: Plan) -> Any:
        return static_tree(self.paths or self.accuracies, plan)

    def open(self, engine: Any) -> MedusaDrafting:
        config = engine.config
        if (config.hidden_size, config.vocab_size) != self.model.lm_head.weight.shape[::-1]:
            raise ValueError(
                f"these heads read streams of width {self.heads.width} over "
                f"{len(self.model.lm_head.weight)} tokens; the engine's model has "
                f"{config.hidden_size} and {config.vocab_size}: give the heads' own model"
            )
        ids = None if self.ids is None else self.ids.cpu().numpy()
        shape = self._shape if self.tree == "static" else None
        return MedusaDrafting(self._run(engine), len(self.heads), ids, shape)

    def _run(self, engine: Any) -> HeadsPass:
        """The packed heads, made anew when weights have changed."""
        weights = [self.model.lm_head.weight, *self.heads.parameters()]
        state = tuple((p.data_ptr(), p._version, p.device) for p in weights)
        # Guesses need no last digit, and a large matrix is read in half the time.
        narrow = engine.weights == "int8" or weights[0].numel() > _LARGE
        narrow = narrow and weights[0].device.type == "cpu"
        key = ("int8" if narrow else "float32", getattr(engine, "threads", None))
        if key not in self._runs or self._runs[key][0] != state:
            with torch.no_grad():
                made = HeadsPass(self.heads, self._matrix().detach(), *key)
            self._runs[key] = state, made
        return self._runs[key][1]

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the heads: `medusa_lm_head.safetensors` and `config.json` with what was measured.

        Args:
            folder: Where; made if it does not exist.
        """
        paths = [[list(path), share] for path, share in (self.paths or {}).items()]
        notes = {
            "vocab_size": len(self.model.lm_head.weight), "shared_head": not self.heads.words,
            "tree": self.tree, "accuracies": np.asarray(self.accuracies).tolist(), "paths": paths,
            "stale": None if self.card is None else dict(self.card),
        }  # fmt: skip
        write_heads(self.heads, self.ids, notes, Path(folder))
        return Path(folder)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], model: Any,
        tree: Literal["dynamic", "static"] | None = None,
    ) -> Medusa:  # fmt: skip
        """Reads heads, those of `save` or published ones (FasterDecoding).

        Args:
            folder: The folder, or the file of weights in it.
            model: The `Llama` that they are to draft for.
            tree: As in the class (None: as it was saved).

        Raises:
            ValueError: Files that cannot be read, or heads of a model of other sizes.

        Warns:
            StaleHeadsWarning: They were trained for other weights, and it shows.
        """
        weight = model.lm_head.weight
        heads, ids, config = read_heads(Path(folder), weight.shape[1], len(weight))
        given = config.get("accuracies")
        made = cls(
            heads.to(weight.device), model, ids=ids,
            accuracies=None if given is None else np.array(given, float),
            paths={tuple(path): share for path, share in config.get("paths") or []} or None,
            tree=tree or config.get("tree", "dynamic"), card=config.get("stale"),
        )  # fmt: skip
        stale.check(made, model, made.card)
        return made


def _usual(count: int) -> np.ndarray:
    """(K, W) accuracies of heads that were not measured."""
    known = [_PUBLISHED[min(k, len(_PUBLISHED) - 1)] for k in range(count)]
    falling = np.array([0.45, 0.25, 0.17, 0.13])
    return np.array([[first, *(falling * rest)] for first, rest in known])


def _frequent(model: Any, rows: Sequence[np.ndarray], count: int | None) -> Tensor | None:
    """The most frequent tokens of rows, in rising order; None for all."""
    words = len(model.lm_head.weight)
    if count is None or count >= words:
        return None
    if count < 1:
        raise ValueError(f"vocabulary={count}: 1 token or more, or None for all {words}")
    times = np.bincount(
        np.concatenate([np.asarray(row, np.int64) for row in rows]), minlength=words
    )
    return torch.from_numpy(np.sort(np.argsort(-times, kind="stable")[:count]))


def _fits(heads: MedusaHeads, model: Any) -> None:
    width = model.lm_head.weight.shape[1]
    if heads.width != width:
        raise ValueError(f"start has heads of width {heads.width}; the model's is {width}")
