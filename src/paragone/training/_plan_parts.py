"""The parts of a plan and the moments at which they meet; see `memory`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from paragone.training import _activations
from paragone.training._model_shapes import Decoder
from paragone.training._model_states import Precision, States
from paragone.training._plan_text import Part

__all__ = ["COMMUNICATOR", "CONTEXT", "SLACK", "Run"]

CONTEXT = 3 * 2**28
"""CUDA context and libraries of one process, outside torch's allocator."""
COMMUNICATOR = 2**29
"""What NCCL takes besides."""
SLACK = 0.03
"""Share of activations and temporaries lost to rounding and holes of the allocator."""

_STATES = ("parameters", "gradients", "master", "moments")
_TITLES = {
    "master": "fp32 master weights", "moments": "the optimizer's running means",
    "one layer's backward": "gradients of activations, and what is computed again",
    "optimizer temporaries": 'what torch makes with foreach=True; none with step="fused"',
}  # fmt: skip
_BUCKETS = {
    0: "DDP's flat buckets; none with gradient_as_bucket_view=True", 1: "buckets of two layers",
    2: "buckets of two layers", 3: "layers gathered one ahead, the root throughout",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """One rank of a run, all arguments checked."""

    subject: Any
    recipe: Precision | None
    states: States
    ranks: int
    gpus: int
    zero: int
    offload: str | None
    optimizer: str
    batch: int | None
    sequence: int | None
    buffers: int
    attention: str
    checkpointing: str | None
    step: str
    compiled: str | None
    accumulate: bool
    tensor_parallel: int
    context_parallel: int
    inputs: Any
    loss: Callable[[Any], Any] | None

    def traffic(self) -> int:
        """Bytes that a rank sends for a step, the ring's (N - 1) / N of 2 (or 3) passes."""
        if self.ranks == 1:
            return 0
        p, g, c = (r.parameter, r.gradient, r.compute) if (r := self.recipe) else (4, 4, 4)
        each = {0: g + g, 3: 2 * c + g}.get(self.zero, g + p)
        count = self.states.count // self.tensor_parallel
        return each * count * (self.ranks - 1) // self.ranks

    def parts(self) -> tuple[tuple[Part, ...], str, tuple[str, ...]]:
        """The parts, the worst moment's name, and what was assumed."""
        moments = self._moments()
        if moments is None:
            return self._states({}, "states"), "states", self._notes()
        sizes, at = moments
        phase = max(at, key=lambda name: sum(at[name].values()))
        notes = {**_TITLES, "communication": _BUCKETS[self.zero]}
        rest = [
            Part(name, size, at[phase].get(name, 0), 0, notes.get(name, ""))
            for name, size in sizes.items()
        ]
        slack = round(SLACK * sum(p.peak for p in rest if p.name in _LOOSE))
        context = CONTEXT + (COMMUNICATOR if self.gpus > 1 else 0)
        rest += [Part("allocator slack", slack, slack), Part("CUDA context", context, context)]
        return (*self._states(at[phase], phase), *rest), phase, self._notes()

    def _states(self, at: Mapping[str, int], phase: str) -> tuple[Part, ...]:
        found = []
        for name in _STATES:
            size, host = self.states.device[name], self.states.host.get(name, 0)
            peak = at.get(name, size)
            found.append(Part(name, size, peak, host, _TITLES.get(name, "")))
        if self.buffers:
            found.append(Part("buffers", self.buffers, self.buffers, 0, "of the module"))
        return tuple(found)

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.recipe is not None:
            notes.append(f"precision: {self.recipe.note}")
        if self.zero and self.ranks == 1:
            notes.append(f"zero={self.zero} shares nothing on one data-parallel rank; give gpus")
        frozen = self.states.count - self.states.trained
        if frozen:
            notes.append(f"{frozen:,} parameters are frozen: no gradient, no state")
        return tuple(notes)

    def _moments(self) -> tuple[dict[str, int], dict[str, dict[str, int]]] | None:
        """Sizes of the passing parts, and what of everything is there at each moment."""
        decoder = isinstance(self.subject, Decoder)
        if decoder:
            return self._decoder() if self.batch and self.sequence else None
        if self.subject is None or (self.inputs is None and not (self.batch and self.sequence)):
            return None
        return self._module()

    def _communication(self) -> tuple[int, int]:
        """Bytes gathered all the time, and those of a layer's gradients on their way."""
        layer, root = self.states.largest, self.states.root
        if self.ranks == 1 and self.offload != "parameters":
            return 0, 0
        if self.zero == 3:
            return root + 2 * layer + max(root, 2 * layer), root + layer
        if self.zero == 0:
            return self.states.device["gradients"], 0
        return 2 * layer, 0

    def _copies(self) -> int:
        """Weights that autocast casts and keeps for the pass, where nothing gathers them."""
        r = self.recipe
        if r is None or r.compute >= r.parameter or (self.zero == 3 and self.ranks > 1):
            return 0
        return self.states.count * r.compute // self.tensor_parallel

    def _temporaries(self) -> int:
        """What a step with torch's `foreach` makes: a root of the squares, and fp32 gradients."""
        none = self.step == "fused" or self.offload or self.optimizer.endswith("8bit")
        if none or self.optimizer == "sgd":
            return 0
        share = self.ranks if self.zero else 1
        master = 4 if self.recipe and self.recipe.master else 0
        size = self.recipe.moment if self.recipe else 4
        return (size + master) * self.states.trained // (self.tensor_parallel * share)

    def _decoder(self) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
        assert self.recipe is not None
        model: Decoder = self.subject
        found = _activations.layers(
            model, self.batch or 1, self.sequence or 1, self.recipe.compute,
            attention=self.attention, checkpointing=self.checkpointing, compiled=self.compiled,
            split=self.tensor_parallel, cut=self.context_parallel,
        )  # fmt: skip
        kept = model.layers * found.layer + found.root
        gathered, flying = self._communication()
        copies, step = self._copies(), self._temporaries()
        full = self.states.device["gradients"]
        always = self.accumulate or (self.zero == 3 and self.ranks > 1)
        one = full if always else min(full, self.states.largest + self.states.root)
        sizes = {
            "activations": kept, "one layer's backward": found.workspace,
            "logits and loss": found.logits, "communication": gathered + flying,
            "16-bit copies": copies, "optimizer temporaries": step,
        }  # fmt: skip
        sizes = {name: size for name, size in sizes.items() if size}
        shared = {"communication": gathered, "16-bit copies": copies}
        busy = {**shared, "communication": gathered + flying}
        at = {
            "loss": {"activations": kept, "logits and loss": found.logits, **shared,
                     "gradients": full if always else 0},
            "layer": {"activations": kept, "one layer's backward": found.workspace, **busy,
                      "gradients": one},
            "end": {"activations": found.layer, "one layer's backward": found.workspace, **busy},
            "step": {"optimizer temporaries": step},
        }  # fmt: skip
        return sizes, self._with_states(at)

    def _module(self) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
        from paragone.training import _traced

        torch = sys.modules["torch"]
        r = self.recipe
        kind = {2: torch.bfloat16, 4: torch.float32}
        cast = kind[r.parameter] if r else None
        mixed = kind[r.compute] if r and r.compute != r.parameter else None
        given = self.inputs
        if given is None:
            given = torch.empty((self.batch, self.sequence), dtype=torch.long, device="meta")
        keywords = dict(given) if isinstance(given, Mapping) else {}
        positional = () if keywords else given if isinstance(given, tuple) else (given,)
        trace = _traced.trace(
            self.subject, positional, keywords, loss=self.loss, dtype=cast, autocast=mixed,
            attention=self.attention,
        )  # fmt: skip
        full = self.states.device["gradients"]
        always = self.accumulate or (self.zero == 3 and self.ranks > 1)
        alive = trace.peak_activations if always else trace.peak - trace.gradients
        kept = min(trace.saved, alive)
        gathered, flying = self._communication()
        step = self._temporaries()
        sizes = {
            "activations": trace.saved, "one layer's backward": max(alive - trace.saved, 0),
            "communication": gathered + flying, "optimizer temporaries": step,
        }  # fmt: skip
        sizes = {name: size for name, size in sizes.items() if size or name == "activations"}
        at = {
            "backward": {
                "activations": kept, "one layer's backward": alive - kept,
                "communication": gathered + flying,
                "gradients": full if always else min(full, trace.gradients),
            },
            "step": {"optimizer temporaries": step},
        }  # fmt: skip
        return sizes, self._with_states(at)

    def _with_states(self, at: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        """Adds what is always there, so that moments can be compared."""
        device = self.states.device
        return {name: {**device, **parts} for name, parts in at.items()}


_LOOSE = ("activations", "one layer's backward", "logits and loss", "optimizer temporaries")
