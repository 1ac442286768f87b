r"""XGBoost's own model file, read and written, with the same predictions to float32 rounding.

Where the two forms differ:

- XGBoost sends a row left if $x < t$, a `Tree` if $x \le t'$. In float32 the two are the same
  for $t' = \mathrm{nextafter}(t, -\infty)$, and back.
- A category outside the reach of a node's set goes left in XGBoost and the way of a missing
  value here, so sets are widened to all categories of the column.
- `base_score` is a mean (XGBoost 3: one for each output); the raw score starts from its
  logit or logarithm, by the objective.
- A column without missing values in training has a direction too (XGBoost's `exact` says left,
  `hist` right): it is kept as the file has it.
- Leaf values already hold the learning rate; DART's weights stay beside the trees.

Read: JSON and UBJSON of `gbtree`, `dart` and `gblinear`, versions 1 to 3. Written: JSON in the
form of version 3. Not read: trees with vector leaves.

References:
    XGBoost, "Introduction to Model IO" and the JSON schema of the model (doc/model.schema).

p columns, K outputs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from paragone.ensemble._serialize import check_tree
from paragone.ensemble._tree import LEAF, Tree
from paragone.ensemble._ubjson import read_ubjson

__all__ = ["LOGIT_BASE", "LOG_BASE", "BoosterFile", "read_booster"]

LOGIT_BASE = ("binary:logistic", "reg:logistic")
LOG_BASE = ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft")
_DAMAGE = (
    KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError, RecursionError,
)  # fmt: skip
_LEAST_REACH = 256


@dataclass(kw_only=True)
class BoosterFile:
    """What a model file says, in the terms of this package.

    Attributes:
        booster: "gbtree", "dart" or "gblinear".
        objective: XGBoost's name of it.
        objective_params: Its parameters, as text, from all of its sections.
        num_columns: p.
        base: Raw score that the sum starts from, (K,).
        rounds: Trees as [round][k]; several parallel trees of a round are rounds of their own.
        weights: DART's weight of every tree, shaped as `rounds`; ones otherwise.
        trees_per_round: How many entries of `rounds` make one of XGBoost's iterations.
        coef: (K, p) of a linear booster.
        intercept: (K,), to be added to `base`.
        names: Column names, or None.
        categories: For each column None or its category values (code = position).
        best_iteration: Where early stopping found its best, or None.
        attributes: Further text attributes.
    """

    booster: str
    objective: str
    num_columns: int
    base: np.ndarray
    objective_params: dict[str, str] = field(default_factory=dict)
    rounds: list[list[Tree]] = field(default_factory=list)
    weights: np.ndarray | None = None
    trees_per_round: int = 1
    coef: np.ndarray | None = None
    intercept: np.ndarray | None = None
    names: list[str] | None = None
    categories: list[np.ndarray | None] = field(default_factory=list)
    best_iteration: int | None = None
    attributes: dict[str, str] = field(default_factory=dict)


def read_booster(path: str | PathLike[str]) -> BoosterFile:
    """Reads a JSON or UBJSON file that XGBoost's `save_model` wrote.

    Raises:
        ValueError: The file is damaged, of another kind, or uses what is not supported.
    """
    raw = Path(path).read_bytes()
    try:
        # Both start with a brace; in JSON a quote follows, in UBJSON a length.
        text = raw[:64].lstrip()[1:].lstrip()[:1] in (b'"', b"}")
        document = json.loads(raw) if text else read_ubjson(raw)
        return _from_document(document)
    except _DAMAGE as error:
        reason = str(error) if isinstance(error, ValueError) else f"it lacks {error!r}"
        raise ValueError(f"{path} is not a readable XGBoost model: {reason}") from error


def _from_document(document: dict[str, Any]) -> BoosterFile:
    learner = document["learner"]
    shared = learner["learner_model_param"]
    objective = learner["objective"]
    name = objective["name"]
    booster = learner["gradient_booster"]
    p = int(shared["num_feature"])
    outputs = max(1, int(shared.get("num_class", 0)), int(shared.get("num_target", 1)))
    attributes = dict(learner.get("attributes", {}))
    best = attributes.pop("best_iteration", None)
    names = [str(text) for text in learner.get("feature_names", [])] or None
    if not 0 < p < 1 << 31 or not outputs < 1 << 20 or (names and len(names) != p):
        raise ValueError(f"it claims {p} columns, {outputs} outputs, {len(names or [])} names")
    params = {
        key: str(value)
        for section in objective.values() if isinstance(section, dict)
        for key, value in section.items()
    }  # fmt: skip
    file = BoosterFile(
        booster=booster["name"], objective=name, objective_params=params, num_columns=p,
        base=_raw_base(shared["base_score"], name, outputs), names=names,
        categories=[None] * p, best_iteration=None if best is None else int(best),
        attributes=attributes,
    )  # fmt: skip
    if file.booster == "gblinear":
        _read_linear(file, booster["model"], outputs)
    elif file.booster in ("gbtree", "dart"):
        model = booster["gbtree"]["model"] if file.booster == "dart" else booster["model"]
        types = [str(kind) for kind in learner.get("feature_types", [])]
        drop = booster.get("weight_drop")
        _read_trees(file, model, types, outputs, drop)
    else:
        raise ValueError(f"its booster is {file.booster!r}, not gbtree, dart or gblinear")
    return file


def _raw_base(text: Any, objective: str, outputs: int) -> np.ndarray:
    """The starting raw score: XGBoost stores the mean, in float32."""
    parsed = json.loads(text) if isinstance(text, str) else text
    mean = np.atleast_1d(np.asarray(parsed, np.float32)).astype(np.float64)
    if mean.size not in (1, outputs) or not np.isfinite(mean).all():
        raise ValueError(f"base_score {text!r} does not fit {outputs} outputs")
    if objective in LOGIT_BASE:
        mean = np.log(mean) - np.log1p(-mean)
    elif objective in LOG_BASE:
        mean = np.log(mean)
    return np.broadcast_to(mean, outputs).copy()


def _read_linear(file: BoosterFile, model: dict[str, Any], outputs: int) -> None:
    weights = np.asarray(model["weights"], np.float32).astype(np.float64)
    weights = weights.reshape(file.num_columns + 1, outputs)
    file.coef, file.intercept = weights[:-1].T.copy(), weights[-1].copy()
    # XGBoost's linear booster starts every output from the first entry of a vector base_score.
    file.base[:] = file.base[0]


def _read_trees(
    file: BoosterFile, model: dict[str, Any], types: list[str], outputs: int, drop: Any
) -> None:
    trees = model["trees"]
    known = _read_categories(model.get("cats"), file.num_columns)
    reach = _reach(trees, types, known, file.num_columns)
    file.categories = [
        known[j] if known[j] is not None else np.arange(float(reach[j])) if reach[j] else None
        for j in range(file.num_columns)
    ]
    built = [_read_tree(tree, file.num_columns, reach) for tree in trees]
    group = [int(k) for k in model["tree_info"]]
    parallel = max(1, int(model["gbtree_model_param"].get("num_parallel_tree", 1)))
    size = outputs * parallel
    if len(group) != len(built) or len(built) % size or any(not 0 <= k < outputs for k in group):
        raise ValueError(f"{len(built)} trees do not make rounds of {size}")
    factors = np.ones(len(built)) if drop is None else np.asarray(drop, np.float64)
    if factors.shape != (len(built),):
        raise ValueError(f"{factors.size} DART weights for {len(built)} trees")
    file.trees_per_round = parallel
    weights = np.ones((len(built) // outputs, outputs))
    for start in range(0, len(built), size):
        # Within an iteration the parallel trees of one output lie together.
        by_output = [
            [i for i in range(start, start + size) if group[i] == k] for k in range(outputs)
        ]
        for number in range(parallel):
            members = [same[number] for same in by_output]
            weights[len(file.rounds)] = factors[members]
            file.rounds.append([built[i] for i in members])
    file.weights = weights


def _read_categories(cats: Any, p: int) -> list[np.ndarray | None]:
    """The category values that XGBoost 3.1 and later store for data frames."""
    found: list[np.ndarray | None] = [None] * p
    for j, column in enumerate((cats or {}).get("enc", [])):
        values = np.asarray(column["values"])
        if "offsets" in column:
            ends = np.asarray(column["offsets"], np.int64)
            raw = values.astype(np.int64).astype(np.uint8).tobytes()
            if not raw.isascii():
                raise ValueError(
                    "its categories are not ASCII; XGBoost 3.2 cuts such names when it saves, so "
                    "rename them before training"
                )
            texts = [raw[a:b].decode("ascii") for a, b in pairwise(ends.tolist())]
            if texts:
                found[j] = np.array(texts, object)
        elif len(values):
            found[j] = values.astype(np.float64)
    return found


def _reach(
    trees: list[Any], types: list[str], known: list[np.ndarray | None], p: int
) -> np.ndarray:
    """How many categories each column has; 0 for numeric columns.

    Where only codes were given (`feature_types="c"` with an array), the file does not say how
    many there are; a code above all sets of the file then counts as one never seen.
    """
    reach = np.zeros(p, np.int64)
    for j, kind in enumerate(types):
        if kind == "c":
            reach[j] = _LEAST_REACH
    for tree in trees:
        columns = np.asarray(tree["split_indices"], np.int64)
        nodes = np.asarray(tree.get("categories_nodes", []), np.int64)
        ids = np.asarray(tree.get("categories", []), np.int64)
        sizes = np.asarray(tree.get("categories_sizes", []), np.int64)
        if len(ids) and (ids.min() < 0 or ids.max() >= 1 << 24 or sizes.sum() != len(ids)):
            raise ValueError("a category set that is out of range")
        for node, part in zip(nodes, np.split(ids, np.cumsum(sizes))[:-1], strict=True):
            highest = int(part.max()) + 1 if len(part) else 1
            reach[columns[node]] = max(reach[columns[node]], highest, _LEAST_REACH)
    for j, values in enumerate(known):
        if values is not None:
            reach[j] = len(values)
    return reach


def _read_tree(data: dict[str, Any], p: int, reach: np.ndarray) -> Tree:
    """One tree, renumbered breadth first (siblings adjacent, pruned nodes left out)."""
    if int(data["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise ValueError("its trees have vector leaves (multi_strategy='multi_output_tree')")
    left, right = (np.asarray(data[f"{side}_children"], np.int64) for side in ("left", "right"))
    order, new_left = _breadth_first(left, right)
    column = np.asarray(data["split_indices"], np.int64)[order]
    inner = left[order] != -1
    if np.any(inner & ((column < 0) | (column >= p))):
        raise ValueError(f"a split on a column beyond the {p} known")
    split = np.asarray(data["split_conditions"], np.float32)[order]
    weight = np.asarray(data["base_weights"], np.float32)[order].astype(np.float64)
    kinds = np.asarray(data.get("split_type", np.zeros(len(left))), np.int64)[order]
    start, size, bits = _read_sets(data, order, column, inner & (kinds == 1), reach)
    numeric = inner & (kinds != 1)
    # A leaf keeps its value where an inner node keeps its threshold.
    tree = Tree(
        feature=np.where(inner, column, LEAF).astype(np.int32),
        threshold=np.where(numeric, np.nextafter(split, np.float32(-np.inf)), 0).astype(np.float32),
        left=new_left.astype(np.int32),
        missing_left=inner & np.asarray(data["default_left"])[order].astype(bool),
        value=np.where(inner, weight, split)[:, None].astype(np.float64),
        gain=np.where(inner, np.asarray(data["loss_changes"], np.float64)[order], 0.0),
        cover=np.asarray(data["sum_hessian"], np.float64)[order],
        count=np.zeros(len(order), np.int32),
        category_start=start,
        category_size=size,
        category_bits=bits,
    )
    check_tree(tree)
    return tree


def _breadth_first(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Old node ids in their new order, and the new left child of each (0 at leaves)."""
    order, new_left = [0], []
    for node in order:
        if left[node] == -1:
            new_left.append(0)
            continue
        new_left.append(len(order))
        order += [int(left[node]), int(right[node])]
        if len(order) > len(left) or min(order[-2:]) < 0:
            raise ValueError("a tree whose children form a cycle or lie outside it")
    return np.array(order), np.array(new_left)


def _read_sets(
    data: dict[str, Any], order: np.ndarray, column: np.ndarray, chosen: np.ndarray,
    reach: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The category sets (right side) of the chosen nodes, each as wide as its column."""
    start = np.full(len(order), -1, np.int32)
    size = np.zeros(len(order), np.int32)
    if not chosen.any():
        return start, size, np.zeros(0, np.uint32)
    ids = np.asarray(data["categories"], np.int64)
    begins = np.asarray(data["categories_segments"], np.int64)
    sizes = np.asarray(data["categories_sizes"], np.int64)
    where = {int(node): i for i, node in enumerate(data["categories_nodes"])}
    words: list[np.ndarray] = []
    used = 0
    for at in np.flatnonzero(chosen):
        i = where[int(order[at])]
        part = ids[begins[i] : begins[i] + sizes[i]]
        member = np.zeros(-(-int(reach[column[at]]) // 32) * 32, np.uint8)
        member[part] = 1
        words.append(np.packbits(member, bitorder="little").view(np.uint32))
        start[at], size[at] = used, len(words[-1])
        used += len(words[-1])
    return start, size, np.concatenate(words).astype(np.uint32)
