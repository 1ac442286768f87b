"""Memory that is kept between training steps."""

import subprocess
import sys

import pytest

from paragone.kernels.heap import keep_memory

SCRIPT = """
import resource, numpy as np
from paragone.kernels.heap import keep_memory
if {keep}:
    assert keep_memory() in (True, False)
def step():
    parts = [np.ones(16_000) for _ in range(300)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_pages_are_kept():
    assert 10 * faults(True) < faults(False)


def test_the_limit_is_told():
    with pytest.raises(ValueError, match="most=4294967296"):
        keep_memory(2**32)
