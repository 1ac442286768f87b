"""Owners, circles of waits, and what a lock must do beside."""

import itertools
import threading
import time

import pytest

from paragone.runtime import Lock, RLock, deadlocks, inspect
from paragone.runtime.locks import _WAITING, DeadlockError


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def circle(count, timeout=-1.0, kind=Lock):
    """Starts `count` threads of which each holds a lock and waits for the next one's."""
    locks = [kind(f"lock {i}") for i in range(count)]
    barrier, results = threading.Barrier(count), []

    def hold(i):
        with locks[i]:
            barrier.wait()
            taken = locks[(i + 1) % count].acquire(timeout=timeout)
            results.append(taken)
            if taken:
                locks[(i + 1) % count].release()

    threads = [
        threading.Thread(target=hold, args=(i,), name=f"thread {i}", daemon=True)
        for i in range(count)
    ]
    for thread in threads:
        thread.start()
    return locks, threads, results


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_circle_is_found_with_everyone_in_it(count):
    _, threads, results = circle(count, timeout=1.0)
    until(lambda: len(_WAITING) == count)
    (found,) = deadlocks()
    assert {wait.thread for wait in found.waits} == {f"thread {i}" for i in range(count)}
    for wait in found.waits:
        number = int(wait.thread.split()[1])
        assert wait.lock == f"lock {(number + 1) % count}"
        assert wait.owner == f"thread {(number + 1) % count}"
        assert "hold" in wait.stack[0]
    assert not found.forever
    assert f"{count} threads wait in a circle, until a timeout" in str(found)
    waiting = {t.name: t.waiting_for for t in inspect().threads if t.waiting_for}
    assert waiting["thread 0"] == "'lock 1', held by thread 1"
    for thread in threads:
        thread.join()
    assert deadlocks() == ()
    assert False in results


def test_a_chain_is_no_circle():
    first, second = Lock("first"), Lock("second")
    first.acquire()
    inside = threading.Event()

    def holds_second():
        with second:
            inside.set()
            with first:
                pass

    def waits_for_second():
        inside.wait()
        with second:
            pass

    threads = [threading.Thread(target=f) for f in (holds_second, waits_for_second)]
    for thread in threads:
        thread.start()
    until(lambda: len(_WAITING) == 2)
    assert deadlocks() == ()
    first.release()
    for thread in threads:
        thread.join()
    assert not _WAITING


def test_every_graph_of_three_waits_is_judged_right(monkeypatch):
    """All ways in which three threads may wait for each other, or not, against a search."""
    for targets in itertools.product([None, 0, 1, 2], repeat=3):
        locks = [Lock(str(i)) for i in range(3)]
        for i, lock in enumerate(locks):
            lock._owner = i + 1
        pending = {i + 1: (locks[t], False) for i, t in enumerate(targets) if t is not None}
        monkeypatch.setattr("paragone.runtime.locks._WAITING", pending)
        expected = set()
        for start in range(3):
            path, at = [start], targets[start]
            while at is not None and at not in path:
                path.append(at)
                at = targets[at]
            if at == start:
                expected.add(frozenset(path))
        found = {frozenset(w.ident - 1 for w in dead.waits) for dead in deadlocks()}
        assert found == expected, targets


def test_the_wait_that_would_close_a_circle_is_refused():
    first, second = Lock("first", detect=True), Lock("second", detect=True)
    inside = threading.Event()

    def other():
        with second:
            inside.set()
            with first:
                pass

    thread = threading.Thread(target=other, name="other")
    with first:
        thread.start()
        inside.wait()
        until(lambda: len(_WAITING) == 1)
        with pytest.raises(DeadlockError, match="waiting for 'second' would never end"):
            second.acquire()
    thread.join()
    with pytest.raises(DeadlockError, match="take locks in one order"), first:
        first.acquire()
    assert not first.locked()


@pytest.mark.parametrize("kind", [Lock, RLock])
def test_it_excludes(kind):
    lock, total = kind(), [0]

    def add():
        for _ in range(2000):
            with lock:
                seen = total[0]
                total[0] = seen + 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total == [8000]
    assert lock.owner is None
    assert not lock.locked()


def test_it_behaves_as_the_standard_lock():
    ours, theirs = Lock(), threading.Lock()
    for lock in (ours, theirs):
        assert lock.acquire()
        assert not lock.acquire(False)
        assert not lock.acquire(timeout=0.01)
        assert lock.locked()
        lock.release()
        with pytest.raises(RuntimeError):
            lock.release()
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(False, 1)
        assert lock.acquire()
        threading.Thread(target=lock.release).start()
        assert lock.acquire(timeout=5)
    assert ours.owner == threading.get_ident()
    assert "held by MainThread" in repr(ours)


def test_the_owner_may_take_an_rlock_again_and_nobody_else():
    lock = RLock("books")
    with lock, lock:
        result = []
        thread = threading.Thread(target=lambda: result.append(lock.acquire(False)))
        thread.start()
        thread.join()
        assert result == [False]
        lock.release()
        assert lock.locked()
        lock.acquire()
    assert not lock.locked()
    with pytest.raises(RuntimeError, match="not this thread's to release"):
        lock.release()


def test_conditions_work_with_both():
    for kind in (Lock, RLock):
        condition, ready = threading.Condition(kind()), []
        thread = threading.Thread(target=lambda c=condition, r=ready: notify(c, r))
        with condition:
            thread.start()
            assert condition.wait_for(lambda r=ready: r, timeout=5)
            assert condition._is_owned()
        thread.join()


def notify(condition, ready):
    with condition:
        ready.append(True)
        condition.notify()
