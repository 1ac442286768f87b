"""Numba's threads start without a change of those that a user has set for torch."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install torch")

REGION = "from paragone.ensemble._threads import parallel_region\nwith parallel_region(2): pass"


@pytest.mark.parametrize(("start", "wanted"), [(REGION, "1"), ("numba.get_num_threads()", "3")],
                         ids=["ours", "numba's own"])  # fmt: skip
def test_torch_keeps_its_number_of_threads(start, wanted):
    # Torch's number is its own until its first use, and OpenMP's from then on.
    code = (
        f"import numba, torch\ntorch.set_num_threads(1)\ntorch.get_num_threads()\n{start}\n"
        "print(torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        env={**os.environ, "NUMBA_NUM_THREADS": "3"},
    )  # fmt: skip
    assert done.stdout.split() == [wanted], done.stderr
