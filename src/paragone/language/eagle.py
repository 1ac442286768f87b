r"""EAGLE: one block drafts from the model's own stream, and from the token that came of it.

The stream behind the model's last norm is far easier to extrapolate than tokens are: it holds what
the model is about to say. What it does not hold is which token was drawn. Given both, one block
guesses the next stream, and the model's own head turns that into a distribution,

$$ g_t = \mathrm{block}\big(C\,[E x_{t+1};\ h_t]\big) \approx h_{t+1}, \qquad
   q(x_{t+2}) = \mathrm{softmax}(W g_t) , $$

and so on from its own guess. It is trained as it is used, on what it guessed itself at the depths
beyond the first, to have the model's distribution and its stream:

$$ L = \sum_{d \le D} \frac1D \Big( -\sum_v p_v \log q^d_v
   + \lambda\, \mathrm{smooth}_{L1}(g^d_t - h_{t+1}) \Big) . $$

Trees are grown while drafting, where the block itself is confident. Where the samples hold few of
the model's tokens, the head has rows for those alone, and a draft is the cheaper for it.

Files have the published names of EAGLE-1 (`fc.weight`, `layers.0.…`); published ones are read.

Cost: a draft of depth D takes D passes over one block and its head: about D / L of a pass of the
model with L layers.

References:
    Li et al. (2024), "EAGLE", arXiv:2401.15077, section 4.1, eq. 2-5.
    Li et al. (2024), "EAGLE-2", arXiv:2406.16858, section 4 (dynamic trees).
    Li et al. (2025), "EAGLE-3", arXiv:2503.01840, section 3 (training-time test; streams are not
    regressed, which `regression=0` gives).

Shapes: R rows, T tokens, M model width, V rows of the head, W tokens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paragone._core.lazy import resolve
from paragone.language._block_unroll import distilled, unrolled
from paragone.language._draft_block import BlockHead, Merge
from paragone.language.config import LlamaConfig
from paragone.language.drafting import Drafter, Drafting, Plan
from paragone.language.fitting import Loss, Progressed
from paragone.language.llama import Block, RMSNorm

__all__ = ["Eagle"]

_KIND = "eagle"
_SIZES = (
    "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "attention_bias", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_layout",
)  # fmt: skip


class _Net(nn.Module):
    """What is trained: the matrix of both halves, the block, and the norm behind it."""

    def __init__(self, config: LlamaConfig, norms: bool, bias: bool, where: dict[str, Any]):
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.merge = Merge(width, norms=norms, bias=bias, eps=eps, **where)
        self.layers = nn.ModuleList([Block(config, 0, **where)])
        self.norm: nn.Module = RMSNorm(width, eps, **where) if norms else nn.Identity()
        if not norms:
            self.layers[0].input_layernorm = nn.Identity()

    def begin(self, generator: torch.Generator | None) -> None:
        """First weights: the block adds little, and the matrix passes the stream on."""
        for name, p in self.named_parameters():
            if p.is_meta or p.ndim < 2:
                continue
            std = 0.02 * (0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0)
            nn.init.normal_(p, std=std, generator=generator)
        fc = self.merge.fc
        with torch.no_grad():
            for name, p in self.named_parameters():
                if name.endswith("bias"):
                    p.zero_()
            fc.weight[:, fc.out_features :] += torch.eye(fc.out_features).to(fc.weight)


class Eagle(Drafter):
    """A draft block on the streams of a model.

    Prefer it to `Medusa` where a step is to bring more than two tokens: each guess knows the one
    before it. Prefer `MultiTokenPrediction` for a model that has such modules from its training,
    and `PromptLookup` where texts repeat their prompts.

    Args:
        model: The `Llama` that it drafts for; it stays as it is.
        norms: Whether both halves, the block's input and its output are normalised; False is the
            published EAGLE-1.
        ids: (V,) tokens that are drafted, rising (None: all).
        sizes: Fields of the block's configuration that differ from the model's.
        bias: Whether the matrix of both halves has a bias.
        generator: Source of the first weights.
        drawn: As in `BlockHead`.
        weights: "int8" or "float32": how the block is kept while it drafts on a CPU. In 8 bits a
            draft takes two thirds of the time; the text is the model's either way.

    Attributes:
        module: What is trained, a `torch.nn.Module`.
        accuracies: Chance that a draft is agreed to at each depth, once its parent was; measured in
            training on text that was held back, at temperature 0.

    Example:
        >>> from paragone.language import Llama, LlamaConfig
        >>> sizes = dict(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
        >>> Eagle(Llama(LlamaConfig(**sizes))).plans()[0]
        Plan(nodes=1, depth=1, width=1)
    """

    name = "EAGLE"

    def __init__(
        self, model: Any, *, norms: bool = True, ids: Sequence[int] | np.ndarray | None = None,
        sizes: dict[str, Any] | None = None, bias: bool = False,
        generator: torch.Generator | None = None, drawn: bool = False,
        weights: Literal["float32", "int8"] = "int8",
    ):  # fmt: skip
        config: LlamaConfig = model.config.replace(
            num_hidden_layers=1, mixer="gqa", mixer_options={}, n_routed_experts=0,
            kv_lora_rank=None, **(sizes or {}),
        )  # fmt: skip
        head = model.lm_head.weight
        where: dict[str, Any] = {"device": head.device, "dtype": head.dtype}
        self.config, self.norms, self.bias = config, norms, bias
        self.drawn = drawn
        self.weights: Literal["float32", "int8"] = weights
        self.accuracies: tuple[float, ...] = ()
        self.card: dict[str, Any] | None = None
        self.ids = None if ids is None else np.asarray(ids, np.int64)
        self.module = _Net(config, norms, bias, where)
        self.module.begin(generator)
        self.model = model
        self._made: BlockHead | None = None

    @classmethod
    def train(
        cls,
        model: Any,
        tokenizer: Any,
        texts: Any = None,
        *,
        depth: int = 2,
        norms: bool = True,
        regression: float = 0.2,
        vocabulary: int | None = None,
        start: Eagle | None = None,
        samples: int = 300_000,
        temperature: float = 1.0,
        seconds: float | None = None,
        steps: int | None = None,
        tokens: float | None = None,
        lr: float | None = None,
        batch: int = 8,
        length: int = 256,
        seed: int = 0,
        folder: str | os.PathLike[str] | None = None,
        progress: Callable[[Progressed], None] | None = None,
    ) -> Eagle:
        """Trains a block on the model's own samples; the model stays as it is.

        Args:
            model: A `Llama`.
            tokenizer: Its tokenizer, or None where `texts` are token ids or None.
            texts: What its samples begin with: whatever `own_samples` takes.
            depth: Guesses behind each other that it is trained on.
            norms: As in the class.
            regression: Weight of the distance between streams (0: as EAGLE-3 has it).
            vocabulary: Most tokens that are drafted, the most frequent ones of the samples
                (None: all).
            start: A block to go on from, which stays as it is.
            samples: Tokens that the model draws to be learnt from.
            temperature: Of those draws.
            seconds: Budget of the training by the clock; one of this, `steps`, `tokens` or none.
            steps: Budget in steps.
            tokens: Budget in tokens, those of all epochs.
            lr: Largest learning rate (None: by the width).
            batch: Rows of a step.
            length: Most tokens of a row.
            seed: Of weights, draws and order.
            folder: The run's folder, to go on from (None: nothing is written).
            progress: Called with each event.

        Raises:
            ValueError: A number out of range, or a start for another model.
        """
        if depth < 1 or regression < 0:
            raise ValueError(f"depth={depth}, regression={regression}: at least 1, and at least 0")
        own_samples = resolve("paragone.language._heads_data:own_samples")
        fit_heads = resolve("paragone.language._heads_fit:fit_heads")
        rows = own_samples(
            model, tokenizer, texts, samples, temperature=temperature, length=length, seed=seed,
            progress=progress,
        )  # fmt: skip
        if start is None:
            ids = None if vocabulary is None else _frequent(rows, vocabulary, model.config)
            generator = torch.Generator(model.lm_head.weight.device).manual_seed(seed)
            made = cls(model, norms=norms, ids=ids, generator=generator)
        else:
            made = start._copy(model)
        fitted = fit_heads(
            made.module, model, rows, lambda found: made.loss(found, depth, regression),
            seconds=seconds, steps=steps, tokens=tokens, batch=batch, length=length, seed=seed,
            lr=lr or 0.08 * model.config.hidden_size**-0.5, folder=folder, progress=progress,
            identity={"depth": depth, "norms": made.norms, "regression": regression,
                      "vocabulary": vocabulary},
        )  # fmt: skip
        found = fitted.metrics
        made.accuracies = tuple(
            round(found[f"validation_accepted_{d}"], 4) for d in range(1, depth + 1)
        )
        made.card = resolve("paragone.language._draft_stale:card")(made, model)
        return made

    def loss(self, batch: Any, depth: int = 2, regression: float = 0.2) -> Loss:
        """The loss of rows with the streams of the model.

        Args:
            batch: A `HeadBatch`.
            depth: Guesses behind each other.
            regression: Weight of the distance between streams.

        Returns:
            The sum over tokens and depths; "accepted_d" of how many a guess of depth d has the
            model's own favourite, where all guesses before it did.
        """
        model, net = self.model, self.module
        head = self._head(model)
        streams = batch.hidden[:, :-1].to(head.dtype)
        truth = batch.hidden[:, 1:].to(head.dtype)
        embeddings = model.model.embed_tokens(batch.tokens[:, 1:]).detach()
        guesses = unrolled(net.layers[0], net.merge, net.norm, embeddings, streams, depth)
        slots = torch.arange(streams.shape[1], device=streams.device)
        there = slots < batch.lengths[:, None] - 1
        total, right = streams.new_zeros((), dtype=torch.float32), there
        metrics: dict[str, tuple[Any, Any]] = {}
        for d, guess in enumerate(guesses, 1):
            counted = there & (slots >= d - 1)
            some, same = distilled(guess[counted], truth[counted], head)
            if regression:
                apart = nn.functional.smooth_l1_loss(
                    guess[counted], truth[counted], reduction="none"
                )
                some = some + regression * apart.float().mean(-1).sum()
            total = total + some / depth
            before = right if d == 1 else _moved(right) & counted
            right = torch.zeros_like(there)
            right[counted] = same
            right = right & before
            metrics[f"accepted_{d}"] = right.sum(), before.sum()
        return Loss(total, there.sum(), metrics, tokens=int(batch.lengths.sum()))

    def plans(self) -> list[Plan]:
        return self._drafter().plans()

    def chances(self, plan: Plan) -> np.ndarray:
        return self._drafter().chances(plan)

    def open(self, engine: Any) -> Drafting:
        return self._drafter().open(engine)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `config.json` and `model.safetensors`.

        Args:
            folder: Where; made if it does not exist.
        """
        from safetensors.torch import save_file

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        fields = {name: getattr(self.config, name) for name in _SIZES}
        about = {
            "drafter": _KIND, "hidden_size": self.config.hidden_size,
            "vocab_size": self.config.vocab_size, "num_hidden_layers": 1, "norms": self.norms,
            "bias": self.bias, "accuracies": list(self.accuracies), "card": self.card, **fields,
        }  # fmt: skip
        (path / "config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        tensors = {
            name.removeprefix("merge."): x.detach().cpu().contiguous()
            for name, x in self.module.state_dict().items()
        }
        if self.ids is not None:
            tensors["d2t"] = torch.from_numpy(self.ids - np.arange(len(self.ids)))
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str], model: Any, **options: Any) -> Eagle:
        """Reads what `save` wrote, or a published EAGLE-1 folder.

        Args:
            folder: With `config.json`, and `model.safetensors` or `pytorch_model.bin`.
            model: The `Llama` that it drafts for. Where its weights are not those of the training,
                acceptance is measured anew, and a fall is warned about.
            options: `drawn` and `weights` of the class.

        Raises:
            ValueError: A file that is missing, or tensors that do not fit the model.
        """
        path = Path(folder)
        if not (path / "config.json").is_file():
            raise ValueError(f"{path} has no config.json; an EAGLE folder has one")
        about = json.loads((path / "config.json").read_text(encoding="utf-8"))
        tensors = _tensors(path)
        ids = tensors.pop("d2t", None)
        if ids is not None:
            ids = (ids + torch.arange(len(ids))).numpy()
        # Published files carry the model's embedding once more.
        tensors.pop("embed_tokens.weight", None)
        sizes = {name: about[name] for name in _SIZES if name in about}
        if about.get("drafter") != _KIND:
            sizes["rope_layout"] = "half"
        found = cls(
            model, norms=about.get("norms", False), ids=ids, sizes=sizes,
            bias="fc.bias" in tensors, **options,
        )  # fmt: skip
        named = {
            f"merge.{k}" if k.startswith(("fc.", "enorm.", "hnorm.")) else k: x
            for k, x in tensors.items()
        }
        _check(named, found.module.state_dict(), path)
        found.module.load_state_dict(named)
        found.module.eval()
        found.accuracies = tuple(about.get("accuracies") or ())
        found.card = about.get("card")
        resolve("paragone.language._draft_stale:check")(found, model, found.card)
        return found

    def _head(self, model: Any) -> Tensor:
        weight = model.lm_head.weight.detach()
        return weight if self.ids is None else weight[torch.from_numpy(self.ids).to(weight.device)]

    def _drafter(self) -> BlockHead:
        model, net = self.model, self.module
        if self._made is None:
            self._made = BlockHead(
                net.layers[0], net.merge, net.norm, self._head(model), self.ids,
                model.model.embed_tokens.weight, self.config, drawn=self.drawn,
                weights=self.weights, name=self.name,
            )  # fmt: skip
        self._made.accuracies, self._made.drawn = self.accuracies, self.drawn
        return self._made

    def _copy(self, model: Any) -> Eagle:
        if model.config.hidden_size != self.config.hidden_size:
            raise ValueError(
                f"start has width {self.config.hidden_size}, the model "
                f"{model.config.hidden_size}: it was made for another one"
            )
        sizes = {name: getattr(self.config, name) for name in _SIZES}
        made = Eagle(
            model, norms=self.norms, ids=self.ids, sizes=sizes, bias=self.bias, drawn=self.drawn,
            weights=self.weights,
        )  # fmt: skip
        made.module.load_state_dict(self.module.state_dict())
        return made


def _moved(right: Tensor) -> Tensor:
    """Of each slot, what was true of the one before."""
    return torch.cat([torch.zeros_like(right[:, :1]), right[:, :-1]], 1)


def _frequent(rows: Sequence[np.ndarray], most: int, config: LlamaConfig) -> np.ndarray:
    """The most frequent tokens of some rows, rising; those that end a text always."""
    if most < 1:
        raise ValueError(f"vocabulary={most}: at least 1 token")
    counts = np.bincount(np.concatenate(rows), minlength=config.vocab_size)
    counts[[t for t in config.eos if t < len(counts)]] = counts.max() + 1
    order = np.argsort(-counts, kind="stable")[:most]
    return np.sort(order[counts[order] > 0])


def _tensors(path: Path) -> dict[str, Tensor]:
    if (path / "model.safetensors").is_file():
        from safetensors.torch import load_file

        return load_file(path / "model.safetensors")
    if (path / "pytorch_model.bin").is_file():
        return torch.load(path / "pytorch_model.bin", map_location="cpu", weights_only=True)
    raise ValueError(f"{path} has neither model.safetensors nor pytorch_model.bin")


def _check(given: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    wrong = [f"{name}: missing" for name in wanted if name not in given]
    wrong += [f"{name}: the block has no such parameter" for name in given if name not in wanted]
    wrong += [
        f"{name}: shape {tuple(given[name].shape)}, expected {tuple(x.shape)}"
        for name, x in wanted.items() if name in given and given[name].shape != x.shape
    ]  # fmt: skip
    if wrong:
        raise ValueError(f"{path}: {len(wrong)} tensors do not fit the model: {'; '.join(wrong)}")
