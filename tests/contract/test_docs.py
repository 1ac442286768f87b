"""The site teaches every method, shows it at work, and its reference is what packages export."""

import ast
import importlib
import re
import runpy
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from paragone._core import catalog

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ROOT / "docs" / "families"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in FAMILIES.glob("*.md")}
METHODS = catalog.methods()
EXTRA = {"estimation": {"approximation"}, "multimodal": {"agents"}}


def sections() -> dict[str, tuple[str, str]]:
    """Page and text of each method, from its label to the next one."""
    found = {}
    for page, text in PAGES.items():
        parts = re.split(r"^\((\w+)\)=\n", text, flags=re.MULTILINE)
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            assert name not in found, f"{name} is taught twice"
            found[name] = page, body
    return found


SECTIONS = sections()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.id)
def test_method_is_taught(method: catalog.Method):
    page, text = SECTIONS[method.id]
    assert page in {method.family} | EXTRA.get(method.family, set())
    assert re.match(r"#+ ", text), "a heading stands behind the label"
    assert "$$" in text
    assert "**Cost.**" in text
    assert re.search(r"\*\*Prefer( it)?\*\* ", text)
    assert f"](figures/{method.id}.svg)" in text
    examples = re.findall(r"<\.\./gallery/([\w/]+)>", text)
    assert examples
    for example in examples:
        assert (ROOT / "examples" / f"{example}.py").exists(), example
    names = re.findall(r"\{py:obj\}`~(paragone[\w.]+)`", text)
    assert names
    for name in names:
        package, _, last = name.rpartition(".")
        assert last in importlib.import_module(package).__all__, name


def test_no_page_teaches_what_is_not_in_the_catalogue():
    assert set(SECTIONS) == {method.id for method in METHODS}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.id)
def test_picture_is_small_and_inert(method: catalog.Method):
    file = FAMILIES / "figures" / f"{method.id}.svg"
    assert file.stat().st_size < 60_000
    text = file.read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).get("aria-label")
    assert not re.search(r"<script|<foreignObject|(href|src)=|@import|url\(", text)


def test_equations_need_no_network():
    """Each is MathML that a browser draws itself; TeX that cannot become it fails here."""
    core = pytest.importorskip("math_core", reason="math-core, of the extra docs, is not installed")
    convert = core.LatexToMathML(fancy_error=False).convert_with_local_state
    for method in METHODS:
        assert convert(method.equation, displaystyle=True).startswith("<math"), method.id
    for page, text in PAGES.items():
        equations = re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL)
        assert equations, page
        for equation in equations:
            assert convert(equation, displaystyle=True).startswith("<math"), (page, equation)


def test_site_asks_no_other_site_for_a_script():
    settings = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    assert '"mathml"' in settings
    assert not re.search(r"mathjax|katex|https?:", settings)
    assert '"write_computation_times": False' in settings


def test_every_figure_of_the_readme_can_be_had_again():
    """Commands and days of its tables; `python dev.py figures` runs the commands."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    script = runpy.run_path(str(ROOT / "benchmarks" / "figures.py"))
    known = {f"python {figure.command}" for figure in script["FIGURES"]}
    told, fast = readme.partition("## How fast")[::2]
    named = set(re.findall(r"`(python benchmarks/[^`]+)`", fast))
    rows = re.findall(r"^\|.*`python .*\|$", fast, re.MULTILINE)
    named |= set(re.findall(r"`(python [^`]+)`", "\n".join([*rows, told.partition("prints")[2]])))
    named -= {f"python dev.py {words}" for words in ("list", "show gbdt", "tour --quick")}
    assert len(named) > 20
    assert not named - known
    assert all(re.search(r"\| 20\d\d-\d\d-\d\d \|", row) for row in rows)
    for command in known:
        if command.startswith("python benchmarks"):
            assert (ROOT / command.split()[1]).exists(), command


def used(path: Path) -> set[str]:
    """Full names that a script imports from paragone or reaches through a module of it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names, modules = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paragone"):
            for alias in node.names:
                names.add(f"{node.module}:{alias.name}")
                modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        within = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if within and node.value.id in modules:
            names.add(f"{modules[node.value.id]}:{node.attr}")
    return names


def test_every_public_path_is_used_by_an_example():
    names = {name for path in (ROOT / "examples").rglob("*.py") for name in used(path)}
    last = {name.rpartition(":")[2] for name in names}
    missing = [
        path for method in METHODS for path in method.paths if path.rpartition(":")[2] not in last
    ]
    assert not missing


@pytest.fixture(scope="module")
def reference():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        yield importlib.import_module("reference")
    finally:
        sys.path.remove(str(ROOT / "docs"))


def test_reference_is_what_packages_export(reference):
    import paragone

    pages = reference.pages()
    opened = {"paragone", *(f"paragone.{name}" for name in paragone._PACKAGES)}
    opened |= {"paragone.multimodal.agent", "paragone.training.collectives"}
    opened |= {"paragone.estimation.families", "paragone.mixers.hippo"}
    text = "\n".join(pages.values())
    for package in sorted(opened):
        section = text.partition(f"\n## {package}\n")[2].partition("\n## ")[0]
        described = re.findall(rf"(?::: {re.escape(package)}\.|^- `)(\w+)", section, re.MULTILINE)
        assert described == list(importlib.import_module(package).__all__), package
    listed = re.findall(r"^api/(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert listed == list(pages)


def test_every_page_is_in_the_contents():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in PAGES:
        assert f"\nfamilies/{page}\n" in index
