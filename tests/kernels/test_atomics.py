"""Words shared by threads and by mappings: nothing is lost, nothing is seen too early."""

import mmap
import threading
import time

import numba
import numpy as np
import pytest

from paragone.kernels.atomics import (
    clock,
    fence,
    fetch_add,
    give_way,
    load_acquire,
    pause,
    pointer,
    sleep_on,
    store_release,
    wake,
)  # fmt: skip
from paragone.kernels.jit import njit


@njit(nogil=True)
def count_up(words, index, times):
    for _ in range(times):
        fetch_add(words, index, 1)


@njit(nogil=True)
def talk(words, values, times, mine):
    # Two sides write `values` in turn; each checks what the other side wrote before its flag.
    wrong = 0
    for turn in range(times):
        if turn % 2 == mine:
            for i in range(len(values)):
                values[i] = turn
            store_release(words, 0, turn + 1)
        else:
            while load_acquire(words, 0) < turn + 1:
                pause()
                give_way()
            for i in range(len(values)):
                wrong += values[i] != turn
    return wrong


@njit(nogil=True)
def nap(words, index, expected, nanoseconds):
    begun = clock()
    sleep_on(words, index, expected, nanoseconds)
    return clock() - begun


@njit(nogil=True)
def rouse(words, index):
    store_release(words, index, 1)
    fence()
    wake(words, index)


@njit(nogil=True)
def total_at(address, number):
    return numba.carray(pointer(address), (number,), np.float64).sum()


def test_no_increment_is_lost_between_two_mappings():
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    views = [np.frombuffer(memory, np.int64) for _ in range(2)]
    times = 200_000
    threads = [threading.Thread(target=count_up, args=(view, 3, times)) for view in views]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert views[0][3] == 2 * times
    assert (np.delete(views[0], 3) == 0).all()


def test_what_was_written_before_the_flag_is_seen_behind_it():
    words, values = np.zeros(16, np.int64), np.full(64, -1, np.int64)
    found = []
    talkers = [
        threading.Thread(target=lambda mine=mine: found.append(talk(words, values, 2000, mine)))
        for mine in (0, 1)
    ]
    for thread in talkers:
        thread.start()
    for thread in talkers:
        thread.join(30)
    assert found == [0, 0]


def test_sleep_ends_at_its_time_at_a_call_and_not_at_all_if_the_word_has_changed():
    words = np.zeros(4, np.int64)
    assert nap(words, 2, 0, 20_000_000) >= 19_000_000
    assert nap(words, 2, 5, 10**10) < 10**9
    waited = []
    sleeper = threading.Thread(target=lambda: waited.append(nap(words, 1, 0, 20 * 10**9)))
    sleeper.start()
    time.sleep(0.05)
    rouse(words, 1)
    sleeper.join(10)
    assert len(waited) == 1
    assert waited[0] < 10**10
    assert words.tolist() == [0, 1, 0, 0]


def test_clock_is_pythons():
    before = time.monotonic_ns()
    words = np.zeros(1, np.int64)
    assert nap(words, 0, 1, 0) >= 0
    assert time.monotonic_ns() >= before


@pytest.mark.parametrize("number", [0, 1, 63, 65])
def test_pointer_leads_to_the_values(number):
    values = np.arange(float(number))
    assert total_at(values.ctypes.data, number) == values.sum()


def test_old_value_is_returned():
    @njit(nogil=True)
    def twice(words):
        first = fetch_add(words, 0, 7)
        return first, fetch_add(words, 0, -2)

    words = np.array([10], np.int64)
    assert twice(words) == (10, 17)
    assert words[0] == 15
