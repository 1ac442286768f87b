"""The study of steps: every contestant does the same step, and leaves its input alone."""

import numpy as np
import pytest

from paragone._core.errors import UsageError
from paragone.lab import guests, studies
from paragone.lab.build import bind
from paragone.lab.contestants import steppers
from paragone.lab.spec import Request
from paragone.lab.tasks.sweep import relative_error

STUDY = studies.load("optimizer_speed")


@pytest.mark.parametrize("way", ["plain", "half", "pass", "blocks"])
def test_contestants_take_the_same_first_step(way):
    inputs = steppers.numbers(3, 5000, way)
    before = [np.array(x) for x in inputs[:2]]
    expected = steppers.truth(*inputs)
    assert relative_error(inputs[0], expected) > 5e-4
    met = 0
    for contestant in STUDY.contestants(Request()):
        ways = contestant.needs.get("way", [way])
        if way not in ways or not guests.installed(contestant):
            continue
        step = bind(contestant)
        first = relative_error(step(*inputs), expected)
        # bf16 has 8 bits: half a unit is a four hundredth.
        assert first < (3e-3 if way == "half" else 1e-6), contestant.id
        step(*inputs)
        assert all(np.array_equal(a, b) for a, b in zip(before, inputs[:2], strict=True))
        met += 1
    assert met >= 1


def test_workloads_and_refusals():
    ids = [w.id for w in STUDY.workloads(Request())]
    assert ids == ["m1", "m15", "small", "bf16", "pass", "pass_small", "blocks"]
    quick = STUDY.workloads(Request(quick=True))
    assert [w.id for w in quick] == ["m1", "small", "blocks"]
    few = STUDY.workloads(Request(options={"rows": 1000}))
    assert all(w.facts["rows"] <= 1000 for w in few)
    with pytest.raises(UsageError, match="--data"):
        STUDY.workloads(Request(data="x.csv"))
