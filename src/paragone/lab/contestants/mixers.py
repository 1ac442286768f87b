"""The contestants of the study `mixers`: every name of our registry, and other libraries.

A mixer that is entered in `paragone.mixers.registry` appears here by itself. In a quick study
few learn, one of each kind and torch's attention, few meet at every length, and other libraries
stay out.
"""

from __future__ import annotations

from typing import Any

from paragone.lab.spec import Contestant
from paragone.mixers.registry import MIXERS

__all__ = ["FEW", "QUICK", "SIZES", "WIDENED", "contestants", "for_speed"]

QUICK = ("mha", "linear", "deltanet", "s4d", "mamba", "torch_sdpa")
"""Those that learn in a quick study."""

FEW = (*QUICK, "performer", "gau")
"""Those that meet at all of its lengths; the others at the shortest and the longest."""

_HERE = "paragone.lab.contestants.mixers_rivals:"
_TITLES = {
    "mha": "attention", "mqa": "multi-query attention", "gqa": "grouped-query attention",
    "mla": "latent attention", "window": "window of 128", "sparse": "sparse attention",
    "linear": "linear attention", "taylor": "Taylor-2 attention", "retention": "retention",
    "gla": "gated linear attention", "deltanet": "DeltaNet", "gated_deltanet": "Gated DeltaNet",
    "performer": "Performer", "linformer": "Linformer", "gau": "gated attention unit",
    "flash": "FLASH", "s4": "S4", "s4d": "S4D", "s5": "S5", "lru": "LRU", "mamba": "Mamba",
    "mamba2": "Mamba-2",
}  # fmt: skip
_METHODS = {
    **dict.fromkeys(("mha", "mqa", "gqa", "mla"), "latent_attention"),
    **dict.fromkeys(("window",), "flash_attention"),
    **dict.fromkeys(("performer", "linformer", "sparse"), "performer"),
    **dict.fromkeys(("gau", "flash"), "gated_attention_unit"),
    **dict.fromkeys(("s4", "s4d", "s5", "lru", "mamba", "mamba2"), "state_space"),
}
_FULL: dict[str, Any] = {"quick": [False]}
_ANY: dict[str, Any] = {"order": ["any"]}
_SHORT: dict[str, Any] = {"long": [False], "part": ["sweep"]}


def _crews(name: str) -> dict[str, Any]:
    if name in QUICK:
        return {}
    return {"crew": ["all", "few"] if name in FEW else ["all"]}


def _ours(name: str) -> Contestant:
    entry = MIXERS[name]
    words = [*(f"{key} {value}" for key, value in entry.options.items())]
    words += [] if entry.causal else ["sees the whole sequence; no decoding"]
    words += ["stands for attention and feed-forward"] if entry.alone else []
    return Contestant(
        id=name, title=_TITLES.get(name, name), make="paragone.mixers.registry:build",
        params={"name": name}, method=_METHODS.get(name, "linear_attention"),
        needs={**_crews(name), **({} if entry.causal else _ANY)},
        note=", ".join(words),
    )  # fmt: skip


SIZES: dict[str, list[dict[str, Any]]] = {
    **{name: [{"heads": heads} for heads in (1, 2, 4, 8, 16)]
       for name in ("linear", "retention", "gla", "deltanet", "gated_deltanet", "performer")},
    **{name: [{"state_size": size} for size in (8, 16, 32, 64, 128)]
       for name in ("mamba", "mamba2")},
    **{name: [{"state": size} for size in (16, 32, 64, 128, 256)] for name in ("s4", "s4d")},
}  # fmt: skip
"""Options among which the mode of equal states chooses."""

WIDENED = {"mamba": "expand", "mamba2": "expand", "gau": "expansion", "flash": "expansion"}
"""Factor of the inner width of those that stand for attention and feed-forward."""


def _rival(
    id: str, title: str, make: str, distribution: str, note: str = "", *, top: str = "",
    needs: Any = None, **params: Any,
) -> Contestant:  # fmt: skip
    return Contestant(
        id=id, title=title, make=_HERE + make, params=params, origin="rival", note=note,
        distribution=distribution, install=f"pip install {top or distribution}",
        needs={**({} if id in QUICK else _FULL), **(needs or {})},
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """Ours by name, then torch, transformers, and one library for each kind of mixer."""
    rivals = [
        _rival("torch_sdpa", "torch SDPA", "TorchAttention", "torch",
               "projections, rotary places, a cache that is concatenated"),
        _rival("torch_mha", "torch MultiheadAttention", "TorchMultihead", "torch",
               "causal mask; no places", needs={"part": ["sweep"]}),
        _rival("transformers_mamba", "transformers Mamba", "HuggingMamba", "transformers",
               "slow path: a loop over time", needs=_SHORT),
        _rival("mambapy", "mambapy {version}", "MambaPy", "mambapy", "parallel scan in torch",
               needs={"long": [False]}),
        _rival("performer_pytorch", "performer-pytorch {version}", "PerformerPytorch",
               "performer-pytorch", "causal; no places", needs={"long": [False]}),
        _rival("linformer_peer", "linformer {version}", "LinformerPeer", "linformer",
               "sees the whole sequence", needs=_ANY),
        _rival("flash_gau", "FLASH-pytorch {version} GAU", "FlashPytorch", "FLASH-pytorch",
               "causal, residual left out", kind="gau", needs=_SHORT),
        _rival("flash_mixed", "FLASH-pytorch {version} FLASH", "FlashPytorch", "FLASH-pytorch",
               "causal; norm and residual in it", kind="flash", needs=_SHORT),
        _rival("fla_delta", "fla {version} delta rule", "FlaDelta", "fla-core",
               "its plain-torch recurrence in chunks; its kernels need a GPU", needs=_SHORT,
               top="fla-core einops"),
    ]  # fmt: skip
    return [*(_ours(name) for name in MIXERS), *rivals]


_CALLS = "paragone.lab.contestants.mixers_calls:"


def _does(*ops: str) -> dict[str, Any]:
    return {"op": list(ops)}


def for_speed() -> list[Contestant]:
    """Ours by catalogue id, then what each is measured against."""

    def ours(id: str, title: str, *ops: str) -> Contestant:
        return Contestant(id=id, title=f"paragone {title}", make=_CALLS + "Ours", method=id,
                          needs=_does(*ops))  # fmt: skip

    def other(
        id: str, title: str, make: str, distribution: str, note: str, *ops: str
    ) -> Contestant:
        return Contestant(
            id=id, title=title, make=_CALLS + make, origin="rival", distribution=distribution,
            install=f"pip install {distribution}", note=note, needs=_does(*ops),
        )  # fmt: skip

    return [
        ours("linear_attention", "linear attention", "linear"),
        ours("state_space", "state spaces", "scan", "mamba", "kernel", "legs"),
        ours("performer", "Performer, Linformer", "performer", "linformer"),
        ours("gated_attention_unit", "gated units", "gau"),
        other("torch_linear_attention", "torch, by chunks", "Torch", "torch",
              "plain torch, chunks of 64", "linear"),
        other("torch_sdpa", "torch SDPA", "TorchSdpa", "torch",
              "exact attention: other work, so its error says nothing", "linear"),
        other("torch_state_space", "torch loop", "Torch", "torch",
              "plain torch and NumPy: a loop over time; all powers at once; a solve a sample",
              "scan", "kernel", "legs"),
        other("transformers_mamba", "transformers Mamba", "Hugging", "transformers",
              "the same weights; slow path", "mamba"),
        other("mambapy", "mambapy {version}", "MambaPy", "mambapy", "the same weights", "scan",
              "mamba"),
        other("peer_performer", "performer-pytorch {version}", "Performers", "performer-pytorch",
              "the same weights and directions; its epsilon stays", "performer"),
        other("peer_linformer", "linformer {version}", "Linformers", "linformer",
              "the same weights", "linformer"),
        other("torch_gated_attention_unit", "torch gated units", "Torch", "torch",
              "the same weights in plain torch", "gau"),
        other("torch_block", "torch attention + feed-forward", "TorchBlock", "torch",
              "as many parameters: other work, so its error says nothing", "gau"),
        other("peer_gau", "FLASH-pytorch {version}", "FlashPeer", "FLASH-pytorch",
              "weights of its own, a norm and a bias more: its error says nothing", "gau"),
    ]  # fmt: skip
