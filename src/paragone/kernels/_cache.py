"""Compiled kernels on disk: never stale, and loaded in milliseconds.

Differences from Numba's own cache, which it replaces for our kernels:

- **Fresh by content.** An entry is valid if the code it was made from is the same (`_stamp`),
  not if the file is; so a changed constant or a changed kernel in another file is seen, while a
  changed comment, a fresh checkout or a reinstallation costs nothing.
- **Quick.** Before it loads anything, Numba imports all it may need to *compile* (some 70
  modules, 0.2 s and more), and it parses the bitcode of each kernel in case another one is to be
  linked with it. Here both wait until something is to be compiled.
- **Safe without threads.** The machine code of a kernel that calls a parallel one refers to the
  threading layer. If that was not started, Numba jumps to an address not yet known; here each
  entry lists what it refers to, and the layer is started when that is not there.
- **Whole or absent.** An entry carries a digest; a torn or foreign file is compiled anew.
- **Of no one process.** A kernel that is given a kernel has the address of that one in its
  signature, and processes forked from one parent share addresses, not objects. It is not kept;
  whatever calls it is, with its machine code.

An entry is one file `<module>.<kernel>-<key>.nbc` in `cache_folder`, where the key is over the
signature, the processor, and the versions of Python and Numba. Like every pickle it must come
from oneself: `cache_folder` passes over a folder of others, or one that all may write to.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import sys
import threading
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding as llvm
from numba.core import caching, compiler, environment
from numba.core.codegen import JITCodeLibrary
from numba.core.runtime.nrt import rtsys
from numba.core.serialize import dumps

from paragone._core.private import closed_to_others
from paragone.kernels._stamp import stamp
from paragone.kernels.backends import cache_folder
from paragone.kernels.jit import TALLY, start_threads

__all__ = ["KernelCache", "folder_for"]

_MAGIC = b"paragone kernel 1\n"
_ONE_PROCESS = re.compile(r" at 0x|#[0-9a-f]+<")
"""In the name of a type that is made of an object's address: a kernel's, or a jitclass's."""
_folders: dict[str, Path | None] = {}


def folder_for(source: str) -> Path | None:
    """Returns the folder of the compiled kernels of a source file, asked for once."""
    beside = str(Path(source).resolve().parent)
    if beside not in _folders:
        root = cache_folder(source)
        if root is not None and root.parent != Path(beside):
            # A shared folder: sources of the same name from elsewhere must stay apart.
            place = hashlib.sha1(beside.encode(), usedforsecurity=False).hexdigest()
            root = _closed(root / f"{Path(beside).name}_{place}")
        _folders[beside] = root
    return _folders[beside]


def _closed(folder: Path) -> Path | None:
    """The folder, made; None if another made it, or all may write there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder if closed_to_others(folder) else None


class _LoadedLibrary(JITCodeLibrary):
    """Machine code from the disk; its bitcode is parsed if another kernel is linked with it."""

    bitcode: bytes = b""

    def _get_module_for_linking(self) -> Any:
        if self._shared_module is None:
            self._shared_module = llvm.parse_bitcode(self.bitcode)
        return super()._get_module_for_linking()


class KernelCache(caching._Cache):
    """The cache of one kernel; what Numba asks for is `load_overload` and `save_overload`."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._enabled = True
        self._stamp: bytes | None = None
        self._lock = threading.Lock()

    @property
    def cache_path(self) -> str | None:
        folder = folder_for(self._kernel.py_func.__code__.co_filename)
        return None if folder is None else str(folder)

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        """Removes the compiled forms of this kernel from the disk."""
        if self.cache_path is not None:
            for path in Path(self.cache_path).glob(f"{self._name()}-*.nbc"):
                path.unlink(missing_ok=True)

    def _name(self) -> str:
        function = self._kernel.py_func
        module = Path(function.__code__.co_filename).stem
        return f"{module}.{function.__qualname__}".replace("<", "").replace(">", "")

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        if not self._enabled or self.cache_path is None or _ONE_PROCESS.search(str(signature)):
            return None
        closed = self._kernel.py_func.__closure__ and self._fresh().hex()
        key = (
            str(signature), codegen.magic_tuple(), numba.__version__, sys.version_info[:3], closed,
        )  # fmt: skip
        digest = hashlib.blake2b(repr(key).encode(), digest_size=8).hexdigest()
        return Path(self.cache_path) / f"{self._name()}-{digest}.nbc"

    def _fresh(self) -> bytes:
        # Only when first needed: a kernel may call one that is defined below it.
        with self._lock:
            if self._stamp is None:
                self._stamp = stamp(self._kernel)
        return self._stamp

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        path = self._path(sig, target_context.codegen())
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        start = len(_MAGIC) + 32
        head, payload = content[:start], content[start:]
        if head != _MAGIC + self._fresh() + _digest(payload):
            return None
        result = _rebuild(target_context, pickle.loads(payload))
        TALLY["loaded"] += 1
        return result

    def save_overload(self, sig: Any, data: Any) -> None:
        TALLY["compiled"] += 1
        path = self._path(sig, data.codegen if hasattr(data, "codegen") else data.library.codegen)
        if path is None or data.objectmode or data.library.has_dynamic_globals:
            return
        payload = dumps(_reduce(data))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Readers see the old entry or the new one, never a part.
            new = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            new.write_bytes(_MAGIC + self._fresh() + _digest(payload) + payload)
            new.replace(path)
        except OSError:
            # No room, or no right to write any more: the process has its kernel all the same.
            return


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()


def _reduce(result: Any) -> dict[str, Any]:
    """What of a compilation is kept."""
    library, description = result.library, result.fndesc
    linkable = library._get_module_for_linking()
    symbols = [*linkable.functions, *linkable.global_variables]
    description.typemap = description.calltypes = None
    return {
        "name": library.name,
        "object": library._get_compiled_object(),
        "bitcode": linkable.as_bitcode(),
        "defines": [symbol.name for symbol in symbols if not symbol.is_declaration],
        "needs": [
            symbol.name for symbol in symbols
            if symbol.is_declaration and not symbol.name.startswith("llvm.")
        ],
        "description": description,
        "signature": result.signature,
        "annotation": str(result.type_annotation),
        "start": result.reload_init,
        "own": _plain_environment(result.environment),
        "environments": [
            _plain_environment(each) for each in result._find_referenced_environments()
        ],
    }  # fmt: skip


def _plain_environment(found: Any) -> tuple[str, str, list[Any]]:
    return found.env_name, found.globals.get("__name__", ""), list(found.consts)


def _environment(name: str, module: str, constants: list[Any]) -> Any:
    found = environment.lookup_environment(name)
    if found is None:
        # Machine code reads the constants; the globals are for object mode, so a module of
        # Numba's that is not imported need not be.
        found = environment.Environment(vars(sys.modules.get(module, numba)))
        found.consts[:] = constants
        found.env_name = name
        environment.Environment._memo[name] = found
    return found


def _rebuild(context: Any, kept: dict[str, Any]) -> Any:
    rtsys.initialize(context)
    for start in kept["start"]:
        start()
    codegen = context.codegen()
    _provide(context, codegen, kept["needs"])
    library: Any = codegen.create_library(kept["name"])
    library.__class__ = _LoadedLibrary
    library.bitcode = kept["bitcode"]
    library.enable_object_caching()
    library._set_compiled_object(kept["object"])
    library._finalize_final_module()
    codegen._engine._defined_symbols.update(kept["defines"])
    own = _environment(*kept["own"])
    entry = context.get_executable(library, kept["description"], own)
    others = [_environment(*each) for each in kept["environments"]]
    for each in others:
        codegen.set_env(each.env_name, each)
    return compiler.CompileResult(
        target_context=context, typing_context=context.typing_context, library=library,
        environment=own, entry_point=entry, fndesc=kept["description"],
        type_annotation=kept["annotation"], signature=kept["signature"], objectmode=False,
        lifted=(), typing_error=None, call_helper=None, metadata=None,
        reload_init=kept["start"], referenced_envs=others,
    )  # fmt: skip


def _missing(codegen: Any, needs: list[str]) -> bool:
    known = codegen._engine.is_symbol_defined
    return any(llvm.address_of_symbol(name) is None and not known(name) for name in needs)


def _provide(context: Any, codegen: Any, needs: list[str]) -> None:
    """Sees to it that every symbol which the machine code refers to has an address."""
    if _missing(codegen, needs):
        # The threading layer registers its entry points when it starts, ...
        start_threads()
    if _missing(codegen, needs):
        # ... and the rest of Numba's helpers come with its registries.
        context.refresh()
