"""Peak memory and CPU time of CARAFE forward and backward, each in a fresh process.

`python benchmarks/carafe_memory.py` prints a table: megabytes beyond what was resident (VmHWM), and
the median CPU time of a call, of the compiled kernels and of the unfold formulation, one thread.
"""

import json
import subprocess
import sys
import time

import torch

from paragone.lab.contestants import carafe_calls
from paragone.lab.probe import Probe
from paragone.lab.studies.carafe_speed import SHAPES

CALLS = {"Ours": 15, "Torch": 5}


def measure(name: str, shape: str) -> list[float]:
    """Peak bytes of one call, and the median CPU time of some."""
    torch.set_num_threads(1)
    _, _, op, way, channels, size, more = next(row for row in SHAPES if row[0] == shape)
    numbers = carafe_calls.inputs(op, way, channels, size, **more)
    call, probe, times = getattr(carafe_calls, name)(), Probe(), []
    with probe.phase("call"):
        call(*numbers)
    for _ in range(CALLS[name]):
        start = time.process_time()
        call(*numbers)
        times.append(time.process_time() - start)
    phase = probe.phases["call"]
    return [phase["peak"] - phase["start"], sorted(times)[len(times) // 2]]


def alone(name: str, shape: str) -> list[float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, name, shape]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        for shape, title, op, *_ in SHAPES:
            if op == "carafe":
                (ours, quick), (unfold, slow) = (alone(name, shape) for name in CALLS)
                print(f"{title}: {ours / 1e6:.1f} MB against {unfold / 1e6:.0f}, 1/"
                      f"{unfold / ours:.0f}; {quick * 1e3:.2f} ms against {slow * 1e3:.0f}, "
                      f"{slow / quick:.0f}x")  # fmt: skip
