"""The contestants of the studies `attention` and `attention_speed`: strings only."""

from __future__ import annotations

from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["contestants", "for_speed"]

_HERE = "paragone.lab.contestants.attention_rivals:"
_KERNEL: dict[str, Any] = {"part": ["kernel"]}
_LADDER: dict[str, Any] = {**_KERNEL, "ladder": [True]}


def _step(method: str) -> Contestant:
    return Contestant(
        id=method.replace("-", "_"), title=f"ladder: {method}", make=_HERE + "Ladder",
        params={"method": method}, method="flash_attention", needs=_LADDER,
        note="a step of the teaching ladder, in plain torch",
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """Ours, the ladder to it, torch's three ways, attention by the book, and DeepSeek's module."""
    return [
        Contestant(id="flash_attention", title="paragone", make=_HERE + "Ours",
                   method="flash_attention"),
        Contestant(id="torch_flash", title="torch {version} SDPA", make=_HERE + "TorchSdpa",
                   origin="rival", distribution="torch", install="pip install torch",
                   note="its flash kernel; other masks than causal as a bool matrix; a cache that "
                   "is concatenated; the latent expanded at each step"),
        Contestant(id="naive", title="by the book", make=_HERE + "Naive", origin="baseline",
                   note="scores, softmax, product"),
        Contestant(id="torch_math", title="torch SDPA, math", make=_HERE + "TorchSdpa",
                   params={"backend": "math"}, origin="rival", distribution="torch",
                   install="pip install torch", needs={**_KERNEL, "quick": [False]}),
        Contestant(id="torch_flex", title="torch FlexAttention", make=_HERE + "Flex",
                   origin="rival", distribution="torch", install="pip install torch",
                   needs={**_KERNEL, "quick": [False]},
                   note="compiled; needs a C++ compiler; no backward pass on a CPU"),
        Contestant(id="transformers_mla", title="transformers DeepSeek", make=_HERE + "Hugging",
                   origin="rival", distribution="transformers", install="pip install transformers",
                   needs={"layout": ["mla"]}, note="expands the latent at each step"),
        *(_step(method) for method in ("three-pass", "two-pass", "online", "tiled")),
    ]  # fmt: skip


_CALLS = "paragone.lab.contestants.attention_calls:"


def for_speed() -> list[Contestant]:
    """Ours by catalogue id, torch's SDPA, attention by the book, transformers' latent attention."""
    kernel = {"op": ["forward", "backward"]}
    heads = {"op": ["decode", "latent"]}
    torch_: dict[str, Any] = {
        "make": _CALLS + "TorchSdpa", "origin": "rival", "distribution": "torch",
        "install": "pip install torch",
    }  # fmt: skip
    return [
        Contestant(id="flash_attention", title="paragone", make=_CALLS + "Ours",
                   method="flash_attention", needs=kernel),
        Contestant(id="latent_attention", title="paragone", make=_CALLS + "Ours",
                   method="latent_attention", needs=heads),
        Contestant(id="torch_flash_attention", title="torch {version} SDPA", needs=kernel,
                   note="a window as a bool mask", **torch_),
        Contestant(id="torch_latent_attention", title="torch {version} SDPA",
                   needs={"op": ["decode"]}, note="enable_gqa", **torch_),
        Contestant(id="transformers_latent_attention", title="transformers DeepSeek",
                   make=_CALLS + "Hugging", origin="rival", distribution="transformers",
                   install="pip install transformers", needs={"op": ["latent"]},
                   note="the same weights; expands the latent at each step"),
        Contestant(id="naive", title="by the book", make=_CALLS + "Naive", origin="baseline",
                   needs={"op": ["forward", "backward", "decode"], "long": [False]},
                   note="scores, softmax, product"),
    ]  # fmt: skip
