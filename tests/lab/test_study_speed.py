"""The studies of speed: that the work of all contestants is the same."""

import pytest

from paragone._core.errors import UsageError
from paragone.lab import claims, guests, studies
from paragone.lab.build import build
from paragone.lab.outcome import Cell, Row, Summary
from paragone.lab.simulated import COLUMNS, higgs_like
from paragone.lab.spec import Request, Workload
from paragone.lab.tasks.splits import split

BOOSTING, FORESTS = studies.load("boosting_speed"), studies.load("forest_speed")
KIND = {"kind": "Classifier"}


def by_id(question, **options):
    found = question.contestants(Request(options=options))
    return {c.id: c for c in found if guests.installed(c)}


def leaves_of(name, model):
    """Leaves of each tree, read from the fitted model of each library."""
    if name == "lightgbm":
        return [t["num_leaves"] for t in model.booster_.dump_model()["tree_info"]]
    if name == "xgboost":
        frame = model.get_booster().get_dump()
        return [text.count("leaf=") for text in frame]
    if name == "sklearn_hist_gbdt":
        return [trees[0].get_n_leaf_nodes() for trees in model._predictors]
    if name == "sklearn_gbdt":
        return [tree[0].get_n_leaves() for tree in model.estimators_]
    return None


@pytest.mark.peers
def test_boostings_grow_the_same_number_of_trees_with_the_same_number_of_leaves():
    table = higgs_like(3000)
    for name, contestant in by_id(BOOSTING, leaves=12).items():
        model = build(contestant, KIND)
        cut = "max_iter" if name == "sklearn_hist_gbdt" else "n_estimators"
        assert model.get_params()[cut] == 100
        model.set_params(**{cut: 4}).fit(table.values, table.target)
        found = leaves_of(name, model)
        if found is not None:
            assert found == [12] * 4, name
        assert model.get_params()["learning_rate"] == 0.1


@pytest.mark.parametrize("question", [BOOSTING, FORESTS], ids=lambda q: q.id)
@pytest.mark.parametrize("bench", [False, True])
def test_parameters_exist_and_ids_are_unique(question, bench):
    found = question.contestants(Request(options={"bench": bench}))
    assert len({c.id for c in found}) == len(found)
    assert question.reference in {c.id for c in found}
    for contestant in found:
        if guests.installed(contestant) and "intelex" not in contestant.id:
            known = build(contestant, KIND).get_params()
            assert set(contestant.params) - {"verbose"} <= set(known), contestant.id
    assert not [m for m in question.measures if m.role == "quality"]


def test_bench_has_the_pairs_that_are_not_of_equal_work_to_others():
    assert {"adaboost", "sklearn_adaboost"} <= set(by_id(BOOSTING, bench=True))
    assert "adaboost" not in by_id(BOOSTING)
    assert {"bagging", "decision_tree"} <= set(by_id(FORESTS, bench=True))


@pytest.mark.parametrize("train", [1_000, 10_000, 100_000, 800_000])
def test_the_training_part_has_the_rows_that_are_told(train):
    place = next(w for w in BOOSTING.workloads(Request(threads=2)) if w.facts["rows"] == train)
    total, folds = place.params["rows"], place.facts["folds"]
    assert abs(total * (folds - 1) / folds - train) <= folds
    assert total / folds <= 50_001
    assert place.facts["columns"] == len(COLUMNS)
    assert (place.facts["scale"] == "small") == (train <= 10_000)


def test_a_split_of_many_folds_tests_one_of_them():
    train, test = split([0] * 85, 0, stratified=False, seed=0, folds=17)
    assert (len(train), len(test)) == (80, 5)


def test_threads_are_swept_below_the_studys_own():
    found = BOOSTING.workloads(Request(threads=4))
    scaled = {w.axis["threads_used"]: w.facts.get("threads") for w in found
              if "threads_used" in w.axis}  # fmt: skip
    assert scaled == {1: 1, 2: 2, 4: None}
    assert len({w.id for w in found}) == len(found)
    quick = BOOSTING.workloads(Request(threads=4, quick=True))
    assert [w.facts["rows"] for w in quick] == [1_000, 10_000]


def test_wrong_sizes_are_refused():
    with pytest.raises(UsageError, match="--leaves 1"):
        BOOSTING.contestants(Request(options={"leaves": 1}))
    with pytest.raises(UsageError, match="--rows 9"):
        BOOSTING.workloads(Request(options={"bench": True, "rows": 9}))
    with pytest.raises(UsageError, match="--target"):
        FORESTS.workloads(Request(target="y"))


def summary(power):
    places = [
        Workload(id=f"n{n}", title="", load="", axis={"rows": n}) for n in (1000, 10_000, 100_000)
    ] + [Workload(id=f"t{t}", title="", load="", axis={"threads_used": t}) for t in (1, 2)]
    tables = {
        w.id: [
            Row(contestant=name, title=name, origin="", cells={"fit_s": Cell(
                value=factor * w.axis.get("rows", 7.0) ** power / w.axis.get("threads_used", 1)
            )})
            for name, factor in (("newton_boosting", 1.0), ("lightgbm", 2.0), ("xgboost", 3.0),
                                 ("sklearn_gbdt", 50.0))
        ]
        for w in places
    }  # fmt: skip
    return Summary(
        study="boosting_speed", question="?", workloads=places, tables=tables,
        contestants=BOOSTING.contestants(Request()),
    )  # fmt: skip


def test_growth_with_rows_and_threads_is_told_and_claims_are_checked():
    told = BOOSTING.findings(summary(1.0))
    assert "paragone newton boosting n^1.00" in told[0]
    assert "paragone newton boosting 2.00x" in told[1]
    verdicts = [claim.check(summary(1.0)).verdict for claim in BOOSTING.claims]
    assert verdicts == ["holds"] * 4
    assert BOOSTING.claims[-1].check(summary(1.3)).verdict == "does not hold"
    empty = Summary(study="s", question="?")
    assert {c.check(empty).verdict for c in BOOSTING.claims} == {"not tested"}
    assert BOOSTING.findings(empty) == []


def test_a_growth_needs_a_hundredfold_range():
    few = summary(1.0)
    places = [w for w in few.workloads if w.axis.get("rows") != 1000]
    claim = claims.grows("t", "s", ("lightgbm",), "rows", "fit_s", 1.1)
    short = Summary(study="s", question="?", workloads=places, tables=few.tables)
    assert claim.check(short).verdict == "not tested"
