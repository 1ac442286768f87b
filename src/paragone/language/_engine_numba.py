"""The Numba engine: packed weights, pages of keys, and one compiled step for everything.

Prompts are read in pieces, so that what a step holds beside the weights stays small; no number
depends on where a prompt was cut.

Shapes: as in `engine`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from paragone.kernels.simd import WIDTH
from paragone.kernels.teams import share
from paragone.language._engine_pack import pack
from paragone.language.engine import Engine, Pool
from paragone.language.ops.decoding._cpu_panels import PANEL
from paragone.language.ops.decoding._cpu_step import decode_kernel, phases, room_of
from paragone.language.ops.skinny.layout import block_of
from paragone.language.sampling import Sampling

__all__ = ["KeyPool", "NumbaEngine"]

_PIECE = 240
_IN_CACHE = 1 << 19
"""Weights of a model that a core's own cache holds: then bandwidth is no limit."""
_WORTH_A_TEAM = 1 << 20
_PATIENCE, _STEPS = 0.03, 64
"""Seconds, and steps, after which a loop comes back to tell what it has drawn."""
_NO_FLOATS, _NO_WHOLES, _NO_BYTES = (np.zeros(0, kind) for kind in (np.float32, np.int64, np.uint8))


class KeyPool(Pool):
    """Keys and values in pages.

    Args:
        pages: How many.
        page_size: Tokens of a page.
        layers: Layers L.
        groups: Key heads G.
        depth: Width D of a head.
    """

    def __init__(self, pages: int, page_size: int, layers: int, groups: int, depth: int):
        super().__init__(pages, page_size)
        self._sizes = layers, groups, depth
        self._make()

    def _make(self) -> None:
        (layers, groups, depth), pages = self._sizes, self.pages
        slots = _up(self.page_size, WIDTH)
        each = groups * depth * slots
        # The last values are read as whole vectors.
        self.keys, self.values = (np.zeros(layers * pages * each + WIDTH, np.float32) for _ in "kv")
        self._parts = [
            part[:-WIDTH].reshape(layers, pages, each) for part in (self.keys, self.values)
        ]
        self._slots = (
            self._parts[0].reshape(layers, pages, groups, depth, slots),
            self._parts[1].reshape(layers, pages, groups, slots, depth),
        )

    def grow(self, pages: int) -> None:
        before, self.pages = self._parts, max(pages, self.pages)
        self._make()
        for old, new in zip(before, self._parts, strict=True):
            new[:, : old.shape[1]] = old

    def copy(self, source: int, target: int) -> None:
        for part in self._parts:
            part[:, target] = part[:, source]

    def move(self, table: Any, sources: Any, targets: Any) -> None:
        table, sources, targets = (np.asarray(x, np.int64) for x in (table, sources, targets))
        old, new = divmod(sources, self.page_size), divmod(targets, self.page_size)
        keys, values = self._slots
        # Indices of pages and slots stand apart, so the tokens come first: (a, L, G, D).
        keys[:, table[new[0]], :, :, new[1]] = keys[:, table[old[0]], :, :, old[1]]
        values[:, table[new[0]], :, new[1]] = values[:, table[old[0]], :, old[1]]

    @property
    def bytes_per_page(self) -> int:
        return sum(part[:, 0].nbytes for part in self._parts)


class NumbaEngine(Engine):
    """Decoding in compiled code on the CPU.

    Args:
        model: A dense `Llama` with softmax attention.
        weights: "float32" or "int8".
        threads: Most threads (None: torch's number).
    """

    backend = "numba"

    def __init__(self, model: Any, weights: str, threads: int | None):
        self.weights, self.threads, self.pace = weights, threads, 0.0
        self.refresh(model)

    def refresh(self, model: Any) -> None:
        self.config = config = model.config
        self.packed = pack(model, self.weights == "int8")
        mixer = model.model.layers[0].self_attn
        self.rotary, self.window = mixer.rotary, int(mixer.window or 0)
        self.reals = (float(config.rms_norm_eps), float(mixer.scale) / math.log(2))
        self.angles = _NO_FLOATS
        self.heads, self.groups, self.depth = mixer.heads, mixer.kv_heads, mixer.head_size
        self.inner = model.model.layers[0].mlp.gate_proj.out_features

    def new_pool(self, pages: int, page_size: int = 16) -> KeyPool:
        return KeyPool(pages, page_size, self.config.num_hidden_layers, self.groups, self.depth)

    def continued(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        most: int,
        ends: Sequence[int],
        tell: Callable[[int], bool],
        *,
        pool: Pool | None = None,
        table: Any = None,
        held: int = 0,
        drawn: int = 0,
    ) -> tuple[list[int], list[float], bool]:
        last, going_on = len(prompt) - 1, pool is not None
        if pool is None:
            pool = self.new_pool(-(-(last + most) // 16))
            table = np.arange(pool.pages)
        assert isinstance(pool, KeyPool)
        table = np.ascontiguousarray(table, np.int64)[None]
        _checked_place(pool, table, held, drawn, last, most)
        if last > held:
            self.forward(pool, prompt[held:-1], [last - held], [held], table, logits="none")
        loop = _Loop(prompt, most, sampling, ends, self.config.vocab_size, drawn)
        token, at = np.array(prompt[-1:], np.int32), np.array([last])
        past, logits = at.copy(), np.empty((1, self.config.vocab_size), np.float32)
        one = np.array([0, 1])
        told, ended, loop.steps = 0, False, 1
        if going_on and self.pace:
            loop.steps = _steps(self.pace, most)
        while told < most and not ended:
            began = time.perf_counter()
            self._run(pool, token, one, past, table, at, _NO_BYTES, one[:1], logits, None, 0, loop)
            self.pace = (time.perf_counter() - began) / loop.steps
            found = int(loop.state[1]) - drawn
            while told < found and not ended:
                ended = tell(int(loop.history[last + 1 + told]))
                told += 1
            ended = ended or bool(loop.state[2])
            loop.steps = _steps(self.pace, most - found)
        tokens = loop.history[last + 1 : last + 1 + told]
        return tokens.tolist(), loop.log_probs[drawn : drawn + told].tolist(), ended

    def _forward(
        self, pool: KeyPool, tokens: np.ndarray, counts: np.ndarray, past: np.ndarray,
        tables: np.ndarray, logits: str, hidden: Any, positions: Any, seen: Any,
        inputs: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        starts = np.concatenate([[0], np.cumsum(counts)])
        if positions is None:
            positions = np.arange(len(tokens)) - np.repeat(starts[:-1] - past, counts)
        rows = {"last": len(counts), "all": len(tokens), "none": 0}[logits]
        found = np.empty((rows, self.config.vocab_size), np.float32) if rows else None
        streams = np.empty((len(tokens), self.config.hidden_size), np.float32) if hidden else None
        for piece in _pieces(starts, whole=seen is not None):
            first, end, sequences, begins = piece
            done = np.maximum(first - starts[sequences], 0)
            if logits == "last":
                ended = starts[sequences + 1] <= end
                chosen, out = begins[1:][ended] - 1, sequences[ended]
            else:
                chosen = np.arange(end - first if rows else 0)
                out = chosen + first
            part = self._piece(
                pool, tokens[first:end], begins, past[sequences] + done, tables[sequences],
                positions[first:end], None if seen is None else seen[first:end], chosen,
                None if streams is None else streams[first:end],
                None if inputs is None else inputs[first:end], hidden == "trunk",
            )  # fmt: skip
            if found is not None and len(chosen):
                found[out] = part
        return found, streams

    def _piece(
        self, pool: KeyPool, tokens: np.ndarray, starts: np.ndarray, past: np.ndarray,
        tables: np.ndarray, positions: np.ndarray, seen: Any, chosen: np.ndarray, streams: Any,
        inputs: Any, trunk: bool,
    ) -> np.ndarray:  # fmt: skip
        logits = np.empty((len(chosen), self.config.vocab_size), np.float32)
        see = seen is not None
        self._run(
            pool, np.ascontiguousarray(tokens), starts, past.copy(),
            np.ascontiguousarray(tables), np.ascontiguousarray(positions, np.int64),
            seen.reshape(-1) if see else _NO_BYTES, chosen.astype(np.int64), logits,
            streams, seen.shape[1] if see else 0, None, inputs, trunk,
        )  # fmt: skip
        return logits

    def _run(
        self, pool: KeyPool, tokens: np.ndarray, starts: np.ndarray, past: np.ndarray,
        tables: np.ndarray, positions: np.ndarray, seen: np.ndarray, chosen: np.ndarray,
        logits: np.ndarray, streams: Any, seen_row: int, loop: _Loop | None, inputs: Any = None,
        trunk: bool = False,
    ) -> None:  # fmt: skip
        config, count = self.config, len(tokens)
        embedding = self.packed.embedding
        if inputs is not None:
            tokens, embedding = np.arange(count, dtype=np.int32), inputs.reshape(-1)
        steps = 0 if loop is None else loop.steps
        self._turned(int(positions.max()) + 1 + steps)
        elements = self.packed.panels.size
        workers = self.threads or torch.get_num_threads()
        if elements * count < _WORTH_A_TEAM:
            workers = 1
        far = elements > _IN_CACHE and self.weights == "float32"
        block, head_block = (block_of(n, far) for n in (count, max(len(chosen), 1)))
        scores = _up(pool.page_size, WIDTH) * tables.shape[1]
        room = np.empty(room_of(
            config.hidden_size, _up((self.heads + 2 * self.groups) * self.depth, PANEL),
            self.heads * self.depth, self.inner, self.depth, count, block, scores,
            pool.page_size + seen_row if seen_row else 0, workers,
        )[0], np.float32)  # fmt: skip
        sizes = (
            config.num_hidden_layers, config.hidden_size, self.heads, self.groups, self.depth,
            self.inner, config.vocab_size, pool.page_size, pool.pages, self.window,
            int(self.rotary is not None), count, len(past), block, tables.shape[1],
            int(seen_row > 0), len(chosen), int(streams is not None) + trunk, seen_row,
            steps,
            int(sys.platform == "linux"), head_block,
        )  # fmt: skip
        tickets = np.zeros(2 + 2 * phases(config.num_hidden_layers) * max(steps, 1), np.int64)
        drawing = _NO_DRAWING if loop is None else loop.arguments
        share(
            decode_kernel, workers, tickets, sizes, self.reals, self.packed.places,
            self.packed.panels, self.packed.rest, embedding, self.angles,
            pool.keys, pool.values, tokens, starts, past, tables,
            positions, seen, chosen, room, logits.reshape(-1),
            _NO_FLOATS if streams is None else streams.reshape(-1), *drawing, threads=workers,
        )  # fmt: skip

    def _turned(self, places: int) -> None:
        """Makes cosines and sines of that many places."""
        if self.rotary is None or len(self.angles) >= places * self.depth:
            return
        at = torch.arange(max(2 * places, 256))
        like = torch.empty(0)
        cos, sin = self.rotary.table(at, len(at), like, torch.float32)
        self.angles = np.ascontiguousarray(torch.cat([cos, sin], 1).numpy()).reshape(-1)


class _Loop:
    """What the draws of a loop want, and leave behind."""

    def __init__(self, prompt: Sequence[int], most: int, sampling: Sampling, ends: Sequence[int],
                 vocabulary: int, drawn: int):  # fmt: skip
        self.steps = 0
        self.state = np.array([len(prompt), drawn, 0], np.int64)
        self.history = np.zeros(len(prompt) + most, np.int64)
        self.history[: len(prompt)] = prompt
        self.log_probs = np.zeros(drawn + most)
        self.arguments = (
            self.state, self.history, self.log_probs, *sampling.numbers(len(prompt) - drawn),
            np.array(ends, np.int64), np.empty(3 * vocabulary, np.float32),
            np.empty(2 * vocabulary, np.int64), np.zeros(vocabulary, np.uint8),
        )  # fmt: skip


_NO_DRAWING = (
    np.zeros(3, np.int64), _NO_WHOLES, np.zeros(0), np.zeros(7), np.zeros(3, np.int64), _NO_WHOLES,
    np.zeros(0), _NO_WHOLES, _NO_FLOATS, _NO_WHOLES, _NO_BYTES,
)  # fmt: skip


def _steps(seconds: float, left: int) -> int:
    """Steps of a loop until it comes back."""
    return max(1, min(int(_PATIENCE / max(seconds, 1e-9)), _STEPS, left))


def _checked_place(
    pool: KeyPool, table: np.ndarray, held: int, drawn: int, last: int, most: int
) -> None:  # fmt: skip
    if table.ndim != 2 or table.shape[1] * pool.page_size < last + most:
        raise ValueError(
            f"table has shape {table.shape[1:]}; {last + most} tokens want "
            f"{-(-(last + most) // pool.page_size)} pages of {pool.page_size}"
        )
    used = table[0, : -(-(last + most) // pool.page_size)]
    if len(used) and (used.min() < 0 or used.max() >= pool.pages):
        raise ValueError(
            f"table names pages {used.min()} to {used.max()}; the pool has {pool.pages}"
        )
    if not 0 <= held <= last or not 0 <= drawn <= last + 1:
        raise ValueError(
            f"held={held}, drawn={drawn}: of {last + 1} tokens at most {last} are held"
        )


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _pieces(starts: np.ndarray, whole: bool) -> Any:
    """Cuts a step: first and last new token, sequences, and where each begins in the piece."""
    total = int(starts[-1])
    size = total if whole else _PIECE
    for first in range(0, total, size):
        end = min(first + size, total)
        low = int(np.searchsorted(starts, first, side="right")) - 1
        high = int(np.searchsorted(starts, end, side="left"))
        begins = np.clip(starts[low : high + 1], first, end) - first
        yield first, end, np.arange(low, high), begins.astype(np.int64)
