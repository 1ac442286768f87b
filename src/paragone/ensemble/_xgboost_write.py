"""Writes a model in XGBoost's JSON form; `_xgboost_read` tells how the two forms differ."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from paragone.ensemble._tree import LEAF, Tree
from paragone.ensemble._xgboost_read import LOG_BASE, LOGIT_BASE, BoosterFile

__all__ = ["write_booster"]


def write_booster(file: BoosterFile, path: str | PathLike[str]) -> None:
    """Writes a JSON file that `xgboost.Booster(model_file=path)` reads."""
    outputs, base = len(file.base), file.base
    attributes = dict(file.attributes)
    if file.best_iteration is not None:
        attributes["best_iteration"] = str(file.best_iteration)
    if file.booster == "gblinear":
        # All of the start goes into the bias: its vector form is not read alike by all versions.
        coef, intercept = np.asarray(file.coef), np.asarray(file.intercept) + base
        base = np.zeros(outputs)
        weights = np.vstack([coef.T, intercept[None]])
        booster: dict[str, Any] = {
            "name": "gblinear",
            "model": {"boosted_rounds": 1, "weights": _shortest(weights.ravel())},
        }
    else:
        booster = {"name": "gbtree", "model": _write_trees(file, outputs)}
        if file.booster == "dart":
            factors = np.ones((len(file.rounds), outputs)) if file.weights is None else file.weights
            booster = {"name": "dart", "gbtree": booster, "weight_drop": _shortest(factors.ravel())}
    multi = file.objective.startswith("multi:")
    document = {
        "learner": {
            "attributes": attributes,
            "feature_names": file.names or [],
            "feature_types": ["float" if c is None else "c" for c in file.categories]
            if any(c is not None for c in file.categories)
            else [],
            "gradient_booster": booster,
            "learner_model_param": {
                "base_score": json.dumps(_mean_base(base, file.objective)),
                "boost_from_average": "1",
                "num_class": str(outputs if multi else 0),
                "num_feature": str(file.num_columns),
                "num_target": str(1 if multi else outputs),
            },
            "objective": _write_objective(file, outputs),
        },
        "version": [3, 0, 0],
    }
    Path(path).write_text(json.dumps(document, allow_nan=False), encoding="utf-8")


_SECTIONS = {
    "reg:squarederror": "reg_loss_param", "reg:logistic": "reg_loss_param",
    "reg:squaredlogerror": "reg_loss_param", "reg:gamma": "reg_loss_param",
    "binary:logistic": "reg_loss_param", "binary:logitraw": "reg_loss_param",
    "reg:tweedie": "tweedie_regression_param", "count:poisson": "poisson_regression_param",
    "reg:quantileerror": "quantile_loss_param", "reg:pseudohubererror": "pseudo_huber_param",
    "multi:softprob": "softmax_multiclass_param", "multi:softmax": "softmax_multiclass_param",
}  # fmt: skip
_SECTION_DEFAULTS = {
    "reg_loss_param": {"scale_pos_weight": "1"},
    "poisson_regression_param": {"max_delta_step": "0.7"},
}


def _write_objective(file: BoosterFile, outputs: int) -> dict[str, Any]:
    section = _SECTIONS.get(file.objective)
    if section is None:
        return {"name": file.objective}
    params = {**_SECTION_DEFAULTS.get(section, {}), **file.objective_params}
    if section == "softmax_multiclass_param":
        params["num_class"] = str(outputs)
    return {"name": file.objective, section: params}


def _write_trees(file: BoosterFile, outputs: int) -> dict[str, Any]:
    counts = [0 if c is None else len(c) for c in file.categories] or [0] * file.num_columns
    per_iteration = file.trees_per_round
    trees, info, pointers = [], [], [0]
    for start in range(0, len(file.rounds), per_iteration):
        for k in range(outputs):
            for group in file.rounds[start : start + per_iteration]:
                trees.append(_write_tree(group[k], len(trees), file.num_columns, counts))
                info.append(k)
        pointers.append(len(trees))
    return {
        "cats": _write_categories(file.categories),
        "gbtree_model_param": {
            "num_parallel_tree": str(per_iteration),
            "num_trees": str(len(trees)),
        },
        "iteration_indptr": pointers,
        "tree_info": info,
        "trees": trees,
    }


def _write_categories(categories: list[np.ndarray | None]) -> dict[str, Any]:
    """The category values, so that XGBoost recodes the data frames it gets by name.

    It knows ASCII text and integers; with any other category the columns hold codes for it.
    """
    items = [[] if values is None else values.tolist() for values in categories]
    text = [all(isinstance(i, str) and i.isascii() for i in column) for column in items]
    whole = [all(isinstance(i, float) and i.is_integer() for i in column) for column in items]
    known = all(t or w for t, w in zip(text, whole, strict=True))
    if not known or not any(items):
        return {"enc": [], "feature_segments": [], "sorted_idx": []}
    enc: list[dict[str, Any]] = []
    ends, order = [0], []
    for column, is_text in zip(items, text, strict=True):
        if is_text:
            raw = [item.encode("ascii") for item in column]
            offsets = np.cumsum([0, *map(len, raw)]).tolist() if raw else []
            enc.append(
                {"offsets": offsets, "values": np.frombuffer(b"".join(raw), np.int8).tolist()}
            )
        else:
            enc.append({"type": 15, "values": [int(item) for item in column]})
        order += sorted(range(len(column)), key=column.__getitem__)
        ends.append(ends[-1] + len(column))
    return {"enc": enc, "feature_segments": ends, "sorted_idx": order}


def _write_tree(tree: Tree, number: int, p: int, counts: list[int]) -> dict[str, Any]:
    inner = tree.feature != LEAF
    categorical = inner & (tree.category_start >= 0)
    value = tree.value[:, 0]
    with np.errstate(over="ignore"):
        split = np.nextafter(tree.threshold, np.float32(np.inf))
    split = np.where(np.isfinite(split), split, np.finfo(np.float32).max)
    split = np.where(categorical, 0, split)
    sets = [_right_set(tree, int(node), counts) for node in np.flatnonzero(categorical)]
    sizes = [len(members) for members in sets]
    left = np.where(inner, tree.left, -1)
    parents = np.full(tree.num_nodes, 2**31 - 1)
    parents[tree.left[inner]] = parents[tree.left[inner] + 1] = np.flatnonzero(inner)
    return {
        "base_weights": _shortest(value),
        "categories": [c for members in sets for c in members],
        "categories_nodes": np.flatnonzero(categorical).tolist(),
        "categories_segments": np.cumsum([0, *sizes])[: len(sizes)].tolist(),
        "categories_sizes": sizes,
        "default_left": (inner & tree.missing_left).astype(int).tolist(),
        "id": number,
        "left_children": left.tolist(),
        "loss_changes": _shortest(tree.gain),
        "parents": parents.tolist(),
        "right_children": np.where(inner, tree.left + 1, -1).tolist(),
        "split_conditions": _shortest(np.where(inner, split, value)),
        "split_indices": np.where(inner, tree.feature, 0).tolist(),
        "split_type": categorical.astype(int).tolist(),
        "sum_hessian": _shortest(tree.cover),
        "tree_param": {
            "num_deleted": "0", "num_feature": str(p), "num_nodes": str(tree.num_nodes),
            "size_leaf_vector": "1",
        },
    }  # fmt: skip


def _right_set(tree: Tree, node: int, counts: list[int]) -> list[int]:
    start, size = tree.category_start[node], tree.category_size[node]
    words = np.ascontiguousarray(tree.category_bits[start : start + size], "<u4")
    member = np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)
    found = np.flatnonzero(member).tolist()
    if not tree.missing_left[node]:
        # Beyond the set's reach a category is missing here, and left in XGBoost.
        found += range(32 * int(size), counts[tree.feature[node]])
    return found


def _mean_base(raw: np.ndarray, objective: str) -> list[float]:
    if objective in LOGIT_BASE:
        raw = 1.0 / (1.0 + np.exp(-raw))
    elif objective in LOG_BASE:
        raw = np.exp(raw)
    return _shortest(raw)


def _shortest(values: np.ndarray) -> list[float]:
    """Numbers whose shortest text is that of their float32, which XGBoost reads back exactly."""
    rounded = np.asarray(values, np.float32)
    if not np.isfinite(rounded).all():
        raise ValueError("a value of the model is not finite in float32, which XGBoost stores")
    return [float(text) for text in rounded.astype(str).tolist()] if len(rounded) else []
