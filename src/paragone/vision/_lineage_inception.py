"""The modules of Inception v3 and v4 as tables for `blocks.inception.InceptionBlock`.

References:
    Szegedy et al. (2016), "Rethinking the Inception architecture", arXiv:1512.00567, table 1 and
    figures 5-7 and 10.
    Szegedy et al. (2017), "Inception-v4", arXiv:1602.07261, figures 3-8.
"""

from __future__ import annotations

__all__ = ["V3", "V4_REPEATED", "V4_STEM"]


def _a3(pool: int) -> list[str]:
    return [
        "branch1x1=64@1",
        "branch5x5_1=48@1 branch5x5_2=64@5",
        "branch3x3dbl_1=64@1 branch3x3dbl_2=96@3 branch3x3dbl_3=96@3",
        f"avg branch_pool={pool}@1",
    ]


def _c3(c: int) -> list[str]:
    return [
        "branch1x1=192@1",
        f"branch7x7_1={c}@1 branch7x7_2={c}@1x7 branch7x7_3=192@7x1",
        f"branch7x7dbl_1={c}@1 branch7x7dbl_2={c}@7x1 branch7x7dbl_3={c}@1x7 "
        f"branch7x7dbl_4={c}@7x1 branch7x7dbl_5=192@1x7",
        "avg branch_pool=192@1",
    ]


_B3 = [
    "branch3x3=384@3/2",
    "branch3x3dbl_1=64@1 branch3x3dbl_2=96@3 branch3x3dbl_3=96@3/2",
    "max/2",
]
_D3 = [
    "branch3x3_1=192@1 branch3x3_2=320@3/2",
    "branch7x7x3_1=192@1 branch7x7x3_2=192@1x7 branch7x7x3_3=192@7x1 branch7x7x3_4=192@3/2",
    "max/2",
]
_E3 = [
    "branch1x1=320@1",
    "branch3x3_1=384@1 branch3x3_2a=384@1x3|branch3x3_2b=384@3x1",
    "branch3x3dbl_1=448@1 branch3x3dbl_2=384@3 branch3x3dbl_3a=384@1x3|branch3x3dbl_3b=384@3x1",
    "avg branch_pool=192@1",
]

V3: dict[str, tuple[int, list[str]]] = {
    "Mixed_5b": (8, _a3(32)),
    "Mixed_5c": (8, _a3(64)),
    "Mixed_5d": (8, _a3(64)),
    "Mixed_6a": (16, _B3),
    "Mixed_6b": (16, _c3(128)),
    "Mixed_6c": (16, _c3(160)),
    "Mixed_6d": (16, _c3(160)),
    "Mixed_6e": (16, _c3(192)),
    "Mixed_7a": (32, _D3),
    "Mixed_7b": (32, _E3),
    "Mixed_7c": (32, _E3),
}
"""Stride of the output and branches, by torchvision's names."""

V4_STEM: list[tuple[int, list[str], tuple[str, ...]]] = [
    (4, ["max/2", "conv=96@3/2"], ()),
    (
        4,
        [
            "branch0.0=64@1 branch0.1=96@3",
            "branch1.0=64@1 branch1.1=64@1x7 branch1.2=64@7x1 branch1.3=96@3",
        ],
        ("branch0.1", "branch1.3"),
    ),
    (8, ["conv=192@3/2", "max/2"], ()),
]
"""Stride of the output, branches, and the filters that stand without zeros around."""

V4_REPEATED: list[tuple[int, int, list[str]]] = [
    (8, 4, [
        "branch0=96@1",
        "branch1.0=64@1 branch1.1=96@3",
        "branch2.0=64@1 branch2.1=96@3 branch2.2=96@3",
        "mean branch3.1=96@1",
    ]),
    (16, 1, [
        "branch0=384@3/2",
        "branch1.0=192@1 branch1.1=224@3 branch1.2=256@3/2",
        "max/2",
    ]),
    (16, 7, [
        "branch0=384@1",
        "branch1.0=192@1 branch1.1=224@1x7 branch1.2=256@7x1",
        "branch2.0=192@1 branch2.1=192@7x1 branch2.2=224@1x7 branch2.3=224@7x1 branch2.4=256@1x7",
        "mean branch3.1=128@1",
    ]),
    (32, 1, [
        "branch0.0=192@1 branch0.1=192@3/2",
        "branch1.0=256@1 branch1.1=256@1x7 branch1.2=320@7x1 branch1.3=320@3/2",
        "max/2",
    ]),
    (32, 3, [
        "branch0=256@1",
        "branch1_0=384@1 branch1_1a=256@1x3|branch1_1b=256@3x1",
        "branch2_0=384@1 branch2_1=448@3x1 branch2_2=512@1x3 "
        "branch2_3a=256@1x3|branch2_3b=256@3x1",
        "mean branch3.1=256@1",
    ]),
]  # fmt: skip
"""Stride of the output, how often, and branches."""
