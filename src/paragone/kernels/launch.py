r"""Launching Triton kernels: on a GPU in earnest, on the CPU in Triton's interpreter as a proof.

The rules that the interpreter asks for, in one place:

- Whether it runs is settled when a kernel's module is imported (`TRITON_INTERPRET=1`), not later.
- It is exact in float32 and float16; arithmetic on bfloat16 is silently wrong there, so that
  bfloat16 tensors are refused (`check`) and no kernel may compute on what it has loaded without
  a cast first (`paragone.kernels.upcast` reads every kernel's source).
- It knows no streaming multiprocessor and no clock: `tile` gives it the one small tile of the
  table, and `fastest` measures candidates only where a GPU answers.

On a GPU a table names for each capability (90: Hopper) the tiles worth a try, the first of which
is taken when there is nothing to measure. A grid has at most $2^{31} - 1$ programs along its
first axis and 65535 along the others; offsets inside one tile are 32 bits wide, those of the tile
64 bits.

References:
    Tillet, Kung and Cox (2019), "Triton: an intermediate language and compiler for tiled neural
    network computations".
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "INTERPRETER", "Tile", "capability", "check", "fastest", "grid", "interpreting", "power_of_two",
    "processors", "refuses", "serves", "start", "tile", "tiles",
]  # fmt: skip

INTERPRETER = 0
"""The capability under which a table keeps the interpreter's one configuration."""
_FIRST_AXIS, _OTHER_AXES, _TILE_OFFSET = 2**31 - 1, 65535, 2**31
_CHOSEN: dict[Hashable, Tile] = {}
_ASSUMED: list[int] = []
"""Capability that the CPU is taken for while `ahead.compiled` looks on."""


class Tile(NamedTuple):
    """What a launch is tuned by: the tile's sides, warps of a program, stages of its pipeline."""

    rows: int
    columns: int
    warps: int = 4
    stages: int = 2


def interpreting(kernel: Any = None) -> bool:
    """Whether Triton's interpreter runs this kernel, or those of a module imported now.

    Imports neither triton nor torch.

    Example:
        >>> interpreting() in (True, False)
        True
    """
    if kernel is not None:
        return "Interpreted" in type(kernel).__name__
    if "triton" in sys.modules:
        return bool(sys.modules["triton"].knobs.runtime.interpret)
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


@functools.cache
def _capability_of(index: int) -> int:
    import torch

    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def capability(device: Any) -> int:
    """Returns 90 for Hopper, 80 for Ampere, and so on; 0 on the CPU, that is in the interpreter.

    Args:
        device: A torch device or its name.
    """
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        return _ASSUMED[-1] if _ASSUMED else INTERPRETER
    return _capability_of(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _processors_of(index: int) -> int:
    import torch

    return torch.cuda.get_device_properties(index).multi_processor_count


def processors(device: Any) -> int:
    """Returns the number of streaming multiprocessors; 1 on the CPU."""
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        return 132 if _ASSUMED else 1
    return _processors_of(torch.cuda.current_device() if device.index is None else device.index)


def tiles(table: Mapping[int, Sequence[Tile]], device: Any) -> Sequence[Tile]:
    """Returns the candidates of the table's highest capability that the device has.

    Args:
        table: Lowest capability to candidates, the best guess first; `INTERPRETER` must be there.
        device: Where the kernel will run.
    """
    found = capability(device)
    best = max(key for key in table if key <= found and (key != INTERPRETER or found == 0 or
               not any(INTERPRETER < other <= found for other in table)))  # fmt: skip
    return table[best]


def tile(table: Mapping[int, Sequence[Tile]], device: Any) -> Tile:
    """Returns the first of `tiles`.

    Example:
        >>> tile({INTERPRETER: [Tile(32, 32)], 80: [Tile(128, 64, 4, 3)]}, "cpu")
        Tile(rows=32, columns=32, warps=4, stages=2)
    """
    return tiles(table, device)[0]


def fastest(key: Hashable, candidates: Sequence[Tile], run: Callable[[Tile], Any]) -> Tile:
    """Returns the quickest candidate, measured once for each key where a GPU answers.

    Without one, or with one candidate alone, it is the first, and nothing is run. Kernels that
    add to what they write must not be measured so: each candidate runs many times.

    Args:
        key: What the choice depends on: the kernel, dtype, head size and rounded lengths.
        candidates: Tiles to try; those that do not fit the device are passed over.
        run: Launches the kernel with a tile.
    """
    if len(candidates) == 1 or interpreting() or _ASSUMED or not _gpu_answers():
        return candidates[0]
    if key not in _CHOSEN:
        import triton

        took = {}
        for candidate in candidates:
            try:
                took[candidate] = triton.testing.do_bench(
                    lambda c=candidate: run(c), warmup=5, rep=20
                )
            except (triton.runtime.errors.OutOfResources, triton.runtime.errors.PTXASError):
                continue
        if not took:
            raise RuntimeError(f"{key}: none of the tiles {list(candidates)} fits this GPU")
        _CHOSEN[key] = min(took, key=lambda c: took[c])
    return _CHOSEN[key]


def _gpu_answers() -> bool:
    import torch

    return torch.cuda.is_available()


def grid(op: str, first: int, second: int = 1, third: int = 1) -> tuple[int, int, int]:
    """Returns the grid, checked against CUDA's limits.

    Raises:
        ValueError: An axis has more programs than a launch can have.

    Example:
        >>> grid("attention", 128, 7)
        (128, 7, 1)
    """
    for axis, (size, limit) in enumerate(
        ((first, _FIRST_AXIS), (second, _OTHER_AXES), (third, _OTHER_AXES))
    ):
        if size > limit:
            raise ValueError(
                f"{op}: {size} programs along axis {axis} of the grid, at most {limit} can be "
                "launched; split the batch"
            )
    return first, second, third


def refuses(device: Any, dtype: Any) -> str | None:
    """Says why Triton cannot serve tensors of this device and dtype here; None if it can.

    A predicate for `paragone.kernels.choice.register`.
    """
    import torch

    device = torch.device(device)
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"{dtype} is none of float32, float16, bfloat16"
    if device.type == "cuda" or _ASSUMED:
        return None
    if device.type != "cpu":
        return f"tensors are on {device.type}; a CUDA device is needed"
    if not interpreting():
        return "tensors are on the CPU; for a trial there set TRITON_INTERPRET=1 before the import"
    if dtype == torch.bfloat16:
        return "bfloat16 arithmetic is wrong in Triton's interpreter: use float32 or float16 there"
    return None


def serves(device: Any, dtype: Any, named: str = "auto") -> str | None:
    """Like `refuses`, but the CPU only by name: the interpreter is a proof, not a back end.

    Args:
        device: A torch device or its name.
        dtype: Of the tensors.
        named: The back end that the caller asked for.
    """
    kind = getattr(device, "type", device)
    if not str(kind).startswith("cuda") and named != "triton":
        return f"tensors are on {kind}, not on a GPU"
    return refuses(device, dtype)


def check(
    op: str, *, dense: Sequence[str] = (), reach: int = 128, **tensors: Tensor | None
) -> None:
    """Refuses what a kernel could not compute, by name.

    Args:
        op: Name of the operation, for the message.
        dense: Names of the tensors whose last axis must have stride 1.
        reach: Most rows that one tile spans: its offsets must fit into 32 bits.
        tensors: Name to tensor; floating-point ones must share one dtype, all must share one
            device. None is passed over.

    Raises:
        ValueError: A device, dtype or stride that does not fit; the text names it.
        RuntimeError: The tensors are on the CPU, and Triton's interpreter is not switched on.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first, lead = next(iter(given.items()))
    for name, tensor in given.items():
        if tensor.device != lead.device:
            raise ValueError(
                f"{op}: {name} is on {tensor.device}, {first} on {lead.device}; move it there"
            )
        if tensor.dtype != lead.dtype:
            raise ValueError(
                f"{op}: {name} is {tensor.dtype}, {first} is {lead.dtype}; give one dtype"
            )
        if name in dense and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(
                f"{op}: the last axis of {name} has stride {tensor.stride(-1)}; 1 is expected: "
                f"pass {name}.contiguous()"
            )
        if any(
            step * reach >= _TILE_OFFSET
            for step, size in zip(tensor.stride()[-2:], tensor.shape[-2:], strict=True)
            if size > 1
        ):
            raise ValueError(
                f"{op}: {name} has strides {tensor.stride()}, of which {reach} rows reach beyond "
                f"2^31 elements; pass {name}.contiguous()"
            )
    reason = refuses(lead.device, lead.dtype)
    if reason and "TRITON_INTERPRET" in reason:
        raise RuntimeError(f"{op}: {reason}")
    if reason:
        raise ValueError(f"{op}: {reason}")


def start(kernel: Any, size: tuple[int, ...], *given: Any, **meta: Any) -> None:
    """Launches a kernel, if there is a program to run.

    Args:
        kernel: A `@triton.jit` function.
        size: Programs along each axis, from `grid`.
        given: Its arguments.
        meta: What is known when it is compiled; `num_warps` and `num_stages`.
    """
    if 0 not in size:
        kernel[size](*given, **meta)


def power_of_two(size: int, least: int = 16) -> int:
    """Returns the smallest power of two that holds `size`, and `least`, the least side of a dot.

    Example:
        >>> power_of_two(80), power_of_two(3)
        (128, 16)
    """
    return max(least, 1 << max(size - 1, 0).bit_length())
