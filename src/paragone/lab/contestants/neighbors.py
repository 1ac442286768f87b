"""The rivals of the study `neighbors`, ours first: strings only, nothing is imported here."""

from __future__ import annotations

from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["contestants"]

_HERE = "paragone.lab.contestants.searchers:"
_FOREST = {"target": "paragone.neighbors:KDForest"}
_HIGH = {"high": [True]}
_FULL = {"quick": [False]}
"""Our further exact searches are left to full studies: each run loads Numba for a second."""


def _rival(id: str, title: str, name: str, distribution: str, **more: Any) -> Contestant:
    return Contestant(
        id=id, title=title, make=_HERE + name, origin="rival", distribution=distribution,
        install=f"pip install {distribution}", **more,
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """Returns paragone's searches, the rivals, and brute force as the floor."""
    return [
        Contestant(
            id="kd_tree", title="paragone kd-tree", make=_HERE + "Tree", method="kd_tree",
            params={"target": "paragone.neighbors:KDTree"}, note="exact",
        ),
        Contestant(
            id="kd_forest", title="paragone kd-forest", make=_HERE + "Forest", method="kd_tree",
            params=_FOREST, needs=_HIGH,
            note="approximate: randomised trees, best bin first; 16 to 8192 checks",
        ),
        Contestant(
            id="auto", title="paragone auto", make=_HERE + "Auto", method="kd_tree",
            params=_FOREST, needs=_FULL, note="exact: its tree or brute force, by measurement",
        ),
        Contestant(
            id="brute_force", title="paragone brute force", make=_HERE + "OurBrute",
            method="kd_tree", params=_FOREST, needs={**_HIGH, **_FULL},
            note="exact: a matrix product",
        ),
        _rival("scipy_kd_tree", "scipy cKDTree", "SciPyTree", "scipy", note="exact"),
        _rival("sklearn_kd_tree", "sklearn KDTree", "SklearnTree", "scikit-learn", note="exact"),
        _rival(
            "sklearn_ball_tree", "sklearn BallTree", "SklearnBallTree", "scikit-learn",
            note="exact",
        ),
        _rival("pykdtree", "pykdtree {version}", "PyKDTree", "pykdtree", note="exact"),
        _rival(
            "hnswlib", "hnswlib {version}", "HNSW", "hnswlib", needs=_HIGH,
            note="approximate: a navigable graph, float32; ef 10 to 1280",
        ),
        _rival(
            "sklearn_brute", "sklearn brute force", "SklearnBrute", "scikit-learn",
            note="exact: a matrix product in blocks",
        ),
        Contestant(
            id="brute", title="brute force (NumPy)", make=_HERE + "Brute", origin="baseline",
            distribution="numpy", install="pip install numpy",
            note="exact: a matrix product; the floor that an index must beat",
        ),
    ]  # fmt: skip
