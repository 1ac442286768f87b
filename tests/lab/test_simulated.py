"""The Higgs-like table: its shape, that it nests, and that it can be learnt but not trivially."""

import numpy as np

from paragone.lab.simulated import COLUMNS, higgs_like
from paragone.lab.tasks.metrics import area_under_curve


def test_columns_and_classes():
    table = higgs_like(1001, seed=2)
    assert len(COLUMNS) == table.values.shape[1] == 28
    assert table.values.dtype == np.float32
    assert np.isfinite(table.values).all()
    assert set(np.unique(table.target)) == {0, 1}
    assert 0.4 < table.target.mean() < 0.6
    assert table.kind == "Classifier"


def test_a_larger_table_begins_with_the_smaller_one():
    small, large = higgs_like(500, seed=1), higgs_like(70_001, seed=1)
    np.testing.assert_array_equal(small.values, large.values[:500])
    np.testing.assert_array_equal(small.target, large.target[:500])
    assert not np.array_equal(higgs_like(500, seed=2).values, small.values)


def test_masses_are_those_of_their_particles():
    table = higgs_like(64)
    column = {name: table.values[:, j].astype(float) for j, name in enumerate(COLUMNS)}
    spread = np.cosh(column["jet1_eta"] - column["jet2_eta"])
    turn = np.cos(column["jet1_phi"] - column["jet2_phi"])
    mass = np.sqrt(2 * column["jet1_pt"] * column["jet2_pt"] * (spread - turn))
    np.testing.assert_allclose(column["m_jet1_jet2"], mass, rtol=1e-4)


def test_it_takes_more_than_one_column_to_learn_it():
    from sklearn.ensemble import HistGradientBoostingClassifier

    table = higgs_like(6000)
    alone = max(
        abs(area_under_curve(table.values[:, j], table.target == 1) - 0.5) for j in range(28)
    )
    assert alone < 0.25
    model = HistGradientBoostingClassifier(max_iter=50, early_stopping=False, random_state=0)
    model.fit(table.values[:4000], table.target[:4000])
    chances = model.predict_proba(table.values[4000:])[:, 1]
    assert 0.5 + alone + 0.03 < area_under_curve(chances, table.target[4000:] == 1) < 0.95
