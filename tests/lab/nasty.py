"""Contestants that misbehave in every way we could think of; each may cost only its own row."""

import ctypes
import math
import os
import signal
import subprocess
import sys
import threading
import time


def raises(data, seed):
    raise RuntimeError("out of luck")


def hangs(data, seed):
    time.sleep(600)


def hangs_deaf(data, seed):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(0.2)


def hog(data, seed):
    held = []
    while True:
        held.append(bytearray(16 << 20))
        held[-1][::4096] = b"x" * len(held[-1][::4096])
        time.sleep(0.005)


def flock(data, seed):
    for _ in range(50):
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
    return {"error": 1.0}


def escapes(data, seed):
    """Leaves daemons behind: a session of their own, forked twice, one with a clean environment."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], env={}, start_new_session=True
    )
    time.sleep(0.2)
    return {"error": 1.0}


def segfaults(data, seed):
    ctypes.string_at(0)


def quits(data, seed):
    os._exit(0)


def system_exit(data, seed):
    sys.exit(3)


def threads(data, seed):
    for _ in range(200):
        threading.Thread(target=time.sleep, args=(600,)).start()
    return {"error": 1.0}


def floods(data, seed):
    line = "x" * 1023
    for _ in range(4096):
        print(line)
    print("the last line")
    raise RuntimeError("after much talk")


def not_a_number(data, seed):
    return {"error": math.nan}


def nonsense(data, seed):
    return "forty-two"


def kills_server(data, seed):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


def closes_all(data, seed):
    os.closerange(0, 256)
    return {"error": 1.0}


def missing_module(data, seed):
    import a_module_that_is_not_there  # noqa: F401  # pyright: ignore[reportMissingImports]
