"""The study of ensembles: its inputs, its contestants, its claims, its pictures."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from paragone._core.errors import UsageError
from paragone.lab import claims, data, datasets, guests, studies
from paragone.lab.build import build
from paragone.lab.outcome import Cell, Difference, Row, Summary
from paragone.lab.spec import Request, Workload

STUDY = studies.load("ensembles")


def test_studies_are_files():
    assert "ensembles" in studies.ids()
    assert studies.load("Ensemble") is STUDY
    with pytest.raises(UsageError, match="did you mean ensembles"):
        studies.load("ensambles")
    text = Path(importlib.import_module("paragone.lab.studies.ensembles").__file__).read_text()
    assert len(text.splitlines()) <= 150


def test_bundled_tables_are_those_of_their_libraries(tmp_path):
    from sklearn.datasets import load_breast_cancer

    found = STUDY.workloads(Request(quick=True, cache=str(tmp_path), seed=4))
    assert [w.id for w in found] == ["breast_cancer", "diabetes"]
    table = data.load(found[0].params["folder"])
    bunch = load_breast_cancer()
    np.testing.assert_array_equal(table.values, bunch.data.astype(np.float32))
    assert [table.classes[c] for c in table.target] == [bunch.target_names[c] for c in bunch.target]
    assert found[0].digest == data.digest(table)
    assert [w.primary for w in found] == ["log_loss", "rmse"]
    assert found[0].test_share == 0.25
    assert found[0].facts["split_seed"] == 4
    assert len(datasets.available()) >= 5


def test_measures_of_every_workload_are_known_and_each_role_has_one_that_ranks(tmp_path):
    names = {m.name for m in STUDY.measures}
    for workload in STUDY.workloads(Request(quick=True, cache=str(tmp_path))):
        assert set(workload.measures) <= names
        assert workload.primary in workload.measures
    for role in ("quality", "time", "memory"):
        assert sum(m.primary for m in STUDY.measures if m.role == role) == 1


def test_ours_are_eight_and_ids_are_unique():
    found = STUDY.contestants(Request())
    ids = [c.id for c in found]
    assert len(set(ids)) == len(ids)
    assert sum(c.origin == "paragone" for c in found) == 8
    assert STUDY.reference in ids


@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
def test_search_spaces_name_parameters_that_exist(kind):
    for contestant in STUDY.contestants(Request()):
        if not guests.installed(contestant):
            continue
        known = build(contestant, {"kind": kind}).get_params()
        assert set(contestant.space) <= set(known), contestant.id


def test_a_target_without_data_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--target needs --data"):
        STUDY.workloads(Request(target="y", cache=str(tmp_path)))


def summary(words=(), times=()):
    places = [Workload(id=f"w{i}", title="", load="", primary="loss") for i in range(5)]
    differences = [
        Difference(a="a", b="b", measure="loss", workload=f"w{i}", word=word)
        for i, word in enumerate(words)
    ]
    tables = {
        f"w{i}": [
            Row(contestant=name, title="", origin="", cells={"fit_s": Cell(value=value)})
            for name, value in zip("ab", pair, strict=True)
        ]
        for i, pair in enumerate(times)
    }
    return Summary(
        study="s", question="?", workloads=places, differences=differences, tables=tables
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["better", "same", "worse", "better"], "holds"),
        (["worse", "same"], "does not hold"),
        (["better", "worse"], "does not hold"),
        (["inconclusive", "same"], "not tested"),
        ([], "not tested"),
    ],
)
def test_who_is_usually_better(words, expected):
    found = summary(words)
    claim = claims.usually_better("t", "s", "a", "b")
    assert claim.check(found).verdict == expected
    turned = claims.usually_better("t", "s", "b", "a").check(found).verdict
    if words.count("better") != words.count("worse"):
        assert {expected, turned} == {"holds", "does not hold"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["better", "same"], "holds"), (["worse", "same"], "does not hold"), ([], "not tested")],
)
def test_never_worse(words, expected):
    assert claims.not_worse("t", "s", "a", ("b",)).check(summary(words)).verdict == expected


def test_times_faster_is_a_geometric_mean():
    found = summary(times=[(1.0, 5.0), (1.0, 20.0)])
    result = claims.faster("t", "s", "a", "b", 10.0).check(found)
    assert result.verdict == "holds"
    assert "10x" in result.measured
    assert claims.faster("t", "s", "a", "b", 10.1).check(found).verdict == "does not hold"
    assert claims.faster("t", "s", "a", "c", 1.0).check(found).verdict == "not tested"
