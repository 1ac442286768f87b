"""Every mixer by name, so that a model or a study can try them all in the same place.

References:
    Hua et al. (2022), arXiv:2202.10447, section 2.3 (two gated units stand for one block of
    attention and feed-forward; the same is usual for Mamba, arXiv:2312.00752, section 3.4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paragone._core.lazy import resolve

if TYPE_CHECKING:
    from paragone.mixers.contract import Mixer

__all__ = ["MIXERS", "Entry", "build", "heads_for", "names"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A name and what it builds.

    Attributes:
        target: Public name in `paragone.mixers`.
        options: Arguments that make this one out of its class.
        heads: Whether it takes `heads`.
        causal: Whether it has a causal form, and with it a state and a step.
        alone: Whether it does the feed-forward's work, too: two of them make a block.
    """

    target: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    heads: bool = True
    causal: bool = True
    alone: bool = False


MIXERS: dict[str, Entry] = {
    "mha": Entry("MultiHeadAttention"),
    "mqa": Entry("MultiQueryAttention"),
    "gqa": Entry("GroupedQueryAttention"),
    "mla": Entry("LatentAttention"),
    "window": Entry("MultiHeadAttention", {"window": 128}),
    "sparse": Entry("SparseAttention"),
    "linear": Entry("LinearAttention"),
    "taylor": Entry("LinearAttention", {"feature_map": "taylor2"}),
    "retention": Entry("Retention"),
    "gla": Entry("GatedLinearAttention"),
    "deltanet": Entry("DeltaNet"),
    "gated_deltanet": Entry("GatedDeltaNet"),
    "kda": Entry("KimiDeltaAttention"),
    "performer": Entry("Performer"),
    "linformer": Entry("Linformer", causal=False),
    "gau": Entry("GatedAttentionUnit", heads=False, alone=True),
    "flash": Entry("FLASH", heads=False, alone=True),
    "s4": Entry("S4", heads=False),
    "s4d": Entry("S4D", heads=False),
    "s5": Entry("S5", heads=False),
    "lru": Entry("LRU", heads=False),
    "mamba": Entry("Mamba", heads=False, alone=True),
    "mamba2": Entry("Mamba2", heads=False, alone=True),
}
"""Name to entry; `names()` lists them."""


def names(*, causal: bool | None = None) -> list[str]:
    """Returns the names that `build` knows; with `causal=True` those that can decode.

    Example:
        >>> "mamba" in names(causal=True), "linformer" in names(causal=True)
        (True, False)
    """
    return [name for name, entry in MIXERS.items() if causal is None or entry.causal == causal]


def heads_for(width: int) -> int:
    """Heads by default: of width 64 if that divides the model width, else the next that does.

    Example:
        >>> heads_for(512), heads_for(96), heads_for(64)
        (8, 2, 2)
    """
    for size in (64, 48, 32, 16, 8):
        if width % size == 0 and width // size > 1:
            return width // size
    return 1


def build(name: str, width: int, *, heads: int | None = None, **options: Any) -> Mixer:
    """Builds a mixer by name.

    Args:
        name: One of `names()`.
        width: Model width M.
        heads: Heads H (None: `heads_for(width)`); left out for mixers without heads.
        options: Further arguments of the mixer's class.

    Raises:
        ValueError: Unknown name.

    Example:
        >>> type(build("linear", 64, heads=4)).__name__
        'LinearAttention'
    """
    if name not in MIXERS:
        raise ValueError(f"mixer={name!r} is none of {', '.join(MIXERS)}")
    entry = MIXERS[name]
    arguments = {**entry.options, **options}
    if entry.heads:
        arguments.setdefault("heads", heads or heads_for(width))
    return resolve(f"paragone.mixers:{entry.target}")(width=width, **arguments)
