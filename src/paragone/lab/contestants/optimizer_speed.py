"""The rivals of the study `optimizer_speed`: strings only."""

from __future__ import annotations

from paragone.lab.spec import Contestant

__all__ = ["contestants"]

_HERE = "paragone.lab.contestants.steppers:"


def contestants() -> list[Contestant]:
    """AdamW of paragone, of PyTorch in its three forms, and of bitsandbytes."""

    def torch(form: str, note: str) -> Contestant:
        return Contestant(
            id=f"torch_{form}", title=f"torch {form}", make=_HERE + "Torch", origin="rival",
            params={"form": form}, distribution="torch", install="pip install torch", note=note,
            needs={"way": ["plain", "half", "pass"]},
        )  # fmt: skip

    return [
        Contestant(
            id="adamw", title="paragone AdamW", make=_HERE + "Ours", method="adamw",
            note="one pass over all parameters; bf16 rounded at random",
        ),
        torch("fused", "fused=True; bf16 rounded to the nearest"),
        torch("foreach", "foreach=True"),
        torch("loop", "foreach=False, the default on a CPU"),
        Contestant(
            id="bitsandbytes", title="bitsandbytes 8-bit", make=_HERE + "BitsAndBytes",
            origin="rival", distribution="bitsandbytes", install="pip install bitsandbytes",
            needs={"way": ["blocks"]}, note="AdamW8bit",
        ),
    ]  # fmt: skip
