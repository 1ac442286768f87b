r"""Rows shared among processes: what a booster must ask of the others, and the trivial answer.

Process r of R holds rows $o_r \dots o_{r+1} - 1$ of one long table. Whatever depends on all rows
is a sum of whole numbers or a maximum (`add`, `span`: exact in any order), or is computed by
process 0 on the rows in their order (`on_root`): R processes fit the model of one, bit for bit.

A kernel in the middle of a tree asks for its sums through the address of a C function
(`add_up`): the kernels are the same for one process and for many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from paragone.kernels.jit import njit

__all__ = ["ALONE", "LostWorkerError", "Share", "add_up", "add_up_one"]

T = TypeVar("T")


class Share:
    """The share of the only process; `_torch_share` has the one of many.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        address: Address of the C function that `add_up` calls; 0 for none.
    """

    rank: int = 0
    size: int = 1
    address: int = 0

    def span(self, number: int, tops: np.ndarray) -> tuple[int, int, np.ndarray]:
        """Returns the sum of `number` over the processes before, over all, and maxima of `tops`."""
        return 0, number, tops

    def add(self, whole: np.ndarray) -> np.ndarray:
        """Returns the sum of an int64 array over all processes."""
        return whole

    def total(self, rows: int) -> int:
        """Returns the number of rows of all processes, and remembers the offsets."""
        return rows

    def part(self, rows: np.ndarray) -> tuple[slice, int]:
        """Returns which of the increasing global row numbers are here, and the first row here."""
        return slice(None), 0

    def everything(self, array: np.ndarray) -> np.ndarray:
        """Returns the arrays of all processes, one after the other along the last axis."""
        return array

    def on_root(self, compute: Callable[..., T], *arrays: np.ndarray) -> T:
        """Returns compute(arrays of all processes, joined along the last axis), done by one."""
        return compute(*arrays)

    def by_owner(
        self, columns: list[np.ndarray], compute: Callable[[int, np.ndarray], T]
    ) -> list[T]:
        """Returns compute(i, whole column i) for each column, shared out among processes.

        Args:
            columns: This process's rows of each column, as many as `total` was told.
            compute: Gets a number and the rows of all processes in their order.
        """
        return [compute(i, column) for i, column in enumerate(columns)]

    def objects(self, value: Any) -> list[Any]:
        """Returns the small values of all processes, in their order."""
        return [value]

    def agree(self, what: str, action: Callable[[], T]) -> T:
        """Returns action(); if it fails in any process, all raise, naming the process."""
        return action()

    def close(self) -> None:
        """Lets go of the other processes."""

    def check(self) -> None:
        """Raises what went wrong in `add_up`, where nothing can be raised."""


class LostWorkerError(RuntimeError):
    """Another process ended, or did not answer in time.

    Attributes:
        model: The estimator as fitted by the rounds that all processes finished; None if the
            loss came before the first round.
        rounds: Number of those rounds.
        missing: Ranks that no longer answer, as far as they could be told.
    """

    model: Any = None
    rounds: int = 0

    def __init__(self, message: str, missing: list[int] | None = None) -> None:
        super().__init__(message)
        self.missing = missing or []


ALONE = Share()


@intrinsic
def _call_address(typing_context, address, array):
    """Calls `void (*)(int64 *data, int64 count)` at `address`."""

    def generate(context, builder, signature, arguments):
        view = context.make_array(signature.args[1])(context, builder, arguments[1])
        word, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, word])
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.call(function, [builder.bitcast(view.data, pointer), view.nitems])
        return context.get_dummy_value()

    return types.void(types.int64, array), generate


_call: Any = _call_address


@njit(nogil=True, error_model="numpy")
def add_up(address, whole):
    """Replaces contiguous int64 `whole` by its sum over all processes."""
    if address != 0:
        _call(np.int64(address), whole)


@njit(nogil=True, error_model="numpy")
def add_up_one(address, number):
    """Returns the sum of an int64 number over all processes."""
    whole = np.array([number], np.int64)
    add_up(address, whole)
    return whole[0]
