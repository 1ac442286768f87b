r"""Multi-token prediction: modules that look beyond the next token, for training and drafting.

Asked for several of the tokens to come, a stream must hold more of what comes; whether the next
token gains by it is a question of size (see the study `multi_token_training`). The modules can be
left out afterwards, or draft for the model that they grew up with.

- "sequential", DeepSeek-V3: module d reads the stream that module d - 1 left at t and the
  embedding of $x_{t+d}$, and predicts $x_{t+d+1}$; embedding and head are the model's. A module
  knows the tokens between, so its guesses hold together; the last one goes on from its own stream
  beyond the depth that was trained.
- "parallel", Meta: head d is a block on the trunk's stream at t, and predicts $x_{t+d+1}$ without
  knowing the tokens between. All heads are run at once.

$$ L = L_{\text{next}} + \sum_{d=1}^{D} w_d L_d, \qquad
   L_d = -\frac1n \sum_t \log p_d(x_{t+d+1} \mid x_{\le t},\; x_{t+1..t+d}) , $$

the last condition for sequential modules only. The main head's logits are the same with modules
and without.

Cost: a block and a head's pass for each depth, in training; in drafting one each a token.

References:
    DeepSeek-AI (2024), DeepSeek-V3, arXiv:2412.19437, section 2.2, eq. 21-25.
    Gloeckle et al. (2024), arXiv:2404.19737, section 2 and figure 2.
    Stern et al. (2018), arXiv:1811.03115, section 3 (heads that draft for their own model).

Shapes: B rows, T time, M model width, V vocabulary, D depth, L layers of the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from paragone._core.lazy import resolve
from paragone.language._mtp_losses import (
    AheadLosses,
    one_at_a_time,
    soft_loss,
    weights_of,
)
from paragone.language._mtp_modules import (
    AheadModules,
    ParallelHead,
    SequentialModule,
    drawn,
    shifted,
)
from paragone.language.drafting import Drafter, Drafting, Plan, chances_by_depth, plans_within
from paragone.language.fitting import Progressed
from paragone.language.llama import Llama
from paragone.language.losses import IGNORED, token_loss

__all__ = ["MultiTokenPrediction"]

_PRIOR = {"sequential": 0.6, "parallel": 0.45}
_ROWS = 1 << 22
"""Most logits that are held at once where guesses are counted."""


class MultiTokenPrediction(Drafter):
    """Modules that predict the tokens behind the next one.

    Prefer "sequential" for drafting: its guesses know each other, and one module drafts any number
    of tokens. Prefer `Medusa` where a draft must cost next to nothing, and `PromptLookup` where
    texts repeat their prompts.

    Args:
        model: The `Llama` that they belong to, whose embedding and head they share.
        depth: How many D.
        kind: "sequential" or "parallel".
        reads: What parallel heads read: "trunk", the stream before the last layer, as published
            and for heads that are trained with the model, or "stream", what the head reads, and
            then heads have norms of their own (None: "trunk"). Sequential modules read "stream".
        generator: Source of the first weights.

    Attributes:
        base: The model.
        modules: The modules as one `nn.Module`, `modules.layers` the nearest first; its parameters
            are what is trained.
        accuracies: Share of guesses agreed to at each depth where it was measured, else empty.
        draft_ids: Tokens that drafts are made of, rising; None for all.
        card: What is saved with them of the model that they were trained for, and how far it
            agrees with them; loading compares.
        history: A dict for each line of `train`'s history.
        drawn: Whether sequential modules draw their drafts; else they choose them.

    Raises:
        ValueError: An argument out of range.

    Example:
        >>> from paragone.language import Llama, LlamaConfig
        >>> model = Llama(LlamaConfig(50, 32, num_hidden_layers=2, num_attention_heads=4))
        >>> [x.shape for x in MultiTokenPrediction(model, 2).streams(torch.zeros(1, 7, 32),
        ...                                                          torch.ones(1, 7).long())]
        [torch.Size([1, 7, 32]), torch.Size([1, 7, 32])]
    """

    def __init__(
        self,
        model: Llama,
        depth: int = 1,
        kind: Literal["sequential", "parallel"] = "sequential",
        *,
        reads: Literal["trunk", "stream"] | None = None,
        generator: torch.Generator | None = None,
    ):
        if kind not in ("sequential", "parallel"):
            raise ValueError(f"kind={kind!r} is none of 'sequential', 'parallel'")
        if depth < 1:
            raise ValueError(f"depth={depth}: at least 1")
        reads = reads or ("trunk" if kind == "parallel" else "stream")
        if reads not in ("trunk", "stream") or (kind, reads) == ("sequential", "trunk"):
            raise ValueError(f"reads={reads!r}: 'stream', or for parallel heads 'trunk'")
        config, weight = model.config, model.model.embed_tokens.weight
        where: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        self.base = model
        self.depth, self.kind, self.reads, self.name = depth, kind, reads, f"mtp-{kind}"
        numbers = [config.num_hidden_layers + k for k in range(depth)]
        if kind == "sequential":
            found = [SequentialModule(config, at, **where) for at in numbers]
        else:
            own = reads == "stream"
            found = [ParallelHead(config, at, own_norm=own, **where) for at in numbers]
        for module in found:
            drawn(module, (2 * config.num_hidden_layers) ** -0.5, generator)
        self.modules = AheadModules(found)
        self.accuracies: tuple[float, ...] = ()
        self.draft_ids: Tensor | None = None
        self.card: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.drawn = False

    @classmethod
    def train(
        cls,
        model: Llama,
        tokenizer: Any = None,
        texts: Any = None,
        depth: int = 1,
        kind: Literal["sequential", "parallel"] = "sequential",
        *,
        joint: bool = False,
        start: MultiTokenPrediction | None = None,
        reads: Literal["trunk", "stream"] = "stream",
        unroll: int | None = None,
        weight: float | Sequence[float] | None = None,
        soft: bool = True,
        draft_vocab: int | Literal["auto"] | None = "auto",
        tokens: int = 300_000,
        temperature: float = 1.0,
        seconds: float | None = None,
        steps: int | None = None,
        lr: float | None = None,
        batch: int = 16,
        length: int = 256,
        seed: int = 0,
        out: str | os.PathLike[str] | None = None,
        progress: Callable[[Progressed], None] | None = None,
    ) -> MultiTokenPrediction:
        """Trains modules for a model that stays as it is, on what it says itself.

        Prefer it to `train(ahead=…)` for models that are there already, and after `finetune` and
        `dpo`, which make modules stale: with `start` they are brought up to date.

        Args:
            model: A `Llama`; with `joint` it is trained, too.
            tokenizer: Its `Tokenizer`; None where texts are token ids, or None.
            texts: Texts whose beginnings the model goes on from, or None: it begins by itself. With
                `joint`, what it learns is its own continuations, too.
            depth: How many modules.
            kind: "sequential" or "parallel".
            joint: Whether the model is trained as well.
            start: Modules to go on from (their depth and kind count).
            reads: What parallel heads read; for a model that is there, its "stream".
            unroll: Further depths at which the last sequential module learns to go on from its own
                stream (None: up to depth 4 in all).
            weight: As in `losses` (None: 1 for each depth; 0.3 in all for joint sequential ones).
            soft: Whether modules learn all that the model thinks at a place, not only what it drew;
                not with `joint`.
            draft_vocab: Tokens that drafts are made of, the commonest of the samples: a number,
                None for all, or "auto": all of small vocabularies, and of others those that occur.
            tokens: Tokens that the model draws to learn from.
            temperature: Of these draws.
            seconds: Budget by the clock; give it or `steps`, or neither for four rounds.
            steps: Budget in steps.
            lr: Largest learning rate (None: 3e-3 at width 64, less at larger ones; joint 1e-4).
            batch: Rows of a step.
            length: Most tokens of a row.
            seed: Of draws, weights and order.
            out: The run's folder: the same call goes on, and modules are saved there.
            progress: Called with each event.

        Raises:
            ValueError: An argument out of range, or a folder of another run.
        """
        return resolve("paragone.language._mtp_train:trained")(
            cls, model, tokenizer, texts, depth, kind, joint=joint, start=start, reads=reads,
            unroll=unroll, weight=weight, soft=soft, draft_vocab=draft_vocab, tokens=tokens,
            temperature=temperature, seconds=seconds, steps=steps, lr=lr, batch=batch,
            length=length, seed=seed, out=out, progress=progress,
        )  # fmt: skip

    def streams(
        self, hidden: Tensor, ids: Tensor, lengths: Tensor | None = None, depth: int | None = None
    ) -> list[Tensor]:
        """What the head reads at each depth.

        Args:
            hidden: (B, T, M) the model's normalised stream, of heads that read the trunk the stream
                before the last layer.
            ids: (B, T) tokens.
            lengths: As `Llama` takes them.
            depth: How many (None: D); beyond D the last sequential module is used again.

        Returns:
            (B, T, M) each. The last d places of a text have no use at depth d.
        """
        found: list[Tensor] = []
        for d in range(depth or self.depth):
            if self.kind == "parallel":
                found.append(self._head(d).ahead(hidden, self.base.model.norm, lengths))
                continue
            module = self._module(d)
            embed = module.embed_tokens or self.base.model.embed_tokens
            embeddings = embed(shifted(ids, d + 1, lengths, 0))
            found.append(module.ahead(embeddings, found[-1] if found else hidden, lengths))
        return found

    def losses(
        self, row: Any, weight: float | Sequence[float] | None = None, *, frozen: bool = False,
        soft: bool = False, depth: int | None = None,
    ) -> AheadLosses:  # fmt: skip
        """Losses of the model's head and of each depth; `.loss()` is for `fitting.Loop`.

        Args:
            row: A `packing.Row`, or a batch of tokens, lengths and streams (`HeadBatch`), whose
                streams are taken as they are.
            weight: Of sequential modules lambda, shared out over them (None: 0.3); of parallel
                heads that of each (None: 1); or one for each depth.
            frozen: Whether the model is left as it is: no main loss, no gradient to it.
            soft: Whether labels are what the model itself thinks at those places, all of it; for
                a frozen model.
            depth: As in `streams`.

        Raises:
            ValueError: Weights that do not fit, soft labels of a model that is trained, or a batch
                of normalised streams for heads that read the trunk.
        """
        depth = depth or self.depth
        if depth > self.depth and self.kind == "parallel":
            raise ValueError(f"depth={depth}: there are {self.depth} parallel heads")
        if soft and not frozen:
            raise ValueError("soft=True with a model that is trained: its own labels would move")
        weights = weights_of(weight, depth, self.kind)
        ids, labels, lengths, main, read, balance = self._read(row, frozen)
        count = (labels != IGNORED).sum()
        wanted = [shifted(labels, d + 1, lengths, IGNORED) for d in range(depth)]
        counts = tuple((one != IGNORED).sum() for one in wanted)
        agreed: tuple[Any, ...] = ()
        if not torch.is_grad_enabled():
            agreed = self._agreed(ids, lengths, main, read, wanted)

        def value(d: int, stream: Tensor) -> Tensor:
            if soft:
                target = torch.roll(main, -d - 1, 1)
                return soft_loss(stream, target, self._weight(d), wanted[d] != IGNORED)
            return token_loss(stream, self._weight(d), wanted[d])[0]

        if self.kind == "parallel":
            norm = self.base.model.norm
            weighted, sums = one_at_a_time(
                lambda d, z: value(d, self._head(d).ahead(z, norm, lengths)), weights, read,
                [*self.modules.parameters(), *self._shared()],
            )  # fmt: skip
        else:
            streams = self.streams(read, ids, lengths, depth)
            found = [value(d, stream) for d, stream in enumerate(streams)]
            weighted = sum((w * one for w, one in zip(weights, found, strict=True)), 0 * found[0])
            sums = torch.stack([one.detach() for one in found])
        total = None
        if not frozen:
            total = token_loss(main, self.base.lm_head.weight, labels)[0]
        return AheadLosses(
            total, count, tuple(sums.unbind()), counts, weighted, balance, agreed, ids.numel()
        )

    def _read(self, row: Any, frozen: bool) -> tuple[Any, ...]:
        """Tokens, labels, lengths, normalised streams, streams to read, the experts' balance."""
        if hasattr(row, "hidden"):
            if self.reads == "trunk":
                raise ValueError("these heads read the trunk, and the batch has normalised streams")
            labels = row.ahead(1)
            return row.tokens, labels, row.lengths, row.hidden, row.hidden, row.balance_loss
        ids, labels = row.input_ids, row.labels
        lengths = None if ids.shape[0] > 1 or len(row.lengths) == 1 else row.lengths
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            model = self.base.model
            h = trunk = model.embed_tokens(ids)
            for block in model.layers:
                trunk = h
                h, _ = block(h, None, None, lengths)
            h = model.norm(h)
            balance = None if frozen else self.base._balance_loss()
        return ids, labels, lengths, h, trunk if self.reads == "trunk" else h, balance

    def _agreed(
        self, ids: Tensor, lengths: Tensor | None, main: Tensor, read: Tensor, wanted: list[Tensor]
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """Guesses that the main head makes, too, once it is there; and how many there were."""
        own = self._guesses(main, self.base.lm_head.weight)
        found = []
        for d, stream in enumerate(self.streams(read, ids, lengths, len(wanted))):
            there = wanted[d] != IGNORED
            same = self._guesses(stream, self._weight(d)) == shifted(own, d + 1, lengths, -1)
            found.append(((same & there).sum(), there.sum()))
        return tuple(found)

    def _guesses(self, stream: Tensor, weight: Tensor) -> Tensor:
        flat = stream.flatten(0, 1)
        step = max(1, _ROWS // len(weight))
        parts = [(part @ weight.T).argmax(-1) for part in flat.split(step)]
        return torch.cat(parts).view(stream.shape[:2]) if parts else flat.new_zeros(0)

    def _module(self, d: int) -> SequentialModule:
        return self.modules.layers[min(d, self.depth - 1)]  # pyright: ignore[reportReturnType]

    def _head(self, d: int) -> ParallelHead:
        return self.modules.layers[d]  # pyright: ignore[reportReturnType]

    def _weight(self, d: int) -> Tensor:
        own = self._module(d).shared_head.head if self.kind == "sequential" else None
        return self.base.lm_head.weight if own is None else own.weight

    def _shared(self) -> list[Tensor]:
        """The model's parameters that parallel heads use."""
        return [self.base.lm_head.weight, self.base.model.norm.weight]

    def certify(self) -> None:
        """Measures how far the model agrees with the modules, and notes it in their card."""
        self.card = resolve("paragone.language._draft_stale:card")(self, self.base)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `mtp.json` and `mtp.safetensors`, names as published; may be a model's folder.

        Args:
            folder: Where; made if it does not exist.
        """
        return resolve("paragone.language._mtp_files:write")(self, Path(folder))

    @classmethod
    def load(cls, folder: str | os.PathLike[str], model: Llama) -> MultiTokenPrediction:
        """Reads modules: what `save` wrote, a folder of DeepSeek-V3's layout, or Meta's.

        Args:
            folder: Where they lie.
            model: The model that they belong to.

        Raises:
            ValueError: No modules there, or some that do not fit the model; all is named at once.

        Warns:
            StaleHeadsWarning: The model's weights have changed, and it agrees less than it did.
        """
        return resolve("paragone.language._mtp_files:read")(cls, Path(folder), model)

    def plans(self) -> list[Plan]:
        most = 8 if self.kind == "sequential" else self.depth
        trees = [Plan(4, 3, 2), Plan(8, 4, 3), Plan(16, 5, 4)]
        return plans_within(most, (1, 2, 3, 4, 5, 6, 8), trees)

    def chances(self, plan: Plan) -> np.ndarray:
        return chances_by_depth(self.accuracies or (_PRIOR[self.kind],), plan)

    def open(self, engine: Any) -> Drafting:
        return resolve("paragone.language._mtp_drafting:opened")(self, engine)
