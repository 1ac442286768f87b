"""Every script of the gallery runs, says something, and reads as a page."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "examples").rglob("*.py"))


def name_of(path):
    return str(path.relative_to(ROOT / "examples"))


@pytest.fixture(scope="module")
def runner():
    """A process that has imported what examples share, and forks for each."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(ROOT / "tests" / "example_runner.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        env={"NUMBA_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    yield process
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_script_runs(path, tmp_path, runner):
    print(path, tmp_path, sep="\t", file=runner.stdin, flush=True)
    status = runner.stdout.readline().strip()
    assert status == "0", (tmp_path / "err").read_text()[-3000:]
    assert len((tmp_path / "out").read_text().splitlines()) >= 3


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_script_is_a_page(path):
    text = path.read_text(encoding="utf-8")
    title = (ast.get_docstring(ast.parse(text)) or "").splitlines()
    assert len(title) >= 3, "a docstring: title, underline, what the page shows"
    assert set(title[1]) <= {"="}
    assert len(title[1]) >= len(title[0])
    assert text.count("\n# %%\n") >= 2, "text cells tell what is seen"


def test_there_are_scripts():
    assert len(SCRIPTS) >= 6
