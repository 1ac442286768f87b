"""The study of speed: its inputs, and that all contestants do the same work."""

import numpy as np
import pytest

from paragone._core.errors import UsageError
from paragone.lab import guests, studies
from paragone.lab._ranking import applies
from paragone.lab.build import bind
from paragone.lab.contestants import average_precision_calls as calls
from paragone.lab.spec import Request

STUDY = studies.load("average_precision_speed")


def test_inputs_are_well_formed():
    full, quick = STUDY.workloads(Request()), STUDY.workloads(Request(quick=True))
    assert {w.facts["op"] for w in full} == {w.facts["op"] for w in quick} == {"evaluate", "files"}
    assert len(full) > len(quick)
    known = {c.id: c for c in STUDY.contestants(Request())}
    large = next(w for w in full if w.facts["large"])
    assert applies(known["hotcoco"], large)
    assert not applies(known["pycocotools"], large)
    few = STUDY.workloads(Request(options={"rows": 9, "bench": True}))
    assert {w.params["images"] for w in few} == {9}
    with pytest.raises(UsageError, match="--data"):
        STUDY.workloads(Request(data="x"))


@pytest.mark.peers
@pytest.mark.parametrize("id", [c.id for c in STUDY.contestants(Request())])
def test_contestants_find_the_same_figures(id):
    one = next(c for c in STUDY.contestants(Request()) if c.id == id)
    if not guests.installed(one):
        pytest.skip(f"{one.distribution} is not installed")
    numbers = calls.inputs("", 3, classes=4, each=20)[1:]
    call = bind(one, {})
    for op in ("evaluate", "files"):
        found = bind(one, {})(op, *numbers) if op == "files" else call(op, *numbers)
        np.testing.assert_allclose(found, calls.truth(op, *numbers), rtol=1e-12)
