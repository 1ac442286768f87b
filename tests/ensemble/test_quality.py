"""A small form of `benchmarks/ensemble_quality.py`: same settings, same splits, three data sets."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("xgboost")
pytest.importorskip("lightgbm")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:X does not have valid feature names"),
]

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "ensemble_quality.py"
NAMES = ["wine", "breast_cancer", "diabetes"]


def load():
    spec = importlib.util.spec_from_file_location("ensemble_quality", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


study = load()
PAIRS = {f"{p.name} and {p.peer}": p for p in study.pairs() if not p.name.startswith("Stacking")}


@pytest.mark.parametrize("which", PAIRS)
def test_not_worse_than_its_counterpart(which):
    result = study.compare(PAIRS[which], NAMES, splits=3, rows=240)
    assert result["verdict"] == "not worse", result


def test_the_study_sees_a_worse_estimator():
    """A planted loss: half the trees and a tenth of the step."""
    pair = PAIRS["NewtonBoostingClassifier and xgboost hist"]

    def crippled(seed):
        return pair.ours(seed).set_params(n_estimators=20, learning_rate=0.01)

    broken = study.Pair(pair.name, pair.peer, crippled, pair.theirs, True)
    result = study.compare(broken, NAMES, splits=3, rows=240)
    assert result["verdict"] == "worse"
    assert result["difference"] > 0.1


def test_interval_is_that_of_nadeau_and_bengio():
    """One data set, five splits, written out."""
    pair = PAIRS["BaggingRegressor and sklearn"]
    values = np.array([0.1, -0.2, 0.3, 0.0, 0.2])
    result = study.summary(pair, {"one": values})
    half = 2.7764451 * np.sqrt((1 / 5 + 1 / 3) * values.var(ddof=1))
    assert result["difference"] == pytest.approx(values.mean())
    assert result["high"] - result["difference"] == pytest.approx(half, rel=1e-6)


def test_same_splits_give_no_difference_to_itself():
    pair = PAIRS["DecisionTreeRegressor and sklearn"]
    same = study.Pair("self", "self", pair.ours, pair.ours, False)
    X, y = study.DATA["diabetes"].load()
    assert not study.differences(same, X[:100], y[:100], 3, 0).any()
