r"""Will it fit? What a training run keeps on each GPU, before it starts.

Four things need room: the model's states, the activations, what the loss and the optimizer need
for a moment, and what communication gathers. For mixed-precision AdamW the states alone take

$$ 2\Psi + 2\Psi + (4 + 4 + 4)\Psi = 16\Psi \ \text{bytes} $$

(weights, gradients, and fp32 master, mean and square); ZeRO divides them by the ranks, stage by
stage. No single number of bytes a parameter is right: `recipes` prints all. The rest follows from
shapes. Not all of it is alive at once, so a plan takes the worst of four moments:

* loss: all activations, logits with their fp32 copy, and the gradients of both;
* layer: all activations, and what the last layer's backward pass computes again;
* end: all gradients, and one layer;
* step: all gradients, and the optimizer's temporaries.

Named models and config files are arithmetic and load no torch: 405 B parameters take
milliseconds. Any other `nn.Module` is run on fake tensors (`_traced`), where states and saved
activations are exact to the byte.

Under ZeRO-3 the run is taken to be FSDP2's: layers gathered one ahead, the root (embedding, norm,
head) gathered throughout, and blocks of memory that other streams freed not used again, which is
what `max_memory_reserved` shows.

References:
    Rajbhandari et al. (2020), "ZeRO", arXiv:1910.02054, figure 1, section 7 (traffic).
    Korthikanti et al. (2022), arXiv:2205.05198, eq. 1-6 (activations).
    torchtitan, benchmarks/llama3_h100_202412_torchtitan.md (rows that the plan is checked on).

Units: GB is 10^9 bytes, GiB 2^30.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paragone.training import _model_shapes, _model_states
from paragone.training._model_shapes import Decoder, Weight
from paragone.training._plan_parts import Run
from paragone.training._plan_text import Part, rows, show

__all__ = ["Plan", "models", "parse_bytes", "plan", "recipes", "stages"]

GIB = 2**30

_CHOICES: dict[str, tuple[Any, ...]] = {
    "zero": (0, 1, 2, 3), "offload": (None, "optimizer", "parameters"),
    "checkpointing": (None, "attention", "selective", "full"), "attention": ("flash", "math"),
    "step": ("foreach", "fused"), "compiled": (None, "layers", "all"),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What one GPU of a run holds, and the same for all of them.

    Attributes:
        name: The model.
        parameters: Its parameters.
        parts: What takes room, see `table`.
        phase: The moment that needs most: "states" where no batch was given.
        gpus: GPUs of the run.
        traffic: Bytes that one rank sends for a step's model states (0 for one GPU).
        notes: What was assumed.
        options: The arguments, for the inverse question.
    """

    name: str
    parameters: int
    parts: tuple[Part, ...]
    phase: str
    gpus: int
    traffic: int
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __getitem__(self, part: str) -> int:
        """Bytes of a part on one GPU, such as `plan["gradients"]`, whether or not at the peak."""
        for each in self.parts:
            if each.name == part:
                return each.size
        raise KeyError(f"no part {part!r}; parts: {', '.join(p.name for p in self.parts)}")

    @property
    def total(self) -> int:
        """Bytes on one GPU at the worst moment."""
        return sum(part.peak for part in self.parts)

    @property
    def total_gb(self) -> float:
        """`total` in GB."""
        return self.total / 1e9

    @property
    def total_gib(self) -> float:
        """`total` in GiB."""
        return self.total / GIB

    @property
    def reserved(self) -> int:
        """Bytes that torch's allocator reserves: `total` without the CUDA context."""
        return self.total - self._of("CUDA context")

    @property
    def allocated(self) -> int:
        """Bytes of tensors alive at the worst moment: `reserved` without the slack."""
        return self.reserved - self._of("allocator slack")

    @property
    def states(self) -> int:
        """Bytes of the model states on one GPU: parameters, gradients, master, moments."""
        return sum(self[name] for name in ("parameters", "gradients", "master", "moments"))

    @property
    def host(self) -> int:
        """Bytes in the host's memory for one GPU."""
        return sum(part.host for part in self.parts)

    def _of(self, name: str) -> int:
        return sum(part.peak for part in self.parts if part.name == name)

    def fits(self, device: str | float) -> bool:
        """Whether the worst moment fits, such as `plan.fits("80GB")`."""
        return self.total <= parse_bytes(device)

    def largest(self, vary: str, device: str | float) -> int:
        """The largest batch or sequence that fits (0: not even one).

        Args:
            vary: "batch" or "sequence"; the other one keeps its value.
            device: Memory of a GPU, such as "80GB" or "80GiB", or bytes.

        Raises:
            ValueError: The plan was made without the other one.
        """
        if vary not in ("batch", "sequence"):
            raise ValueError(f"vary is {vary!r}; give 'batch' or 'sequence'")
        other = "sequence" if vary == "batch" else "batch"
        if not self.options.get(other) or not isinstance(self.options["model"], Decoder):
            raise ValueError(
                f"the largest {vary} needs the {other} and a model by name or config; "
                f"plan with {other}=..."
            )
        room = parse_bytes(device)

        def good(value: int) -> bool:
            return plan(**{**self.options, vary: value}).total <= room

        low, high = 0, 1
        while good(high) and high < 2**31:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if good(middle) else (low, middle)
        return low

    def data(self) -> dict[str, Any]:
        """Everything as plain data (for JSON)."""
        return {
            "model": self.name, "parameters": self.parameters, "gpus": self.gpus,
            "phase": self.phase, "total": self.total, "total_gb": self.total_gb,
            "total_gib": self.total_gib, "states": self.states, "host": self.host,
            "traffic": self.traffic, "parts": rows(self.parts), "notes": list(self.notes),
        }  # fmt: skip

    def table(self) -> str:
        """The whole table: every part in GB and GiB on a GPU, at the worst moment, and on all."""
        return show(self)

    def __str__(self) -> str:
        return self.table()


def models() -> list[str]:
    """Names that `plan` knows."""
    return list(_model_shapes.MODELS)


def parse_bytes(text: str | float) -> int:
    """Bytes of "80GB", "80 GiB", "512MiB" or a plain number of at least a million.

    Example:
        >>> parse_bytes("80GB"), parse_bytes("1GiB")
        (80000000000, 1073741824)
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        size = float(text)
    else:
        found = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
        try:
            number = float(found[1]) if found else -1.0
        except ValueError:
            number = -1.0
        base = 1024 if found and found[3] else 1000
        size = number * base ** " kmgt".index(found[2] or " ") if found else -1.0
    if not 0 < size < float("inf"):
        raise ValueError(f"memory is {text!r}; give bytes, or a size such as 80GB or 80GiB")
    if size < 1e6:
        raise ValueError(f"memory is {text!r}, {size:.0f} bytes; for gigabytes say {text}GB")
    return int(size)


def _count(text: str) -> int | None:
    """Parameters from "7.5B", None if it is something else."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmbt]?)", str(text).strip().lower())
    return round(float(found[1]) * 1000 ** " kmbt".index(found[2] or " ")) if found else None


def _is_module(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _checked(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        known = ", ".join("none" if c is None else str(c) for c in choices)
        raise ValueError(f"{name} is {value!r}; known are {known}")


def _whole(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} is {value!r}; a whole number of at least 1 is expected")


def _subject(model: Any) -> tuple[Any, str, list[Weight], int]:
    """The model as a decoder, a module or None; its name, weights, and bytes of buffers."""
    if _is_module(model):
        from paragone.training import _traced

        return model, type(model).__name__, _traced.weights(model), _traced.buffers(model)
    known = (str, Path, Mapping, int, float, Decoder)
    if isinstance(model, bool) or not isinstance(model, known):
        raise ValueError(
            f"model is a {type(model).__name__}; give a name, a config.json (path or mapping), "
            "a number of parameters, or an nn.Module"
        )
    count = _count(model) if isinstance(model, str) else None
    if isinstance(model, int | float):
        count = int(model)
    if count is not None:
        if count < 1:
            raise ValueError(f"model is {model!r}; a number of parameters is at least 1")
        return None, f"{count / 1e9:.4g}B parameters", [Weight("parameters", (count, 1))], 0
    if isinstance(model, Decoder):
        return model, model.name, list(model.weights()), 0
    decoder = _model_shapes.describe(model)  # type: ignore[arg-type]
    return decoder, decoder.name, list(decoder.weights()), 0


def plan(
    model: Any,
    optimizer: str = "adamw",
    precision: str | None = None,
    *,
    batch: int | None = None,
    sequence: int | None = None,
    gpus: int = 1,
    zero: int = 0,
    offload: str | None = None,
    checkpointing: str | None = None,
    attention: str = "flash",
    tensor_parallel: int = 1,
    context_parallel: int = 1,
    compiled: str | None = None,
    step: str = "foreach",
    accumulate: bool = False,
    inputs: Any = None,
    loss: Callable[[Any], Any] | None = None,
) -> Plan:
    """Plans the memory of a training run.

    Prefer it to `accelerate estimate-memory` and DeepSpeed's estimators, which know no
    activations, and to torch's `MemTracker`, which must run the whole model.

    Args:
        model: A name (`models()`), a Hugging Face `config.json` (path, folder or mapping), a
            number of parameters (7.5e9 or "7.5B": model states only), or an `nn.Module`, also
            on the meta device.
        optimizer: "adamw", "adam", "adamw8bit", "lion", "lion8bit", "muon", "adafactor",
            "schedule-free", "sgd", "sgd-momentum".
        precision: What is kept for a parameter: "fp32", "fp16", "bf16" (both with fp32 master),
            "autocast", or another line of `recipes`. Without it "bf16", and of a module the
            dtypes that it has.
        batch: Sequences (or samples) on each data-parallel rank in one forward pass.
        sequence: Tokens of a sequence. Without batch and sequence: model states only.
        gpus: GPUs of the run.
        zero: ZeRO stage.
        offload: What is kept in the host's memory: "optimizer" (master and moments, from stage 2
            on the gradients too) or "parameters" (everything; stage 3).
        checkpointing: "selective" (by operation: attention's output and every second product are
            kept), "attention" (only the scores are computed again), or "full".
        attention: "flash", or "math" where scores are written out.
        tensor_parallel: GPUs that share each matrix, with sequence parallelism.
        context_parallel: GPUs that share each sequence.
        compiled: "layers" where layers run under `torch.compile`, "all" where the loss does too.
        step: Whether the optimizer makes temporaries ("foreach", torch's default on a GPU) or not
            ("fused", and paragone's own).
        accumulate: Whether gradients are accumulated over several passes, hence always there.
        inputs: Of a module: a tensor, or a tuple or mapping of them; only shapes and dtypes are
            read. Without it `batch` and `sequence` make token ids.
        loss: Of a module: from its output to a scalar.

    Returns:
        The plan; `print` shows the table.

    Raises:
        ValueError: An argument is wrong; the message says what is known.

    Example:
        >>> print(f"{plan('llama-7b', precision='fp16').total_gb:.1f} GB")
        107.8 GB
    """
    given = {"zero": zero, "offload": offload, "checkpointing": checkpointing,
             "attention": attention, "step": step, "compiled": compiled}  # fmt: skip
    for name, choices in _CHOICES.items():
        _checked(name, given[name], choices)
    _checked("optimizer", optimizer, list(_model_states.OPTIMIZERS))
    if precision is not None:
        _checked("precision", precision, list(_model_states.PRECISIONS))
    sizes = {"batch": batch, "sequence": sequence, "gpus": gpus,
             "tensor_parallel": tensor_parallel, "context_parallel": context_parallel}  # fmt: skip
    for name, value in sizes.items():
        _whole(name, value)
    if offload == "parameters" and zero != 3:
        raise ValueError(f"offload='parameters' needs zero=3 (got {zero}): only it gathers layers")
    if gpus % (tensor_parallel * context_parallel):
        raise ValueError(f"gpus is {gpus}; a multiple of tensor_parallel * context_parallel = "
                         f"{tensor_parallel * context_parallel} is expected")  # fmt: skip
    subject, name, weights, extra = _subject(model)
    module = subject is not None and not isinstance(subject, Decoder)
    if precision is None and not module:
        precision = "bf16"
    recipe = _model_states.PRECISIONS[precision] if precision else None
    if isinstance(subject, Decoder) and (batch is None) != (sequence is None):
        raise ValueError(
            f"batch is {batch} and sequence is {sequence}; give both, or neither for model states"
        )
    if subject is None and optimizer in ("muon", "adafactor"):
        raise ValueError(f"{optimizer} needs shapes, not a number of parameters; name a model")
    ranks = gpus // tensor_parallel
    found = _model_states.states(weights, optimizer, recipe, zero, ranks, offload, tensor_parallel)
    run = Run(
        subject=subject, recipe=recipe, states=found, ranks=ranks, buffers=extra, inputs=inputs,
        loss=loss, optimizer=optimizer, accumulate=accumulate, **given, **sizes,
    )  # fmt: skip
    parts, phase, notes = run.parts()
    options = {
        **given, **sizes, "model": subject if isinstance(subject, Decoder) else model,
        "optimizer": optimizer, "precision": precision,
        "accumulate": accumulate, "inputs": inputs, "loss": loss,
    }  # fmt: skip
    return Plan(name, found.count, parts, phase, gpus, run.traffic(), notes, options)


def stages(model: Any, **options: Any) -> dict[str, Plan]:
    """Plans of all ZeRO stages, and of offloading the optimizer and everything.

    Args:
        model: As for `plan`.
        options: Its other arguments, without `zero` and `offload`.

    Example:
        >>> found = stages(7.5e9, gpus=64)
        >>> " / ".join(f"{plan.total_gb:.3g}" for plan in found.values())
        '120 / 31.4 / 16.6 / 1.88 / 15 / 0'
    """
    shared = {**options, "inputs": options.get("inputs")}
    found = {f"stage {z}": plan(model, zero=z, **shared) for z in (0, 1, 2, 3)}
    found["stage 2, optimizer offloaded"] = plan(model, zero=2, offload="optimizer", **shared)
    found["stage 3, all offloaded"] = plan(model, zero=3, offload="parameters", **shared)
    return found


def recipes(model: Any = 1e9, optimizers: Sequence[str] = ("adamw", "adamw8bit", "sgd")) -> str:
    """Bytes a parameter by precision and optimizer, as a table: there is no single number.

    Args:
        model: As for `plan`; its shapes matter for some optimizers.
        optimizers: Columns.

    Example:
        >>> print(recipes(optimizers=["adamw"]).splitlines()[1])
        fp32                       16.0  all in 32 bits
    """
    lines = ["bytes a parameter     " + "".join(f"{name:>12}" for name in optimizers)]
    for name, recipe in _model_states.PRECISIONS.items():
        found = [plan(model, each, name) for each in optimizers]
        cells = "".join(f"{p.states / p.parameters:>{9 if i == 0 else 12}.1f}"
                        for i, p in enumerate(found))  # fmt: skip
        lines.append(f"{name:<22}{cells}  {recipe.note}")
    return "\n".join(lines)
