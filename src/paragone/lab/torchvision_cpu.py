"""torchvision beside torch's CPU build, so that it can be a rival where there is no GPU.

The wheel on PyPI is linked against CUDA libraries that a CPU machine lacks. With a C compiler at
hand, empty libraries of those names are built once into the cache folder and loaded first; its
native operators (`nms`, `roi_align`, `ps_roi_align` …) then run. Without one the operators are
only declared: its models and transforms work, its native operators do not.

References:
    ld.so(8): a library that is loaded already satisfies whoever needs one of its name.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

__all__ = ["import_torchvision", "prepare", "why_no_operators"]

_DECLARED = (
    "nms", "qnms", "roi_align", "_roi_align_backward", "roi_pool", "_roi_pool_backward",
    "ps_roi_align", "_ps_roi_align_backward", "ps_roi_pool", "_ps_roi_pool_backward",
    "deform_conv2d", "_deform_conv2d_backward",
)  # fmt: skip


def _symbols(flag: str, *files: Path) -> set[str]:
    done = subprocess.run(["nm", "-D", flag, *files], capture_output=True, text=True, check=True)
    return {line.split()[-1] for line in done.stdout.splitlines() if len(line.split()) > 1}


def _needed(folder: Path) -> tuple[list[str], list[str]]:
    """What the wheel asks for that torch's CPU build has not: of the runtime, and of c10's."""
    libraries = Path(sysconfig.get_paths()["purelib"]) / "torch" / "lib"
    names = ("libc10.so", "libtorch_cpu.so", "libtorch_python.so", "libtorch.so")
    have = {s.split("@")[0] for s in _symbols("--defined-only", *[libraries / n for n in names])}
    system = ("@GLIBC", "@CXXABI", "@GCC")
    asked = {
        symbol.split("@")[0]
        for symbol in _symbols("--undefined-only", folder / "_C.so")
        if not any(version in symbol for version in system)
    } - have
    runtime = sorted(s for s in asked if s.startswith(("cuda", "__cuda")))
    return runtime, sorted(s for s in asked if "4cuda" in s and s not in runtime)


def _sources(runtime: list[str], c10: list[str]) -> dict[str, str]:
    """C text of the libraries by name: functions that fail, data that is nothing."""
    calls = [
        "void *__cudaRegisterFatBinary(void *p) { return nothing; }"
        if name == "__cudaRegisterFatBinary"
        else f"int {name}(void) {{ return {0 if name.startswith('__') else 100}; }}"
        for name in runtime
    ]
    parts = [
        f'void *d{i}[64] __asm__("{name}") = {{0}};'
        if name.endswith("allocatorE")
        else f'long f{i}(void) __asm__("{name}"); long f{i}(void) {{ __builtin_trap(); }}'
        for i, name in enumerate(c10)
    ]
    return {
        "libcudart.so.13": "\n".join(["static void *nothing[64];", *calls]),
        "libc10_cuda.so": "\n".join(parts),
        "libtorch_cuda.so": "int nothing;",
    }


def _build(folder: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        for name, text in _sources(*_needed(folder)).items():
            source = Path(work, f"{name}.c")
            source.write_text(text, encoding="utf-8")
            version = Path(work, f"{name}.map")
            version.write_text(f"{name} {{ global: *; }};\n", encoding="utf-8")
            script = [f"-Wl,--version-script={version}"] if "cudart" in name else []
            command = ["gcc", "-w", "-shared", "-fPIC", "-o", str(Path(work, name)), str(source)]
            subprocess.run(
                [*command, f"-Wl,-soname,{name}", *script], check=True, capture_output=True
            )
            source.unlink()
            version.unlink()
        done = Path(work, "libraries")
        done.mkdir()
        for file in Path(work).glob("lib*.so*"):
            file.rename(done / file.name)
        try:
            done.rename(target)
        except OSError:
            if not target.exists():
                raise


@functools.cache
def _prepared() -> str | None:
    """Loads stand-ins for the missing libraries; returns why it could not, None if it could."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return "torchvision is not installed"
    if torch.version.cuda or torch.version.hip:
        return None
    if not (shutil.which("gcc") and shutil.which("nm")):
        return "gcc and nm are needed to run torchvision's operators beside torch's CPU build"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "paragone"
    versions = f"{importlib.metadata.version('torchvision')}-{torch.__version__}"
    target = cache / f"torchvision-{versions}"
    try:
        if not target.exists():
            _build(Path(spec.origin).parent, target)
        for name in ("libcudart.so.13", "libc10_cuda.so", "libtorch_cuda.so"):
            ctypes.CDLL(str(target / name), mode=ctypes.RTLD_GLOBAL)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"stand-ins for torchvision's CUDA libraries could not be built: {error}"
    return None


def why_no_operators() -> str | None:
    """Returns why torchvision's native operators cannot run here, None if they can."""
    return _prepared()


@functools.cache
def prepare() -> None:
    """Lets torchvision be imported by whoever wants it, as transformers does; imports it not."""
    import torch

    if importlib.util.find_spec("torchvision") is None or _prepared() is None:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    _KEPT.append(library)
    for name in _DECLARED:
        library.define(f"{name}(Tensor input) -> Tensor")


def import_torchvision() -> ModuleType:
    """Returns torchvision, with its native operators where they can run.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    prepare()
    import torchvision

    return torchvision


_KEPT: list[object] = []
