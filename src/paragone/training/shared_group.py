r"""A `torch.distributed` process group for the ranks of one host, through shared memory.

On one host gloo sends every value through the loopback network; a 1 KB all-reduce takes some 200
microseconds. Here ranks map one anonymous file: each writes into its lane, raises a counter that
the others watch, and reads the lanes of all. The sum is the same on every rank to the last bit, and
the same as that of a serial loop over the ranks,

$$ y_i = (\dots((x_{0,i} + x_{1,i}) + x_{2,i}) + \dots) + x_{p-1,i} , $$

whatever the sizes and whoever comes first. A tensor from `shared_empty`, or moved by `share`, lies
in memory that all ranks see: rank r then computes part r of the sum and writes it into all
tensors, and nothing is copied. Cost of n values: 2 n of memory traffic a rank in place, 4 n
through the lanes for two ranks; a few microseconds to meet. A rank that waits spins 20 times, then
gives its core away, then sleeps until it is woken, so that more ranks than cores cost no more than
their work.

`import paragone.training.shared_group` registers the back end "shared" for the CPU:

    dist.init_process_group("shared")            # under torchrun, as with gloo
    group = shared_group.new_group()             # beside a gloo group
    shared_group.share_gradients(ddp)            # gradients of DDP, summed where they lie

All waits end: after the group's timeout, within a fraction of a second if a rank has died, and at
once if ranks call different things. Nothing has a name in /dev/shm, so nothing can stay there.

References:
    Jin et al. (2013), "NUMA-aware shared-memory collective communication for MPI", HPDC: ranks that
    read each other's buffers in place of sending.
    Drepper (2011), "Futexes are tricky": waiting without burning a core.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from paragone.training import _shared_kernels as kernels
from paragone.training._shared_arenas import Arenas
from paragone.training._shared_collectives import Collectives, code_of, described
from paragone.training._shared_memory import SharedGroupError
from paragone.training._shared_station import MismatchError, Station
from paragone.training._shared_work import Done, Messages

__all__ = [
    "MismatchError", "SharedGroup", "SharedGroupError", "new_group", "share", "share_gradients",
    "shared_empty",
]  # fmt: skip

_ProcessGroup: Any = dist.ProcessGroup
_OPS: Any = dist.ReduceOp.RedOpType
_SUM, _AVG = _OPS.SUM, _OPS.AVG
_SMALL = 1 << 15
"""Bytes up to which a copy into the lane costs less than a second meeting."""


def _listed(tensors: torch.Tensor | Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    return [tensors] if isinstance(tensors, torch.Tensor) else tensors


def _single(tensors: torch.Tensor | Sequence[torch.Tensor], call: str) -> torch.Tensor:
    listed = _listed(tensors)
    if len(listed) != 1:
        raise ValueError(f"{call} takes one tensor a rank, not {len(listed)}")
    return listed[0]


def _operation(options: Any) -> Any:
    op = getattr(options, "reduceOp", options)
    return getattr(op, "op", op)


def _checked(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        raise ValueError(
            f"a {tensor.layout} tensor on {tensor.device} cannot pass through the shared group: "
            "give a dense tensor on the CPU, or use another back end"
        )
    return tensor.detach()


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """The values in a row: a view if they lie so."""
    tensor = _checked(tensor)
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    return tensor.reshape(-1)


class _Outputs:
    """Flat tensors to be written, brought back into tensors that do not lie in a row."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        self.tensors = tensors
        self.flat = [_flat(tensor) for tensor in tensors]

    def close(self) -> None:
        for tensor, flat in zip(self.tensors, self.flat, strict=True):
            if tensor.numel() and tensor.data_ptr() != flat.data_ptr():
                tensor.detach().copy_(flat.view(tensor.shape))


class SharedGroup(_ProcessGroup):
    """The group; made by `init_process_group("shared")`, `dist.new_group` or `new_group`.

    Prefer it to gloo whenever all ranks run on one host and tensors are on the CPU; gloo is for
    ranks on several hosts, which this group refuses. It has the calls of every process group
    (with lists of one tensor, as `torch.distributed` makes them); collectives are done when they
    return, messages go on while their rank waits for anything.

    Args:
        store: A store that all ranks share.
        rank: Number of this rank in the group.
        size: Number of ranks.
        timeout: How long any wait may last.
        name: For messages.

    Raises:
        SharedGroupError: If ranks cannot share memory, or do not come in time.
    """

    def __init__(
        self, store: Any, rank: int, size: int, timeout: timedelta, name: str = ""
    ) -> None:
        super().__init__(rank, size)
        self._name, self._description = name or "shared", ""
        self._station = Station(store, rank, size, timeout.total_seconds(), self._name, described)
        self._messages = Messages(self._station)
        self._collectives = Collectives(self._station)
        self._arenas = Arenas(self._station, self._collectives)
        self._me, self._world = rank, size
        lanes = self._station.lanes
        self._typed = {
            torch.float32: (lanes.view(np.float32), np.zeros(kernels.BLOCK, np.float32)),
            torch.float64: (lanes.view(np.float64), np.zeros(kernels.BLOCK)),
        }
        self._codes = {
            (dtype, op): (code_of("all_reduce", dtype, int(op)), mean)
            for dtype in self._typed
            for op, mean in ((_SUM, 0), (_AVG, size))
        }

    def getBackendName(self) -> str:  # noqa: N802
        return "shared"

    name = getBackendName

    def rank(self) -> int:
        return self._me

    def size(self) -> int:
        return self._world

    def getRank(self) -> int:  # noqa: N802
        return self._me

    def getSize(self) -> int:  # noqa: N802
        return self._world

    @property
    def pg_name(self) -> str:
        return self._name

    @property
    def group_name(self) -> str:
        return self._name

    @property
    def group_desc(self) -> str:
        return self._description

    def getGroupName(self) -> str:  # noqa: N802
        return self._name

    def getGroupDesc(self) -> str:  # noqa: N802
        return self._description

    def setGroupName(self, name: str) -> None:  # noqa: N802
        self._name = self._station.name = name

    def setGroupDesc(self, description: str) -> None:  # noqa: N802
        self._description = description

    _set_group_name, _set_group_desc = setGroupName, setGroupDesc

    def all_reduce(self, tensor: torch.Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        """Reduces a tensor over all ranks, in place; the direct call, without torch's checks.

        Args:
            tensor: Of the same size and type on all ranks, on the CPU, in any layout.
            op: SUM, AVG, PRODUCT, MIN, MAX, BAND, BOR, BXOR of `dist.ReduceOp`.

        Raises:
            MismatchError: On all ranks, if one calls something else.
            SharedGroupError: If a rank has died, has left or did not come in time.
        """
        op = _operation(op)
        quick = self._codes.get((tensor.dtype, op))
        if quick is None or not tensor.is_contiguous() or tensor.is_neg() or not tensor.is_cpu:
            outputs = _Outputs(tensor)
            self._station.whole(self._collectives.all_reduce, outputs.flat[0], op)
            outputs.close()
            return
        self._station.whole(self._quick, tensor, *quick)

    def _quick(self, tensor: torch.Tensor, code: int, mean: int) -> None:
        lanes, scratch = self._typed[tensor.dtype]
        address, number, arena, offset = tensor.data_ptr(), tensor.numel(), -1, 0
        size = number * scratch.itemsize
        if size > _SMALL:
            arena, offset = self._arenas.find(address, size)
        self._station.run(
            kernels.all_reduce, lanes, self._arenas.bases, scratch, address, number, code, arena,
            offset, mean,
        )  # fmt: skip

    def allreduce(self, tensors: Any, opts: Any = dist.ReduceOp.SUM, timeout: Any = None) -> Done:
        tensor = tensors if isinstance(tensors, torch.Tensor) else _single(tensors, "allreduce")
        self.all_reduce(tensor, opts)
        return Done([tensor])

    def allreduce_coalesced(self, tensors: Any, opts: Any = dist.ReduceOp.SUM) -> Done:
        for tensor in tensors:
            self.all_reduce(tensor, opts)
        return Done(list(tensors))

    def _written(self, results: Any, outputs: Sequence[torch.Tensor], call: Any) -> Done:
        flat = _Outputs(*outputs)
        self._station.whole(call, flat.flat)
        flat.close()
        return Done(results)

    def broadcast(self, tensors: Any, opts: Any = None, timeout: Any = None) -> Done:
        tensor, root = _single(tensors, "broadcast"), getattr(opts, "rootRank", opts) or 0
        return self._written(
            [tensor], [tensor], lambda flat: self._collectives.broadcast(flat[0], root)
        )

    def reduce(self, tensors: Any, opts: Any, op: Any = None, timeout: Any = None) -> Done:
        tensor, root = _single(tensors, "reduce"), getattr(opts, "rootRank", opts)
        op = _operation(opts if op is None else op)
        return self._written(
            [tensor], [tensor], lambda flat: self._collectives.reduce(flat[0], root, op)
        )

    def allgather(self, outputs: Any, inputs: Any, opts: Any = None) -> Done:
        tensor = _single(inputs, "allgather")
        targets = outputs if isinstance(inputs, torch.Tensor) else outputs[0]
        self._need(targets, tensor.numel(), tensor.dtype, "allgather")
        own = _flat(tensor)
        return self._written(outputs, targets, lambda flat: self._collectives.all_gather(flat, own))

    def all_gather_single(self, output: Any, input: Any, opts: Any = None) -> Done:
        self._need([output], self._world * input.numel(), input.dtype, "all_gather_single", 1)
        own = _flat(input)
        return self._written(
            [output],
            [output],
            lambda flat: self._collectives.all_gather(flat[0].view(self._world, -1), own),
        )

    def all_gather_single_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> Done:
        for output, tensor in zip(outputs, inputs, strict=True):
            self.all_gather_single(output, tensor)
        return Done(list(outputs))

    def allgather_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> Done:
        for k, tensor in enumerate(inputs):
            self.allgather([[row[k] for row in outputs]], [tensor])
        return Done(outputs)

    _allgather_base, allgather_into_tensor_coalesced = (
        all_gather_single, all_gather_single_coalesced,
    )  # fmt: skip

    def reduce_scatter(
        self, outputs: Any, inputs: Any, opts: Any = dist.ReduceOp.SUM, timeout: Any = None
    ) -> Done:
        output, op = _single(outputs, "reduce_scatter"), _operation(opts)
        parts = inputs if isinstance(outputs, torch.Tensor) else inputs[0]
        self._need(parts, output.numel(), output.dtype, "reduce_scatter")
        own = [_flat(part) for part in parts]
        return self._written(
            [output], [output], lambda flat: self._collectives.reduce_scatter(flat[0], own, op)
        )

    def reduce_scatter_single(self, output: Any, input: Any, opts: Any = None) -> Done:
        self._need([input], self._world * output.numel(), output.dtype, "reduce_scatter_single", 1)
        op = _operation(dist.ReduceOp.SUM if opts is None else opts)
        own = _flat(input).view(self._world, -1)
        return self._written(
            [output],
            [output],
            lambda flat: self._collectives.reduce_scatter(flat[0], [*own], op),
        )

    def reduce_scatter_single_coalesced(self, outputs: Any, inputs: Any, opts: Any = None) -> Done:
        for output, tensor in zip(outputs, inputs, strict=True):
            self.reduce_scatter_single(output, tensor, opts)
        return Done(list(outputs))

    _reduce_scatter_base, reduce_scatter_tensor_coalesced = (
        reduce_scatter_single, reduce_scatter_single_coalesced,
    )  # fmt: skip

    def gather(self, outputs: Any, inputs: Any, opts: Any = None, timeout: Any = None) -> Done:
        tensor, root = _single(inputs, "gather"), getattr(opts, "rootRank", opts) or 0
        targets: Sequence[torch.Tensor] = ()
        if self._me == root:
            targets = outputs if isinstance(inputs, torch.Tensor) else outputs[0]
            self._need(targets, tensor.numel(), tensor.dtype, "gather")
        own = _flat(tensor)
        return self._written(
            outputs, targets, lambda flat: self._collectives.gather(flat, own, root)
        )

    def scatter(self, outputs: Any, inputs: Any, opts: Any = None, timeout: Any = None) -> Done:
        output, root = _single(outputs, "scatter"), getattr(opts, "rootRank", opts) or 0
        own = None
        if self._me == root:
            parts = inputs if isinstance(outputs, torch.Tensor) else inputs[0]
            self._need(parts, output.numel(), output.dtype, "scatter")
            own = [_flat(part) for part in parts]
        return self._written(
            [output], [output], lambda flat: self._collectives.scatter(flat[0], own, root)
        )

    def alltoall(self, outputs: Any, inputs: Any, opts: Any = None) -> Done:
        for tensors in (outputs, inputs):
            self._need(tensors, None, inputs[0].dtype, "alltoall")
        own = [_flat(tensor) for tensor in inputs]
        return self._written(outputs, outputs, lambda flat: self._collectives.all_to_all(flat, own))

    def all_to_all_single(
        self, output: Any, input: Any, output_split_sizes: Any = None,
        input_split_sizes: Any = None, opts: Any = None,
    ) -> Done:  # fmt: skip
        self._need([output], None, input.dtype, "all_to_all_single", 1)
        flat = _Outputs(output)
        target, own = flat.flat[0].view(output.shape), _flat(input).view(input.shape)
        targets, parts = (
            [part.reshape(-1) for part in self._split(tensor, sizes)]
            for tensor, sizes in ((target, output_split_sizes), (own, input_split_sizes))
        )
        self._station.whole(self._collectives.all_to_all, targets, parts)
        flat.close()
        return Done([output])

    alltoall_base = all_to_all_single

    def _split(self, tensor: torch.Tensor, sizes: Sequence[int] | None) -> Sequence[torch.Tensor]:
        rows = tensor.shape[0] if tensor.dim() else 0
        if not sizes:
            if rows % self._world:
                raise ValueError(
                    f"{rows} rows cannot be split evenly over {self._world} ranks: give split sizes"
                )
            sizes = [rows // self._world] * self._world
        if len(sizes) != self._world or sum(sizes) != rows:
            raise ValueError(
                f"split sizes {list(sizes)} must be {self._world} numbers that add up to {rows}"
            )
        return tensor.split(list(sizes))

    def _need(
        self, tensors: Sequence[torch.Tensor], number: int | None, dtype: torch.dtype, call: str,
        count: int | None = None,
    ) -> None:  # fmt: skip
        count = self._world if count is None else count
        if len(tensors) != count:
            raise ValueError(f"{call} needs {count} tensors, not {len(tensors)}")
        for tensor in tensors:
            if tensor.dtype != dtype or number not in (None, tensor.numel()):
                raise ValueError(
                    f"{call}: a tensor has {tensor.numel()} values of {tensor.dtype}, but "
                    f"{'any number' if number is None else number} of {dtype} are needed"
                )

    def barrier(self, opts: Any = None, timeout: Any = None) -> Done:
        limit = getattr(opts, "timeout", None) if timeout is None else timeout
        # torch's "not set" is less than nothing.
        seconds = limit.total_seconds() if limit is not None and limit > timedelta(0) else None
        self._station.whole(self._station.meet, code_of("barrier", torch.uint8), 0, seconds)
        return Done([])

    def send(self, tensors: Any, dstRank: int, tag: int = 0) -> Any:
        return self._messages.send(_checked(_single(tensors, "send")), dstRank, tag)

    def recv(self, tensors: Any, srcRank: int, tag: int = 0) -> Any:
        return self._messages.receive(_checked(_single(tensors, "recv")), srcRank, tag)

    def recv_anysource(self, tensors: Any, tag: int = 0) -> Any:
        return self._messages.receive(_checked(_single(tensors, "recv")), None, tag)

    def set_timeout(self, timeout: timedelta) -> None:
        """Sets how long any wait may last from now on."""
        self._station.timeout = timeout.total_seconds()

    def shutdown(self) -> None:
        """Sends what is still to be sent and leaves; ranks that wait for this one get an error."""
        if not self._station.left:
            self._messages.flush(min(5.0, self._station.timeout))
            self._station.leave()

    def abort(self) -> None:
        """Leaves at once."""
        if not self._station.left:
            self._station.leave()


def _create(options: Any, _: Any = None) -> SharedGroup:
    return SharedGroup(
        options.store, options.group_rank, options.group_size, options.timeout, options.group_id
    )


if "SHARED" not in dist.Backend._plugins:
    dist.Backend.register_backend("shared", _create, extended_api=True, devices=["cpu"])


def new_group(
    ranks: Sequence[int] | None = None, timeout: timedelta | None = None
) -> SharedGroup | None:
    """Returns a shared group beside the default group, whatever back end that has.

    All ranks of the default group must call it, as with `dist.new_group`.

    Args:
        ranks: Numbers of the ranks that it consists of, on one host; None for all.
        timeout: How long any wait may last; None for that of the default group (30 minutes).

    Returns:
        The group, or None on a rank that is not in it.

    Raises:
        SharedGroupError: If ranks run on different hosts, in different containers or as
            different users, or do not come in time.

    Example:
        >>> SharedGroup.__mro__[1].__name__
        'ProcessGroup'
    """
    found = dist.new_group(
        None if ranks is None else list(ranks), timeout=timeout, backend="shared"
    )
    return found if isinstance(found, SharedGroup) else None


def _shared(group: Any) -> SharedGroup:
    found = dist.group.WORLD if group is None else group
    if not isinstance(found, SharedGroup):
        raise ValueError(
            f"group={found!r} is no shared group: make one with shared_group.new_group(), or call "
            "init_process_group('shared')"
        )
    return found


def shared_empty(
    shape: Sequence[int] | int,
    dtype: torch.dtype = torch.float32,
    group: dist.ProcessGroup | None = None,
) -> torch.Tensor:
    """Returns a tensor in memory that all ranks see, for all-reduce without copies.

    All ranks of the group must call it, in the same order and with the same arguments. The memory
    is free again when the tensors of all ranks are.

    Args:
        shape: Shape of the tensor.
        dtype: Of its elements. float32 and float64 sums run in place; others pass the lanes.
        group: A shared group; None for the default group.

    Raises:
        ValueError: If the group is no shared group.
        MismatchError: If ranks ask for different sizes.
    """
    size = torch.empty(shape, dtype=dtype, device="meta")
    found = _shared(group)
    memory = found._station.whole(found._arenas.make, size.numel() * size.element_size())
    return memory.view(dtype).view(size.shape)


def share(tensor: torch.Tensor, group: dist.ProcessGroup | None = None) -> torch.Tensor:
    """Moves a tensor's storage into memory that all ranks see; all its views move along.

    For tensors that someone else has made, such as flat gradient buffers; else see `shared_empty`.
    All ranks of the group must call it, in the same order and for storages of the same size. NumPy
    arrays that showed the same memory before do so no longer.

    Args:
        tensor: A dense tensor on the CPU.
        group: A shared group; None for the default group.

    Returns:
        The same tensor.
    """
    _checked(tensor)
    found = _shared(group)
    storage = tensor.untyped_storage()
    if found._arenas.find(tensor.data_ptr(), tensor.numel() * tensor.element_size())[0] < 0:
        found._station.whole(found._arenas.move, storage)
    return tensor


def share_gradients(
    model: torch.nn.parallel.DistributedDataParallel, group: dist.ProcessGroup | None = None
) -> None:
    """Lets DDP average its gradients in shared memory, by a communication hook.

    The hook moves the buckets of the model, once, into memory that all ranks see. With
    `DistributedDataParallel(..., gradient_as_bucket_view=True)` gradients are written there in
    the first place, and nothing is copied any more. The mean is the sum in the order of the ranks,
    divided by their number; DDP's own divides first, which differs in the last bit unless that
    number is a power of 2.

    Args:
        model: Whose gradients are averaged; any back end.
        group: A shared group of the same ranks; None for that of the model.
    """
    found = _shared(model.process_group if group is None else group)

    def averaged(state, bucket):
        buffer = share(bucket.buffer(), state)
        state.all_reduce(buffer, _AVG)
        future = torch.futures.Future()
        future.set_result(buffer)
        return future

    model.register_comm_hook(found, averaged)
