r"""Reads the source of Triton kernels and names what computes on a narrow float.

A value out of memory has the storage's dtype, which may be bfloat16: arithmetic on it loses 16
bits on a GPU and is wrong altogether in Triton's interpreter. The convention that this reader
holds every `@triton.jit` function to:

- What `tl.load` returns is *raw*. It may be cast, `tl.load(…).to(tl.float32)`, and nothing else.
- A cast to a wide type (`tl.float32`, an integer) makes it *wide*: every arithmetic is allowed.
- A cast to any other type, as `.to(COMPUTE)` with a `COMPUTE: tl.constexpr`, makes it *narrow*: it
  may be an operand of `tl.dot`, which adds up in float32, may be transposed, selected, stored.

Values are followed through assignments, branches, loops and calls of functions in the same file.

Example:
    >>> bad = '@triton.jit\ndef f(x, y):\n    a = tl.load(x)\n    tl.store(y, a * 2)'
    >>> print(*violations(bad))
    line 4, f: `a * 2` computes on a raw value; cast it with .to(tl.float32)
"""

from __future__ import annotations

import ast
from typing import Any

__all__ = ["violations"]

_WIDE, _NARROW, _RAW = 0, 1, 2
_NAMES = ("wide", "narrow", "raw")
_SHAPES = {
    "trans", "permute", "reshape", "expand_dims", "broadcast_to", "where", "join", "split", "view",
    "multiple_of", "max_contiguous",
}  # fmt: skip
_TYPES = ("tl.float32", "tl.float64", "tl.int", "tl.uint", "tl.pointer_type")
_FACTS = {"dtype", "shape", "type", "element_ty"}

Level = Any
"""A level of `_NAMES`, or a tuple of them for what a function returns as a tuple."""


def violations(source: str) -> list[str]:
    """Returns one line for each use of a value that its level does not allow.

    Args:
        source: Text of a Python module.
    """
    module = ast.parse(source)
    kernels = {
        node.name: node
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef)
        and any("triton.jit" in ast.unparse(each) for each in node.decorator_list)
    }
    found: dict[str, None] = {}
    done: dict[tuple[str, tuple[Level, ...]], Level] = {}
    for name, node in kernels.items():
        _Reader(kernels, found, done).function(name, (_WIDE,) * len(node.args.args))
    return list(found)


def _flat(level: Level) -> int:
    return max(map(_flat, level), default=_WIDE) if isinstance(level, tuple) else level


def _joined(a: Level, b: Level) -> Level:
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return tuple(map(_joined, a, b))
    return max(_flat(a), _flat(b))


class _Reader:
    """Follows the values of one function, given the levels of its arguments."""

    def __init__(self, kernels: dict[str, ast.FunctionDef], found: dict[str, None], done: dict):
        self.kernels, self.found, self.done = kernels, found, done
        self.levels: dict[str, Level] = {}
        self.name, self.result = "", _WIDE

    def function(self, name: str, levels: tuple[Level, ...]) -> Level:
        if (name, levels) not in self.done:
            self.done[name, levels] = _WIDE
            inner = _Reader(self.kernels, self.found, self.done)
            inner.name = name
            node = self.kernels[name]
            inner.levels = dict(zip((a.arg for a in node.args.args), levels, strict=True))
            inner.block(node.body)
            self.done[name, levels] = inner.result
        return self.done[name, levels]

    def block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign):
            level = self.value(node.value)
            for target in node.targets:
                self.assign(target, level)
        elif isinstance(node, ast.AugAssign):
            self.wide(node.value, node)
            self.wide(node.target, node)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self.assign(node.target, self.value(node.value))
        elif isinstance(node, ast.Return) and node.value is not None:
            self.result = _joined(self.value(node.value), self.result)
        elif isinstance(node, ast.Expr):
            self.value(node.value)
        elif isinstance(node, ast.For | ast.While | ast.If):
            self.branches(node)

    def branches(self, node: ast.For | ast.While | ast.If) -> None:
        self.value(node.iter if isinstance(node, ast.For) else node.test)
        before = dict(self.levels)
        for _ in range(1 if isinstance(node, ast.If) else 2):
            self.block(node.body)
        after, self.levels = self.levels, before
        self.block(node.orelse)
        for name, level in after.items():
            self.levels[name] = _joined(level, self.levels.get(name, _WIDE))

    def assign(self, target: ast.expr, level: Level) -> None:
        if isinstance(target, ast.Name):
            self.levels[target.id] = level
        elif isinstance(target, ast.Tuple):
            parts = level if isinstance(level, tuple) else (level,) * len(target.elts)
            for each, part in zip(target.elts, parts, strict=True):
                self.assign(each, part)

    def wide(self, node: ast.expr, whole: ast.expr | ast.stmt, highest: int = _WIDE) -> None:
        level = _flat(self.value(node))
        if level > highest:
            self.found[
                f"line {whole.lineno}, {self.name}: `{ast.unparse(whole)}` computes on a "
                f"{_NAMES[level]} value; cast it with .to(tl.float32)"
            ] = None

    def value(self, node: ast.expr) -> Level:
        if isinstance(node, ast.Name):
            return self.levels.get(node.id, _WIDE)
        if isinstance(node, ast.Tuple | ast.List):
            return tuple(map(self.value, node.elts))
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.IfExp):
            self.value(node.test)
            return _joined(self.value(node.body), self.value(node.orelse))
        if isinstance(node, ast.Subscript):
            return _flat(self.value(node.value))
        if isinstance(node, ast.Attribute):
            return _WIDE if node.attr in _FACTS else _flat(self.value(node.value))
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.wide(child, node)
        return _WIDE

    def call(self, node: ast.Call) -> Level:
        given = [*node.args, *(each.value for each in node.keywords)]
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        if name == "load":
            for each in given:
                self.wide(each, node)
            return _RAW
        if name == "to" and isinstance(node.func, ast.Attribute):
            self.value(node.func.value)
            return _WIDE if ast.unparse(given[0]).startswith(_TYPES) else _NARROW
        if name in self.kernels:
            order = [argument.arg for argument in self.kernels[name].args.args]
            levels = dict.fromkeys(order, _WIDE)
            levels |= dict(zip(order, map(self.value, node.args), strict=False))
            levels |= {str(each.arg): self.value(each.value) for each in node.keywords}
            return self.function(name, tuple(levels.values()))
        if name == "store":
            for each in given[:1] + given[2:]:
                self.wide(each, node)
            return self.value(given[1]) and _WIDE
        inner = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        if name in _SHAPES:
            return max((_flat(self.value(each)) for each in [*inner, *given]), default=_WIDE)
        for position, each in enumerate([*inner, *given]):
            # The module's own name stands first; a dot's operands follow it.
            self.wide(each, node, _NARROW if name == "dot" and position in (1, 2) else _WIDE)
        return _WIDE
