"""Every backbone by name, so that a study or the command line can try them all.

References:
    The papers stand in the modules that define the networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paragone._core.lazy import resolve

if TYPE_CHECKING:
    from paragone.vision.contract import Backbone

__all__ = ["BACKBONES", "backbone", "backbones"]

BACKBONES: dict[str, tuple[str, Mapping[str, Any]]] = {
    **{f"efficientnet_b{i}": ("efficientnet", {"variant": f"b{i}"}) for i in range(8)},
    **{f"efficientnet_v2_{s}": ("efficientnet", {"variant": f"v2-{s}"}) for s in "sml"},
    "mobilenet_v1": ("mobilenet", {"version": "v1"}),
    "mobilenet_v2": ("mobilenet", {"version": "v2"}),
    "mobilenet_v3_small": ("mobilenet", {"version": "v3-small"}),
    "mobilenet_v3_large": ("mobilenet", {"version": "v3-large"}),
    "mobilenet_v4_small": ("mobilenet", {"version": "v4-conv-small"}),
    "mobilenet_v4_medium": ("mobilenet", {"version": "v4-conv-medium"}),
    "mobilenet_v4_large": ("mobilenet", {"version": "v4-conv-large"}),
    "mobilenet_v4_hybrid_medium": ("mobilenet", {"version": "v4-hybrid-medium"}),
    "mnasnet": ("mnasnet", {}),
    "ghostnet_v1": ("ghostnet", {"version": "v1"}),
    "ghostnet_v2": ("ghostnet", {"version": "v2"}),
    "googlenet": ("inception", {"version": "googlenet"}),
    "inception_v3": ("inception", {"version": "v3"}),
    "inception_v4": ("inception", {"version": "v4"}),
    "xception": ("xception", {}),
    "squeezenet_1_0": ("squeezenet", {"version": "1.0"}),
    "squeezenet_1_1": ("squeezenet", {"version": "1.1"}),
    "shufflenet_v1": ("shufflenet", {"version": "v1"}),
    "shufflenet_v2": ("shufflenet", {"version": "v2"}),
    "snet49": ("snet", {"variant": "49"}),
    "snet146": ("snet", {"variant": "146"}),
    "snet535": ("snet", {"variant": "535"}),
    "resnet18": ("resnet", {"depth": 18}),
    "resnet50": ("resnet", {"depth": 50}),
}
"""Name to the public function and the arguments that make this one."""


def backbones() -> list[str]:
    """Returns the names that `backbone` knows."""
    return list(BACKBONES)


def backbone(name: str, **options: Any) -> Backbone:
    """Builds a backbone by name.

    Args:
        name: One of `backbones()`, such as "efficientnet_b0".
        options: Arguments of its function: `width`, `num_classes`, `in_channels` and others.

    Raises:
        ValueError: An unknown name.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone {name!r} is none of {', '.join(BACKBONES)}")
    function, given = BACKBONES[name]
    return resolve(f"paragone.vision:{function}")(**{**given, **options})
