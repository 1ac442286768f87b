"""Runs scripts one after the other, each in a process of its own that has its libraries already.

Importing torch costs more than most examples do. This process imports what they share, and nothing
of paragone; for each line of its input, `SCRIPT<tab>FOLDER`, it forks: the child runs the script in
the folder, with its output in the files `out` and `err` there. The answer is the child's status.
"""

import atexit
import gc
import os
import runpy
import sys
import traceback
import warnings

warnings.simplefilter("error")

import numba  # noqa: E402, F401
import numpy  # noqa: E402, F401
import scipy.special  # noqa: E402
import scipy.stats  # noqa: E402, F401
import torch  # noqa: E402, F401


def perform(script: str, folder: str) -> int:
    """Runs a script as `python -W error script` would; returns its status."""
    os.chdir(folder)
    for name, number in (("out", 1), ("err", 2)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.argv[:] = [script]
    sys.path[0] = os.path.dirname(script)
    try:
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = int(end.code or 0) if isinstance(end.code, int | None) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main() -> None:
    """Serves until the input ends."""
    # A collection in a child would touch, and so copy, all that was imported.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        script, folder = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            status = perform(script, folder)
            atexit._run_exitfuncs()
            # Taking down all that was imported would take a second.
            os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
