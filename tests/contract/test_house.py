"""The style of the house, held by counting: sizes, public surface, annotations, cleanliness."""

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
HEAVY = ("torch", "numba", "scipy", "sklearn")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "src"))


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function below its signature and docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return node.end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_sizes(path: Path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 600, "a file has at most 600 lines; split it by what it does"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert body_lines(node) <= 80, f"{node.name} is too long"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_page_has_a_head_and_a_public_surface(path: Path):
    module = tree(path)
    assert ast.get_docstring(module), "no module docstring"
    if path.name in ("__main__.py", "predict_template.py"):
        return  # scripts
    assigned = {
        target.id
        for node in module.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    assert "__all__" in assigned


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_public_functions_are_annotated(path: Path):
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            if any("jit" in ast.unparse(decorator) for decorator in node.decorator_list):
                continue
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [argument.arg for argument in arguments if argument.annotation is None]
            assert not bare, f"{node.name}: {bare}"


def test_comments_are_few():
    comments = lines = 0
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        lines += sum(1 for line in text.splitlines() if line.strip())
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            comments += token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    assert comments / lines <= 0.08


def test_median_file_is_short():
    sizes = [path.read_text(encoding="utf-8").count("\n") for path in SOURCES]
    assert np.median(sizes) <= 200


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_bare_except_and_no_global_seed(path: Path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"except\s*:", text)
    assert not re.search(r"np\.random\.seed|torch\.manual_seed\(", text)
    if "lab" not in path.parts and "cli" not in path.parts:
        assert not re.search(r"except (Base)?Exception", text), "methods catch what they know"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_kernels_are_kept_by_our_cache(path: Path):
    if path.parent.name == "kernels":
        return
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"numba\.n?jit\b|from numba import [^\n]*\bn?jit\b", text), (
        "take njit from paragone.kernels.jit: Numba's own cache goes stale and loads slowly"
    )


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
