r"""What the linear time-invariant state spaces share: three forms, a skip, an output, their groups.

The system itself is linear; a layer makes it a mixer by

$$ y = \mathrm{GLU}\big(W\, \mathrm{gelu}(\mathrm{ssm}(x) + D \odot x)\big) . $$

A system can be run as a convolution (FFTs of twice the length; parallel, and cheap for long
rows), as a scan (one pass over time; on a CPU mostly the faster one), or step by step. All three
give the same output and the same state, so that a prefix can be read by one and gone on from by
another.

References:
    Gu, Goel and Re (2022), S4, arXiv:2111.00396, sections 2-3.
    Smith, Warrington and Linderman (2023), S5, arXiv:2208.04933, section 3.

Shapes: B rows, T time, H channels (the model width M), n modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.mixers.contract import Mixer
from paragone.mixers.ops.spaces._choose import serves
from paragone.mixers.ops.spaces.chunked import System, convolve, final_state, respond

__all__ = ["FORMS", "SingleSpace", "SpaceState", "StateSpace", "log_uniform", "parameter_groups"]

FORMS = ("auto", "convolution", "scan", "step")
"""How a layer may be run; "auto" takes the quickest one here."""


class SpaceState(NamedTuple):
    """State of a linear state space.

    Attributes:
        hidden: (B, H, 2, n), or (B, 2, n) where channels share it; float32 at least.
    """

    hidden: Tensor


def log_uniform(count: int, low: float, high: float, **where: Any) -> Tensor:
    """(count,) logarithms, uniform between those of low and high."""
    return torch.rand(count, **where) * math.log(high / low) + math.log(low)


class StateSpace(Mixer):
    """A linear state space as a mixer; subclasses write `_run` and name `space_parameters`.

    Args:
        width: Model width M.
        form: One of `FORMS`.
        skip: Whether D x is added.
        activation: "gelu" or None.
        output: "glu" (a linear map to 2 M and a gate), "linear", or None.
        causal: False: a second system reads the row from its end.
        backend: "auto", "numba" or "torch".
        device: Device of the parameters.
        dtype: Type of the parameters; those of the system itself stay float32 at least.
    """

    hidden_shape: tuple[int, ...]

    def __init__(
        self,
        width: int,
        *,
        form: str,
        skip: bool,
        activation: str | None,
        output: str | None,
        causal: bool,
        backend: str,
        device: Any,
        dtype: Any,
    ):
        super().__init__()
        if width < 1:
            raise ValueError(f"width={width} is no model width: use 1 and above")
        if form not in FORMS:
            raise ValueError(f"form={form!r} is none of {', '.join(FORMS)}")
        if form == "step" and not causal:
            raise ValueError("form='step' needs causal=True: a row's end is not known before it")
        if activation not in ("gelu", None):
            raise ValueError(f"activation={activation!r} is none of 'gelu', None")
        if output not in ("glu", "linear", None):
            raise ValueError(f"output={output!r} is none of 'glu', 'linear', None")
        if backend not in ("auto", "numba", "torch"):
            raise ValueError(f"backend={backend!r} is none of auto, numba, torch")
        self.width, self.causal, self.form, self.backend = width, causal, form, backend
        self.activation = activation
        self.directions = 1 if causal else 2
        dtype = dtype or torch.get_default_dtype()
        wide = torch.float32 if dtype.itemsize < 4 else dtype
        self._where: dict[str, Any] = {"device": device, "dtype": wide}
        self.D = nn.Parameter(torch.empty(width, **self._where)) if skip else None
        self.project = (
            nn.Linear(width, (2 if output == "glu" else 1) * width, device=device, dtype=dtype)
            if output
            else None
        )
        self.output = output
        self._made: tuple[Any, Any] | None = None

    def _empty(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(*shape, **self._where))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the parameters anew; nothing is done on the meta device."""
        if self.project is not None:
            self.project.reset_parameters()
        if self.D is not None:
            self.D.normal_()

    def space_parameters(self) -> list[nn.Parameter]:
        """Poles, step sizes and inputs of the system: they want no decay and a small step."""
        raise NotImplementedError

    def parameter_groups(self, lr: float = 1e-3) -> list[dict[str, Any]]:
        """Two groups for an optimizer: the system's own (undecayed, with lr), and the rest.

        Example:
            >>> from paragone.mixers import S4D
            >>> [sorted(group) for group in S4D(8).parameter_groups()]
            [['params'], ['lr', 'params', 'weight_decay']]
        """
        return parameter_groups(self, lr=lr)

    def _kept(self, make: Callable[[], Any]) -> Any:
        """What `make` gives; decoding without gradients asks again only after a change."""
        own = list(self.parameters())
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or own[0].is_inference():
            return make()
        key = [(p.data_ptr(), p._version) for p in own]
        if self._made is None or self._made[0] != key:
            self._made = (key, make())
        return self._made[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}

    def _run(
        self, u: Tensor, hidden: Tensor | None, lengths: Tensor | None, form: str, direction: int
    ) -> tuple[Tensor, Tensor]:
        """(B, T, H) wide inputs to outputs (without D) and the new hidden state."""
        raise NotImplementedError

    def _chosen(self, u: Tensor) -> str:
        """The form that "auto" stands for."""
        raise NotImplementedError

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Any]:
        u = x.to(torch.promote_types(x.dtype, torch.float32))
        hidden = self._hidden(state, len(x))
        form = self._chosen(u) if self.form == "auto" else self.form
        y, hidden = self._run(u, hidden, lengths, form, 0)
        if self.directions == 1:
            return self._read(x, u, y), SpaceState(hidden)
        back, _ = self._run(u.flip(1), None, None, form, 1)
        y = y + functional.pad(back.flip(1)[:, 1:], (0, 0, 0, min(1, x.shape[1])))
        return self._read(x, u, y), None

    def _hidden(self, state: Any, rows: int) -> Tensor | None:
        if state is None:
            return None
        shape = (rows, *self.hidden_shape)
        if not isinstance(state, SpaceState) or tuple(state.hidden.shape) != shape:
            got = tuple(state.hidden.shape) if isinstance(state, SpaceState) else type(state)
            raise ValueError(f"{type(self).__name__}: state is {got}; {shape} is expected")
        return state.hidden

    def _read(self, x: Tensor, u: Tensor, y: Tensor) -> Tensor:
        if self.D is not None:
            y = torch.addcmul(y, u, self.D)
        if self.activation == "gelu":
            y = functional.gelu(y)
        y = y.to(x.dtype)
        if self.project is not None:
            y = self.project(y)
        return functional.glu(y, dim=-1) if self.output == "glu" else y

    def extra_repr(self) -> str:
        return f"width={self.width}, causal={self.causal}, form={self.form!r}"


class SingleSpace(StateSpace):
    """One system for each channel; subclasses write `_system`."""

    _op = "spaces_response"

    def _system(self, direction: int) -> Any:
        """A `chunked.System` that can also step, with real states (B, H, S)."""
        raise NotImplementedError

    def _passes(self, u: Tensor) -> bool:
        """Whether the system can `run` in one pass over time, by Numba."""
        return serves(self._op, self.backend, u) == "numba"

    def _chosen(self, u: Tensor) -> str:
        return "scan" if self._passes(u) else "convolution"

    def _run(
        self, u: Tensor, hidden: Tensor | None, lengths: Tensor | None, form: str, direction: int
    ) -> tuple[Tensor, Tensor]:
        system: Any = self._system(direction)
        state = None if hidden is None else hidden.flatten(-2)
        if not u.numel():
            found = u.new_zeros(len(u), *self.hidden_shape) if hidden is None else hidden
            return torch.zeros_like(u), found
        if form == "step":
            y, state = self._stepped(u, system, state, lengths)
        elif form == "scan":
            y, state = self._scanned(u, system, state, lengths)
        else:
            y, state = self._convolved(u, system, state, lengths)
        return y, state.unflatten(-1, (2, -1))

    def _start(self, u: Tensor) -> Tensor:
        return u.new_zeros(len(u), *self.hidden_shape).flatten(-2)

    def _convolved(
        self, u: Tensor, system: System, state: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        y = convolve(u, system.kernel(u.shape[1]))
        if state is not None:
            y = y + torch.einsum("hst,bhs->bth", system.readout(u.shape[1]), state)
        return y, final_state(u, system, state, lengths)

    def _scanned(
        self, u: Tensor, system: Any, state: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        start = self._start(u) if state is None else state
        if self._passes(u):
            return system.run(u, start, lengths)
        y, last = respond(u, system, start)
        return y, last if lengths is None else final_state(u, system, state, lengths)

    def _stepped(
        self, u: Tensor, system: Any, state: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        now: Tensor = self._start(u) if state is None else state
        outputs = []
        for t in range(u.shape[1]):
            y, after = system.step(u[:, t], now)
            alive = None if lengths is None else (lengths > t)[:, None, None]
            now = after if alive is None else torch.where(alive, after, now)
            outputs.append(y)
        return torch.stack(outputs, dim=1), now

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Goes on by one token, (B, M) to (B, M) and the new state."""
        self._needs_causal()
        u = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
        hidden = self._hidden(state, len(x_t))
        before = self._start(u) if hidden is None else hidden.flatten(-2)
        y, after = self._kept(lambda: self._system(0)).step(u, before)
        return self._read(x_t, u, y), SpaceState(after.unflatten(-1, (2, -1)))


def parameter_groups(
    model: nn.Module,
    *,
    lr: float = 1e-3,
    weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Sorts a model's parameters for an optimizer: those of state spaces need their own settings.

    Poles and step sizes act through exponentials: decay would pull them to a scale that means
    nothing, and large steps make memory vanish. Groups say so openly; nothing is hidden in
    attributes of the parameters.

    Args:
        model: Any module with state spaces somewhere inside.
        lr: Learning rate of the systems' parameters.
        weight_decay: Of all others; None: the optimizer's own.

    Returns:
        The others, and the systems' parameters with `lr` and no decay.
    """
    own = {id(p): p for p in _space_parameters(model)}
    others: dict[str, Any] = {"params": [p for p in model.parameters() if id(p) not in own]}
    if weight_decay is not None:
        others["weight_decay"] = weight_decay
    return [others, {"params": list(own.values()), "lr": lr, "weight_decay": 0.0}]


def _space_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if isinstance(module, StateSpace):
            yield from module.space_parameters()
