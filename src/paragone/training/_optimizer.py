"""What optimizers with a kernel of their own share: the step around the update.

A step asks the closure, looks whether a `GradScaler` found an infinity, takes the gradients,
measures and clips their norm over all groups, and then updates: parameter by parameter by the
method's definition (`_plain`), or all of them in one call of its kernel over a `Table`
(`_fast`). The first is bit-equal to PyTorch's for-loop and runs anywhere; the second needs
32- or 16-bit floats on a CPU.

A method gives the names of its state (`_slots`), makes it (`_new_state`), and has both updates.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from paragone.training._pages import on_large_pages
from paragone.training._step_kernels import squares
from paragone.training._table import KINDS, Row, Table, local, refuse_sparse, same, spread

__all__ = ["FastOptimizer"]

_gradient = operator.attrgetter("grad")
_OWN = ("exact", "max_norm", "copy_to", "stepped", "grad_norm")


class FastOptimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` whose step is one pass over all parameters.

    Attributes:
        exact: Whether the definition is used for all parameters.
        max_norm: Clip the norm of all gradients to this (inf: only measure it); a norm that is
            not finite skips the step. None: neither.
        copy_to: For each parameter in order a tensor that receives its new value in its own
            type; its gradient is used where the parameter has none.
        stepped: Whether the last call of `step` updated anything; False where it was skipped.
        grad_norm: Norm of the unscaled gradients at the last step, with `max_norm`.
    """

    _step_supports_amp_scaling = True
    _columns = 0
    """Columns of the kernel's table that hold states."""

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        *,
        exact: bool = False,
        max_norm: float | None = None,
        copy_to: Iterable[torch.Tensor] | None = None,
    ) -> None:
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm={max_norm} must be above 0; None leaves gradients alone")
        self.exact, self.max_norm = bool(exact), max_norm
        self.copy_to: list[torch.Tensor] = []
        self.stepped, self.grad_norm = False, None
        self._forget()
        super().__init__(params, defaults)
        if copy_to is not None:
            self.copy_to = list(copy_to)
            self._check_copies()

    def _check_copies(self) -> None:
        params = [p for group in self.param_groups for p in group["params"]]
        if len(params) != len(self.copy_to):
            raise ValueError(
                f"copy_to has {len(self.copy_to)} tensors for {len(params)} parameters; "
                "give one for each, in their order"
            )
        for p, copy in zip(params, self.copy_to, strict=True):
            if p.shape != copy.shape or p.device != copy.device or copy.dtype not in KINDS:
                raise ValueError(
                    f"copy_to holds {tuple(copy.shape)} {copy.dtype} on {copy.device} for a "
                    f"parameter {tuple(p.shape)} on {p.device}; it must have the same shape and "
                    "place, in float32, bfloat16 or float16"
                )
            if not copy.is_contiguous() or not p.is_contiguous():
                raise ValueError("copy_to needs contiguous tensors: call .contiguous() on them")

    def _slots(self, p: torch.Tensor, state: dict[str, Any]) -> Sequence[str | None]:
        """Keys of the state in the order of the kernel's columns."""
        raise NotImplementedError

    def _new_state(self, p: torch.Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """State of a parameter before its first step."""
        raise NotImplementedError

    def _settle(self, p: torch.Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        """Brings a state from elsewhere into the form that the kernel reads."""

    def _plain(
        self, group: dict[str, Any], p: torch.Tensor, grad: torch.Tensor, state: dict[str, Any]
    ) -> None:
        """The definition of the update, for one parameter."""
        raise NotImplementedError

    def _fast(self, table: Table, factor: float) -> None:
        """The update of all rows at once; gradients are multiplied by `factor`."""
        raise NotImplementedError

    def _fast_device(
        self, group: dict[str, Any], rows: Sequence[tuple[Row, torch.Tensor]], factor: float
    ) -> None:
        """The update of parameters on a GPU, of one group."""
        raise ValueError(
            f"{type(self).__name__} has no fast step for {rows[0][0].param.device}; "
            "exact=True runs anywhere"
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the parameters that have a gradient, unless a norm or a scaler forbids it.

        Args:
            closure: Computes the loss and its gradients anew; optional.

        Returns:
            What the closure returned, or None. `stepped` says whether an update took place.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.stepped, self.grad_norm = False, None
        found = getattr(self, "found_inf", None)
        if found is not None and float(found) != 0.0:
            return loss
        scale = getattr(self, "grad_scale", None)
        factor = 1.0 if scale is None else float(np.float32(1.0 / float(scale)))
        self._refresh()
        grads = self._gradients(self._table.rows, self._table.whole)
        others = self._gradients(self._others, [row.param for row in self._others])
        self._table.take(grads)
        if self.max_norm is not None:
            norm = self._norm(grads, others) * factor
            self.grad_norm = norm
            if not math.isfinite(norm):
                self._table.give_back()
                return loss
            factor *= min(1.0, self.max_norm / (norm + 1e-6))
        self._table.addresses.flags.writeable = True
        if self._table.rows:
            self._fast(self._table, factor)
            self._table.give_back()
            # The kernel goes by addresses: whoever keeps something made of the weights must see it.
            torch.autograd.graph.increment_version([row.param for row in self._table.rows])
        self._update_others(others, factor)
        self.stepped = True
        return loss

    def _update_others(self, grads: Sequence[torch.Tensor | None], factor: float) -> None:
        """Updates what the kernel does not take: by the definition, or on its own device."""
        away: dict[int, list[tuple[Row, torch.Tensor]]] = {}
        for row, grad in zip(self._others, grads, strict=True):
            if grad is None:
                continue
            refuse_sparse(grad)
            if not self.exact and _is_away(row.param):
                away.setdefault(row.group, []).append((row, grad))
                continue
            grad = grad.to(row.param.dtype)
            self._plain(
                self.param_groups[row.group], row.param, grad if factor == 1.0 else grad * factor,
                row.state,
            )  # fmt: skip
            if row.copy is not None:
                row.copy.copy_(row.param)
        for number, rows in away.items():
            self._fast_device(self.param_groups[number], rows, factor)

    def _gradients(
        self, rows: Sequence[Row], params: Sequence[torch.Tensor]
    ) -> list[torch.Tensor | None]:
        grads = list(map(_gradient, params))
        if self.copy_to:
            for at, row in enumerate(rows):
                if grads[at] is None and row.copy is not None:
                    grads[at] = row.copy.grad
        return grads

    def _norm(
        self, grads: Sequence[torch.Tensor | None], others: Sequence[torch.Tensor | None]
    ) -> float:
        """Euclidean norm over all gradients, over all shards of those that are DTensors."""
        table = self._table
        sums = np.zeros(len(table.chunks))
        spread(
            lambda first, last: squares(
                table.addresses, table.kinds, table.chunks, first, last, sums
            ),
            len(sums), table.elements, table.threads,
        )  # fmt: skip
        parts = np.zeros(len(table.rows))
        np.add.at(parts, table.chunks[:, 0], sums)
        pairs = [(g, s) for g, s in zip(grads, parts.tolist(), strict=True) if g is not None]
        pairs += [
            (g, torch.linalg.vector_norm(local(g), dtype=_wide(g)).double().square().item())
            for g in others if g is not None
        ]  # fmt: skip
        total = math.fsum(s for g, s in pairs if local(g) is g)
        shards: dict[Any, float] = {}
        for grad, part in pairs:
            if local(grad) is not grad:
                key: Any = (getattr(grad, "device_mesh"), getattr(grad, "placements"))  # noqa: B009
                shards[key] = shards.get(key, 0.0) + part
        for (mesh, placements), part in shards.items():
            total += _over_mesh(part, mesh, placements)
        return math.sqrt(total)

    def _forget(self) -> None:
        self._known: list[torch.Tensor] | None = None
        self._missing: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self._others: list[Row] = []
        self._states: list[dict[str, Any]] = []
        self._table = Table((), 0)

    def _refresh(self) -> None:
        """Makes the table anew if a parameter, a state or their memory is another one."""
        if (
            self._known is None
            or not same([group["params"] for group in self.param_groups], self._known)
            or not same([list(self.state.values())], self._states)
            or not self._table.unchanged()
            or any(p.grad is not None for p, _ in self._missing)
            or any(copy is not None and copy.grad is not None for _, copy in self._missing)
        ):
            self._build()

    def _build(self) -> None:
        self._forget()
        known, rows, start, at = [], [], 0, 0
        for number, group in enumerate(self.param_groups):
            for p in group["params"]:
                copy = self.copy_to[at] if at < len(self.copy_to) else None
                known.append(p)
                row = self._row(p, number, copy, start)
                if row is None:
                    self._missing.append((p, copy))
                elif not self.exact and _suits(p):
                    rows.append(row)
                else:
                    self._others.append(row)
                start += p.numel()
                at += 1
        self._table = Table(rows, self._columns)
        self._states = list(self.state.values())
        self._known = known

    def _row(
        self, p: torch.Tensor, number: int, copy: torch.Tensor | None, start: int
    ) -> Row | None:
        """The row of a parameter, whose state is made now if it has a gradient and none."""
        state = self.state.get(p, {})
        if not state:
            if p.grad is None and (copy is None or copy.grad is None):
                return None
            for grad in self._gradients([Row(p, number, {}, (), copy)], [p]):
                if grad is not None:
                    refuse_sparse(grad)
            state = self.state[p]
            state.update(self._new_state(p, self.param_groups[number]))
        self._settle(p, self.param_groups[number], state)
        return Row(p, number, state, self._slots(p, state), copy, start)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of the parameters and of the tensors that receive copies."""
        super().zero_grad(set_to_none)
        for copy in self.copy_to:
            if copy.grad is not None:
                if set_to_none:
                    copy.grad = None
                else:
                    copy.grad.zero_()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a state over, from PyTorch's optimizer of that name too; tensors are copied.

        Each state keeps its own type: PyTorch would cast all of them to the parameter's.
        """
        super().load_state_dict(state_dict)
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(ids, params, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if isinstance(value, torch.Tensor):
                    place = "cpu" if name == "step" else p.device
                    fresh = torch.empty_like(value, device=place, requires_grad=False)
                    self.state[p][name] = on_large_pages(fresh).copy_(value.detach())
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in _OWN}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        self._forget()


def _is_away(p: torch.Tensor) -> bool:
    return p.device.type != "cpu" and p.dtype in KINDS


def _suits(p: torch.Tensor) -> bool:
    """Whether the kernel takes this parameter: 32- or 16-bit floats in this memory."""
    return p.device.type == "cpu" and p.dtype in KINDS


def _wide(grad: torch.Tensor) -> torch.dtype:
    return torch.complex128 if grad.is_complex() else torch.float64


def _over_mesh(part: float, mesh: Any, placements: Any) -> float:
    """Sum of `part` over the shards, once for each."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    places = [Partial() if place.is_shard() else Replicate() for place in placements]
    mine = torch.tensor(part, dtype=torch.float64, device=mesh.device_type)
    return float(DTensor.from_local(mine, mesh, places).full_tensor())
