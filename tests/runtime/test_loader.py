"""The loader: one order and one set of numbers for any workers, and torch's own rules."""

import collections
import gc
import pickle
import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from paragone.runtime import Loader, WorkerDied, _loader_fetch, item_rng
from paragone.runtime._loader_collate import collate, map_leaves, pack, to_torch
from paragone.runtime._loader_fetch import Blocks, Fetcher, Task

sys.path.append(str(Path(__file__).parent))
import pool_jobs as jobs

Pair = collections.namedtuple("Pair", "left right")


def same(a, b):
    """Whether two batches are equal: types, structure and numbers."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        parts = zip(a, b, strict=True)
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in parts)
    return a == b


def all_same(found, expected):
    assert len(expected) > 0
    return len(found) == len(expected) and all(map(same, found, expected))


# Collating: torch's own is the oracle.

leaf = st.one_of(
    st.integers(-9, 9), st.floats(-9, 9), st.booleans(), st.text(max_size=3),
    st.sampled_from([
        np.zeros((2, 3), np.float32), np.array(3, np.int16), np.ones(0), np.float64(2.5),
        np.int32(4), np.bool_(True), torch.ones(2, dtype=torch.bfloat16), torch.tensor(4),
    ]),
)  # fmt: skip
tree = st.recursive(leaf, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.tuples(inner, inner), st.builds(Pair, inner, inner),
    st.dictionaries(st.text(max_size=2), inner),
), max_leaves=6)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(item=tree, count=st.integers(1, 4))
def test_batches_are_those_of_torchs_default_collate(item, count):
    assert same(to_torch(collate([item] * count)), default_collate([item] * count))


@settings(max_examples=40, deadline=None)
@given(item=tree)
def test_batches_survive_the_way_from_a_process(item):
    batch, blocks, here = collate([item] * 3), Blocks(2), _loader_fetch._Process
    here.fetch, here.most = lambda task: batch, 1
    answer = _loader_fetch.load(Task(0, 0, range(3)), None)
    assert same(blocks.unpack(answer, None), batch)
    offered = blocks.take()
    answer = _loader_fetch.load(Task(0, 0, range(3)), offered and offered.place())
    assert answer[2] is None
    assert same(blocks.unpack(answer, offered), batch) or offered is None
    here.fetch = None


def flat(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", ["float16", "bool", "complex64", "int64", "float8_e4m3fn"])
def test_tensors_of_every_type_are_packed(dtype):
    for tensor in (torch.ones(3, 4).to(getattr(torch, dtype)), torch.ones(()).to(torch.bool),
                   torch.ones(4, 3).t(), torch.ones(0, 2)):  # fmt: skip
        content, buffers = pack([tensor])
        back = pickle.loads(content, buffers=[bytearray(b) for b in buffers])[0]
        assert back.dtype == tensor.dtype
        assert torch.equal(flat(back), flat(tensor))


def test_items_without_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        collate([np.zeros(3), np.zeros(4)])
    with pytest.raises(ValueError, match="different shapes"):
        collate([torch.zeros(3), torch.zeros(4)])
    with pytest.raises(ValueError, match="2 to 3 parts"):
        collate([[1, 2], [1, 2, 3]])
    with pytest.raises(TypeError, match="type set"):
        collate([{1}])
    assert map_leaves((1, [2], {"a": 3}), str) == ("1", ["2"], {"a": "3"})


# The same for any workers.


def read(epochs=2, data=None, **options):
    with Loader(data or jobs.Numbers(37), 5, True, seed=3, output="numpy", **options) as loader:
        return [batch for _ in range(epochs) for batch in loader]


@pytest.fixture(scope="module")
def expected():
    return read()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_read_the_same(expected, workers):
    found = read(workers=workers)
    for batches in (found, expected):
        assert len(batches) == 16
    parts = [
        [{k: b[k] for k in ("i", "x", "own")} for b in batches] for batches in (found, expected)
    ]
    assert all_same(*parts)


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_read_the_same_and_global_numbers_too(expected, workers):
    assert all_same(read(workers=workers, kind="process", prefetch=3), expected)


def test_epochs_differ_and_numbers_do_not_repeat(expected):
    first, second = expected[:8], expected[8:]
    order = [np.concatenate([b["i"] for b in part]) for part in (first, second)]
    assert sorted(order[0]) == sorted(order[1]) == list(range(37))
    assert not np.array_equal(*order)
    own = np.concatenate([b["own"] for b in expected])
    assert len(set(own)) == 74
    assert abs(own.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 74)
    assert not all_same(read(epochs=1, data=jobs.Numbers(37))[:1], second[:1])


def test_numbers_seeded_by_worker_would_be_caught(monkeypatch):
    """A planted bug: the generator of an item that belongs to the worker."""
    monkeypatch.setattr(Fetcher, "__call__", lambda self, task: by_worker(self, task))

    def by_worker(self, task):
        _loader_fetch._here.key = (id(_loader_fetch._here.__dict__) % 1000, 0)
        return self._batch(task)

    found = read(workers=3)
    monkeypatch.undo()
    assert not all_same([b["own"] for b in found], [b["own"] for b in read()])


def test_the_callers_generators_are_left_alone():
    random.seed(5)
    torch.random.default_generator.manual_seed(5)
    kept = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    read(epochs=1)
    assert random.getstate() == kept[0]
    assert np.random.get_state()[1].tolist() == kept[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), kept[2])
    assert 0 <= item_rng().random() < 1


def test_whole_batches_are_taken_as_they_come():
    plain, whole = jobs.Numbers(23), jobs.Blocks(23)
    for workers in (0, 2):
        found = list(Loader(whole, 4, True, workers=workers))
        items = list(Loader(plain, 4, True, workers=workers))
        assert all(isinstance(b["x"], torch.Tensor) for b in found)
        assert all_same(found, [{"i": b["i"], "x": b["x"]} for b in items])


def test_a_batch_is_never_filled_twice():
    data = jobs.Numbers(60, width=500)
    with Loader(data, 4, workers=2, kind="process", output="torch") as loader:
        kept = []
        for _ in range(3):
            for batch in loader:
                kept.append(batch["x"][1:2] if len(kept) % 2 else batch["x"])
                del batch
        rows = [k % 15 * 4 + k % 2 for k in range(45)]
        assert [int(x[0, 0]) for x in kept] == rows
        assert all(x[0].eq(row).all() for x, row in zip(kept, rows, strict=True))
        for x in kept:
            x.zero_()
        kept.clear()
        del x
        gc.collect()
        assert len(loader._blocks._free) == loader._ahead + 2
        assert [int(b["x"][0, 0]) for b in loader] == list(range(0, 60, 4))


# Going on in the middle.


def tail(make, stop):
    """Batches after `stop`, in one go and from a state taken there."""
    whole = make()
    straight = [batch for _ in range(2) for batch in whole]
    first = make()
    stream = iter(first)
    for _ in range(stop):
        next(stream)
    state = pickle.loads(pickle.dumps(first.state_dict()))
    stream.close()
    second = make()
    second.load_state_dict(state)
    assert second.epoch == state["epoch"]
    after = [*second, *second]
    for loader in (whole, first, second):
        loader.close()
    return straight[stop:], after


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("stop", [0, 1, 3, 6])
def test_it_goes_on_exactly(workers, stop):
    straight, after = tail(
        lambda: Loader(jobs.Blocks(23), 4, True, workers=workers, seed=1), stop
    )  # fmt: skip
    assert all_same(after, straight)


def generated(draw, **options):
    def make():
        generator = torch.Generator().manual_seed(7)
        sampler = draw(generator)
        return Loader(jobs.Numbers(23), workers=2, **{**options, "sampler": sampler})

    return make


class Stateful:
    """A sampler that stores its own state."""

    def __init__(self, count):
        self.count, self.at, self.rng = count, 0, np.random.default_rng(4)

    def __len__(self):
        return self.count

    def __iter__(self):
        while self.at < self.count:
            self.at += 1
            yield int(self.rng.integers(self.count))
        self.at = 0

    def state_dict(self):
        return {"at": self.at, "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state):
        self.at, self.rng.bit_generator.state = state["at"], state["rng"]


@pytest.mark.parametrize("stop", [0, 2, 6])
@pytest.mark.parametrize("make", [
    generated(lambda g: RandomSampler(range(23), generator=g), batch_size=4),
    generated(lambda g: WeightedRandomSampler([0.5] * 23, 23, generator=g), batch_size=4),
    generated(lambda g: SequentialSampler(range(23)), batch_size=4),
    lambda: Loader(jobs.Numbers(23), 4, sampler=Stateful(23), workers=2),
    lambda: Loader(jobs.Numbers(23), batch_sampler=BatchSampler(
        RandomSampler(range(23), generator=torch.Generator().manual_seed(2)), 4, False
    )),
    lambda: Loader(jobs.Numbers(46), 4, sampler=DistributedSampler(range(46), 2, 1), workers=1),
])  # fmt: skip
def test_it_goes_on_with_samplers(make, stop):
    straight, after = tail(make, stop)
    assert all_same([b["i"] for b in after], [b["i"] for b in straight])
    assert all_same([b["own"] for b in after], [b["own"] for b in straight])


def test_samplers_that_cannot_be_had_again_say_so():
    loader = Loader(jobs.Numbers(5), 2, sampler=RandomSampler(range(5)))
    assert sorted(i for b in loader for i in b["i"].tolist()) == list(range(5))
    with pytest.raises(ValueError, match="give it a generator"):
        loader.state_dict()
    with pytest.raises(ValueError, match="seed 0"):
        Loader(jobs.Numbers(5), seed=1).load_state_dict(Loader(jobs.Numbers(5)).state_dict())


# Ranks, sizes, streams.


@pytest.mark.parametrize(("count", "world"), [(10, 3), (12, 3), (2, 4), (7, 1), (23, 2)])
@pytest.mark.parametrize("drop", [False, True])
def test_ranks_divide_as_torchs_distributed_sampler(count, world, drop):
    for rank in range(world):
        ours = Loader(jobs.Numbers(count), 2, drop_last=drop, rank=rank, world=world)
        theirs = DataLoader(range(count), 2, drop_last=drop, sampler=DistributedSampler(
            range(count), world, rank, shuffle=False, drop_last=drop
        ))  # fmt: skip
        assert [b["i"].tolist() for b in ours] == [b.tolist() for b in theirs]
        assert len(ours) == len(theirs)
    every = [i for rank in range(world)
             for b in Loader(jobs.Numbers(count), 2, True, rank=rank, world=world, pad=False)
             for i in b["i"].tolist()]  # fmt: skip
    assert sorted(every) == list(range(count))


def test_ranks_draw_the_numbers_of_one_process():
    def numbers(**options):
        return {i: x for b in Loader(jobs.Numbers(12), 2, True, output="numpy", **options)
                for i, x in zip(b["i"].tolist(), b["own"].tolist(), strict=True)}  # fmt: skip

    halves = [numbers(rank=rank, world=2) for rank in (0, 1)]
    assert halves[0] | halves[1] == numbers()


@pytest.mark.parametrize("size", [1, 4, 23, 24, 100])
@pytest.mark.parametrize("drop", [False, True])
def test_the_last_batch(size, drop):
    loader = Loader(jobs.Numbers(23), size, drop_last=drop)
    theirs = DataLoader(jobs.Numbers(23), size, drop_last=drop)
    assert [len(b["i"]) for b in loader] == [len(b["i"]) for b in theirs]
    assert len(loader) == len(theirs)


@pytest.mark.parametrize(("workers", "kind"), [(0, "thread"), (1, "thread"), (1, "process")])
def test_streams_come_once_and_go_on(workers, kind):
    def make(**options):
        return Loader(jobs.Stream(11), 3, workers=workers, kind=kind, **options)

    with make() as loader:
        first, second = list(loader), list(loader)
        assert [b[0].tolist() for b in first] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]
        assert not same(first[0][1], second[0][1])
        stream = iter(loader)
        next(stream)
        state = loader.state_dict()
    with make() as loader:
        loader.load_state_dict(state)
        rest = list(loader)
    with make() as loader:
        loader.set_epoch(2)
        assert all_same(rest, list(loader)[1:])
    halves = [[b[0].tolist() for b in make(rank=r, world=2, drop_last=True)] for r in (0, 1)]
    assert halves == [[[0, 2, 4], [6, 8, 10]], [[1, 3, 5]]]


def test_torchs_own_datasets_are_read():
    data = TensorDataset(torch.arange(10.0), torch.arange(10))
    for ours, theirs in zip(Loader(data, 3, workers=2), DataLoader(data, 3), strict=True):
        assert same(ours, theirs)
    taken = list(Loader(data, 4, collate_fn=lambda items: len(items), workers=1))
    assert taken == [4, 4, 2]
    assert len(list(Loader([], 4))) == 0


# What goes wrong.


@pytest.mark.parametrize(("workers", "kind"), [(0, "thread"), (2, "thread"), (2, "process")])
def test_an_error_names_batch_and_item(workers, kind):
    with Loader(jobs.Numbers(20, fail_at=9), 4, workers=workers, kind=kind) as loader:
        stream = iter(loader)
        assert len([next(stream), next(stream)]) == 2
        with pytest.raises(OSError, match="item 9 is unreadable") as caught:
            next(stream)
    assert caught.value.__notes__ == ["while a Loader read batch 2 of epoch 0, item 9"]
    if kind == "process":
        assert "pool_jobs.py" in str(caught.value.__cause__)


def test_a_worker_that_dies_is_told_and_the_loader_can_go_on():
    loader = Loader(jobs.Numbers(12, die_at=9), 4, workers=1, kind="process")
    stream = iter(loader)
    assert len([next(stream), next(stream)]) == 2
    state = loader.state_dict()
    with pytest.raises(WorkerDied, match="exit code 9"):
        next(stream)
    assert state["batch"] == 2
    loader.close()


def test_leaving_the_loop_leaves_nothing_under_way():
    loader = Loader(jobs.Numbers(400), 4, workers=2, prefetch=2)
    for _ in loader:
        break
    assert next(iter(loader))["i"].tolist() == [0, 1, 2, 3]
    loader.close()
    assert loader._pool is None


def test_a_slow_batch_runs_into_the_timeout():
    loader = Loader(jobs.SleepySet(), 2, workers=1, timeout=0.2)
    stream = iter(loader)
    assert len([next(stream), next(stream)]) == 2
    with pytest.raises(TimeoutError):
        next(stream)


def test_workers_are_started_with_the_users_function():
    seen = []
    list(Loader(jobs.Numbers(8), 2, workers=2, worker_init_fn=seen.append))
    assert sorted(seen) == [0, 1]


class TorchStream(IterableDataset):
    def __iter__(self):
        return iter(range(5))


@pytest.mark.parametrize(("options", "words"), [
    ({"workers": -1}, "workers=-1"),
    ({"workers": 1.5}, "workers=1.5"),
    ({"kind": "fibre"}, "kind='fibre'"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"prefetch": 0}, "prefetch=0"),
    ({"rank": 2, "world": 2}, "use 0 to 1"),
    ({"seed": -1}, "seed=-1"),
    ({"output": "jax"}, "output='jax'"),
    ({"sampler": range(3), "shuffle": True}, "sampler and shuffle: give one"),
    ({"sampler": range(3), "batch_sampler": [[1]]}, "sampler and batch_sampler"),
    ({"sampler": range(3), "world": 2}, "let the sampler divide"),
    ({"batch_sampler": [[1]], "batch_size": 4}, "leave batch_size"),
    ({"dataset": TorchStream(), "workers": 2}, "use workers=1"),
    ({"dataset": TorchStream(), "shuffle": True}, "has its own order"),
])  # fmt: skip
def test_wrong_arguments_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Loader(**{"dataset": jobs.Numbers(5), **options})


def test_other_wrong_uses_are_refused():
    with pytest.raises(TypeError, match="how many batches"):
        len(Loader(jobs.Stream(3)))
    with pytest.raises(ValueError, match="epoch=-1"):
        Loader(jobs.Numbers(3)).set_epoch(-1)
    if not torch.cuda.is_available():
        with pytest.warns(RuntimeWarning, match="no CUDA"):
            Loader(jobs.Numbers(3), pin_memory=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = Task(0, 0, range(1), [0])
        assert Fetcher(jobs.Numbers(3), None, tensors=False, seed=0, reseed=False,
                       drop_last=False)(task)["i"].tolist() == [0]  # fmt: skip
