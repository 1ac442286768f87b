"""Names of experts on disk, one tensor for each matrix of each expert, and in memory, stacked.

    mlp.experts.{e}.gate_proj.weight, up_proj, down_proj           DeepSeek-V3, Qwen3
    block_sparse_moe.experts.{e}.w1.weight, w3, w2                 Mixtral
    mlp.experts.gate_up_proj (E, 2 F, M), mlp.experts.down_proj (E, M, F)      here

References:
    Names of tensors as in the published files of Mixtral 8x7B and DeepSeek-V3.

Shapes: E experts, F hidden units, M model width.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from torch import Tensor

from paragone.language.config import LlamaConfig

__all__ = ["joined", "split"]

_ONE = re.compile(
    r"(model\.layers\.\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\."
    r"(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight"
)
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_PARTS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
_MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
_BIAS = "mlp.gate.e_score_correction_bias"


def joined(tensors: dict[str, Tensor], config: LlamaConfig, source: Path) -> dict[str, Tensor]:
    """Stacks experts; leaves out tables of angles and modules that predict further tokens.

    Args:
        tensors: As on disk.
        config: Sizes.
        source: The folder, for errors.

    Raises:
        ValueError: Matrices of experts that are missing, all of them in one message.
    """
    found: dict[str, Tensor] = {}
    single: dict[str, dict[tuple[int, str], Tensor]] = {}
    beyond = 0
    for name, x in tensors.items():
        layer = _LAYER.match(name)
        one = _ONE.fullmatch(name)
        if name.endswith("rotary_emb.inv_freq"):
            continue
        if layer and int(layer[1]) >= config.num_hidden_layers:
            beyond += 1
        elif one:
            part = _PARTS.get(one[3], one[3])
            single.setdefault(one[1], {})[int(one[2]), part] = x
        else:
            found[name.replace(".block_sparse_moe.", ".mlp.")] = x
    if beyond:
        warnings.warn(
            f"{source}: {beyond} tensors of layers from {config.num_hidden_layers} on (modules "
            "that predict further tokens) are left out",
            stacklevel=5,
        )
    wanted = [(e, part) for e in range(config.n_routed_experts) for part in _PARTS.values()]
    missing = [
        f"{layer}.mlp.experts.{e}.{part}"
        for layer, parts in single.items() for e, part in wanted if (e, part) not in parts
    ]  # fmt: skip
    if missing:
        raise ValueError(f"{source}: {len(missing)} matrices missing: {', '.join(missing[:12])}")
    for layer, parts in single.items():
        gate, up, down = (
            torch.stack([parts[e, part] for e in range(config.n_routed_experts)])
            for part in ("gate_proj", "up_proj", "down_proj")
        )
        found[f"{layer}.mlp.experts.gate_up_proj"] = torch.cat([gate, up], 1)
        found[f"{layer}.mlp.experts.down_proj"] = down
    for at in range(config.num_hidden_layers):
        if f"model.layers.{at}.mlp.gate.weight" in found:
            zeros = torch.zeros(config.n_routed_experts)
            found.setdefault(f"model.layers.{at}.{_BIAS}", zeros)
    return found


def split(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Unstacks experts into the names of a kind of files.

    Args:
        tensors: As in memory.
        kind: "mixtral", or another `model_type`.
    """
    found: dict[str, Tensor] = {}
    mixtral = kind == "mixtral"
    home = "block_sparse_moe" if mixtral else "mlp"
    for name, x in tensors.items():
        layer, _, rest = name.partition(".mlp.")
        if rest == "experts.gate_up_proj":
            named = dict(zip(("gate_proj", "up_proj"), x.chunk(2, 1), strict=True))
        elif rest == "experts.down_proj":
            named = {"down_proj": x}
        elif rest == "gate.e_score_correction_bias" and kind in ("mixtral", "qwen3_moe"):
            continue
        else:
            at = f"{layer}.{home}.{rest}" if rest.startswith("gate.") else name
            found[at] = x
            continue
        for part, stacked in named.items():
            for e, matrix in enumerate(stacked.unbind()):
                last = _MIXTRAL[part] if mixtral else part
                found[f"{layer}.{home}.experts.{e}.{last}.weight"] = matrix
    return found
