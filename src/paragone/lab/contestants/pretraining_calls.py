"""A step of pre-training behind one call for the study `pretraining_speed`.

A call takes `(shape, vocabulary, rows, length)`, makes one step of AdamW, clipped, on the same
tokens, and gives the loss before it. The learning rate is 0, so that each call does all the work
and finds the weights as they were. `truth` is the loss in float64.

Shapes: V vocabulary, B rows of N tokens.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from paragone._core.lazy import resolve

__all__ = ["Hugging", "Ours", "inputs", "truth"]


def inputs(shape: str, vocabulary: int, rows: int, length: int) -> tuple[str, int, int, int]:
    """What a call takes, all of it numbers and a name: weights and tokens follow from them."""
    return shape, vocabulary, rows, length


def _config(shape: str, vocabulary: int) -> Any:
    presets = resolve("paragone.language.config:PRESETS")
    return resolve("paragone.language.config:LlamaConfig")(vocab_size=vocabulary, **presets[shape])


def _model(shape: str, vocabulary: int) -> Any:
    torch, llama = resolve("torch"), resolve("paragone.language.llama:Llama")
    generator = torch.Generator().manual_seed(0)
    return llama(_config(shape, vocabulary), generator=generator)


def _tokens(vocabulary: int, rows: int, length: int) -> Any:
    torch = resolve("torch")
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, vocabulary, (rows, length + 1), generator=generator)


class Ours:
    """paragone's loop, its loss and its optimizer."""

    def __init__(self) -> None:
        self.way: Any = None
        self.row: Any = None

    def __call__(self, shape: str, vocabulary: int, rows: int, length: int) -> np.ndarray:
        if self.way is None:
            self.way = self._started(shape, vocabulary, rows, length)
        sums, _ = self.way.step([self.row])
        total, count = sums["loss"]
        return np.array([total / count])

    def _started(self, shape: str, vocabulary: int, rows: int, length: int) -> Any:
        torch = resolve("torch")
        model = _model(shape, vocabulary)
        ids = _tokens(vocabulary, rows, length)
        lengths = torch.full((rows,), length)
        row = resolve("paragone.language.packing:Row")
        self.row = row(ids[:, :-1], ids[:, 1:], lengths, tuple(range(rows)))
        recipe = resolve("paragone.language.fitting:Recipe")(1, weight_decay=0.1)
        ranks = resolve("paragone.language._train_ranks:Ranks")()
        loss = resolve("paragone.language.train:next_token_loss")
        way = resolve("paragone.language._train_ranks:Way")
        made = way(model, recipe, lambda given: loss(model, given), ranks)
        made.set_rate(0.0)
        return made


class Hugging:
    """transformers' model with its own loss, torch's AdamW and clipping."""

    def __init__(self, *, fused: bool = True) -> None:
        resolve("paragone.lab.torchvision_cpu:prepare")()
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        self.model: Any = None
        self.optimizer: Any = None
        self.fused = fused

    def __call__(self, shape: str, vocabulary: int, rows: int, length: int) -> np.ndarray:
        torch = resolve("torch")
        if self.model is None:
            self.model = self._started(shape, vocabulary, rows, length)
        loss = self.model(input_ids=self.ids, labels=self.labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return np.array([loss.item()])

    def _started(self, shape: str, vocabulary: int, rows: int, length: int) -> Any:
        torch = resolve("torch")
        ours = _config(shape, vocabulary)
        config = resolve("transformers:LlamaConfig")(
            vocab_size=vocabulary, hidden_size=ours.hidden_size, intermediate_size=ours.inner,
            num_hidden_layers=ours.num_hidden_layers, num_attention_heads=ours.num_attention_heads,
            num_key_value_heads=ours.kv_heads, rms_norm_eps=ours.rms_norm_eps, use_cache=False,
            max_position_embeddings=max(length + 1, ours.max_position_embeddings),
            tie_word_embeddings=ours.tie_word_embeddings,
        )  # fmt: skip
        model = resolve("transformers:LlamaForCausalLM")(config)
        model.load_state_dict(_model(shape, vocabulary).state_dict())
        # The model shifts labels itself: the last place of N + 1 has none.
        self.ids = self.labels = _tokens(vocabulary, rows, length)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=0.0, weight_decay=0.1, fused=self.fused
        )
        return model


def truth(shape: str, vocabulary: int, rows: int, length: int) -> np.ndarray:
    """The loss in float64, from all logits."""
    torch = resolve("torch")
    ids = _tokens(vocabulary, rows, length)
    with torch.no_grad():
        logits = _model(shape, vocabulary).double()(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    return np.array([float(loss)])
