"""What all tests share: real data where it is, and memory that is never silently zero.

`python dev.py test` runs the suite under `MALLOC_PERTURB_`, which makes the C library fill
fresh memory with 0x7F bytes: a number read before it was written is then huge (1e306 as
float64), in NumPy, in Numba's kernels and in torch alike.

Hypothesis draws the same examples every time, so that a change is judged by what it changed;
`HYPOTHESIS_PROFILE=explore` draws new ones.
"""

import gc
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

# Numbers out of our own sources would be tried, too: they are in every example's way (a minute to
# collect them in each process), and examples would depend on what was imported before.
providers.is_local_module_file = lambda path: False

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core; OpenMP's second thread would wait, spinning, on that of another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if not Path("/proc/driver/nvidia/version").exists():
    # Triton reads it when it is imported, which torch may do at any time.
    os.environ.setdefault("TRITON_INTERPRET", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the suite in the background ignores SIGINT for it; some tests send one.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent

CAPTURED: list[Any] = []
CLOSED: list[str] = []
"""Who closed the standard output or error that pytest captures, and was refused."""


def keep_open() -> None:
    """Refuses to close captured streams: all tests behind one that does would fail for it."""
    for stream in (sys.stdout, sys.stderr):
        if type(stream).__name__ == "EncodedFile" and "close" not in vars(stream):
            stream.close = lambda: CLOSED.append("".join(traceback.format_stack(limit=12)))
            CAPTURED.append(stream)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Lets the streams go, and hands on what was refused."""
    while CAPTURED:
        del CAPTURED.pop().close
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["closed"] = CLOSED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes what a worker hands on."""
    CLOSED.extend(getattr(node, "workeroutput", {}).get("closed", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tells who closed captured streams."""
    for stack in CLOSED:
        terminalreporter.section("closed a captured stream, which was refused")
        terminalreporter.write(stack)


@pytest.fixture(scope="module", autouse=True)
def settled_heap() -> None:
    """Lets no later collection walk over what was imported before this file's tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real data with provenance; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("PARAGONE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder of real data: set PARAGONE_DATA to one")
    return folder


SPREAD = ("test_examples.py", "test_estimators.py")
"""Files of tests that share nothing; those of every other file run in one process."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a file together, so that fixtures and kernels are made once."""
    for item in items:
        if item.path.name not in SPREAD:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


def keep_threads() -> None:
    """Gives torch back the threads that it began with.

    Numba's first parallel kernel sets those of OpenMP, and so torch's, to the number of cores.
    """
    torch = sys.modules.get("torch")
    threads = int(os.environ["OMP_NUM_THREADS"].split(",")[0])
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Lets peers be imported that import torchvision themselves, as transformers does."""
    keep_open()
    if "PYTEST_XDIST_WORKER" in os.environ:
        keep_threads()
    if item.get_closest_marker("peers") is not None:
        from paragone.lab.torchvision_cpu import prepare

        prepare()
