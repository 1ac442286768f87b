r"""Registers, spills and shared memory of the Triton kernels of mixers, without a GPU.

    python benchmarks/triton_tiles.py [--capability 90] [--widths 64 128 256]

Every tile of attention's tables, causal and not, in bfloat16 and float32, and one line for each
other kernel: compiled by Triton's own assembler, not run. A tile that spills or does not fit is a
bad first guess; which one is quickest only a GPU can tell.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

import torch

from paragone.kernels.ahead import compiled
from paragone.kernels.launch import Tile
from paragone.mixers.ops.attention import attention_triton
from paragone.mixers.ops.attention.attention_triton_decode import decode_call
from paragone.mixers.ops.attention.rule import Call, Rule
from paragone.mixers.ops.linear.chunk_triton import chunks
from paragone.mixers.ops.scan.scan_triton import selective_scan


def show(what: str, capability: int, run: Callable[[], Any]) -> None:
    """Prints one line a kernel."""
    with compiled(capability) as kernels:
        run()
    for kernel in kernels:
        room = "" if kernel.fits else "  DOES NOT FIT"
        print(
            f"{what:34} {kernel.name:24} registers {kernel.registers:3}  spilled "
            f"{kernel.spilled:5}  shared {kernel.shared:6}  tensor cores {kernel.tensor_cores}"
            f"{room}",
            flush=True,
        )


def attention(width: int, dtype: torch.dtype, causal: bool, capability: int) -> None:
    """Forward and backward with each tile of the tables."""
    q = torch.zeros(2, 4, 512, width, dtype=dtype)
    call = Call(q, q[:, :2], q[:, :2], Rule(0.1, right=0 if causal else -1))
    usual = attention_triton.fastest
    for place in range(3):

        def one(key: Any, tiles: list[Tile], run: Any, place: int = place) -> Tile:
            tile = tiles[min(place, len(tiles) - 1)]
            print(f"  {key[0]}: {tile}")
            return tile

        attention_triton.fastest = one
        kind = f"attention {width} {str(dtype)[6:]}{' causal' if causal else ''}"
        show(kind, capability, lambda: attention_triton.backward_call(
            call, q, None, *attention_triton.forward_call(call), False))  # fmt: skip
    attention_triton.fastest = usual


def main() -> None:
    """Runs all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--capability", type=int, default=90)
    parser.add_argument("--widths", type=int, nargs="*", default=[64, 128, 256])
    options = parser.parse_args()
    for width in options.widths:
        for dtype in (torch.bfloat16, torch.float32):
            for causal in (False, True):
                attention(width, dtype, causal, options.capability)
    bf16, lengths = torch.bfloat16, torch.zeros(4, dtype=torch.int64)
    for heads, groups, depth, values in ((32, 8, 128, 128), (32, 32, 64, 64), (128, 1, 576, 512)):
        q = torch.zeros(4, heads, 1, depth, dtype=bf16)
        k = torch.zeros(4, groups, 8192, depth, dtype=bf16)
        run = partial(decode_call, q, k, k[..., :values], lengths, None, None, 0.1, 0.0, 0, True,
                      None, None)  # fmt: skip
        show(f"decode {heads}/{groups} heads of {depth}", options.capability, run)
    for width in options.widths:
        q, memory = torch.zeros(1, 2, 256, width, dtype=bf16), torch.zeros(1, 2, width, width)
        for name, gate in (("", None), (" gate a head", torch.zeros(1, 2, 256)),
                           (" gate a channel", torch.zeros(1, 2, 256, width))):  # fmt: skip
            run = partial(chunks, q, q, q, gate, memory, 1.0)
            show(f"linear {width}{name}", options.capability, run)
    x, b = torch.zeros(2, 64, 128, dtype=bf16), torch.zeros(2, 64, 16, dtype=bf16)
    run = partial(selective_scan, x, x, torch.zeros(128, 16), b, b, None, x, None, None, None, True)
    show("selective scan, 16 states", options.capability, run)


if __name__ == "__main__":
    main()
