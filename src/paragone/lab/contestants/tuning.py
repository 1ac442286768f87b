"""The contestants of the study `tuning_speed`: strings only."""

from __future__ import annotations

from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["contestants"]

_CALLS = "paragone.lab.contestants.tuning_calls:"


def contestants() -> list[Contestant]:
    """Ours by catalogue id, TRL's trainers, PEFT's layers in our model."""
    trl: dict[str, Any] = {
        "make": _CALLS + "Trl", "origin": "rival", "distribution": "trl",
        "install": "pip install trl",
    }  # fmt: skip
    taught = {"op": ["sft", "lora"]}
    preferred = {"op": ["dpo"]}
    return [
        Contestant(id="alpaca", title="paragone finetune", make=_CALLS + "Ours", method="alpaca",
                   needs=taught),
        Contestant(id="dpo", title="paragone dpo", make=_CALLS + "Ours", method="dpo",
                   needs=preferred),
        Contestant(id="dpo_first", title="paragone dpo, scores kept", make=_CALLS + "Ours",
                   method="dpo", needs=preferred, params={"first": True},
                   note="the reference scored once, off the clock"),
        Contestant(id="trl_packed", title="TRL {version} SFT, packed", needs=taught,
                   note="best fit, documents apart; LoRA by PEFT", **trl),
        Contestant(id="trl_padded", title="TRL {version} SFT, padded", needs={"op": ["sft"]},
                   params={"packing": False}, note="eight rows to a batch", **trl),
        Contestant(id="peft_layers", title="PEFT {version} in our model",
                   make=_CALLS + "PeftOnOurs", origin="rival", distribution="peft",
                   install="pip install peft", needs={"op": ["lora"]},
                   note="the same packing, loss and loop: the layers alone"),
        Contestant(id="trl_dpo", title="TRL {version} DPO", needs=preferred,
                   note="the reference scored in the step", **trl),
        Contestant(id="trl_dpo_first", title="TRL {version} DPO, scores kept", needs=preferred,
                   params={"first": True}, note="the reference scored once, off the clock", **trl),
    ]  # fmt: skip
