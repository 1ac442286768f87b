"""Sequence mixers: attention and its rivals under one contract.

Start with `attention` in place of torch's `scaled_dot_product_attention`, or with
`build("mamba", width=256)` for a module; every one maps (B, T, M) to (B, T, M), returns a state,
and goes on from it token by token. `paragone compare mixers` prints at which length one overtakes
the other on this machine.
"""

from paragone._core.lazy import lazy_exports

_MODULES = {
    "contract": ("Mixer",),
    "registry": ("build", "names"),
    "body": ("SequenceModel",),
    "flash_attention": ("attention", "attention_packed", "BlockMask", "FlashAttention"),
    "heads": ("MultiHeadAttention", "MultiQueryAttention", "GroupedQueryAttention"),
    "latent_attention": ("LatentAttention",),
    "cache": ("KeyValueCache", "LatentCache"),
    "paged_cache": ("PagedCache",),
    "rotary": ("Rotary",),
    "linear_attention": ("LinearAttention",),
    "retention": ("Retention",),
    "gated_linear_attention": ("GatedLinearAttention",),
    "delta_rule": ("DeltaNet", "GatedDeltaNet", "KimiDeltaAttention"),
    "performer": ("Performer",),
    "linformer": ("Linformer",),
    "sparse_attention": ("SparseAttention",),
    "gated_attention_unit": ("GatedAttentionUnit",),
    "flash": ("FLASH",),
    "s4": ("S4",),
    "s4d": ("S4D",),
    "s5": ("S5",),
    "lru": ("LRU",),
    "mamba": ("Mamba",),
    "mamba2": ("Mamba2",),
}

_TARGETS = {
    name: f"paragone.mixers.{module}:{name}" for module, names in _MODULES.items() for name in names
} | {"hippo": "paragone.mixers.hippo"}

__getattr__, __dir__ = lazy_exports(__name__, _TARGETS)

__all__ = [*_TARGETS]  # pyright: ignore[reportUnsupportedDunderAll]
