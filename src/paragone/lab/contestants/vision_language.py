"""The contestants of `vision_language`: three ways to put pictures into a language model.

A stranger's contestant is a function of a `Scene` that returns a `VisionLanguage`, see
`lab.tasks.vision_language`. Ours are as wide as the wanted number of parameters allows, and have
the same tokenizer of texts, cells of the same size, and as many layers.

Shapes: H rows and W columns of pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone.lab.spec import Contestant

__all__ = ["cell_of", "chameleon", "contestants", "kimi", "lossless", "sized", "tokenizer_of"]

_LAYERS, _HEADS, _STEP, _WIDEST = 4, 4, 16, 512
_LONGEST = 1024
"""Tokens of a document."""
_FIRST_STAGE = 0.25
"""Share of the budget that a codebook is trained for."""
_HERE = "paragone.lab.contestants.vision_language:"


def cell_of(scene: Any) -> int:
    """Side of a cell in pixels: 4 x 4 cells of a digit, 8 x 8 of larger pictures.

    Raw patches of a digit are 4 x 4 pixels, as many as the encoder hands on: a patch holds what it
    holds whatever its size, and a codebook does not.
    """
    return max(2, max(scene.size) // 8)


def tokenizer_of(scene: Any) -> Any:
    """Bytes; where few captions are distinct, their frequent pairs, too."""
    texts = [scene.captions[i] for i in scene.train] if scene.classes else []
    return resolve("paragone.language:Tokenizer").train(texts, 320 if texts else 258)


def sized(make: Callable[..., Any], parameters: int, **more: Any) -> Any:
    """A model of about so many parameters.

    Args:
        make: Builds one from `width` and `device`.
        parameters: How many are wanted.
        more: Further arguments of `make`.
    """
    sizes: dict[int, int] = {}
    for width in range(_STEP, _WIDEST + 1, _STEP):
        model = make(width=width, device="meta", **more)
        sizes[width] = sum(p.numel() for p in model.parameters())
        if sizes[width] > parameters:
            break
    width = min(sizes, key=lambda w: abs(sizes[w] - parameters))
    return make(width=width, device="cpu", **more)


def _kimi(scene: Any, tokenizer: Any, width: int, device: str) -> Any:
    cell = cell_of(scene)
    rows, columns = (side // cell for side in scene.size)
    heads = max(width // 16, 1)
    vision = {
        "hidden_size": width, "num_attention_heads": heads, "intermediate_size": 2 * width,
        "num_hidden_layers": _LAYERS // 2, "patch_size": cell, "num_channels": scene.channels,
        "init_pos_emb_height": rows, "init_pos_emb_width": columns,
    }  # fmt: skip
    text = {
        "hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": heads,
        "num_key_value_heads": heads, "moe_intermediate_size": width,
        "kv_lora_rank": width // 2, "num_hidden_layers": _LAYERS // 2,
        "max_position_embeddings": _LONGEST,
    }  # fmt: skip
    return resolve("paragone.multimodal:KimiVL").from_config(
        "digits", tokenizer=tokenizer, device=device, vision_config=vision, text_config=text
    )


def kimi(scene: Any, parameters: int) -> Any:
    """Kimi-VL: half of the layers see, half read."""
    built = resolve("paragone.lab.tasks.vision_language:Built")
    tokenizer = tokenizer_of(scene)
    model = sized(_kimi, parameters, scene=scene, tokenizer=tokenizer)
    return built(model=model, attend=lambda pictures: _attention(model, pictures))


def _attention(model: Any, pictures: list[np.ndarray]) -> list[np.ndarray]:
    """For each picture how much its patches are attended to in the last block, (h, w)."""
    torch = resolve("torch")
    found = []
    for one in pictures:
        seen = model.processor([one])
        patches, grid = (torch.as_tensor(x, device=model.device) for x in seen)
        weights = model.vision_tower.attention_of(patches, grid)[0]
        found.append(weights.mean((0, 1)).view(*(int(n) for n in grid[0])).cpu().numpy())
    return found


def _drawn_by_inputs(model: Any) -> Any:
    """First weights of variance 1 / inputs, as Kimi-VL's: 0.02 suits wide models alone."""
    with resolve("torch").no_grad():
        for name, weight in model.named_parameters():
            inner = ".layers." in name or name.startswith("patch_embed.")
            if weight.ndim > 1 and inner and not weight.is_meta and "norm" not in name:
                weight.mul_(50 * weight.shape[-1] ** -0.5)
    return model


def _lossless(
    scene: Any, tokenizer: Any, head: str, positions: str, width: int, device: str
) -> Any:
    # A denoiser behind the Transformer is as wide as it, so that it does not take all weights.
    options = {"hidden": width} if head in ("mar", "mse") else {}
    return _drawn_by_inputs(resolve("paragone.multimodal:LosslessTransformer").from_config(
        "digits", tokenizer=tokenizer, device=device, patch_size=max(cell_of(scene), 4),
        channels=scene.channels, image_size=scene.size, head=head, head_options=options,
        positions=positions, hidden_size=width, intermediate_size=11 * width // 4,
        num_hidden_layers=_LAYERS, num_attention_heads=_HEADS,
        max_position_embeddings=_LONGEST,
    ))  # fmt: skip


def lossless(
    scene: Any, parameters: int, head: str = "flow", positions: str = "rope-tv"
) -> Any:  # fmt: skip
    """Raw patches in and, by a head, out."""
    model = sized(_lossless, parameters, scene=scene, tokenizer=tokenizer_of(scene), head=head,
                  positions=positions)  # fmt: skip
    if head != "vq":
        return model
    return resolve("paragone.lab.tasks.vision_language:Built")(
        model=model, rebuild=lambda pictures: _coded(model, pictures)
    )


def _coded(model: Any, pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Pictures of which each patch is the nearest of the codebook."""
    torch, home = resolve("torch"), "paragone.multimodal.patches:"
    cut, join = resolve(home + "patchify"), resolve(home + "unpatchify")
    side, found = model.config.patch_size, []
    for one in pictures:
        patches = cut(torch.from_numpy(one).float() / 127.5 - 1, side)
        seen = model.head.shown(patches.to(model.device))
        grid = one.shape[0] // side, one.shape[1] // side
        pixels = (join(seen, *grid, side) + 1) * 127.5
        found.append(pixels.round().clamp(0, 255).to(torch.uint8).cpu().numpy())
    return found


def _codebook(scene: Any, seconds: float | None, seed: int, device: str) -> tuple[Any, float]:
    """A codebook of the training pictures, and the CPU seconds that it took."""
    cell, levels = cell_of(scene), 1
    while 1 << (levels - 1) < cell:
        levels += 1
    config = {
        "resolution": max(scene.size), "in_channels": scene.channels, "base_channels": 8,
        "channel_multiplier": [1, *([2] * (levels - 1))], "num_res_blocks": 1,
        "latent_channels": 8, "embed_dim": 8, "num_embeddings": 128 if cell == 2 else 256,
        "norm_groups": 8,
    }  # fmt: skip
    budget = {"steps": 60} if seconds is None else {"seconds": _FIRST_STAGE * seconds}
    fit, pixels = resolve("paragone.multimodal:ImageTokenizer").fit, scene.pixels[scene.train]
    # Imports and compiled kernels are no part of what training takes.
    fit(pixels[:64], config, steps=1, seed=seed, device=device)
    began = time.process_time()
    fitted = fit(pixels, config, seed=seed, device=device, **budget)
    return fitted.tokenizer, time.process_time() - began


def _chameleon(scene: Any, tokenizer: Any, codebook: Any, width: int, device: str,
               **more: Any) -> Any:  # fmt: skip
    if device == "meta":
        codebook = type(codebook)(codebook.config, device="meta")
    return _drawn_by_inputs(resolve("paragone.multimodal:Chameleon").from_config(
        "digits", tokenizer=tokenizer, image_tokenizer=codebook, device=device,
        hidden_size=width, intermediate_size=11 * width // 4, num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS, max_position_embeddings=_LONGEST, **more,
    ))  # fmt: skip


def chameleon(
    scene: Any, parameters: int, seconds: float | None, seed: int, device: str,
    qk_norm: bool = True, z_loss: float = 1e-5,
) -> Any:  # fmt: skip
    """Chameleon: a codebook first, then one Transformer over words and codes."""
    built = resolve("paragone.lab.tasks.vision_language:Built")
    codebook, spent = _codebook(scene, seconds, seed, device)
    model = sized(_chameleon, parameters, scene=scene, tokenizer=tokenizer_of(scene),
                  codebook=codebook, qk_norm=qk_norm, z_loss=z_loss)  # fmt: skip
    some = scene.drawing(scene.train[:8])
    return built(
        model=model,
        spent=spent,
        watch=lambda: model.watched(some)["score"],
        rebuild=lambda pictures: model.image_tokenizer.decode(
            model.image_tokenizer.encode(pictures)
        ),
    )


_ALL, _WORDS = ("all", "quick"), ("words",)


def _one(
    id: str, title: str, make: str, method: str, crews: tuple[str, ...], note: str, **params: Any
) -> Contestant:
    return Contestant(
        id=id,
        title=title,
        make=_HERE + make,
        method=method,
        note=note,
        params=params,
        needs={"part": ["learn"], "crew": list(crews)},
    )


def _stable(id: str, title: str, **params: Any) -> Contestant:
    crews = ["stable", *(["stable-quick"] if id in ("stable_plain", "stable_both") else [])]
    return Contestant(
        id=id,
        title=title,
        make=_HERE + "chameleon",
        method="chameleon",
        params=params,
        needs={"part": ["stable"], "crew": crews},
    )


def _packs(id: str, title: str, make: str, note: str, **more: Any) -> Contestant:
    return Contestant(
        id=id,
        title=title,
        make=f"paragone.lab.contestants.vision_language_calls:{make}",
        note=note,
        needs={"part": ["packing"]},
        **more,
    )


def contestants() -> list[Contestant]:
    """Three architectures and heads, Chameleons without their norms, and ways to batch."""
    raw, positions = "lossless", ("1d", "m-rope", "rope-tie")
    return [
        _one("kimi", "Kimi-VL", "kimi", "kimi_vl", _ALL + _WORDS,
             "encoder, projector, experts; only reads"),
        _one("chameleon", "Chameleon", "chameleon", "chameleon", _ALL + _WORDS,
             "codes of a tokenizer that a quarter of the time goes to"),
        _one("flow", "raw patches (flow)", raw, "lossless_images", _ALL + _WORDS,
             "all patches denoised at once by the Transformer itself", head="flow"),
        _one("mar", "raw patches (MAR)", raw, "lossless_images", _ALL,
             "patch by patch, each drawn by a small denoiser", head="mar"),
        _one("expanded", "raw patches (expanded)", raw, "lossless_images", ("all",),
             "patch by patch through its noise levels in the Transformer", head="expanded"),
        _one("vq", "patches as codes", raw, "lossless_images", (*_ALL, "words"),
             "codes of a k-means codebook in and out", head="vq"),
        _one("mse", "raw patches (squared error)", raw, "lossless_images", _ALL,
             "the mean of the next patch: the baseline", head="mse"),
        *(_one(f"flow_{name.replace('-', '_')}", f"raw patches (flow, {name})", raw,
               "lossless_images", ("all",), "the same with other positions", head="flow",
               positions=name) for name in positions),
        _stable("stable_plain", "Chameleon, neither", qk_norm=False, z_loss=0.0),
        _stable("stable_qk", "Chameleon, QK-norm alone", qk_norm=True, z_loss=0.0),
        _stable("stable_z", "Chameleon, z-loss alone", qk_norm=False, z_loss=1e-5),
        _stable("stable_both", "Chameleon, both", qk_norm=True, z_loss=1e-5),
        _packs("packed", "MoonViT, packed", "Packed", "patches of all in one row",
               method="kimi_vl"),
        _packs("single", "MoonViT, one by one", "Single", "a picture at a time",
               method="kimi_vl"),
        _packs("padded", "plain torch, padded", "Padded", "filled up to the largest, with a mask",
               origin="baseline"),
        _packs("transformers_packed", "transformers {version}, packed", "Transformers",
               "the vision tower of kimi_k25", origin="rival", distribution="transformers",
               install="pip install transformers"),
    ]  # fmt: skip
