"""Functions that worker processes import; shared by the tests of pools and loader."""

import os
import random
import signal
import time

import numpy as np


def square(x):
    return x * x


def where(x):
    return os.getpid()


def fail(x):
    if x == 3:
        raise KeyError("three is missing")
    return x


class UnpicklableError(Exception):
    def __init__(self, a, b):
        super().__init__(a)


def fail_badly(x):
    raise UnpicklableError(1, 2)


def unpicklable(x):
    return lambda: x


def die(x):
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def leave(x):
    os._exit(7)


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return seconds


def halve(rows):
    return rows / 2


def wrong_rows(rows):
    return rows[:-1]


def bad_start():
    raise RuntimeError("no licence")


def thread_limits(x):
    import threadpoolctl

    found = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    return found, os.environ["OMP_NUM_THREADS"]


def fill(shared):
    shared[1] = os.getpid()
    return os.getpid(), shared.inode


def init(*args):
    pass


def worker_number(x):
    from paragone.runtime import worker_info

    time.sleep(0.01)
    info = worker_info()
    return info.id, info.workers, info.kind


class Numbers:
    """Items (index, row of the index, numbers from the item's and from the global generators)."""

    def __init__(self, count, width=4, fail_at=-1, die_at=-1):
        self.count, self.width, self.fail_at, self.die_at = count, width, fail_at, die_at

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        from paragone.runtime import item_rng

        if i == self.fail_at:
            raise OSError(f"item {i} is unreadable")
        if i == self.die_at:
            os._exit(9)
        return {
            "i": i,
            "x": np.full(self.width, i, np.float32),
            "own": item_rng().random(),
            "global": np.random.random() + random.random(),  # noqa: NPY002
        }


class Blocks(Numbers):
    """The same in whole batches."""

    def __getitems__(self, indices):
        index = np.array(indices)
        return {"i": index, "x": np.repeat(index[:, None], self.width, axis=1).astype(np.float32)}


class Stream:
    """An iterable dataset."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        from paragone.runtime import item_rng

        for i in range(self.count):
            yield i, item_rng().random()


class SleepySet:
    def __len__(self):
        return 8

    def __getitem__(self, i):
        time.sleep(5.0 if i == 5 else 0.0)
        return i
