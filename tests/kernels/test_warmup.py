"""After `paragone warmup` a process compiles nothing, and small data starts no threads."""

import functools
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import paragone
from paragone._core import catalog
from paragone._core.errors import UsageError
from paragone.ensemble import _warmup
from paragone.kernels._cache import folder_for
from paragone.lab import warming

STEMS = ("DecisionTree", "Bagging", "RandomForest", "AdaBoost", "GradientBoosting",
         "NewtonBoosting", "Stacking", "Voting")  # fmt: skip

USE = """
import warnings
warnings.filterwarnings("ignore")
import numpy as np
from numba.np.ufunc import parallel
from paragone import ensemble as e
from paragone.kernels.jit import TALLY
random = np.random.default_rng(1)
X = random.normal(size=({n}, {p}))
X[::11, 2] = {missing}
y = X[:, 0] - X[:, 1] + 0.2 * random.normal(size={n})
done = {{}}
for stem in {stems!r}:
    for kind in ("Classifier", "Regressor"):
        target = np.digitize(y, {cuts}) if kind == "Classifier" else y
        make = getattr(e, stem + kind)
        known = make([]).get_params() if stem in ("Stacking", "Voting") else make().get_params()
        few = {{k: v for k, v in {options!r}.items() if k in known}}
        if stem in ("Stacking", "Voting"):
            few["estimators"] = [("a", getattr(e, "DecisionTree" + kind)(max_depth=2)),
                                 ("b", getattr(e, "NewtonBoosting" + kind)(n_estimators=3))]
        model = make(**few).fit(X, target)
        model.predict(X)
        model.predict(X[:1])
        if kind == "Classifier":
            model.predict_proba(X[:50])
        if hasattr(model, "shap_values"):
            model.shap_values(X[:2])
        done[stem + kind] = TALLY["compiled"], parallel._is_initialized
import json
print(json.dumps(done))
"""


@functools.cache
def use(stems=STEMS, n=1000, p=10, missing="0.0", cuts="[0.0]", **options):
    code = USE.format(n=n, p=p, missing=missing, cuts=cuts, stems=stems, options=options)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def warmed():
    return paragone.warmup("ensemble")


def test_every_method_of_the_family_is_warmed(warmed):
    expected = [m.id for m in catalog.methods() if m.family == "ensemble"]
    assert [row.method for row in warmed.rows] == expected == list(_sorted(_warmup.CALLS))
    assert warmed.exit_code == 0, str(warmed)
    for row in warmed.rows:
        assert row.method in str(warmed)
    told = json.loads(warmed.json())
    assert {row["method"] for row in told["methods"]} == set(expected)


def _sorted(ids):
    return sorted(ids, key=[m.id for m in catalog.methods()].index)


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"n": 700, "p": 3, "missing": "np.nan", "cuts": "[-0.5, 0.5]"},
        {"n": 1 << 16, "p": 5, "max_depth": 3, "n_estimators": 5,
         "stems": ("RandomForest", "GradientBoosting", "NewtonBoosting")},
    ],
    ids=["small", "missing", "large"],
)  # fmt: skip
def test_a_process_after_it_compiles_nothing(warmed, table):
    for name, (compiled, _) in use(n_jobs=-1, **table).items():
        assert compiled == 0, name


def test_every_kernel_was_reached(warmed):
    root = Path(_warmup.__file__).parent
    kept = {path.name.split("-")[0] for path in Path(folder_for(_warmup.__file__)).glob("*.nbc")}
    for path in sorted(root.glob("*.py")):
        module = importlib.import_module(f"paragone.ensemble.{path.stem}")
        for name, found in vars(module).items():
            function = getattr(found, "py_func", None)
            if function is None or function.__module__ != module.__name__:
                continue
            # What is inlined in Python's bytecode is never compiled alone.
            if found.targetoptions.get("inline", "never") != "always":
                assert f"{path.stem}.{name}" in kept


def test_small_data_opens_no_parallel_region(warmed):
    for name, (_, threads) in use(n_jobs=-1).items():
        assert not threads, name


def test_what_cannot_be_warmed_is_said():
    with pytest.raises(UsageError, match="did you mean gbdt"):
        paragone.warmup("gbdtt")
    with pytest.raises(UsageError, match="nothing to compile"):
        paragone.warmup("processes_and_threads")


def test_a_failing_call_costs_its_own_method(monkeypatch):
    def fails():
        raise ValueError("on purpose")

    events = []
    monkeypatch.setitem(_warmup.CALLS, "gbdt", (fails,))
    monkeypatch.setitem(_warmup.CALLS, "xgboost", (lambda: None,))
    for method, code in (("gbdt", 1), ("gradient_boosting", 1), ("xgboost", 0)):
        found = warming.warm(method, events.append)
        assert found.exit_code == code
        assert ("on purpose" in str(found)) == (code == 1)
    assert [event.kind for event in events[:4]] == ["study", "start", "run", "end"]


def test_an_interrupt_goes_on_from_there(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setitem(_warmup.CALLS, "gbdt", (interrupted,))
    with pytest.raises(KeyboardInterrupt):
        warming.warm("gbdt")
