r"""LoRA: a model is tuned by small matrices beside its frozen ones.

A change of rank r of a weight W (O x I) has r (O + I) numbers instead of O I,

$$ W' = W + s\, B A, \qquad s = \alpha / r \quad \text{or} \quad \alpha / \sqrt{r} , $$

and starts at zero since B does. The frozen weights need no gradients and no states of an
optimizer, and may be kept in four bits (`quantize="nf4"`, QLoRA). Afterwards the change is merged
into the weights, at no cost in decoding, or kept in a folder of its own, in PEFT's layout.

Cost: a step takes about two thirds of a full one; memory of gradients and states for r (O + I)
numbers a matrix.

References:
    Hu et al. (2022), "LoRA", arXiv:2106.09685, section 4.
    Kalajdzievski (2023), "rsLoRA", arXiv:2312.03732, section 3.
    Dettmers et al. (2023), "QLoRA", arXiv:2305.14314, section 3.

Shapes: O outputs, I inputs, r rank, V vocabulary, M model width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paragone._core.lazy import resolve
from paragone.language._tune_layers import AdaptedLinear, Nf4Linear
from paragone.language._tune_tokens import untie

__all__ = [
    "Adapter", "Merged", "adapted", "add_lora", "load_adapter", "merge_lora", "merged_state",
    "save_adapter", "without_adapter",
]  # fmt: skip


@dataclasses.dataclass
class Adapter:
    """What `add_lora` has made of a model; kept as `model.adapter`.

    Attributes:
        rank: r, where a module has no other.
        alpha: As given.
        dropout: As given.
        rslora: As given.
        saved: Modules that are trained whole.
        originals: Their weights before.
    """

    rank: int
    alpha: float
    dropout: float
    rslora: bool
    saved: tuple[str, ...] = ()
    originals: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def scale(self, rank: int, alpha: float | None = None) -> float:
        """Scale s of a module of this rank."""
        alpha = self.alpha if alpha is None else alpha
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def add_lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: Sequence[str] | Literal["all-linear"] = "all-linear",
    *,
    rslora: bool = False,
    saved: Sequence[str] = (),
    quantize: Literal["nf4"] | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Freezes a model and puts trained matrices of low rank beside its linear maps.

    Prefer it to training all weights where memory is short or many variants of one model are
    kept; full training reaches a somewhat lower loss on much data. Prefer four bits only if the
    model does not fit otherwise: a step costs the making of floats twice.

    Args:
        model: Changed in place.
        rank: r.
        alpha: Change of scale s = alpha / rank.
        dropout: Share of inputs that the new matrices do not see in training.
        targets: Last parts of the names of linear maps, such as "q_proj"; "all-linear": all but
            the head.
        rslora: Whether s = alpha / sqrt(rank), which keeps high ranks learning.
        saved: Modules that are trained whole, such as "embed_tokens" and "lm_head" after new
            tokens; tied ones are untied, since the two learn different things.
        quantize: "nf4" keeps the frozen maps in four bits.
        generator: Source of the first matrices (None: torch's own).

    Returns:
        The model.

    Raises:
        ValueError: A number out of range, a target that is not there, or an adapter that is.

    Example:
        >>> model = add_lora(nn.Sequential(nn.Linear(6, 5)), rank=2)
        >>> [tuple(p.shape) for p in model.parameters() if p.requires_grad]
        [(2, 6), (5, 2)]
    """
    if rank < 1:
        raise ValueError(f"rank={rank}: at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: a share from 0 to below 1 is expected")
    if quantize not in (None, "nf4"):
        raise ValueError(f"quantize={quantize!r} is neither 'nf4' nor None")
    chosen = _chosen(model, targets)
    adapter = Adapter(rank, alpha, dropout, rslora)
    _adapt(model, adapter, dict.fromkeys(chosen, (rank, None)), tuple(saved), quantize, generator)
    return model


def adapted(model: nn.Module) -> dict[str, AdaptedLinear]:
    """Name to module of all adapted linear maps."""
    return {n: m for n, m in model.named_modules() if isinstance(m, AdaptedLinear)}


@contextlib.contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Inside, the model is what it was before `add_lora`: a reference without a second model.

    Args:
        model: With or without an adapter.
    """
    maps = adapted(model).values()
    originals = _adapter(model).originals if maps else {}
    weights = {name: model.get_parameter(f"{name}.weight") for name in originals}
    trained = {name: weight.data for name, weight in weights.items()}
    before = [each.active for each in maps]
    try:
        for each in maps:
            each.active = False
        for name, original in originals.items():
            weights[name].data = original.to(weights[name].device)
        yield
    finally:
        for each, active in zip(maps, before, strict=True):
            each.active = active
        for name, weight in weights.items():
            weight.data = trained[name]


@dataclasses.dataclass(frozen=True)
class Merged:
    """What `merge_lora` did.

    Attributes:
        modules: How many maps were merged.
        dtype: Type of the merged weights.
        error: Largest distance of a merged weight to the float32 sum, relative to its size.
        change: The same distance of the sum to the frozen weight: what was learned.
        base_error: Largest distance that the base's four bits have to what they were made from.
        undo: Brings the adapter back, with all bits of the frozen weights.
    """

    modules: int
    dtype: torch.dtype
    error: float
    change: float
    base_error: float
    undo: Callable[[], None] = dataclasses.field(repr=False)

    def __str__(self) -> str:
        text = f"{self.modules} maps merged into {str(self.dtype).removeprefix('torch.')}"
        text += f": they changed by {self.change:.2g} of their size, rounding {self.error:.2g}"
        if self.base_error:
            text += f"; the base's four bits stand {self.base_error:.2g} from what it was"
        return text


def merge_lora(model: nn.Module, *, dtype: torch.dtype | None = None) -> Merged:
    """Adds the change to the weights, in float32, and puts plain linear maps in their place.

    A base of four bits becomes floats: rounding the sum to four bits again would lose most of
    what was learned, which is smaller than their steps.

    Args:
        model: Changed in place.
        dtype: Type of the merged weights (None: that of the frozen ones, float32 for four bits).

    Raises:
        ValueError: The model has no adapter.

    Example:
        >>> model = add_lora(nn.Sequential(nn.Linear(6, 5)), rank=2)
        >>> str(merge_lora(model))
        '1 maps merged into float32: they changed by 0 of their size, rounding 0'
    """
    maps, adapter = adapted(model), _adapter(model)
    error = change = base_error = 0.0
    kind = dtype
    for name, each in maps.items():
        base = each.base_layer
        with torch.no_grad():
            frozen = base.weight.float() if base.weight.dtype != torch.float64 else base.weight
            more = each.lora_B.weight @ each.lora_A.weight
            total = frozen + each.scale * more.to(frozen.dtype)
            kind = dtype or base.weight.dtype
            weight = total.to(kind)
            size = total.norm().clamp(min=1e-38)
            error = max(error, float((weight.to(total.dtype) - total).norm() / size))
            change = max(change, float((total - frozen).norm() / size))
        if isinstance(base, Nf4Linear):
            base_error = max(base_error, float(base.error))
        plain = nn.Linear(1, 1, bias=False, device="meta")
        plain.in_features, plain.out_features = each.in_features, each.out_features
        plain.weight = nn.Parameter(weight, requires_grad=False)
        plain.bias = base.bias
        _put(model, name, plain)
    _free(model, True)
    del model.adapter

    def undo() -> None:
        for name, each in maps.items():
            _put(model, name, each)
        model.adapter = adapter  # pyright: ignore
        _only_trained(model, adapter)

    assert kind is not None
    return Merged(len(maps), kind, error, change, base_error, undo)


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with the names of a model without an adapter, changes added.

    Args:
        model: With or without an adapter; it stays as it is.
    """
    maps = adapted(model)
    state = {k: v for k, v in model.state_dict().items() if not _within(k, maps)}
    for name, each in maps.items():
        state[f"{name}.weight"] = each.weight.detach()
        if each.bias is not None:
            state[f"{name}.bias"] = each.bias.detach()
    return state


def save_adapter(model: nn.Module, folder: Any, base: str | None = None) -> None:
    """Writes the adapter as PEFT does: adapter_config.json and adapter_model.safetensors.

    Args:
        model: With an adapter.
        folder: Made if it is not there.
        base: Name or path of the model it belongs to, for the record.

    Raises:
        ValueError: The model has no adapter.
    """
    resolve("paragone.language._tune_peft:write")(model, _adapter(model), folder, base)


def load_adapter(
    model: nn.Module,
    folder: Any,
    *,
    trainable: bool = False,
    quantize: Literal["nf4"] | None = None,
) -> nn.Module:
    """Puts an adapter beside the weights of the model that it was made for.

    Args:
        model: Changed in place.
        folder: What `save_adapter` or PEFT wrote.
        trainable: Whether it is to be trained on.
        quantize: As in `add_lora`.

    Returns:
        The model.

    Raises:
        ValueError: A folder that is none, features of PEFT that are not known here, or weights
            that do not fit: all are named at once.
    """
    config, ranks, tensors = resolve("paragone.language._tune_peft:read")(model, folder)
    adapter = Adapter(config["r"], config["lora_alpha"], config["lora_dropout"],
                      config["use_rslora"])  # fmt: skip
    _adapt(model, adapter, ranks, tuple(config["saved"]), quantize, None)
    state = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
    if not trainable:
        _free(model, False)
    return model


def _adapt(
    model: nn.Module,
    adapter: Adapter,
    ranks: Mapping[str, tuple[int, float | None]],
    saved: tuple[str, ...],
    quantize: str | None,
    generator: torch.Generator | None,
) -> None:
    if getattr(model, "adapter", None) is not None:
        raise ValueError("the model has an adapter; merge it first (merge_lora)")
    whole = _saved(model, saved)
    if both := sorted(set(whole) & set(ranks)):
        raise ValueError(f"{', '.join(both)} cannot be both a target and trained whole")
    ends = {name.rsplit(".", 1)[-1] for name in (*whole, *ranks)}
    if ends & {"embed_tokens", "lm_head"}:
        untie(model)
    for name, (rank, alpha) in ranks.items():
        base: Any = model.get_submodule(name)
        if quantize is not None:
            base = Nf4Linear(base)
        scale = adapter.scale(rank, alpha)
        _put(model, name, AdaptedLinear(base, rank, scale, adapter.dropout, generator))
    adapter.saved = tuple(whole)
    adapter.originals = {
        name: model.get_parameter(f"{name}.weight").detach().clone() for name in whole
    }
    model.adapter = adapter  # pyright: ignore
    _only_trained(model, adapter)


def _only_trained(model: nn.Module, adapter: Adapter) -> None:
    _free(model, False)
    for each in adapted(model).values():
        each.lora_A.requires_grad_(True)
        each.lora_B.requires_grad_(True)
    for name in adapter.saved:
        model.get_submodule(name).requires_grad_(True)


def _free(model: nn.Module, free: bool) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(free)


def _adapter(model: nn.Module) -> Adapter:
    adapter = getattr(model, "adapter", None)
    if adapter is None:
        raise ValueError("the model has no adapter; add_lora or load_adapter makes one")
    return adapter


def _chosen(model: nn.Module, targets: Sequence[str] | str) -> list[str]:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if targets == "all-linear":
        return [name for name in linear if name.rsplit(".", 1)[-1] != "lm_head"]
    wanted = (targets,) if isinstance(targets, str) else tuple(targets)
    missing = [t for t in wanted if not any(_ends(name, t) for name in linear)]
    if missing or not wanted:
        known = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise ValueError(f"targets {missing} are no linear maps here; known: {', '.join(known)}")
    return [name for name in linear if any(_ends(name, t) for t in wanted)]


def _saved(model: nn.Module, saved: Sequence[str]) -> list[str]:
    found = []
    for wanted in saved:
        names = [name for name, _ in model.named_modules() if _ends(name, wanted)]
        if not names:
            raise ValueError(f"saved={wanted!r} is no module of the model")
        found += names
    return sorted(set(found))


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _within(key: str, names: Mapping[str, Any]) -> bool:
    return any(key.startswith(f"{name}.") for name in names)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
