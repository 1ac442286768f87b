"""Contestants that notice where they run, for the tests of clusters; parameters are paths."""

import os
import signal
import time
from pathlib import Path


def _until(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError("nobody came")


def meets(data, seed, place, others):
    """Waits until so many run at once: fails where runs go one at a time."""
    folder = Path(place) / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(os.getpid())).touch()
    _until(lambda: len(list(folder.iterdir())) >= others)
    return {"error": float(seed)}


def alone(data, seed, place):
    """Fails where another one runs on this machine."""
    os.mkdir(place)
    time.sleep(0.1)
    os.rmdir(place)
    return {"error": float(seed)}


def _parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kills_its_worker(data, seed, place):
    """Kills the worker that carries it, once; tells how often it was begun."""
    begun = Path(place)
    with begun.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if len(begun.read_text().splitlines()) == 1:
        os.kill(_parent(os.getppid()), signal.SIGKILL)
        time.sleep(60)
    return {"error": float(seed)}
