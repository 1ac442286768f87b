"""Small calls that lead through every compiled kernel of the family, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

from paragone.vision import _warm_carafe, _warm_detector, _warm_precision, _warm_speed

__all__ = ["CALLS"]

CALLS: dict[str, tuple[Callable[[], None], ...]] = {
    "upsampling": _warm_carafe.CALLS,
    "efficientnet": _warm_speed.CALLS,
    "thundernet": _warm_detector.CALLS,
    "mean_average_precision": _warm_precision.CALLS,
}
