"""Functions that worker processes import; shared by the tests of pools and loader."""

import os
import signal
import time


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
