r"""A data loader: batches of a dataset, read ahead by threads or processes, the same with any.

A batch costs the reading of its items and the way from worker to consumer: a process copies every
byte, a thread hands over a pointer. Where items release Python's lock (decoders, NumPy, Numba
kernels) or wait (files, network), threads read as fast as processes do:

$$ t_{\text{batch}} = \max\Bigl( t_{\text{step}}, \; \frac{t_{\text{read}}}{n} \Bigr)
   + t_{\text{hand-over}} . $$

What a batch holds depends on the seed, the epoch and its number alone: order and random numbers
are those of one worker, however many there are and of whichever kind. So a run goes on in the
middle of an epoch from three numbers, batches under way included: they are read again.

Cost: one task of a pool a batch; memory of `workers * prefetch` batches.

References:
    Paszke et al. (2019), "PyTorch: an imperative style, high-performance deep learning library",
    arXiv:1912.01703, section 4.2 (data loading).
    Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3", for the items' streams.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future
from typing import Any

from paragone.runtime._loader_collate import map_leaves, to_torch
from paragone.runtime._loader_fetch import Blocks, End, Fetcher, Task, enter, item_rng, load
from paragone.runtime._loader_order import Order, SamplerOrder, StreamOrder
from paragone.runtime._pool_base import Pool, checked_count
from paragone.runtime.pools import ProcessPool, ThreadPool

__all__ = ["Loader", "item_rng"]

_VERSION = 1


class Loader:
    """Batches of a dataset, in an order that no worker changes.

    Prefer it to `torch.utils.data.DataLoader` where loading costs: it takes the same datasets,
    samplers and collate functions, its threads share the dataset and Python's memory, and it goes
    on in the middle of an epoch. Prefer DataLoader for iterable datasets that shard themselves
    over several workers.

    A dataset has `__len__` and `__getitem__`. With `__getitems__(indices)` it is asked for a whole
    batch at once: a list it returns is collated, anything else (arrays, a tuple, a mapping) is
    the batch. An iterable dataset is read by at most one worker.

    Random numbers of an item come from `item_rng()`. The global generators of Python, NumPy and
    torch are seeded for each batch too (with processes and without workers, where they are put
    back after it); threads share them, so with threads only `item_rng` repeats.

    Args:
        dataset: What is read. Worker processes get a pickled copy each: keep large arrays in a
            `SharedArray`.
        batch_size: Items of a batch; the last may have fewer.
        shuffle: Whether each epoch has its own random order.
        sampler: Iterable of indices in place of an order of our own.
        batch_sampler: Iterable of lists of indices, in place of `batch_size` too.
        workers: Workers that read ahead; 0: read when asked.
        kind: "thread" or "process".
        collate_fn: From a list of items to a batch; None: by the rules of torch's default.
        drop_last: Whether a last batch that is short is left out.
        seed: Seed of orders and items.
        prefetch: Batches that each worker reads ahead at most.
        rank: Number of this process among those that share the dataset.
        world: Number of those processes.
        pad: Whether ranks get equally many items, by repeating the first ones (or by leaving out
            the last ones with `drop_last`), as training needs; False for evaluation.
        output: "torch", "numpy", or "auto": tensors if torch is loaded.
        pin_memory: Whether tensors come in page-locked memory, where there is a CUDA device.
        worker_init_fn: Called as `f(worker)` at the start of each worker.
        timeout: Seconds to wait for a batch; None: no limit.
        start: How processes start; see `ProcessPool`.

    Raises:
        ValueError: Arguments that are out of range or exclude each other, or an iterable dataset
            with several workers, which would all read the same.

    Example:
        >>> list(Loader([1.0, 2.0, 3.0], batch_size=2, output="numpy"))
        [array([1., 2.]), array([3.])]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        sampler: Any = None,
        batch_sampler: Any = None,
        workers: int = 0,
        kind: str = "thread",
        collate_fn: Callable[[list], Any] | None = None,
        drop_last: bool = False,
        seed: int = 0,
        prefetch: int = 2,
        rank: int = 0,
        world: int = 1,
        pad: bool = True,
        output: str = "auto",
        pin_memory: bool = False,
        worker_init_fn: Callable[[int], Any] | None = None,
        timeout: float | None = None,
        start: str = "forkserver",
    ) -> None:
        self.dataset, self.workers, self.kind = dataset, int(workers), kind
        self.seed, self.timeout = int(seed), timeout
        self._start, self._init = start, worker_init_fn
        checked_count(prefetch, "prefetch")
        if self.workers != workers or workers < 0:
            raise ValueError(f"workers={workers!r} is no number of workers: use 0 and above")
        if kind not in ("thread", "process"):
            raise ValueError(f"kind={kind!r} is none of 'thread', 'process'")
        if not 0 <= rank < checked_count(world, "world"):
            raise ValueError(f"rank={rank} of world={world}: use 0 to {world - 1}")
        if self.seed < 0:
            raise ValueError(f"seed={seed} is negative: use 0 and above")
        self._ahead = self.workers * prefetch
        self._order = self._ordered(
            batch_size, shuffle, sampler, batch_sampler, drop_last, rank, world, pad
        )
        self._tensors = _wants_tensors(output)
        self._convert = self._tensors and kind == "process" and collate_fn is None
        self._pin = pin_memory and self._can_pin()
        threads = kind == "thread" and workers > 0
        self._fetch = Fetcher(
            dataset, collate_fn, tensors=self._tensors and not self._convert, seed=self.seed,
            reseed=not threads, drop_last=drop_last,
        )  # fmt: skip
        self._pool: Pool | None = None
        self._blocks = Blocks(self._ahead + 2)
        self._runs = itertools.count()
        self._next, self._resume, self._progress, self._fresh = 0, 0, (0, 0), True

    def _ordered(
        self, batch_size: int, shuffle: bool, sampler: Any, batch_sampler: Any, drop_last: bool,
        rank: int, world: int, pad: bool,
    ) -> Order | SamplerOrder | StreamOrder:  # fmt: skip
        size = checked_count(batch_size, "batch_size")
        both = {"sampler": sampler, "batch_sampler": batch_sampler}
        given = [name for name, value in both.items() if value is not None]
        if len(given) > 1 or (given and shuffle):
            raise ValueError(f"{' and '.join([*given, *['shuffle'] * shuffle])}: give one of them")
        if given and world > 1:
            raise ValueError(f"{given[0]} with world={world}: let the sampler divide the items, or "
                             "leave it out")  # fmt: skip
        if _is_iterable(self.dataset):
            self._check_stream(given, shuffle)
            return StreamOrder(size, rank, world)
        if batch_sampler is not None:
            if size != 1 or drop_last:
                raise ValueError("batch_sampler makes the batches: leave batch_size and drop_last")
            return SamplerOrder(batch_sampler, None, False)
        if sampler is not None:
            return SamplerOrder(sampler, size, drop_last)
        count = len(self.dataset)
        return Order(count, size, shuffle=shuffle, drop_last=drop_last, seed=self.seed, rank=rank,
                     world=world, pad=pad)  # fmt: skip

    def _check_stream(self, given: list[str], shuffle: bool) -> None:
        if given or shuffle:
            name = (given or ["shuffle"])[0]
            raise ValueError(f"{name}: an iterable dataset has its own order; leave it out")
        if self.workers > 1:
            raise ValueError(
                f"workers={self.workers}: each worker would read the whole iterable dataset and "
                "every item would come as often; use workers=1, or a dataset with __getitem__"
            )

    def _can_pin(self) -> bool:
        torch = sys.modules.get("torch")
        if torch is not None and self._tensors and torch.cuda.is_available():
            return True
        warnings.warn(
            "pin_memory=True has no effect: there is no CUDA device or no torch here",
            RuntimeWarning, stacklevel=3,
        )  # fmt: skip
        return False

    def __len__(self) -> int:
        """Batches of an epoch."""
        if isinstance(self._order, StreamOrder):
            raise TypeError("an iterable dataset does not tell how many batches it has")
        return len(self._order)

    @property
    def epoch(self) -> int:
        """The epoch that is being read, or was last."""
        return self._progress[0]

    def set_epoch(self, epoch: int) -> None:
        """The next iteration reads this epoch, from its beginning."""
        if epoch != int(epoch) or epoch < 0:
            raise ValueError(f"epoch={epoch!r}: use whole numbers from 0")
        self._next, self._resume, self._progress = int(epoch), 0, (int(epoch), 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the consumer is: batches that it got count, those read ahead do not.

        Raises:
            ValueError: A sampler whose order cannot be had again.
        """
        epoch, done = self._progress
        return {
            "version": _VERSION, "seed": self.seed, "epoch": epoch, "batch": done,
            "order": self._order.state(ended=self._fresh),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration goes on where `state_dict` was taken, exactly.

        Raises:
            ValueError: A state of another seed or of another version.
        """
        if state.get("version") != _VERSION or state.get("seed") != self.seed:
            raise ValueError(
                f"this state is of version {state.get('version')} and seed {state.get('seed')}, "
                f"the loader of {_VERSION} and {self.seed}; make the loader with the same seed"
            )
        self._next, self._resume = int(state["epoch"]), int(state["batch"])
        self._progress = self._next, self._resume
        self._order.load(state["order"])

    def __iter__(self) -> Iterator[Any]:
        epoch, skip = self._next, self._resume
        self._next, self._resume, self._progress = epoch + 1, 0, (epoch, skip)
        tasks = self._tasks(epoch, skip)
        return self._deliver(self._read(tasks), epoch, skip)

    def _tasks(self, epoch: int, skip: int) -> Iterator[Task]:
        run = next(self._runs) if isinstance(self._order, StreamOrder) else None
        self._fresh = False
        for number, (places, indices) in enumerate(self._order.batches(epoch, skip), skip):
            yield Task(number, epoch, places, indices, run)

    def _deliver(self, batches: Iterator[Any], epoch: int, skip: int) -> Iterator[Any]:
        for done, batch in enumerate(batches, skip + 1):
            if batch is End:
                break
            if self._convert:
                batch = to_torch(batch)
            if self._pin:
                batch = map_leaves(batch, _pinned)
            self._progress = epoch, done
            self._order.delivered(done)
            yield batch
        self._progress, self._fresh = (epoch + 1, 0), True

    def _read(self, tasks: Iterator[Task]) -> Iterator[Any]:
        if not self.workers:
            return map(self._fetch, tasks)
        return self._through_threads(tasks) if self.kind == "thread" else self._through(tasks)

    def _through_threads(self, tasks: Iterator[Task]) -> Iterator[Any]:
        pool = self._ready()
        return pool.imap(self._fetch, tasks, prefetch=self._ahead, timeout=self.timeout)

    def _through(self, tasks: Iterator[Task]) -> Iterator[Any]:
        """Through processes: each task takes a free block along, if there is one."""
        pool, blocks = self._ready(), self._blocks
        pending: deque[tuple[Future, Any]] = deque()

        def start(count: int) -> None:
            for task in itertools.islice(tasks, count):
                block = blocks.take()
                place = None if block is None else block.place()
                pending.append((pool.submit(load, task, place), block))

        try:
            start(self._ahead)
            while pending:
                answer = pending[0][0].result(self.timeout)
                block = pending.popleft()[1]
                start(1)
                yield blocks.unpack(answer, block)
        except BrokenExecutor:
            self.close()
            raise
        finally:
            for future, block in pending:
                future.cancel()
                future.add_done_callback(lambda _, block=block: blocks.give(block))

    def _ready(self) -> Pool:
        """The pool, which lives from the first iteration to `close`."""
        if self._pool is None:
            if self.kind == "thread":
                start = (None, self._init, self.seed, 0)
                self._pool = ThreadPool(self.workers, initializer=enter, initargs=start)
            else:
                start = (self._fetch, self._init, self.seed, self._ahead + 4)
                self._pool = ProcessPool(
                    self.workers, start=self._start, initializer=enter, initargs=start
                )
        return self._pool

    def close(self) -> None:
        """Ends the workers; another iteration starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _is_iterable(dataset: Any) -> bool:
    named = any(kind.__name__ == "IterableDataset" for kind in type(dataset).__mro__)
    return named or not hasattr(dataset, "__getitem__")


def _wants_tensors(output: str) -> bool:
    if output not in ("auto", "torch", "numpy"):
        raise ValueError(f"output={output!r} is none of 'auto', 'torch', 'numpy'")
    if output == "torch":
        import torch  # noqa: F401
    return output != "numpy" and "torch" in sys.modules


def _pinned(leaf: Any) -> Any:
    return leaf.pin_memory() if hasattr(leaf, "pin_memory") else leaf
