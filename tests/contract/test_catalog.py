"""The catalogue is complete, and what it calls built is built as the house demands."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from paragone._core import catalog
from paragone._core.errors import UsageError
from paragone._core.lazy import resolve

ROOT = Path(__file__).resolve().parents[2]
METHODS = catalog.methods()
BUILT = [method for method in METHODS if not method.missing()]


def test_holds_all_36_rows_in_order():
    assert [method.number for method in METHODS] == list(range(1, 37))
    names = [name for method in METHODS for name in (method.id, *method.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.id)
def test_row_teaches(method: catalog.Method):
    for text in (method.title, method.claim, method.idea, method.equation, method.prefer):
        assert len(text) > 5, method
    assert len(method.claim) <= 120
    assert method.papers
    assert re.search(r"\(\d{4}\)", method.papers[0]), "the source names its year"
    assert method.cost
    assert method.study
    assert all(path.startswith(f"paragone.{method.family}") for path in method.paths)
    assert set(method.parents) <= {other.id for other in METHODS}


def test_no_lineage_runs_in_a_circle():
    parents = {method.id: method.parents for method in METHODS}

    def ancestors(name: str, seen: tuple[str, ...] = ()) -> None:
        assert name not in seen, f"{name} is its own ancestor"
        for parent in parents[name]:
            ancestors(parent, (*seen, name))

    for name in parents:
        ancestors(name)


def test_the_list_tells_what_is_built():
    from paragone.lab.listing import built

    for method in METHODS:
        assert [path for path in method.paths if not built(path)] == method.missing()


def test_something_is_built():
    assert {"bagging", "random_forest", "adaboost", "gbdt", "xgboost", "stacking"} <= {
        method.id for method in BUILT
    }


@pytest.mark.parametrize("method", BUILT, ids=lambda method: method.id)
def test_built_method_has_page_test_example_and_study(method: catalog.Method):
    from paragone.lab import studies

    modules = {inspect.getmodule(resolve(path)) for path in method.paths}
    for module in modules:
        assert module is not None
        assert re.search(r"References?:", module.__doc__ or ""), f"{module.__name__}: no source"
        stem = module.__name__.rpartition(".")[2].lstrip("_")
        tests = list((ROOT / "tests" / method.family).glob(f"test_{stem}*.py"))
        assert tests, f"{module.__name__} has no test file"
    names = [path.rpartition(":")[2] for path in method.paths]
    examples = (ROOT / "examples" / method.family).glob("*.py")
    assert any(re.search(rf"\b({'|'.join(names)})\b", file.read_text()) for file in examples)
    assert method.study in studies.ids()


@pytest.mark.parametrize("method", BUILT, ids=lambda method: method.id)
def test_public_arguments_are_annotated(method: catalog.Method):
    for path in method.paths:
        thing = resolve(path)
        if inspect.isclass(thing):
            functions = [
                member
                for name, member in inspect.getmembers(thing, inspect.isfunction)
                if (name == "__init__" or not name.startswith("_"))
                and member.__module__.startswith("paragone")
            ]
        else:
            functions = [thing] if inspect.isfunction(thing) else []
        for function in functions:
            for name, parameter in inspect.signature(function).parameters.items():
                if name != "self":
                    assert parameter.annotation is not parameter.empty, (path, function, name)


def test_find_knows_aliases_and_suggests():
    assert catalog.find("newton-boosting").id == "xgboost"
    assert catalog.find("Mamba").id == "state_space"
    assert catalog.find("mla").id == "latent_attention"
    # Two methods have this name; the one that is older in the catalogue is shown.
    assert catalog.find("PPO").id == "monte_carlo"
    with pytest.raises(UsageError, match="did you mean kd_tree"):
        catalog.find("kd_treee")


def test_reading_the_catalogue_is_pure_data():
    source = (ROOT / "src/paragone/_core/catalog.py").read_text()
    roots = {
        name.name.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import)
        for name in node.names
    }
    assert not roots & {"numpy", "torch", "numba", "scipy", "sklearn"}
