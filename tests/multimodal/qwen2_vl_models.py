"""Small models of both generations for tests, and a tokenizer.json with their special tokens."""

import json
from pathlib import Path

import numpy as np
import torch

from paragone.language import Tokenizer
from paragone.multimodal.qwen2_vl import Qwen2VL

KINDS = ["qwen2_vl", "qwen2_5_vl"]

START, END, IMAGE, VIDEO = 90, 91, 92, 93

WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|box_start|>", "<|box_end|>",
         "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]  # fmt: skip


def raw(kind: str, **changes) -> dict:
    """The content of a `config.json`, laid out as published."""
    tower = {"depth": 3, "num_heads": 2, "in_chans": 3, "patch_size": 4, "spatial_merge_size": 2,
             "spatial_patch_size": 4, "temporal_patch_size": 2}  # fmt: skip
    if kind == "qwen2_vl":
        tower |= {"embed_dim": 24, "hidden_size": 48, "mlp_ratio": 4}
    else:
        tower |= {"hidden_size": 24, "out_hidden_size": 48, "intermediate_size": 40,
                  "hidden_act": "silu", "window_size": 16, "fullatt_block_indexes": [1],
                  "tokens_per_second": 2}  # fmt: skip
    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}
    return {
        "architectures": [f"{names[kind]}ForConditionalGeneration"], "model_type": kind,
        "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 3, "num_key_value_heads": 1, "vocab_size": 96,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "hidden_act": "silu",
        "bos_token_id": 88, "eos_token_id": 89, "tie_word_embeddings": kind == "qwen2_vl",
        "use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 3,
        "vision_start_token_id": START, "vision_end_token_id": END, "vision_token_id": 94,
        "image_token_id": IMAGE, "video_token_id": VIDEO, "torch_dtype": "float32",
        "vision_config": tower, **changes,
    }  # fmt: skip


def filled(model: torch.nn.Module, seed: int = 3) -> torch.nn.Module:
    """Weights that make all parts matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in model.named_parameters():
            scale = 0.5 if x.ndim < 2 else 1.2 * x[0].numel() ** -0.5
            shift = float((x.ndim < 2 and "norm" in name) or name.endswith("ln_q.weight"))
            x.copy_(shift + scale * torch.randn(x.shape, generator=generator))
    return model.eval()


def small(kind: str, **changes) -> Qwen2VL:
    """A model with weights of its own."""
    return filled(Qwen2VL.from_config(raw(kind, **changes)))


def row(*parts: int | tuple[int, int, int]) -> list[int]:
    """Tokens: numbers are words, grids of patches stand for pictures."""
    ids: list[int] = []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
        else:
            t, h, w = part
            ids += [START, *[VIDEO if t > 1 else IMAGE] * (t * h * w // 4), END]
    return ids


def pixels(grids: list, seed: int = 0) -> torch.Tensor:
    """(L, 96) numbers of patches."""
    count = sum(t * h * w for t, h, w in grids)
    return torch.randn(count, 96, generator=torch.Generator().manual_seed(seed))


def drawn(height: int, width: int) -> np.ndarray:
    """A picture."""
    rng = np.random.default_rng(height * 31 + width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_tokenizer(folder: Path) -> Tokenizer:
    """A byte-level tokenizer.json as Qwen2's is, with few words."""
    tokenizer = Tokenizer.train(
        ["click(start_box='(12,34)')\nThought: user system assistant"] * 9, 290 + len(WORDS),
        special=tuple(WORDS),
    )  # fmt: skip
    tokenizer.save(folder)
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False,
              "tokenizer_class": "Qwen2Tokenizer"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(folder)
