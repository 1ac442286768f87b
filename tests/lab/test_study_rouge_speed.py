"""The study of the filter's speed: that all contestants decide alike."""

import pytest

from paragone._core.errors import UsageError
from paragone.lab import guests, studies
from paragone.lab.build import bind
from paragone.lab.contestants import rouge_calls as calls
from paragone.lab.spec import Request

STUDY = studies.load("rouge_speed")


def test_workloads():
    assert [w.params["texts"] for w in STUDY.workloads(Request())] == [200, 2000, 52_000]
    few = STUDY.workloads(Request(options={"rows": 9}))
    assert [w.params["texts"] for w in few] == [9]
    with pytest.raises(UsageError, match="--data"):
        STUDY.workloads(Request(data="x"))


@pytest.mark.peers
@pytest.mark.parametrize("one", STUDY.contestants(Request()), ids=lambda one: one.id)
def test_contestants_decide_alike(one):
    if not guests.installed(one):
        pytest.skip(f"{one.distribution} is not installed")
    texts = calls.inputs(90)
    found = bind(one, {})(*texts)
    assert found.tolist() == calls.truth(*texts).tolist()
    assert 0 < found.sum() < 90
