r"""Decoding engines: one call for prefill, decoding of many, and checking of drafts.

A step brings to each of S sequences some new tokens behind those whose keys are kept,

$$ (x_{s,\,p_s+1..p_s+c_s})_{s \le S} \;\mapsto\;
   \big(W\,\mathrm{norm}(h_{s,\,p_s+c_s})\big)_{s \le S} , \qquad c_s \ge 1 , $$

and that is all there is: a prompt is many tokens behind none, decoding is one behind many, a
draft is a few, and taking a draft back is a smaller $p_s$ next time. Keys live in pages of a
`Pool`, and a table names the pages of a sequence in order. Sequences with the same beginning share
its pages by naming the same ones.

What a sequence gets depends on no other one in the call: in the Numba engine every number is
summed in the same order whatever stands beside it, so a batch gives the bits of single calls.

Cost: a step of few tokens takes the time to read all weights once; the keys of a token take
2 L G D numbers.

References:
    Kwon et al. (2023), arXiv:2309.06180, section 4.1 (pages of keys).
    Pope et al. (2022), arXiv:2211.05102, section 2 (what bounds decoding).

Shapes: S sequences, N new tokens of all, P pages of a table, V vocabulary, M model width, L layers,
G key heads, D head width.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from paragone.kernels import choice
from paragone.language.llama import FeedForward
from paragone.mixers.heads import GroupedQueryAttention

__all__ = ["Engine", "Pool", "engine_of"]


class Pool:
    """Pages that keys are kept in; made by `Engine.new_pool`.

    Args:
        pages: How many.
        page_size: Tokens of a page.

    Raises:
        ValueError: No page, or none of a token's size.
    """

    def __init__(self, pages: int, page_size: int):
        if pages < 1 or page_size < 1:
            raise ValueError(f"pages={pages}, page_size={page_size}: both are at least 1")
        self.pages, self.page_size = pages, page_size

    def copy(self, source: int, target: int) -> None:
        """Makes page `target` equal to page `source`: where one page becomes two sequences' own."""
        raise NotImplementedError

    def grow(self, pages: int) -> None:
        """Makes the pool larger; what its pages hold stays.

        Args:
            pages: How many there are then, no fewer than now.
        """
        raise NotImplementedError

    def move(self, table: Any, sources: Any, targets: Any) -> None:
        """Moves tokens of a sequence to other places of it: what was agreed to in a tree of drafts.

        Args:
            table: (P,) pages of the sequence.
            sources: (a,) places where the tokens stand.
            targets: (a,) places where they are to stand, rising, none behind its source.
        """
        raise NotImplementedError

    @property
    def bytes_per_page(self) -> int:
        """Memory of a page."""
        raise NotImplementedError


class Engine:
    """Weights made ready for decoding; `make` chooses how.

    Prefer it to calling the model token by token: on the CPU it is many times as fast. It holds
    a copy of the weights in an order of its own; after they changed call `refresh`.

    Attributes:
        config: That of the model.
        backend: "numba" or "torch".
        weights: "float32" or "int8" (of "torch": as the model has them).
        trees: Whether `forward` takes `seen`, for trees of drafts; else drafts are chains.
        reason: Why "auto" did not take the Numba engine; empty if it did, or was not asked.

    Example:
        >>> from paragone.language import Llama, LlamaConfig
        >>> sizes = dict(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
        >>> engine = Engine.make(Llama(LlamaConfig(**sizes)), backend="torch")
        >>> engine.forward(engine.new_pool(1), [3, 1, 4], [3], [0], [[0]]).shape
        (1, 50)
    """

    config: Any
    backend: str
    weights: str
    trees: bool = True
    reason: str = ""

    @staticmethod
    def make(
        model: Any, backend: str = "auto", weights: str = "float32", threads: int | None = None
    ) -> Engine:
        """Makes an engine of a model.

        Args:
            model: A `Llama`.
            backend: "auto", "numba" (dense models with softmax attention, on the CPU) or "torch"
                (every model, on the device where it is; on a GPU, sequences of a model with softmax
                attention step together).
            weights: "float32", or "int8" with a scale for each row of a matrix: a quarter of the
                memory, and less than 0.5 % more perplexity on a text of the model. Numba only.
            threads: Threads of the Numba engine (None: torch's number). Results do not depend
                on it.

        Raises:
            ValueError: The back end asked for cannot serve this model; the text says why.
        """
        if weights not in ("float32", "int8"):
            raise ValueError(f"weights={weights!r} is none of 'float32', 'int8'")
        name = choice.choose("decoding", backend, model=model, weights=weights)
        if name == "numba":
            from paragone.language._engine_numba import NumbaEngine

            return NumbaEngine(model, weights, threads)
        from paragone.language import _engine_paged, _engine_torch

        on_gpu = model.model.embed_tokens.weight.device.type != "cpu"
        paged = on_gpu and _engine_paged.serves(model)
        engine = (_engine_paged.PagedEngine if paged else _engine_torch.TorchEngine)(model)
        if backend == "auto":
            engine.reason = _numba_serves(model, weights) or ""
        return engine

    def new_pool(self, pages: int, page_size: int = 16) -> Pool:
        """Makes room for the keys of `pages` times `page_size` tokens.

        Args:
            pages: How many.
            page_size: Tokens of a page; multiples of 16 are the quickest.
        """
        raise NotImplementedError

    def refresh(self, model: Any) -> None:
        """Takes the weights of a model of the same sizes; what pools hold is then of no use."""
        raise NotImplementedError

    def forward(
        self,
        pool: Pool,
        tokens: Any,
        counts: Any,
        past: Any,
        tables: Any,
        *,
        logits: str = "last",
        hidden: bool | str = False,
        positions: Any = None,
        seen: Any = None,
        inputs: Any = None,
    ) -> Any:
        """Takes new tokens of several sequences.

        Args:
            pool: Where keys are kept.
            tokens: (N,) new tokens, those of each sequence one behind the other.
            counts: (S,) how many are of each sequence, at least 1.
            past: (S,) tokens of each sequence before them, whose keys are kept.
            tables: (S, P) pages of each sequence in order; entries behind its end may be anything.
                The pages of the new tokens are written, and are to be named by no other sequence.
            logits: "last" (of each sequence's last token), "all" or "none".
            hidden: Whether to return the normalised streams, too; "trunk": those before the last
                layer, as they are.
            positions: (N,) places of the tokens (None: counted on from `past`).
            seen: (N, C) with C the largest count: whether a new token sees the j-th new one of its
                sequence (None: those up to itself), for the checking of trees of drafts. Not in the
                torch engine of the CPU.
            inputs: (N, M) what stands in place of the tokens' embeddings; tokens then are names
                alone, and equal names behind equal names mean equal inputs.

        Returns:
            float32 (S, V) or (N, V), or None for "none"; with `hidden` a pair with (N, M).

        Raises:
            ValueError: Numbers that do not fit, an unknown token, a table that is too short.
        """
        if logits not in ("last", "all", "none"):
            raise ValueError(f"logits={logits!r} is none of 'last', 'all', 'none'")
        if hidden not in (False, True, "trunk"):
            raise ValueError(f"hidden={hidden!r} is none of False, True, 'trunk'")
        known = self.config.vocab_size if inputs is None else 1 << 31
        step = _checked(known, pool, tokens, counts, past, tables)
        if positions is not None:
            positions = np.ascontiguousarray(positions, np.int64)
            if positions.shape != step[0].shape:
                raise ValueError(f"positions has shape {positions.shape}; ({len(step[0])},) fits")
        if seen is not None:
            seen = np.ascontiguousarray(seen, np.uint8)
            if seen.shape != (len(step[0]), int(step[1].max())):
                raise ValueError(
                    f"seen has shape {seen.shape}; ({len(step[0])}, {int(step[1].max())}) fits"
                )
        if inputs is not None:
            inputs = np.ascontiguousarray(inputs, np.float32)
            if inputs.shape != (len(step[0]), self.config.hidden_size):
                raise ValueError(
                    f"inputs has shape {inputs.shape}; ({len(step[0])}, {self.config.hidden_size}) "
                    "fits"
                )
        found, streams = self._forward(pool, *step, logits, hidden, positions, seen, inputs)
        return (found, streams) if hidden else found

    def continued(
        self,
        prompt: Sequence[int],
        sampling: Any,
        most: int,
        ends: Sequence[int],
        tell: Callable[[int], bool],
        *,
        pool: Pool | None = None,
        table: Any = None,
        held: int = 0,
        drawn: int = 0,
    ) -> tuple[list[int], list[float], bool] | None:
        """Continues one prompt in a loop of its own, where the engine has one; else None.

        With `pool` it goes on with a text that was begun elsewhere, and leaves the keys of all its
        tokens but the last there (behind one that `tell` ended, perhaps more).

        Args:
            prompt: Tokens, at least one; all that there are so far.
            sampling: A `Sampling`.
            most: Most tokens of the continuation.
            ends: Tokens that end it.
            tell: Called with each token; True ends it.
            pool: Where keys are kept (None: in a pool of its own).
            table: (P,) pages of the sequence, with room for the continuation.
            held: How many of the first tokens have their keys there.
            drawn: How many of the last tokens were drawn, and are no part of the prompt.

        Returns:
            Tokens, log-probabilities, and whether it was ended.

        Raises:
            ValueError: A table that is too short, or more tokens held or drawn than there are.
        """
        return None

    def _forward(
        self, pool: Any, tokens: np.ndarray, counts: np.ndarray, past: np.ndarray,
        tables: np.ndarray, logits: str, hidden: Any, positions: Any, seen: Any,
        inputs: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        raise NotImplementedError


def _checked(
    vocabulary: int, pool: Pool, tokens: Any, counts: Any, past: Any, tables: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    tokens = np.ascontiguousarray(tokens, np.int32)
    counts, past, tables = (np.ascontiguousarray(x, np.int64) for x in (counts, past, tables))
    if tokens.ndim != 1 or counts.ndim != 1 or past.shape != counts.shape or tables.ndim != 2:
        raise ValueError(
            f"tokens {tokens.shape}, counts {counts.shape}, past {past.shape}, tables "
            f"{tables.shape}: (N,), (S,), (S,) and (S, P) are expected"
        )
    if len(tables) != len(counts) or not len(counts):
        raise ValueError(f"{len(counts)} counts and {len(tables)} tables: one each a sequence")
    if counts.min() < 1 or past.min() < 0 or counts.sum() != len(tokens):
        raise ValueError(
            f"counts {counts.tolist()} (each at least 1, together {len(tokens)} tokens) or past "
            f"{past.tolist()} (each at least 0) do not fit"
        )
    if tokens.min() < 0 or tokens.max() >= vocabulary:
        raise ValueError(
            f"tokens from {tokens.min()} to {tokens.max()}: the model knows 0 to {vocabulary - 1}"
        )
    need = -(-(past + counts) // pool.page_size)
    if need.max() > tables.shape[1]:
        raise ValueError(
            f"a sequence of {int((past + counts).max())} tokens needs {int(need.max())} pages of "
            f"{pool.page_size}; tables name {tables.shape[1]}"
        )
    used = tables[np.arange(tables.shape[1]) < need[:, None]]
    if used.min() < 0 or used.max() >= pool.pages:
        raise ValueError(
            f"tables name pages from {used.min()} to {used.max()}; the pool has {pool.pages}"
        )
    return tokens, counts, past, tables


def _numba_serves(model: Any, weights: str) -> str | None:
    """Says why the Numba engine does not serve this model; None if it does."""
    weight = model.model.embed_tokens.weight
    if weight.device.type != "cpu":
        return f"works on the CPU, and the model is on {weight.device}"
    first = model.model.layers[0].self_attn
    for layer, block in enumerate(model.model.layers):
        mixer, feed = block.self_attn, block.mlp
        reason = _unlike(mixer, first)
        if reason is None and not isinstance(feed, FeedForward):
            reason = f"knows dense feed-forwards, not {type(feed).__name__}"
        parts = [] if reason else [getattr(mixer, f"{name}_proj") for name in "qkvo"]
        parts += [] if reason else [feed.gate_proj, feed.up_proj, feed.down_proj]
        odd = [type(part).__name__ for part in parts if type(part) is not nn.Linear]
        if odd:
            reason = f"wants plain matrices, not {odd[0]}: merge it first"
        if reason:
            return f"{reason} (layer {layer})"
    return None


def _unlike(mixer: Any, first: Any) -> str | None:
    """Why the heads of a layer are none that the Numba engine knows; `first`: the first layer's."""
    if not isinstance(mixer, GroupedQueryAttention):
        return f"knows softmax attention, not {type(mixer).__name__}"
    if mixer.softcap is not None or mixer.sinks is not None or not mixer.causal:
        return "knows plain causal heads, without softcap and sinks"
    if mixer.value_size != mixer.head_size or (
        mixer.rotary is not None and mixer.rotary.width != mixer.head_size
    ):
        return "wants keys and values of one width, turned as a whole or not at all"
    same = ("heads", "kv_heads", "head_size", "window", "scale")
    if any(getattr(mixer, name) != getattr(first, name) for name in same):
        return "wants the same heads in all layers"
    return None


def _torch_serves(model: Any, weights: str) -> str | None:
    if weights != "float32":
        return f"keeps the model's own weights; weights={weights!r} is for the Numba engine"
    return None


choice.register("decoding", {"numba": _numba_serves, "torch": _torch_serves})

_MADE: weakref.WeakKeyDictionary[Any, dict[Any, tuple[Any, Engine]]] = weakref.WeakKeyDictionary()


def engine_of(
    model: Any, backend: str = "auto", weights: str = "float32", threads: int | None = None
) -> Engine:
    """Returns the engine of a model, made once and refreshed when its weights have changed.

    Args:
        model: A `Llama`, or an `Engine`, which is returned.
        backend: As in `Engine.make`.
        weights: As in `Engine.make`.
        threads: As in `Engine.make`.
    """
    if isinstance(model, Engine):
        return model
    state = tuple((p.data_ptr(), p._version, p.device) for p in model.parameters())
    made = _MADE.setdefault(model, {})
    key = (backend, weights, threads)
    if key not in made or made[key][0] != state:
        engine = Engine.make(model, backend, weights, threads)
        if engine.backend != "numba":
            # It holds the model itself, which would then never be let go.
            return engine
        made[key] = state, engine
    return made[key][1]
