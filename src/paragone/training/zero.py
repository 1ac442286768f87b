r"""ZeRO: every rank keeps its share of the training state and fetches the rest when needed.

With P parameters in 16 bits, mixed-precision Adam keeps 2P of parameters, 2P of gradients and
12P of fp32 state (master weights and two moments), the same on each of N ranks. Sharing them out

$$ 16 P \;\to\; \underbrace{4P + 12P/N}_{\text{stage 1}} \;\to\;
   \underbrace{2P + 14P/N}_{\text{stage 2}} \;\to\; \underbrace{16P/N}_{\text{stage 3}} $$

bytes a rank: stage 1 shares the optimizer's state, stage 2 the gradients too (each bucket is
reduced as backward fills it, and the whole gradient freed), stage 3 the parameters too (gathered
for each module's forward and backward, and released after).

The update of a share is the update of the whole, element by element, so the only freedom is the
order of the sum over ranks. In ordered mode it is fixed,

$$ g = \Bigl( \bigl( (g_0 + g_1) + g_2 \bigr) + \dots + g_{N-1} \Bigr) / N , $$

and the weights have the same bits as those of one process that adds up the same N micro-batches
and divides by N; so has the clipped update, as the norm is summed without rounding
(`_zero_norm`). Fused kernels round by where an element stands: take `foreach=False`.

Cost: stages 1 and 2 send 2P elements a rank and step, as an all-reduce does; stage 3 sends 3P.
Buckets and shares are in `_zero_shards`, how they are reduced in `_zero_engine`, stage 3 in
`_zero_gather`, checkpoints in `_zero_store`, FSDP2 as the engine of stage 3 in `_zero_fsdp`.

References:
    Rajbhandari et al. (2020), "ZeRO: Memory optimizations toward training trillion parameter
    models", arXiv:1910.02054, sections 5 and 7 and figure 1.
    Ren et al. (2021), "ZeRO-Offload", arXiv:2101.06840, for `offload`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from paragone.training import _zero_store as store
from paragone.training._zero_comm import Ranks
from paragone.training._zero_engine import OwnEngine
from paragone.training._zero_memory import Held, held
from paragone.training._zero_norm import clip_factor
from paragone.training._zero_setup import described, in_groups, way_of_sharding
from paragone.training._zero_shards import Policy

__all__ = ["Zero"]


class Zero(torch.optim.Optimizer):
    r"""An optimizer whose state, gradients and parameters are shared out over the ranks.

    Takes any element-wise optimizer of `torch.optim` or paragone as it is; those that need a
    whole matrix (Muon, Adafactor) are sharded by tensor. Prefer it to
    `DistributedDataParallel` when the state does not fit, to DeepSpeed where a compiler or
    a changed loop is in the way, and where the result must equal a single process's; prefer
    `engine="fsdp2"` for stage 3 on GPUs, which overlaps communication with work.

    Wrap nothing: the model is called as before (not in DDP), and `backward` reduces. `step` uses
    the gradients up. Ranks begin with the parameters and buffers of rank 0 and must call forward,
    backward and step equally often. Stage 1 and `no_sync` add up each rank's micro-batches first;
    otherwise they are added in the order micro-batch, rank. Each wait is bounded by the process
    group's timeout: give it one that suits the run.

    Args:
        model: Module with its parameters on one device; not on `meta`.
        optimizer: Class or function that takes `(groups, **options)`.
        stage: 1, 2 or 3.
        params: Parameters or groups of them (dicts with "params" and options), as torch's
            optimizers take them; None is all that require a gradient.
        offload: "cpu" keeps the shares (state, gradients, in stage 3 parameters) in host memory.
        group: Process group; None is the default one, or one process without any.
        ordered: Sums in the order of the ranks; False leaves the order to the back end. None is
            True, but for "fsdp2", which has no order.
        engine: "own", or "fsdp2": `torch.distributed.fsdp.fully_shard` for stage 3.
        max_norm: Clip the norm of all gradients at this in every step (of all shares, which an
            optimizer's own `max_norm` could not see).
        skip_nonfinite: Skip a step whose gradients are not finite, on all ranks; see `stepped`.
        shard_by: "element" or "tensor"; None asks the optimizer (its `shard_by`). States in blocks
            (8 bits) can change the number of ranks only by "tensor".
        master: Keep fp32 master weights of 16-bit parameters.
        gradient_dtype: Type of gradient shares; None is that of the parameters.
        units: Module classes that stage 3 gathers as a whole, such as a transformer's block.
        bucket_mb: Size of a bucket of stages 1 and 2 in units of 2^20 bytes.
        options: Options of the optimizer, such as lr.

    Attributes:
        stepped: Whether the last `step` changed the parameters; gate a scheduler with it.
        grad_norm: Norm before clipping of the last step that was clipped, else None.
        inner: The optimizer over this rank's pieces.

    Raises:
        ValueError: An option is out of range, or the ranks hold different models.
        RuntimeError: A rank is gone, or too late.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> zero = Zero(model, torch.optim.AdamW, stage=2, lr=0.1)
        >>> model(torch.ones(1, 3)).sum().backward(); zero.step()
        >>> zero.stepped
        True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        *,
        stage: int = 2,
        params: Iterable[Any] | None = None,
        offload: str | None = None,
        group: Any = None,
        ordered: bool | None = None,
        engine: str = "own",
        max_norm: float | None = None,
        skip_nonfinite: bool = True,
        shard_by: str | None = None,
        master: bool = True,
        gradient_dtype: torch.dtype | None = None,
        units: Sequence[type[nn.Module]] = (),
        bucket_mb: float = 25.0,
        **options: Any,
    ) -> None:
        if stage not in (1, 2, 3):
            raise ValueError(f"stage={stage!r} is none of 1, 2, 3")
        if offload not in (None, "cpu"):
            raise ValueError(f"offload={offload!r} is none of None, 'cpu'")
        if engine not in ("own", "fsdp2"):
            raise ValueError(f"engine={engine!r} is none of 'own', 'fsdp2'")
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm={max_norm} must be above 0; None does not clip")
        if not bucket_mb > 0:
            raise ValueError(f"bucket_mb={bucket_mb} must be above 0")
        self.model, self.stage = model, stage
        self.max_norm, self.skip_nonfinite = max_norm, skip_nonfinite
        self.stepped, self.grad_norm = False, None
        self._clipped: Tensor | None = None
        self.optimizer_name = getattr(optimizer, "__name__", type(optimizer).__name__)
        by = way_of_sharding(optimizer, shard_by)
        groups = in_groups(model, params)
        rest = torch.device("cpu") if offload else None
        policy = Policy(stage, by, master, gradient_dtype, rest)
        self.ranks = Ranks(group, engine == "own" if ordered is None else ordered)
        device = next(model.parameters()).device
        settings = [stage, by, offload, engine, master, str(gradient_dtype), self.ranks.ordered]
        self.ranks.same_everywhere(described(model, groups, settings), device)
        if engine == "own":
            most = bucket_mb * 2**20
            self.engine: Any = OwnEngine(model, groups, self.ranks, policy, units, most)
            self._store: Any = store
        else:
            from paragone.training import _zero_fsdp

            self.engine = _zero_fsdp.Fsdp2Engine(model, groups, self.ranks, policy, units)
            self._store, groups = _zero_fsdp, self.engine.groups
        self.policy = policy
        self.inner = optimizer(self.engine.pieces_of(groups), **options)
        super().__init__(groups, dict(self.inner.defaults))
        self.take_options()
        self.state = self.inner.state

    def _copy_options(self, source: list[dict[str, Any]], target: list[dict[str, Any]]) -> None:
        for theirs, ours in zip(source, target, strict=True):
            ours.update({key: value for key, value in theirs.items() if key != "params"})

    def take_options(self) -> None:
        """Brings the options of the inner groups, which loading has changed, to the outer ones."""
        self._copy_options(self.inner.param_groups, self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused after construction: shares are cut once."""
        if hasattr(self, "_finished"):
            raise ValueError("Zero cuts its shares once: give all groups in params=[...]")
        super().add_param_group(param_group)
        if len(self.param_groups) == len(self.inner.param_groups):
            self._finished = True

    @torch.no_grad()
    def step(
        self, closure: Callable[[], Any] | None = None, *, grad_scale: float | None = None
    ) -> Any:
        """Reduces what is left to reduce, clips, updates the shares and publishes them.

        Args:
            closure: Computes the loss and calls backward.
            grad_scale: What the loss was multiplied by; gradients are divided by it first.

        Returns:
            What closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        finite = self.engine.prepare(*self._scaling(grad_scale))
        if self.max_norm is not None and self._clipped is None:
            self._clip(self.max_norm)
        self.grad_norm = None if self._clipped is None else float(self._clipped)
        self.stepped = finite or not self.skip_nonfinite
        if self.stepped:
            self._copy_options(self.param_groups, self.inner.param_groups)
            self.engine.hand_over()
            self.inner.step()
            self.take_options()
            self.engine.publish()
        self.zero_grad()
        return loss

    def _scaling(self, grad_scale: float | None) -> tuple[float | None, bool]:
        """Scale and overflow as given, or as a scaler has left them on the optimizer."""
        left = getattr(self, "grad_scale", None) if grad_scale is None else grad_scale
        found = getattr(self, "found_inf", None)
        return None if left is None else float(left), found is not None and bool(found)

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float, *, grad_scale: float | None = None) -> Tensor:
        """Clips the norm of all gradients over all shares; the step then uses them so.

        In ordered mode the norm has the same bits for every number of ranks.

        Args:
            max_norm: Largest norm, above 0.
            grad_scale: What the loss was multiplied by.

        Returns:
            The norm before clipping (), float64; inf where a gradient is not finite.
        """
        if not max_norm > 0:
            raise ValueError(f"max_norm={max_norm} must be above 0")
        self.engine.prepare(*self._scaling(grad_scale))
        return self._clip(max_norm)

    def _clip(self, most: float) -> Tensor:
        norm = self.engine.norm()
        factor = clip_factor(norm, most)
        if 0 < factor < 1:
            self.engine.scale(factor)
        self._clipped = torch.tensor(norm, dtype=torch.float64)
        return self._clipped

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the gradients of parameters and shares. `step` does it too."""
        self._clipped = None
        self.engine.discard()

    def no_sync(self) -> AbstractContextManager[None]:
        """Backward passes in it add up locally, in full, and are reduced with the next outside."""
        return self.engine.no_sync()

    def gathered(self) -> AbstractContextManager[None]:
        """Stage 3: all parameters are whole in it, to be read (export, `model.state_dict()`)."""
        return self.engine.gathered()

    def train(self) -> None:
        """For optimizers with two modes (schedule-free): to the weights of training."""
        self._switch("train")

    def eval(self) -> None:
        """For optimizers with two modes (schedule-free): to the weights of evaluation."""
        self._switch("eval")

    def _switch(self, mode: str) -> None:
        if not hasattr(self.inner, mode):
            raise ValueError(f"{self.optimizer_name} has no {mode}() mode: call the model's")
        with torch.no_grad():
            getattr(self.inner, mode)()
            self.take_options()
            self.engine.publish()

    def memory(self) -> Held:
        """Bytes that this rank holds now; call it before `step` to see the gradients."""
        tensors = self.engine.tensors()
        state = [t for one in self.inner.state.values() for t in store.tensors_in(one)]
        return held(tensors, state, self.engine.resting(state))

    def state_dict(self) -> dict[str, Any]:
        """This rank's part, for the same number of ranks; see `save` and `full_state_dict`."""
        return self._store.local_state(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict` gave on this rank.

        Raises:
            ValueError: It is of another rank, number of ranks, model or stage.
        """
        self._store.load_local_state(self, state_dict)

    def full_state_dict(self, *, everywhere: bool = False) -> dict[str, Any]:
        """Model and optimizer as one process would have them; every rank must call it.

        Args:
            everywhere: On all ranks; else on rank 0, and empty elsewhere.

        Returns:
            "model": name to tensor; "master": the same in fp32, where there are master weights;
            "optimizer": state and param_groups with the keys of the plain optimizer's, which
            `optimizer.load_state_dict` takes. All on the CPU.
        """
        return self._store.full_state(self, everywhere)

    def load_full_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `full_state_dict` gave, or a plain optimizer's `state_dict()`.

        Args:
            state_dict: The same on every rank; absent parts stay as they are.

        Raises:
            ValueError: A parameter is missing or has another shape.
        """
        self._store.load_full_state(self, state_dict)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes a checkpoint, each rank its part: safetensors and `index.json`, written last.

        A checkpoint that is there stays valid until the new one is complete.

        Raises:
            OSError: On every rank, if any could not write, or where rank 0 does not see it.
        """
        self._store.save(self, directory)

    def load(self, directory: str | os.PathLike[str]) -> None:
        """Reads a checkpoint of any number of ranks and any stage; each rank reads its part.

        Raises:
            ValueError: It is of another model or of other groups.
        """
        self._store.load(self, directory)

    def close(self) -> None:
        """Takes the hooks off the model and leaves its parameters whole; `step` ends here."""
        self.engine.close()
