"""The style of the house, held by counting: sizes, public surface, annotations, cleanliness."""

import ast
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
HEAVY = ("torch", "numba", "scipy", "sklearn")


TEXTS = {path: path.read_text(encoding="utf-8") for path in SOURCES}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(TEXTS[path])


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "src"))


def offences(check) -> list[str]:
    """What a check finds over all files, each with the file's name."""
    return [f"{name_of(path)}: {found}" for path in SOURCES for found in check(path)]


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function below its signature and docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return node.end_lineno - body[0].lineno + 1 if body else 0


def test_sizes():
    def check(path: Path) -> Iterator[str]:
        lines = TEXTS[path].count("\n")
        if lines > 600:
            yield f"{lines} lines; a file has at most 600, split it by what it does"
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > 80:
                yield f"{node.name} is too long"

    assert not offences(check)


def test_page_has_a_head_and_a_public_surface():
    def check(path: Path) -> Iterator[str]:
        module = tree(path)
        if not ast.get_docstring(module):
            yield "no module docstring"
        if path.name in ("__main__.py", "predict_template.py"):
            return  # scripts
        assigned = {
            target.id
            for node in module.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        if "__all__" not in assigned:
            yield "no __all__"

    assert not offences(check)


def test_public_functions_are_annotated():
    def check(path: Path) -> Iterator[str]:
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                if any("jit" in ast.unparse(decorator) for decorator in node.decorator_list):
                    continue
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                bare = [argument.arg for argument in arguments if argument.annotation is None]
                if bare:
                    yield f"{node.name}: {bare}"

    assert not offences(check)


def test_comments_are_few():
    lines = [line.lstrip() for text in TEXTS.values() for line in text.splitlines()]
    comments = sum(line.startswith("#") for line in lines)
    assert comments / sum(map(bool, lines)) <= 0.08


def test_median_file_is_short():
    sizes = [text.count("\n") for text in TEXTS.values()]
    assert np.median(sizes) <= 200


def test_no_bare_except_and_no_global_seed():
    def check(path: Path) -> Iterator[str]:
        text = TEXTS[path]
        if re.search(r"except\s*:", text):
            yield "a bare except"
        if re.search(r"np\.random\.seed|torch\.manual_seed\(", text):
            yield "a global seed"
        shell = "lab" in path.parts or "cli" in path.parts
        if not shell and re.search(r"except (Base)?Exception", text):
            yield "methods catch what they know"

    assert not offences(check)


def test_kernels_are_kept_by_our_cache():
    def check(path: Path) -> Iterator[str]:
        own = r"numba\.n?jit\b|from numba import [^\n]*\bn?jit\b"
        if path.parent.name != "kernels" and re.search(own, TEXTS[path]):
            yield "take njit from paragone.kernels.jit: Numba's own cache goes stale, loads slowly"

    assert not offences(check)


def test_import_is_light():
    code = f"import paragone, sys; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_fresh_memory_is_poisoned():
    if "MALLOC_PERTURB_" not in os.environ:
        pytest.skip("run by `python dev.py test`, which sets MALLOC_PERTURB_")
    assert np.empty(100_003)[1:-1].min() > 1e300


def test_license_and_entry_points_ship():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'license = "Apache-2.0"' in text
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").lstrip().startswith("Apache License")
    assert (ROOT / "src/paragone/py.typed").exists()
