"""Compiled kernels on disk: taken when the code is the same, and only then."""

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest

from paragone.kernels._cache import KernelCache
from paragone.kernels._stamp import stamp
from paragone.kernels.jit import TALLY, njit

CALLED = """
from paragone.kernels.jit import njit
from numba import prange
FACTOR = 3

@njit(nogil=True, error_model="numpy")
def inner(x):
    return FACTOR * x

@njit(nogil=True, error_model="numpy", parallel=True)
def spread(a):
    total = 0.0
    for i in prange(len(a)):
        total += inner(a[i])
    return total
"""
ENTRY = """
import numpy as np
from paragone.kernels.jit import njit
from called import inner, spread

@njit(nogil=True, error_model="numpy")
def outer(x):
    return inner(x) + 1

@njit(nogil=True, error_model="numpy")
def either(a, threads):
    if threads > 1:
        return spread(a)
    total = 0.0
    for x in np.sort(a):
        total += inner(x)
    return total

@njit(nogil=True, error_model="numpy")
def later(x):
    return outer(x) + outer(x)

@njit(nogil=True, error_model="numpy")
def refuses(x):
    if x < 0:
        raise ValueError("negative")
    return np.full(3, x)

@njit(nogil=True, error_model="numpy")
def twice(kernel, x):
    return kernel(kernel(x))

@njit(nogil=True, error_model="numpy")
def ninefold(x):
    return twice(inner, x)

@njit(nogil=True, error_model="numpy")
def tenfold(x):
    return twice(inner, x) + x
"""


class Place:
    """Two modules in a folder, imported anew for each call, as a fresh process would."""

    def __init__(self, folder):
        self.folder = folder
        self.write(CALLED, ENTRY)

    def write(self, called, entry=ENTRY):
        (self.folder / "called.py").write_text(called)
        (self.folder / "entry.py").write_text(entry)

    def here(self, call):
        """Returns the value, and how many kernels were loaded and compiled for it."""
        before = TALLY.copy()
        with pytest.MonkeyPatch.context() as patch:
            # Python tells sources apart by the second, which is too coarse here.
            patch.setattr(sys, "dont_write_bytecode", True)
            patch.syspath_prepend(str(self.folder))
            for name in ("called", "entry"):
                patch.delitem(sys.modules, name, raising=False)
            importlib.invalidate_caches()
            value = eval(call, {"np": np, "entry": importlib.import_module("entry")})
            for name in ("called", "entry"):
                patch.delitem(sys.modules, name, raising=False)
        return value, *(TALLY[key] - before[key] for key in ("loaded", "compiled"))

    def elsewhere(self, call, **environ):
        """The same in a process of its own, as text, and whether Numba's threads run."""
        code = (
            f"import numpy as np, entry\nprint({call})\n"
            "from numba.np.ufunc import parallel\nfrom paragone.kernels.jit import TALLY\n"
            "print(TALLY['loaded'], TALLY['compiled'], parallel._is_initialized)\n"
        )
        path = os.pathsep.join([str(self.folder), *sys.path])
        plain = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True,
            env={**plain, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environ},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        value, loaded, compiled, threads = done.stdout.split()
        return float(value), int(loaded), int(compiled), threads == "True"


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_constant_of_another_file_is_seen_and_a_comment_is_not(place):
    assert place.here("entry.outer(2)") == (7, 0, 2)
    place.write("# A comment, and another line.\n\n" + CALLED)
    assert place.here("entry.outer(2)") == (7, 1, 0)
    place.write(CALLED.replace("FACTOR = 3", "FACTOR = 5"))
    assert place.here("entry.outer(2)") == (11, 0, 2)
    place.write(CALLED.replace("FACTOR * x", "FACTOR * x - 1"))
    assert place.here("entry.outer(2)") == (6, 0, 2)
    assert place.here("entry.outer(2)") == (6, 1, 0)


def test_a_serial_kernel_that_may_call_a_parallel_one_loads_without_threads(place):
    call = "entry.either(np.arange(4.0), {})"
    assert place.here(call.format(1))[0] == 18
    for threads in (1, 2):
        assert place.elsewhere(call.format(threads))[:3] == (18, 1, 0)


def test_a_loaded_kernel_can_be_linked_into_a_new_one(place):
    place.here("entry.outer(2)")
    assert place.here("(entry.outer(2), entry.later(2))") == ((7, 14), 1, 1)


def test_a_kernel_given_to_a_kernel_is_that_of_the_process(place):
    """Processes forked from one parent have kernels at the same addresses."""
    code = (
        "import os, entry\n"
        "for kernel, expected in ((entry.ninefold, 18), (entry.tenfold, 20)):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        status = 1\n"
        "        try:\n"
        "            status = int(kernel(2) != expected)\n"
        "        finally:\n"
        "            os._exit(status)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(place.folder), *sys.path])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert place.here("entry.ninefold(2)") == (18, 1, 0)


def test_exceptions_and_arrays_come_out_of_a_loaded_kernel(place):
    for counts in ((0, 1), (1, 0)):
        value, *found = place.here("entry.refuses(2.0)")
        assert value.tolist() == [2, 2, 2]
        assert tuple(found) == counts
    with pytest.raises(ValueError, match="negative"):
        place.here("entry.refuses(-1.0)")


def test_a_torn_entry_is_compiled_anew(place):
    place.here("entry.outer(2)")
    halved, changed = sorted((place.folder / "__pycache__").glob("*.nbc"))
    halved.write_bytes(halved.read_bytes()[: halved.stat().st_size // 2])
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    assert place.here("entry.outer(2)") == (7, 0, 2)


def test_another_process_loads_without_the_compiler(place):
    assert place.here("entry.outer(2)")[2] == 2
    assert place.elsewhere("entry.outer(2)") == (7, 1, 0, False)


def test_a_read_only_folder_leaves_the_users_cache(place, tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    # A file of that name stops even root, who may write in every folder.
    (place.folder / "__pycache__").write_text("")
    for hits in (0, 1):
        assert place.here("entry.outer(2)")[1] == hits
    assert list(home.glob("numba/*/*.nbc"))


def test_a_folder_given_by_name_is_taken(place, tmp_path_factory, monkeypatch):
    named = tmp_path_factory.mktemp("named")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(named))
    for hits in (0, 1):
        assert place.here("entry.outer(2)")[1] == hits
    assert list(named.glob("*/*.nbc"))
    assert not list((place.folder / "__pycache__").glob("*.nbc"))


def test_a_folder_that_cannot_be_written_costs_only_time(place, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(blocked / "below"))
    for _ in range(2):
        assert place.here("entry.outer(2)") == (7, 0, 2)


SIZE = 4
TABLE = np.arange(3)


def plain(x, width=2):
    return x + width * SIZE


def test_the_stamp_follows_what_the_code_uses(monkeypatch):
    @njit
    def kernel(x):
        return plain(x) + TABLE[0]

    before = stamp(kernel)
    assert stamp(kernel) == before
    monkeypatch.setitem(globals(), "SIZE", 5)
    changed = {before, stamp(kernel)}
    monkeypatch.setitem(globals(), "SIZE", 4)
    monkeypatch.setitem(globals(), "TABLE", np.arange(1, 4))
    changed.add(stamp(kernel))
    monkeypatch.setattr(plain, "__defaults__", (3,))
    changed.add(stamp(kernel))
    assert len(changed) == 4


def test_the_stamp_knows_how_a_kernel_is_compiled():
    def plainly(x):
        return x + 1

    stamps = {stamp(njit(**options)(plainly)) for options in ({}, {"fastmath": True})}
    assert len(stamps) == 2


def test_the_stamp_is_the_same_in_every_process():
    code = (
        "from paragone.kernels._stamp import stamp\nfrom paragone.kernels.jit import njit\n"
        "@njit(fastmath={'nnan', 'nsz', 'ninf', 'contract'})\n"
        "def f(x):\n    return x in {'a', 'b', 'c'}\n"
        "print(stamp(f).hex())\n"
    )
    stamps = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in "123"
    }  # fmt: skip
    assert len(stamps) == 1


def test_recursion_and_closures_have_a_stamp():
    def make(step):
        @njit
        def down(x):
            return 0 if x <= 0 else down(x - step)

        return down

    assert stamp(make(1)) == stamp(make(1)) != stamp(make(2))
    assert make(2)(9) == 0


def test_flush_and_disable(tmp_path, monkeypatch):
    monkeypatch.setattr(KernelCache, "cache_path", str(tmp_path))

    @njit
    def kernel(x):
        return x + 1

    kernel(1)
    assert len(list(tmp_path.glob("*.nbc"))) == 1
    kernel._cache.flush()
    assert not list(tmp_path.iterdir())
    kernel._cache.disable()
    kernel(1.5)
    assert not list(tmp_path.iterdir())


def test_an_unknown_numba_keeps_kernels_in_its_own_cache(monkeypatch):
    from paragone.kernels import jit

    monkeypatch.setattr(jit, "cache_knows", lambda version: False)

    @jit.njit(nogil=True)
    def double(x):
        return 2 * x

    assert not isinstance(double._cache, KernelCache)
    assert double(21) == 42


def test_a_kernel_does_not_take_over_the_flags_of_its_first_caller():
    @njit(cache=False, nogil=True, error_model="numpy")
    def lost(large, small):
        """What the sum of the two loses: nothing, if arithmetic may be reordered."""
        return small - ((large + small) - large)

    @njit(cache=False, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz"})
    def quick(large, small):
        return lost(large, small)

    assert quick(1e16, 1.0) == lost(1e16, 1.0) == 1.0
