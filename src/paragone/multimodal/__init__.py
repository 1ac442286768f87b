"""Multimodal models and agents.

`KimiVL` reads pictures, `Chameleon` reads and draws them as tokens of a codebook, and
`LosslessTransformer` reads and draws them as raw patches. All three take `Document`s, texts and
pictures in order, learn from them by `train_vl`, and are opened again by `open_model`. `UITars`
sees screenshots and acts; `paragone.multimodal.agent` holds what leads, teaches and scores it.
"""

from paragone._core.lazy import lazy_exports

_MODULES = {
    "documents": ("Document", "picture"),
    "contract": ("Losses", "VisionLanguage", "open_model"),
    "captions": ("digits_with_captions", "read_captions", "rendered_words"),
    "kimi_image_processor": ("KimiImageProcessor",),
    "moonvit": ("MoonViT", "MoonViTConfig"),
    "kimi_vl": ("KimiVL", "KimiVLConfig"),
    "image_tokenizer": ("ImageTokenizer", "ImageTokenizerConfig"),
    "chameleon_image_processor": ("ChameleonImageProcessor",),
    "grammar": ("Grammar",),
    "chameleon": ("Chameleon", "ChameleonConfig"),
    "positions": ("positions",),
    "patches": ("patchify", "unpatchify"),
    "patch_heads": ("DiffusionHead", "MeanHead"),
    "lossless": ("LosslessConfig", "LosslessTransformer"),
    "train_vl": ("train_vl",),
    "qwen2_vl": ("Qwen2VL", "Qwen2VLConfig"),
    "qwen2_vl_image_processor": ("Qwen2VLImageProcessor",),
    "ui_tars": ("UITars",),
}

_TARGETS = {
    name: f"paragone.multimodal.{module}:{name}"
    for module, names in _MODULES.items()
    for name in names
}

__getattr__, __dir__ = lazy_exports(__name__, _TARGETS)

__all__ = [*_TARGETS]  # pyright: ignore[reportUnsupportedDunderAll]
