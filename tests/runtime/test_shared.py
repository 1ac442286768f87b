"""Shared arrays: what they hold, how they travel, and that nothing is left of them."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from paragone.runtime import SharedArray
from paragone.runtime.shared import attach


@pytest.mark.parametrize("shape", [(), (0, 4), (1,), (7, 3, 2), 65])
@pytest.mark.parametrize("dtype", ["float32", "int8", "complex128", [("a", "i4"), ("b", "f8")]])
def test_a_copy_holds_what_the_array_holds(shape, dtype):
    array = np.ones(shape, dtype)
    with SharedArray.from_array(array) as shared:
        assert np.array_equal(shared.array, array)
        assert (shared.shape, shared.dtype, shared.nbytes) == (
            array.shape, array.dtype, array.nbytes,
        )  # fmt: skip
        assert np.shares_memory(np.asarray(shared), shared.array) or not array.size
        assert SharedArray.from_array(shared) is shared


def test_it_is_zero_at_first_and_reads_like_an_array():
    shared = SharedArray((5, 2), int)
    assert len(shared) == 5
    assert not shared.array.any()
    shared[3] = 7
    assert shared[3, 1] == 7
    assert np.sum(shared) == 14
    assert np.array(shared, dtype=float).dtype == float
    assert repr(shared) == "SharedArray((5, 2), int64)"
    back = np.asfortranarray(np.arange(6).reshape(2, 3))[:, ::-1]
    assert np.array_equal(SharedArray.from_array(back).array, back)


def test_a_pickle_is_small_and_the_same_memory():
    shared = SharedArray((1000, 100))
    content = pickle.dumps(shared)
    assert len(content) < 300
    twin = pickle.loads(content)
    twin[999] = 3.0
    assert shared[999].sum() == 300
    assert twin.inode == shared.inode
    shared.close()
    third = pickle.loads(pickle.dumps(twin))
    assert third[999].sum() == 300


def test_another_program_writes_into_it():
    shared = SharedArray(4)
    code = "import pickle, sys; pickle.load(sys.stdin.buffer)[2] = 5.0"
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(shared), check=True)
    assert shared.array.tolist() == [0, 0, 5, 0]


def test_closed_or_replaced_memory_is_told():
    shared = SharedArray(10)
    kept = shared.array
    kept[:] = 1
    content = pickle.dumps(shared)
    pid, descriptor, inode, shape, dtype = shared.place()
    other = SharedArray(10)
    with pytest.raises(ValueError, match="is gone"):
        attach(pid, other.place()[1], inode, shape, dtype)
    shared.close()
    shared.close()
    assert kept.sum() == 10
    assert "closed" in repr(shared)
    with pytest.raises(ValueError, match="closed"):
        shared.array.sum()
    with pytest.raises(ValueError, match="keep it open"):
        pickle.loads(content)
    with pytest.raises(ValueError, match="is gone"):
        attach(2**22 + 1, descriptor, inode, shape, dtype)


def test_wrong_shapes_and_types_are_refused():
    with pytest.raises(ValueError, match="negative"):
        SharedArray((3, -1))
    with pytest.raises(ValueError, match="objects"):
        SharedArray(3, object)
    with pytest.raises(ValueError, match="objects"):
        SharedArray.from_array(["a", None])


def test_no_descriptor_no_file_and_no_memory_is_left():
    def descriptors():
        return sum("paragone" in os.readlink(f"/proc/self/fd/{d.name}") for d in
                   list(os.scandir("/proc/self/fd")) if os.path.islink(d.path)
                   and os.path.lexists(f"/proc/self/fd/{d.name}"))  # fmt: skip

    before, files = descriptors(), set(os.listdir("/dev/shm"))
    arrays = [SharedArray(1000) for _ in range(20)]
    assert descriptors() > before
    assert set(os.listdir("/dev/shm")) == files
    del arrays
    assert descriptors() == before


def test_nobody_can_shrink_it_under_the_others():
    shared = SharedArray(1000)
    with pytest.raises(PermissionError):
        os.ftruncate(shared.place()[1], 8)
