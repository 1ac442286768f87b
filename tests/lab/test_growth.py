"""Crossings and exponents along a sweep, against closed forms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paragone.lab import growth
from paragone.lab.outcome import Cell, Row, Summary
from paragone.lab.spec import Workload

AXIS = (1.0, 2.0, 4.0, 8.0, 16.0)


@given(st.floats(-3, 3), st.floats(0.01, 100))
def test_the_exponent_of_a_power_is_found(power, factor):
    curve = [(x, factor * x**power) for x in AXIS]
    assert growth.exponent(curve) == pytest.approx(power, abs=1e-9)


def test_too_few_points_have_no_exponent():
    assert growth.exponent([(2.0, 1.0)]) is None
    assert growth.exponent([]) is None


@given(st.floats(1.1, 15.9), st.floats(0.2, 3))
def test_two_powers_cross_where_algebra_says(at, gap):
    first = [(x, x ** (1 + gap)) for x in AXIS]
    second = [(x, at**gap * x) for x in AXIS]
    assert growth.crossover(first, second) == pytest.approx(at, rel=1e-9)


def test_a_crossing_is_where_the_lead_changes_for_good():
    first = [(1, 1.0), (2, 5.0), (4, 1.0), (8, 4.0)]
    second = [(x, 2.0) for x, _ in first]
    assert growth.crossover(first, second) == pytest.approx(4 * math.sqrt(2))
    assert growth.crossover(second, first) is None
    assert growth.crossover([(1, 3.0), (2, 3.0)], [(1, 2.0), (2, 2.0)]) == 1
    assert growth.crossover([(1, 3.0)], [(2, 2.0)]) is None


def test_curves_come_from_the_tables():
    places = [Workload(id=f"w{x:g}", title="", load="", axis={"n": x}) for x in AXIS]
    places.append(Workload(id="other", title="", load=""))
    tables = {
        w.id: [
            Row(contestant="a", title="", origin="", cells={"t": Cell(value=w.axis.get("n", 9.0))}),
            Row(contestant="b", title="", origin="", cells={"t": Cell(value=3.0)}),
            Row(contestant="c", title="", origin="", cells={"t": Cell(value=None)}),
        ]
        for w in places
    }
    summary = Summary(study="s", question="?", workloads=places[::-1], tables=tables)
    assert growth.along(summary, "n", "a", "t") == [(x, x) for x in AXIS]
    assert growth.along(summary, "n", "c", "t") == []
    assert growth.axis_range(summary, "n") == (1.0, 16.0)
    assert growth.axis_range(summary, "m") is None
    best = growth.fastest([growth.along(summary, "n", name, "t") for name in "ab"])
    assert [y for _, y in best] == [1.0, 2.0, 3.0, 3.0, 3.0]
