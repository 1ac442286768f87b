"""Pools: the same answers from threads and processes, and clean ends of every kind."""

import concurrent.futures
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paragone.runtime import ProcessPool, SharedArray, ThreadPool, WorkerDied, worker_info
from paragone.runtime._pool_outcome import Caught, Failure, WorkerError
from paragone.runtime.pools import other_threads

HERE = Path(__file__).parent
sys.path.append(str(HERE))
import pool_jobs as jobs  # noqa: E402

# The server that forks workers loads NumPy once for all of them.
multiprocessing.set_forkserver_preload(["numpy"])

SECONDS = 30


@pytest.fixture(scope="module", params=["thread", "process"])
def pool(request):
    made = ThreadPool(2) if request.param == "thread" else ProcessPool(2)
    with made:
        yield made


def test_maps_are_the_built_in_map(pool):
    assert list(pool.map(jobs.square, [])) == []
    assert list(pool.map(jobs.square, range(23))) == [x * x for x in range(23)]
    assert list(pool.map(pow, [2, 3, 4], [5, 2], chunksize=1)) == [32, 9]
    assert list(pool.starmap(pow, [(2, 5), (3, 2)])) == [32, 9]
    assert pool.submit(pow, 2, exp=3).result() == 8
    assert isinstance(pool, concurrent.futures.Executor)
    futures = [pool.submit(jobs.square, x) for x in range(5)]
    assert {f.result() for f in concurrent.futures.as_completed(futures)} == {0, 1, 4, 9, 16}


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    count=st.integers(0, 40), chunk=st.integers(1, 9), ahead=st.integers(1, 9), order=st.booleans()
)
def test_streams_give_each_item_once(pool, count, chunk, ahead, order):
    found = list(pool.imap(jobs.square, iter(range(count)), ordered=order, chunksize=chunk,
                           prefetch=ahead))  # fmt: skip
    assert (found if order else sorted(found)) == [x * x for x in range(count)]


@pytest.mark.parametrize("ordered", [True, False])
def test_streams_read_a_bounded_way_ahead(pool, ordered):
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield read[-1]

    results = pool.imap(jobs.square, endless(), ordered=ordered, prefetch=3, chunksize=2)
    assert not read
    for _ in range(10):
        next(results)
    assert len(read) <= 10 + 2 * (3 + 1)
    results.close()


def taken(results):
    """What an iterator gave, and the error that ended it."""
    got = []
    with Caught() as caught:
        got.extend(results)
    return got, caught.error


def test_an_error_comes_in_its_place_with_the_workers_traceback(pool):
    for results in (
        pool.map(jobs.fail, range(6), chunksize=2), pool.map(jobs.fail, range(6), chunksize=4),
        pool.imap(jobs.fail, range(6)),
    ):  # fmt: skip
        got, error = taken(results)
        assert got == [0, 1, 2]
        assert repr(error) == "KeyError('three is missing')"
        lines = "".join(traceback.format_exception(error))
        assert "pool_jobs.py" in lines
        assert "in fail" in lines
    assert pool.submit(jobs.square, 3).result() == 9


def test_what_cannot_travel_fails_its_future(pool):
    if pool.kind == "thread":
        assert pool.submit(lambda x: x, 1).result() == 1
        return
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pool.submit(lambda x: x, 1).result()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pool.submit(jobs.unpicklable, 1).result()
    with pytest.raises(WorkerError, match="UnpicklableError: 1"):
        pool.submit(jobs.fail_badly, 1).result()


def test_rows_are_mapped_without_copies(pool):
    values = np.random.default_rng(0).normal(size=(65, 3))
    source = SharedArray.from_array(values)
    for given_array in (values, source, values[::-1], values.astype("f4")):
        for chunk in (None, 1, 64, 1000):
            found = pool.map_array(jobs.halve, given_array, chunk=chunk)
            assert np.array_equal(np.asarray(found), np.asarray(given_array) / 2)
            assert isinstance(found, SharedArray if pool.kind == "process" else np.ndarray)
    out = SharedArray((65, 3))
    assert pool.map_array(jobs.halve, source, out, chunk=7) is out
    assert np.array_equal(out.array, values / 2)
    assert np.asarray(pool.map_array(jobs.halve, np.zeros((0, 3)))).shape == (0, 3)


def test_rows_that_do_not_match_are_refused(pool):
    values = np.ones((10, 2))
    with pytest.raises(ValueError, match="must return 3 rows"):
        pool.map_array(jobs.wrong_rows, values, chunk=3)
    with pytest.raises(ValueError, match="4 rows and the array 10"):
        pool.map_array(jobs.halve, values, SharedArray((4, 2)))
    with pytest.raises(TypeError, match="same_kind"):
        pool.map_array(jobs.halve, values, SharedArray((10, 2), int))
    with pytest.raises(ValueError, match="chunk=0"):
        pool.map_array(jobs.halve, values, chunk=0)
    if pool.kind == "process":
        with pytest.raises(ValueError, match="must be a SharedArray"):
            pool.map_array(jobs.halve, values, np.ones((10, 2)))


def test_timeouts_are_kept(pool):
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        list(pool.map(jobs.sleep, [0.5, 0.5], timeout=0.05))
    for ordered in (True, False):
        with pytest.raises(TimeoutError):
            list(pool.imap(jobs.sleep, [0.5], timeout=0.05, ordered=ordered))
    assert time.monotonic() - begun < SECONDS


def test_workers_know_who_they_are(pool):
    found = set(pool.map(jobs.worker_number, range(40), chunksize=1))
    assert found == {(0, 2, pool.kind), (1, 2, pool.kind)}
    assert worker_info() is None


def test_native_pools_of_workers_are_limited(pool):
    if pool.kind == "process":
        counts, variable = pool.submit(jobs.thread_limits, 0).result()
        share = max(len(os.sched_getaffinity(0)) // 2, 1)
        assert variable == str(share)
        assert max(counts, default=1) <= share


def test_processes_write_into_one_memory():
    with ProcessPool(2, start="spawn", threads=3) as pool, SharedArray(3, int) as shared:
        found = pool.submit(jobs.fill, shared).result()
        assert found == (shared[1], shared.inode)
        assert found[0] in pool.pids
        assert pool.submit(jobs.thread_limits, 0).result()[1] == "3"
        watched = pool.submit(jobs.leave, 0)
        with pytest.raises(WorkerDied, match="exit code 7 while it ran a task") as caught:
            watched.result(SECONDS)
        assert caught.value.exitcode == 7
        with pytest.raises(WorkerDied, match="broke this pool earlier"):
            pool.submit(jobs.square, 1)
    assert gone(pool.pids)


def gone(pids):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if not any(running(pid) for pid in pids):
            return True
        time.sleep(0.01)
    return False


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_killed_worker_ends_all_that_waits_for_it():
    with ProcessPool(2) as pool:
        assert list(pool.map(jobs.square, range(4))) == [0, 1, 4, 9]
        futures = [pool.submit(jobs.sleep, 60) for _ in range(4)]
        while not futures[1].running():
            time.sleep(0.001)
        os.kill(pool.pids[0], signal.SIGKILL)
        for future in futures:
            with pytest.raises(WorkerDied, match="was killed by SIGKILL") as caught:
                future.result(SECONDS)
            assert caught.value.exitcode == -9
        assert "had not begun" in str(futures[3].exception())
    assert gone(pool.pids)


@pytest.mark.parametrize("kind", [ThreadPool, ProcessPool])
def test_an_initializer_that_fails_is_the_cause(kind):
    with kind(1, initializer=jobs.bad_start) as pool:
        with pytest.raises(concurrent.futures.BrokenExecutor, match="initializer") as caught:
            pool.submit(jobs.square, 1).result(SECONDS)
        assert "no licence" in str(caught.value.__cause__)
        with pytest.raises(concurrent.futures.BrokenExecutor, match="initializer"):
            pool.submit(jobs.square, 1).result(SECONDS)


def test_closing_waits_and_leaving_with_an_error_does_not():
    with ThreadPool(1) as threads:
        futures = [threads.submit(jobs.sleep, 0.01) for _ in range(3)]
    assert all(f.done() for f in futures)
    with pytest.raises(RuntimeError, match="closed"):
        threads.submit(jobs.square, 1)
    with Caught(), ThreadPool(1) as threads:
        futures = [threads.submit(jobs.sleep, 0.01) for _ in range(50)]
        raise ZeroDivisionError
    assert sum(f.cancelled() for f in futures) >= 45
    processes = ProcessPool(1)
    futures = [processes.submit(jobs.sleep, 0.01) for _ in range(3)]
    processes.shutdown()
    assert [f.result() for f in futures] == [0.01] * 3
    with pytest.raises(RuntimeError, match="closed"):
        processes.submit(jobs.square, 1)
    with Caught(), ProcessPool(1) as processes:
        first, second = (processes.submit(jobs.sleep, 60) for _ in range(2))
        raise ZeroDivisionError
    assert second.cancelled()
    assert isinstance(first.exception(SECONDS), concurrent.futures.BrokenExecutor)
    assert gone(processes.pids)


def test_a_forgotten_pool_ends_its_workers():
    before = threading.active_count()
    pool = ThreadPool(2)
    assert pool.submit(jobs.square, 2).result() == 4
    del pool
    end = time.monotonic() + SECONDS
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.005)
    assert threading.active_count() == before


def test_fork_beside_threads_is_refused():
    with ThreadPool(1), pytest.raises(ValueError, match="thread 'paragone-worker-0'"):
        ProcessPool(1, start="fork")
    assert other_threads() == [] or other_threads()[0].startswith("thread")


@pytest.mark.parametrize(("make", "words"), [
    (lambda: ThreadPool(0), "workers=0"),
    (lambda: ThreadPool(1.5), "workers=1.5"),
    (lambda: ProcessPool(-1), "workers=-1"),
    (lambda: ProcessPool(1, threads=0), "threads=0"),
    (lambda: ThreadPool(1, threads=0), "threads=0"),
    (lambda: ProcessPool(1, start="thread"), "'forkserver', 'spawn', 'fork'"),
])  # fmt: skip
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_wrong_arguments_of_maps_are_refused(pool):
    with pytest.raises(ValueError, match="chunksize=0"):
        pool.map(jobs.square, [1], chunksize=0)
    with pytest.raises(ValueError, match="prefetch=0"):
        pool.imap(jobs.square, [1], prefetch=0)
    with pytest.raises(TypeError, match="buffersize"):
        pool.map(jobs.square, [1], buffersize=3)


def test_an_error_keeps_its_text_on_the_way():
    with Caught() as caught:
        jobs.fail(3)
    back = pickle.loads(pickle.dumps(Failure(caught.error)))
    assert isinstance(back.error, KeyError)
    assert "in fail" in str(back.error.__cause__)
    died = pickle.loads(pickle.dumps(WorkerDied(-9, 12, "at home")))
    assert str(died) == "worker process 12 was killed by SIGKILL (exit code -9) at home"


# Whole programs: interrupted, killed, left.


def program(*arguments):
    started = subprocess.Popen(
        [sys.executable, "-W", "error", str(HERE / "pool_script.py"), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    pids = [int(word) for word in started.stdout.readline().split()]
    assert len(pids) == 2, started.communicate()
    return started, pids


def test_ctrl_c_ends_program_and_workers():
    started, pids = program("forkserver")
    os.killpg(started.pid, signal.SIGINT)
    out, error = started.communicate(timeout=SECONDS)
    assert started.returncode == 130, error
    assert out.startswith("interrupted")
    assert error == ""
    assert gone(pids)


def test_workers_in_a_loop_die_with_a_killed_parent_and_nothing_is_left():
    files = set(os.listdir("/dev/shm"))
    started, pids = program("fork", "busy")
    started.kill()
    started.communicate(timeout=SECONDS)
    assert gone(pids)
    assert set(os.listdir("/dev/shm")) <= files


def test_leaving_a_program_ends_its_workers():
    started, pids = program("fork", "leave")
    started.communicate(timeout=SECONDS)
    assert started.returncode == 3
    assert gone(pids)
