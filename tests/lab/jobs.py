"""Tasks that look around in a run's process; shared by the tests of runner, worker, engines."""

import os
import sys
import threading
import time

import numpy as np

from paragone.lab.spec import Block, Contestant, Job, Workload


def job(name, *, threads=1, start="fork", device="cpu", **options):
    """A job whose task is the function `name` of this file."""
    return Job(
        key=name, task=f"{__file__}:{name}",
        contestant=Contestant(id=name, title=name, make="operator:add", start=start),
        workload=Workload(id="w", title="w", load="operator:add"),
        block=Block(workload="w", index=0, split=0, seed=0),
        threads=threads, device=device, options=options,
    )  # fmt: skip


def looks_around(job, probe):
    probe.value("pid", os.getpid())
    probe.value("parent", os.getppid())
    probe.value("leads_session", os.getsid(0) == os.getpid())
    probe.value("threads", threading.active_count())
    probe.value("tasks", len(os.listdir("/proc/self/task")))
    probe.value("hash", hash("paragone"))
    for name in ("OMP", "OPENBLAS", "NUMBA", "MKL"):
        probe.value(name, int(os.environ[f"{name}_NUM_THREADS"]))
    probe.value("gpus_hidden", os.environ.get("CUDA_VISIBLE_DEVICES") == "")
    probe.value("preloaded", "paragone.lab.tasks.sweep" in sys.modules)
    probe.value("open_files", len(os.listdir("/proc/self/fd")))
    probe.array("numbers", np.arange(3))
    print("seen on standard output")


def blas_threads(job, probe):
    import threadpoolctl

    square = np.ones((300, 300))
    probe.value("sum", (square @ square).sum())
    pools = [p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]
    probe.value("least", min(pools))
    probe.value("most", max(pools))


def waits(job, probe):
    time.sleep(float(job.options["seconds"]))


def leaves_global(job, probe):
    probe.value("before", getattr(np, "_left_behind", 0))
    np._left_behind = 1


def too_big(job, probe):
    np.ones(1 << 45, dtype=np.uint8)
