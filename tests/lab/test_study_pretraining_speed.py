"""The study of pre-training's speed: workloads, contestants, and that a step is the step asked."""

import pytest
import torch

from paragone._core.errors import UsageError
from paragone.lab import studies
from paragone.lab.contestants import pretraining_calls
from paragone.lab.spec import Request
from paragone.lab.tasks.sweep import relative_error

STUDY = studies.load("pretraining_speed")


@pytest.mark.parametrize("quick", [True, False])
def test_each_workload_says_what_it_is(quick):
    found = STUDY.workloads(Request(quick=quick))
    assert len(found) == (2 if quick else 3)
    assert found[0].facts["tokens"] == 2048
    assert {c.origin for c in STUDY.contestants(Request())} == {"paragone", "rival"}
    with pytest.raises(UsageError, match="makes its own tokens"):
        STUDY.workloads(Request(data="text.txt"))


def test_a_step_of_ours_has_the_loss_in_float64_and_leaves_the_weights():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        given = pretraining_calls.inputs("tiny", 64, 2, 16)
        ours = pretraining_calls.Ours()
        first, again = ours(*given), ours(*given)
        assert relative_error(first, pretraining_calls.truth(*given)) < 1e-5
        assert (first == again).all()
    finally:
        torch.set_num_threads(before)


@pytest.mark.peers
def test_transformers_has_the_same_loss():
    pytest.importorskip("transformers")
    given = pretraining_calls.inputs("tiny", 64, 2, 16)
    found = pretraining_calls.Hugging()(*given)
    assert relative_error(found, pretraining_calls.truth(*given)) < 1e-5
