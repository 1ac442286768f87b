"""
Thread or process?
==================

The rows of photographs are sorted by NumPy and summed up in pure Python, on threads and on
processes. Threads share Python's lock and all memory; processes have locks of their own, and find
the pictures in shared memory.
"""

import statistics
import time

import numpy as np

from paragone.runtime import ProcessPool, SharedArray, ThreadPool

WORKERS = 2


def timed(run):
    """Result and seconds of a call."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


# %%
# Worker processes import this file again, so what starts them stands under this `if`.
if __name__ == "__main__":
    from sklearn.datasets import load_sample_images

    gray = np.concatenate([rgb.mean(axis=2) for rgb in load_sample_images().images] * 8)
    picture = SharedArray.from_array(gray)
    pools = {"threads": ThreadPool(WORKERS), "processes": ProcessPool(WORKERS)}
    for name, pool in pools.items():
        _, seconds = timed(lambda pool=pool: list(pool.map(abs, range(8))))
        print(f"{name}: all answered after {seconds * 1e3:.1f} ms")

# %%
# `map_array` hands each worker blocks of rows and puts what comes back into one array. Processes
# see the `SharedArray`: only its address travels, some 100 bytes. NumPy lets go of Python's lock.
if __name__ == "__main__":
    truth, alone = timed(lambda: np.sort(gray))
    for name, pool in pools.items():
        found, seconds = timed(lambda pool=pool: pool.map_array(np.sort, picture))
        assert np.array_equal(found, truth)
        print(f"NumPy on {WORKERS} {name}: {alone / seconds:.2f}x one alone")

# %%
# Exact sums in pure Python hold the lock: threads take turns, processes do not.
if __name__ == "__main__":
    rows = gray[:200].tolist()
    truth, alone = timed(lambda: [statistics.pvariance(row) for row in rows])
    for name, pool in pools.items():
        found, seconds = timed(lambda pool=pool: list(pool.map(statistics.pvariance, rows)))
        assert found == truth
        print(f"Python on {WORKERS} {name}: {alone / seconds:.2f}x one alone")

# %%
# What a task costs that does nothing, there and back.
if __name__ == "__main__":
    for name, pool in pools.items():
        trip = [timed(lambda pool=pool: pool.submit(abs, 1).result())[1] for _ in range(200)]
        print(f"a task on {name}: {statistics.median(trip) * 1e6:.0f} microseconds")
        pool.close()
    picture.close()
