r"""Adam and AdamW on one page: running moments of the gradient, and where weight decay goes.

Each coordinate moves by the mean of its gradients over the root of their mean square, so that
its step has the size of the learning rate whatever the scale of its gradient:

$$ m_t = m_{t-1} + (1 - \beta_1)(g_t - m_{t-1}), \quad
   v_t = \beta_2 v_{t-1} + (1 - \beta_2)\,g_t^2, \quad
   \theta_t = \theta_{t-1} - \eta\,
   \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} . $$

**Where the two part.** Adam adds the decay to the gradient, $g_t \mathrel{+}= \lambda\theta$: it
passes through both moments, and a weight with large gradients is divided by a large root and
hardly shrinks. AdamW takes it from the weight itself, before the update: every weight shrinks by
the same share. On this page that is `decay`:

- "l2" (Adam's default): $g_t \mathrel{+}= \lambda\,\theta_{t-1}$;
- "torch" (AdamW's default): $\theta_{t-1} \leftarrow (1 - \eta_t \lambda)\,\theta_{t-1}$;
- "paper": $\theta_{t-1} \leftarrow (1 - \frac{\eta_t}{\eta_0} \lambda)\,\theta_{t-1}$, with the
  learning rate $\eta_0$ that the group was made with, so that only the schedule's multiplier
  enters: the best $\lambda$ no longer moves with the best learning rate.

A second difference hides in libraries: `epsilon="torch"` adds $\epsilon$ as above; "hat" adds it
to $\sqrt{v_t}$ before the correction of the bias (the efficient form of section 2 of the paper,
and Keras), a $\hat\epsilon$ that is larger by $1 / \sqrt{1 - \beta_2^t}$ in early steps.

`_plain` is the definition, bit for bit PyTorch's for-loop. Otherwise all parameters go through
one pass of a kernel (`_step_kernels`), which also unscales, clips and writes a 16-bit copy;
states may be kept in bf16 or 8 bits, and bf16 may be rounded at random, unbiased, where rounding
to the nearest would lose every update smaller than half a unit in the last place.

Cost: 28 bytes of memory traffic a parameter in fp32, 14 in bf16, about 16 with 8-bit states.

References:
    Kingma and Ba (2015), "Adam: a method for stochastic optimization", arXiv:1412.6980,
    algorithm 1 and section 2.
    Loshchilov and Hutter (2019), "Decoupled weight decay regularization", arXiv:1711.05101,
    algorithm 2.
    Reddi, Kale and Kumar (2018), "On the convergence of Adam and beyond", arXiv:1904.09237,
    algorithm 2 (`amsgrad`).
    Dettmers et al. (2022), "8-bit optimizers via block-wise quantization", arXiv:2110.02861.
    Zamirai et al. (2020), "Revisiting bfloat16 training", arXiv:2010.06192, section 4, for
    stochastic rounding of the weights.

Shapes: every state has the shape of its parameter; `step` is a scalar.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from paragone._core.lazy import resolve
from paragone.training import _low_bit
from paragone.training._optimizer import FastOptimizer
from paragone.training._pages import on_large_pages
from paragone.training._step_kernels import COLUMNS, HYPER, STEPS, advance, ways
from paragone.training._table import Row, Table, local, spread

__all__ = ["Adam", "AdamW"]

_CHOICES = {
    "decay": ("torch", "paper", "l2"),
    "epsilon": ("torch", "hat"),
    "states": ("parameter", "float32", "bfloat16", "8bit"),
    "rounding": ("nearest", "stochastic"),
}
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Decay = Literal["torch", "paper", "l2"]
Epsilon = Literal["torch", "hat"]
States = Literal["parameter", "float32", "bfloat16", "8bit"]
Rounding = Literal["nearest", "stochastic"]


class Adam(FastOptimizer):
    r"""Adam, with weight decay inside the gradient (L2) as in the paper and in PyTorch.

    Prefer `AdamW` where weights decay. Prefer this to `torch.optim.Adam` on a CPU: a step takes
    one call for all parameters. Prefer PyTorch's `fused=True` on a GPU without Triton, and
    `capturable=True` of PyTorch's inside CUDA graphs.

    Args:
        params: Parameters, or groups of them; each option but those below `maximize` may differ
            between groups.
        lr: Learning rate $\eta$, a number or a tensor of one element.
        betas: $(\beta_1, \beta_2)$, each in [0, 1).
        eps: $\epsilon$.
        weight_decay: $\lambda$.
        amsgrad: Whether the largest $v$ so far stands in the denominator.
        maximize: Whether to climb.
        decay: "l2", "torch" (decoupled, times lr) or "paper" (decoupled, times lr over the
            group's first lr).
        epsilon: "torch" or "hat".
        states: Type of the moments: "parameter" (as PyTorch), "float32", "bfloat16" or "8bit"
            (in blocks of 256; parameters below 4096 elements keep float32, and embeddings
            should: give them a group with `states="float32"`).
        rounding: How 16-bit parameters, and $v$ in 16 bits, are rounded; "stochastic" is a
            function of (seed, step, position of the element in all parameters end to end).
        exact: Whether every parameter is updated by the definition: bit-equal to PyTorch with
            `foreach=False`. float64 and complex parameters always are.
        max_norm: Clip the norm of all gradients to this (inf: only measure it); where it is not
            finite the step is skipped. See `grad_norm` and `stepped`.
        copy_to: For each parameter a tensor in float32, bfloat16 or float16 that receives the new
            value, such as the 16-bit weights of a model whose float32 masters these are; its
            gradient is used where the parameter has none.
        seed: Seed of the random rounding.
        capturable: Not available; use PyTorch's.
        differentiable: Not available; use PyTorch's.

    Raises:
        ValueError: An option is out of range, or two of them exclude each other.
        RuntimeError: A gradient is sparse (at a step).

    Example:
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> p.grad = torch.tensor([1.0, -10.0])
        >>> Adam([p], lr=0.1, exact=True).step(); p.data.tolist()
        [0.9000000357627869, 1.100000023841858]
    """

    _columns = COLUMNS
    _decay: Decay = "l2"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decay: Decay | None = None,
        epsilon: Epsilon = "torch",
        states: States = "parameter",
        rounding: Rounding = "nearest",
        exact: bool = False,
        max_norm: float | None = None,
        copy_to: Iterable[Tensor] | None = None,
        seed: int = 0,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        if capturable or differentiable:
            name = "capturable" if capturable else "differentiable"
            raise ValueError(
                f"{name}=True: steps are counted and options read on the host, and no graph of "
                f"the update is kept; use torch.optim.{type(self).__name__}({name}=True)"
            )
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed={seed} must be in [0, 2^63)")
        self.seed = int(seed)
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "amsgrad": amsgrad, "maximize": maximize, "foreach": None, "capturable": False,
            "differentiable": False, "fused": None, "decoupled_weight_decay": None,
            "decay": self._decay if decay is None else decay, "epsilon": epsilon,
            "states": states, "rounding": rounding, "decay_lr": None,
        }  # fmt: skip
        super().__init__(params, defaults, exact=exact, max_norm=max_norm, copy_to=copy_to)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; options that it does not name are the optimizer's.

        Raises:
            ValueError: An option is out of range.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        self._check(group)
        group["decoupled_weight_decay"] = group["decay"] != "l2"
        if group["decay_lr"] is None:
            group["decay_lr"] = float(group["lr"])
        if group["decay"] == "paper" and group["decay_lr"] == 0:
            raise ValueError("decay='paper' divides by the first learning rate: lr=0 is too small")
        self._forget()

    def _check(self, group: dict[str, Any]) -> None:
        for name, choices in _CHOICES.items():
            if group[name] not in choices:
                raise ValueError(f"{name}={group[name]!r} is none of {', '.join(choices)}")
        for name, value in (("lr", group["lr"]), *(("betas", b) for b in group["betas"])):
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"{name} is a tensor of {value.numel()} elements; one is needed")
        for name in ("lr", "eps", "weight_decay"):
            if not float(group[name]) >= 0:
                raise ValueError(f"{name}={float(group[name])} must be at least 0")
        for beta in group["betas"]:
            if not 0 <= float(beta) < 1:
                raise ValueError(f"betas={group['betas']}: each must be at least 0 and below 1")
        if self.exact and (group["states"] != "parameter" or group["rounding"] != "nearest"):
            raise ValueError(
                "exact=True is PyTorch's arithmetic: states='parameter', rounding='nearest'"
            )
        if group["states"] == "8bit" and group["amsgrad"]:
            raise ValueError("amsgrad has no 8-bit states: use states='bfloat16'")

    def _new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        place = p.device if not self.exact else "cpu"
        state: dict[str, Any] = {"step": torch.zeros((), dtype=torch.float32, device=place)}
        states = group["states"]
        if states != "parameter" and (p.is_complex() or p.dtype == torch.float64):
            raise ValueError(f"states={states!r} is for float parameters of 32 or 16 bits")
        if states == "8bit" and p.numel() >= _low_bit.LEAST:
            if hasattr(p, "_local_tensor"):
                raise ValueError(
                    "states='8bit' has blocks that do not match the shards of a DTensor; "
                    "use states='bfloat16'"
                )
            return {**state, **_low_bit.new_state(p)}
        dtype = _TYPES.get("float32" if states == "8bit" else states, p.dtype)
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
        for name in names if group["amsgrad"] else names[:2]:
            fresh = torch.empty_like(
                p, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False
            )
            state[name] = on_large_pages(fresh).zero_()
        return state

    def _settle(self, p: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        step, place = state.get("step", 0.0), torch.device("cpu") if self.exact else p.device
        if not (isinstance(step, Tensor) and step.dtype.is_floating_point):
            state["step"] = torch.tensor(float(step), dtype=torch.float32, device=place)
        elif step.device != place or (not self.exact and step.dtype != torch.float32):
            state["step"] = step.detach().to(place, torch.float32)
        if "state1" in state:
            if self.exact or group["amsgrad"]:
                raise ValueError("this state is in 8 bits: exact and amsgrad need exp_avg")
            _low_bit.check_state(p, state)
            return
        if group["amsgrad"] and "max_exp_avg_sq" not in state:
            state["max_exp_avg_sq"] = torch.zeros_like(state["exp_avg_sq"])
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            if name not in state:
                continue
            moment, like = state[name], torch.empty_like(p, memory_format=torch.preserve_format)
            if moment.shape != p.shape:
                raise ValueError(
                    f"{name} is {tuple(moment.shape)} for a parameter {tuple(p.shape)}; "
                    "delete the state of a parameter whose shape changes"
                )
            wrong = moment.dtype not in (p.dtype, torch.float32, torch.bfloat16)
            if wrong or moment.stride() != like.stride():
                state[name] = like.to(p.dtype if wrong else moment.dtype).copy_(moment)

    def _slots(self, p: Tensor, state: dict[str, Any]) -> Sequence[str | None]:
        if "state1" in state:
            return "state1", "state2", "step", None, "absmax1", "absmax2"
        most = "max_exp_avg_sq" if "max_exp_avg_sq" in state else None
        return "exp_avg", "exp_avg_sq", "step", most, None, None

    def _plain(self, group: dict[str, Any], p: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
        lr, (beta1, beta2) = _scalar(group["lr"]), map(_scalar, group["betas"])
        decay, wd = group["decay"], group["weight_decay"]
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if group["maximize"]:
            grad = -grad
        state["step"] += 1
        if wd != 0:
            if decay == "l2":
                grad = grad.add(p, alpha=wd)
            else:
                p.mul_(1 - (lr if decay == "torch" else lr / group["decay_lr"]) * wd)
        most = state.get("max_exp_avg_sq") if group["amsgrad"] else None
        if p.is_complex():
            p, grad, m, v = map(torch.view_as_real, (p, grad, m, v))
            most = None if most is None else torch.view_as_real(most)
        cast = beta1.to(p.device, p.dtype) if isinstance(beta1, Tensor) else beta1
        m.lerp_(grad, 1 - cast)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if most is not None:
            v = torch.maximum(most, v, out=most)
        t = state["step"].item()
        first, second = 1 - beta1**t, (1 - beta2**t) ** 0.5
        if group["epsilon"] == "torch":
            p.addcdiv_(m, (v.sqrt() / second).add_(group["eps"]), value=-(lr / first))
        else:
            p.addcdiv_(m, v.sqrt().add_(group["eps"]), value=-(lr * second / first))

    def _fast(self, table: Table, factor: float) -> None:
        hyper = np.array([_numbers(group) for group in self.param_groups], np.float64)
        coefficients = np.empty((len(table.rows), 11), np.float32)
        advance(table.addresses, table.groups, hyper, factor, coefficients)
        chance = hyper[table.groups, -1] != 0
        for way, chunks, elements in table.parts(ways):

            def job(first: int, last: int, kernel: Any = STEPS[way], part: Any = chunks) -> None:
                kernel(
                    table.addresses, table.kinds, part, first, last, table.starts, coefficients,
                    chance, self.seed,
                )  # fmt: skip

            spread(job, len(chunks), elements, table.threads)

    def _fast_device(
        self, group: dict[str, Any], rows: Sequence[tuple[Row, Tensor]], factor: float
    ) -> None:
        if group["amsgrad"] or any("state1" in row.state for row, _ in rows):
            raise ValueError(
                "amsgrad and 8-bit states have no fast step on a GPU; exact=True has amsgrad"
            )
        step = resolve("paragone.training.ops.adamw_triton:adamw_step")
        lr, beta1, beta2 = map(float, (group["lr"], *group["betas"]))
        for copied in (False, True):
            part = [(row, grad) for row, grad in rows if (row.copy is not None) == copied]
            states = [row.state for row, _ in part]
            step(
                [local(row.param.detach()) for row, _ in part], [local(grad) for _, grad in part],
                [local(state["exp_avg"]) for state in states],
                [local(state["exp_avg_sq"]) for state in states],
                [state["step"] for state in states],
                lr=lr, beta1=beta1, beta2=beta2, eps=group["eps"],
                weight_decay=group["weight_decay"], decay=group["decay"],
                epsilon_hat=group["epsilon"] == "hat",
                grad_scale=None if factor == 1.0 else 1.0 / factor, maximize=group["maximize"],
                copies=[row.copy for row, _ in part] if copied else (),
                stochastic=group["rounding"] == "stochastic", seed=self.seed,
                schedule=lr / (group["decay_lr"] or 1.0),
            )  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a state over from PyTorch's Adam or AdamW, or bitsandbytes' 8-bit ones.

        Tensors are copied; each keeps its own type.
        """
        states = {
            # bitsandbytes puts what FSDP must not gather one level deeper.
            i: {**state, **state.get("__bnb_optimizer_quant_state__", {})}
            for i, state in state_dict["state"].items()
        }
        for state in states.values():
            state.pop("__bnb_optimizer_quant_state__", None)
        super().load_state_dict({**state_dict, "state": states})
        for state in self.state.values():
            if "state1" in state and "state2" in state:
                _low_bit.lift_zeros(state)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "seed": self.seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for group in state["param_groups"]:
            # PyTorch's own groups say by this key alone which form they are.
            if "decay" not in group and "decoupled_weight_decay" in group:
                group["decay"] = "torch" if group["decoupled_weight_decay"] else "l2"
            group.update(capturable=False, differentiable=False, foreach=None, fused=None)
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = group["decay"] != "l2"
            if group["decay_lr"] is None:
                group["decay_lr"] = float(group["lr"])


class AdamW(Adam):
    r"""AdamW: Adam whose weight decay does not pass through the moments.

    The default choice for most networks; takes the place of `torch.optim.AdamW` and reads its
    checkpoints. Prefer `Muon` for the hidden matrices of a transformer, `SGD` with momentum for
    convolutional nets with time to tune, and PyTorch's own inside CUDA graphs.

    Arguments, attributes and errors are those of `Adam`; the decay is "torch".

    Example:
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> p.grad = torch.zeros(2)
        >>> AdamW([p], lr=0.1, weight_decay=0.5, exact=True).step(); p.data.tolist()
        [0.949999988079071, 0.949999988079071]
    """

    _decay: Decay = "torch"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options)


def _scalar(value: float | Tensor) -> Any:
    """A tensor of one element without dimensions; a number as it is."""
    return value.squeeze() if isinstance(value, Tensor) and value.dim() else value


def _numbers(group: dict[str, Any]) -> list[float]:
    """A group's options in the order of `HYPER`."""
    lr = float(group["lr"])
    found = {
        "lr": lr, "beta1": float(group["betas"][0]), "beta2": float(group["betas"][1]),
        "eps": group["eps"], "weight_decay": group["weight_decay"],
        "lr_of_decay": lr if group["decay"] == "torch" else lr / (group["decay_lr"] or 1.0),
        "l2": group["decay"] == "l2", "hat": group["epsilon"] == "hat",
        "maximize": group["maximize"], "stochastic": group["rounding"] == "stochastic",
    }  # fmt: skip
    return [float(found[name]) for name in HYPER]
