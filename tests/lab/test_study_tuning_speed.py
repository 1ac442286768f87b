"""The study of tuning's speed: workloads, contestants, and that our work is the work asked for."""

import pytest
import torch

from paragone._core.errors import UsageError
from paragone.lab import studies
from paragone.lab._ranking import applies
from paragone.lab.contestants import tuning_calls
from paragone.lab.spec import Request
from paragone.lab.tasks.sweep import relative_error

STUDY = studies.load("tuning_speed")


@pytest.mark.parametrize("quick", [True, False])
def test_each_workload_has_ours_and_a_rival(quick):
    found = STUDY.workloads(Request(quick=quick))
    assert len(found) == (3 if quick else 5)
    for workload in found:
        able = [c for c in STUDY.contestants(Request()) if applies(c, workload)]
        assert {"paragone", "rival"} <= {c.origin for c in able}
        assert str(workload.params["rows"]) in workload.title
    with pytest.raises(UsageError, match="makes its own rows"):
        STUDY.workloads(Request(data="rows.json"))


@pytest.mark.parametrize("op", ["sft", "lora", "dpo"])
def test_a_step_of_ours_has_the_loss_in_float64(op):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        given = tuning_calls.inputs(op, 64, 3, width=48)
        ours = tuning_calls.Ours()
        assert relative_error(ours(*given), tuning_calls.truth(*given)) < 1e-5
    finally:
        torch.set_num_threads(before)
