"""What is released: the wheel and the sdist, their contents, what they need, what they load."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import paragone

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = paragone.__version__


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_holds_the_package_and_runs_from_where_it_lies(built, tmp_path):
    with zipfile.ZipFile(built / f"paragone-{VERSION}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path)
    assert {name.split("/")[0] for name in names} == {"paragone", f"paragone-{VERSION}.dist-info"}
    sources = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and path.suffix in (".py", ".toml", ".typed", ".jinja", ".js", ".css")
    }
    assert sources <= names
    assert f"paragone-{VERSION}.dist-info/licenses/LICENSE" in names
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    code = (
        "import paragone; print(paragone.__file__); from paragone.cli import main; main(['list'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    assert "36 of 36 built" in done.stdout


def test_the_sdist_holds_what_its_own_tests_need(built):
    with tarfile.open(built / f"paragone-{VERSION}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in (
        "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md",
        "CITATION.cff", "dev.py", "constraints.txt", "docs/security.md", "PKG-INFO",
    ):  # fmt: skip
        assert needed in names
    for folder in ("src", "tests", "examples", "benchmarks"):
        there = {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*.py")}
        assert there <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("runs/")]


def test_plain_install_pulls_what_the_house_names():
    names = {re.match(r"[\w.-]+", line)[0] for line in PROJECT["dependencies"]}
    # jinja2 too: chat templates of published models are written in it.
    assert names == {
        "numpy", "scipy", "scikit-learn", "numba", "torch", "safetensors", "tokenizers",
        "gymnasium", "pillow", "narwhals", "jinja2",
    }  # fmt: skip


def test_the_version_stands_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    assert PROJECT["dynamic"] == ["version"]
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {VERSION}\n" in cited
    for key in ("cff-version", "message", "title", "authors", "license"):
        assert re.search(rf"^{key}:", cited, re.MULTILINE)
    heads = re.findall(r"^## (.+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert any(head.startswith(f"[{VERSION}] - ") for head in heads)


def loaded(code):
    """Modules that a fresh interpreter holds after some code."""
    after = "; import json, sys; sys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + after], capture_output=True, text=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_importing_the_package_loads_itself_alone():
    more = loaded("import paragone") - loaded("import importlib.util, difflib")
    foreign = {name for name in more if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"paragone", "paragone._core", "paragone._core.lazy"}
    assert len(more) < 20, sorted(more)
