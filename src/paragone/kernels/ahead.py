"""What a call would launch on a GPU that is not here: compiled to its machine code, not run.

Triton's own assembler ships with it, so kernels can be compiled for a GPU anywhere. That finds
what the interpreter lets pass (types that change in a loop, tiles that do not fit, operations that
the hardware lacks), and tells registers, spills and shared memory, by which tiles are chosen.

    with compiled(90) as kernels:
        attention_triton.forward_call(call)             # tensors on the CPU, any type
    print(kernels[0])

Nothing is computed: what the call returns means nothing. Modules with kernels must have been
imported without `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from paragone.kernels import launch

__all__ = ["Compiled", "compiled"]

_ROOM = {80: 163 * 1024, 90: 227 * 1024}


class Compiled(NamedTuple):
    """One kernel as the assembler left it.

    Attributes:
        name: Of the function.
        grid: Programs along each axis.
        registers: Of a thread.
        spilled: Bytes of a thread that did not fit into registers.
        shared: Bytes of shared memory of a program.
        tensor_cores: Instructions for tensor cores.
        fits: Whether the shared memory is there.
    """

    name: str
    grid: tuple[int, ...]
    registers: int
    spilled: int
    shared: int
    tensor_cores: int
    fits: bool


class _Driver:
    """As much of a GPU driver as compiling asks for."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_device(self) -> int:
        return -self.capability  # kernels are kept by device: this one shares none with a real one

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


@contextmanager
def compiled(capability: int = 90) -> Iterator[list[Compiled]]:
    """Compiles instead of launching, as if tensors of the CPU were on a GPU.

    Args:
        capability: 90 for Hopper, 80 for Ampere.

    Yields:
        A list that grows by one for each launch.

    Raises:
        RuntimeError: Triton's interpreter is switched on.
    """
    from triton.runtime import driver, jit

    interface: Any = jit.KernelInterface
    current: Any = driver

    if launch.interpreting():
        raise RuntimeError("TRITON_INTERPRET is set: the interpreter compiles nothing; unset it")
    found: list[Compiled] = []
    usual, active = interface.__getitem__, current._active

    def instead(kernel: Any, size: tuple[int, ...]) -> Any:
        def build(*given: Any, **meta: Any) -> None:
            binary = kernel.warmup(*given, grid=size, **meta)
            found.append(_read(binary, kernel.fn.__name__, size, capability))

        return build

    interface.__getitem__ = instead
    launch._ASSUMED.append(capability)
    current.set_active(_Driver(capability))
    try:
        yield found
    finally:
        current._active = active
        launch._ASSUMED.pop()
        interface.__getitem__ = usual


def _read(binary: Any, name: str, size: tuple[int, ...], capability: int) -> Compiled:
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert usage is not None
    shared = int(binary.metadata.shared)
    cores = len(re.findall(r"wgmma\.mma_async|mma\.sync", binary.asm["ptx"]))
    room = _ROOM.get(capability, 99 * 1024)
    return Compiled(name, size, int(usage[1]), int(usage[2]), shared, cores, shared <= room)
