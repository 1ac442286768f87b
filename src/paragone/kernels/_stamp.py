"""What a compiled kernel was made from: a digest of its code and of all that it takes in.

Numba's own cache asks whether the *file* of a kernel has changed. That is too little, since a
kernel holds the machine code of every function that it calls, in whichever file they stand, and
the value of every global that it reads; and too much, since a comment is no change. The digest
here is over bytecode, followed through the names that the code uses: functions and kernels,
intrinsics, global constants, and how each is to be compiled.
"""

from __future__ import annotations

import hashlib
import types
from typing import Any

import numpy as np

__all__ = ["stamp"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), np.generic, np.dtype)
_FOREIGN = {"numba", "numpy", "llvmlite", "builtins", "math", "typing", "collections"}
"""Packages whose functions are told apart by name: they change with their version alone."""


def stamp(kernel: Any) -> bytes:
    """Returns 16 bytes that change when the machine code of this kernel may.

    Args:
        kernel: A Numba dispatcher, or a plain function.

    Example:
        >>> stamp(lambda x: x + 1) == stamp(lambda x: x + 1) != stamp(lambda x: x + 2)
        True
    """
    walk = _Walk()
    walk.visit(kernel)
    return walk.digest.digest()


def _function(value: Any) -> Any:
    """The Python function in a dispatcher (`py_func`) or an intrinsic (`_defn`)."""
    return getattr(value, "py_func", None) or getattr(value, "_defn", None) or value


class _Walk:
    """Visits everything that a value leads to, each object once, in the order of use."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)
        self.place: dict[int, tuple[int, Any]] = {}

    def tell(self, *parts: Any) -> None:
        self.digest.update(repr(parts).encode())

    def visit(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self.tell(type(value).__name__, value)
        elif isinstance(value, types.ModuleType | type):
            self.tell(getattr(value, "__module__", ""), value.__name__)
        elif isinstance(value, dict):
            self.visit(sorted(value.items(), key=repr))
        elif isinstance(value, tuple | list | set | frozenset):
            # The order of a set is another one in each process.
            ordered = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
            self.tell(type(value).__name__, len(value))
            for member in ordered:
                self.visit(member)
        elif isinstance(value, np.ndarray):
            self.tell(value.dtype, value.shape, value.tobytes())
        elif id(value) in self.place:
            self.tell("again", self.place[id(value)][0])
        else:
            # Held, so that no later object gets the same id.
            self.place[id(value)] = len(self.place), value
            self._visit_function(value)

    def _visit_function(self, value: Any) -> None:
        function = _function(value)
        code = getattr(function, "__code__", None)
        if code is None:
            name = str(value)
            unstable = " at 0x" in name or "{" in name
            self.tell(type(value).__qualname__, "" if unstable else name)
            self.visit(getattr(value, "flags", None))
            return
        if function.__module__.split(".")[0] in _FOREIGN:
            self.tell(function.__module__, function.__qualname__)
            return
        self.visit(getattr(value, "targetoptions", {}))
        for cell in function.__closure__ or ():
            self.visit(cell.cell_contents)
        self.visit(function.__defaults__ or ())
        self._visit_code(code, function)

    def _visit_code(self, code: types.CodeType, function: Any) -> None:
        self.tell(code.co_code, code.co_names, code.co_varnames, code.co_freevars)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._visit_code(constant, function)
            elif constant is not function.__doc__ or constant is None:
                self.visit(constant)
        modules = []
        for name in code.co_names:
            if name in function.__globals__:
                found = function.__globals__[name]
                self.visit(found)
                if isinstance(found, types.ModuleType):
                    modules.append(found)
            # `module.name`: the code holds both words, one after the other.
            for module in modules:
                if module.__name__.split(".")[0] not in _FOREIGN:
                    self.visit(getattr(module, name, None))
