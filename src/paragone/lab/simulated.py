r"""A table of any size that looks like the Higgs table of physics: 28 columns, two classes.

Speed must be measured on sizes that no bundled table has. The 21 low-level columns are momenta
(log-normal), angles (uniform) and a tag of few values for each of four jets, a lepton and the
missing energy; the 7 high-level columns are invariant masses computed from them,

$$ m^2 = 2\,p_1 p_2\,(\cosh(\eta_1 - \eta_2) - \cos(\phi_1 - \phi_2)) , $$

as in the original. The class depends on masses and low-level columns through smooth and
discontinuous terms plus noise, so that boosting, to an AUC of about .85, takes interactions of
several columns, as there. Columns have as many distinct values as rows, except for the tags.

References:
    Baldi, Sadowski & Whiteson (2014), "Searching for exotic particles in high-energy physics
    with deep learning", Nature Communications 5 (the original's columns).

Shapes: n rows.
"""

from __future__ import annotations

import numpy as np

from paragone.lab.data import Table

__all__ = ["COLUMNS", "higgs_like"]

OBJECTS = ("lepton", "missing", "jet1", "jet2", "jet3", "jet4")
_MASSES = (("jet1", "jet2"), ("jet1", "jet2", "jet3"), ("lepton", "missing"),
           ("jet1", "lepton", "missing"), ("jet3", "jet4"), ("jet2", "lepton"),
           ("jet1", "jet4", "missing"))  # fmt: skip
_CHUNK = 1 << 16


def _columns() -> list[str]:
    names = []
    for thing in OBJECTS:
        names += [f"{thing}_pt", f"{thing}_phi"]
        names += [] if thing == "missing" else [f"{thing}_eta"]
        names += [f"{thing}_tag"] if thing.startswith("jet") else []
    return [*names, *("m_" + "_".join(group) for group in _MASSES)]


COLUMNS = tuple(_columns())


def higgs_like(rows: int, seed: int = 0) -> Table:
    """Returns a table of n rows; the first ones are the same for any n.

    Args:
        rows: n.
        seed: Of all that is random.
    """
    values = np.empty((rows, len(COLUMNS)), np.float32)
    target = np.empty(rows, np.int32)
    for start in range(0, rows, _CHUNK):
        stop = min(start + _CHUNK, rows)
        generator = np.random.default_rng([seed, start])
        part, label = _chunk(generator)
        values[start:stop], target[start:stop] = part[: stop - start], label[: stop - start]
    width = len(COLUMNS)
    return Table(
        values=values, categorical=np.zeros(width, bool), categories=[None] * width,
        names=list(COLUMNS), kinds=["number"] * width, origins=[None] * width, target=target,
        classes=[0, 1], target_name="signal",
    )  # fmt: skip


def _chunk(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    count = _CHUNK
    made: dict[str, np.ndarray] = {}
    for i, thing in enumerate(OBJECTS):
        made[f"{thing}_pt"] = np.exp(generator.normal(0.1 - 0.1 * i, 0.55, count))
        made[f"{thing}_phi"] = generator.uniform(-np.pi, np.pi, count)
        made[f"{thing}_eta"] = generator.normal(0, 1.0, count)
        if thing.startswith("jet"):
            made[f"{thing}_tag"] = generator.choice([0.0, 1.1, 2.2], count, p=[0.5, 0.25, 0.25])
    made["missing_eta"][:] = 0
    for group in _MASSES:
        made["m_" + "_".join(group)] = _mass(made, group)
    low = made["jet1_tag"] + made["jet2_tag"] - made["jet3_tag"] * (made["jet4_pt"] > 0.7)
    score = (
        2.2 * np.exp(-(((made["m_jet1_jet2"] - 1.3) / 0.5) ** 2))
        - 1.6 * (np.abs(made["m_jet1_jet2_jet3"] - 2.2) > 1.0)
        + 0.9 * np.sin(2 * made["m_lepton_missing"]) * (low > 1.0)
        + 0.8 * np.tanh(made["m_jet3_jet4"] - made["m_jet2_lepton"])
        + 0.35 * low
        + 0.5 * np.cos(made["lepton_phi"] - made["missing_phi"]) * made["lepton_pt"]
    )
    noise = generator.logistic(0.0, 1.0, count)
    label = (score - 0.45 + noise > 0).astype(np.int32)
    return np.stack([made[name] for name in COLUMNS], axis=1).astype(np.float32), label


def _mass(made: dict[str, np.ndarray], group: tuple[str, ...]) -> np.ndarray:
    total = np.zeros(_CHUNK)
    for i, one in enumerate(group):
        for two in group[i + 1 :]:
            spread = np.cosh(made[f"{one}_eta"] - made[f"{two}_eta"])
            turn = np.cos(made[f"{one}_phi"] - made[f"{two}_phi"])
            total += 2 * made[f"{one}_pt"] * made[f"{two}_pt"] * (spread - turn)
    return np.sqrt(np.maximum(total, 0.0))
