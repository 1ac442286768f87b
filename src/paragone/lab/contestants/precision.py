"""The rivals of the studies `precision` and `cast_speed`: strings only."""

from __future__ import annotations

from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["contestants", "for_speed"]

_HERE = "paragone.lab.contestants.trainers:"
_CASTS = "paragone.lab.contestants.casters:"
_METHOD = "mixed_precision"
_FULL = {"quick": [False]}


def _ours(id: str, title: str, note: str, **params: Any) -> Contestant:
    needs = params.pop("needs", {})
    name = params.pop("name", "mixed")
    return Contestant(
        id=id, title=title, make=_HERE + name, params=params, method=_METHOD, note=note,
        needs=needs,
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """Formats with and without scaling and masters, and PyTorch's own."""
    return [
        Contestant(id="fp32", title="fp32", make=_HERE + "mixed", params={"precision": "fp32"},
                   origin="baseline", method=_METHOD, note="nothing is rounded"),
        _ours("bf16", "bf16", "simulated; masters, no scale", precision="bf16", simulate=True),
        _ours("fp16_plain", "fp16, no scale", "simulated; masters", precision="fp16",
              loss_scale=1.0),
        _ours("fp16_static", "fp16, constant scale", "simulated; masters; the scale that the "
              "recorder recommends after 8 batches", name="recommended", precision="fp16"),
        _ours("fp16", "fp16, dynamic scale", "simulated; masters", precision="fp16"),
        _ours("fp16_bare", "fp16, no masters", "simulated; dynamic scale; weights themselves fp16",
              precision="fp16", master=False),
        _ours("bf16_bare", "bf16, no masters", "simulated; weights themselves bf16",
              precision="bf16", simulate=True, master=False),
        _ours("bf16_stochastic", "bf16, no masters, stochastic", "simulated; weights themselves "
              "bf16, rounded at random", precision="bf16", simulate=True, master=False,
              rounding="stochastic"),
        _ours("fp8", "fp8", "simulated: e4m3 forward, e5m2 backward; masters, dynamic scale",
              precision="fp8"),
        _ours("fp8_plain", "fp8, no scale", "simulated: e4m3 forward, e5m2 backward; masters",
              precision="fp8", loss_scale=1.0),
        _ours("e5m2", "e5m2", "simulated; masters, dynamic scale", precision="e5m2", needs=_FULL),
        _ours("e4m3", "e4m3", "simulated; masters, dynamic scale", precision="e4m3", needs=_FULL),
        _ours("tf32", "tf32", "simulated: products read 10 bits of mantissa", precision="tf32",
              needs=_FULL),
        Contestant(id="torch_bf16", title="torch bf16", make=_HERE + "Autocast", origin="rival",
                   distribution="torch", install="pip install torch",
                   params={"dtype": "bfloat16", "scaled": False}, note="torch.autocast on the CPU"),
        Contestant(id="torch_fp16", title="torch fp16", make=_HERE + "Autocast", origin="rival",
                   distribution="torch", install="pip install torch", needs={"small": [True]},
                   params={"dtype": "float16", "scaled": True},
                   note="torch.autocast and GradScaler on the CPU; small nets only: its products "
                   "are slow"),
    ]  # fmt: skip


def for_speed() -> list[Contestant]:
    """The same cast by paragone, torch and ml_dtypes."""
    return [
        Contestant(id=_METHOD, title="paragone", make=_CASTS + "ours", method=_METHOD,
                   note="formats.cast(x, format, storage=True)"),
        Contestant(id="torch", title="torch", make=_CASTS + "with_torch", origin="rival",
                   distribution="torch", install="pip install torch", note="x.to(dtype)"),
        Contestant(id="ml_dtypes", title="ml_dtypes {version}", make=_CASTS + "with_ml_dtypes",
                   origin="rival", distribution="ml-dtypes", install="pip install ml-dtypes",
                   note="array.astype(dtype); fp16 is NumPy's"),
    ]  # fmt: skip
