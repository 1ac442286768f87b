"""Where and how a fit runs: its processes, its checkpoint; and what they must agree on first.

Each process reads its own rows. Before the first round all hold their columns, categories and
labels against each other, so that a shard of another shape is an error that names the process and
the column, and not a wrong model.
"""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paragone.ensemble._input import Features, _distinct
from paragone.ensemble._journal import Journal, describe_params, open_journal, read_journal
from paragone.ensemble._share import ALONE, Share

__all__ = ["Plan", "check_same", "check_shared", "unify_classes", "unify_features"]


@dataclass(slots=True)
class Plan:
    """The arguments of `fit` that are not about the data."""

    process_group: Any = None
    timeout: float = 60.0
    checkpoint: Any = None

    @contextlib.contextmanager
    def sharing(self) -> Iterator[Share]:
        """Joins the other processes for one fit."""
        if self.process_group is None or self.process_group is False:
            yield ALONE
            return
        from paragone.ensemble._torch_share import TorchShare

        group = None if self.process_group is True else self.process_group
        share = TorchShare(group, self.timeout)
        try:
            yield share
        finally:
            share.close()

    def known_seed(self) -> int | None:
        """Returns the seed of the fit that the checkpoint holds."""
        if self.checkpoint is None:
            return None
        head, _, _ = read_journal(Path(self.checkpoint))
        return None if head is None else int(head.get("seed", 0))

    def journal(self, training: Any) -> Journal | None:
        """Opens the checkpoint of a prepared training."""
        if self.checkpoint is None:
            return None
        if training.linear:
            raise ValueError("checkpoint needs trees; booster='gblinear' has none: drop it")
        head = {
            "params": describe_params(training.model),
            "seed": training.seed,
            "rows": training.total,
            "base score": [float(value).hex() for value in training.base],
            "columns": _digest(training),
            "first round": training.first_round,
        }
        return open_journal(self.checkpoint, head, training.share, training.first_round)


def _digest(training: Any) -> str:
    """What the columns look like: their edges, which are the same in all processes."""
    binned = getattr(training.grower, "binned", None)
    if binned is None:
        return f"{zlib.crc32(np.ascontiguousarray(training.features.values).data):08x}"
    digest = hashlib.sha256()
    for edges, own in zip(binned.edges, binned.codes, strict=True):
        digest.update(b"n" if own is None else b"c")
        digest.update(edges.tobytes() if own is None else own.tobytes())
    return digest.hexdigest()[:16]


def check_same(what: str, value: Any, share: Share) -> None:
    """Raises in all processes if one has another value than process 0."""
    found = share.objects(value)
    for rank, other in enumerate(found):
        if other != found[0]:
            raise ValueError(
                f"{what} differs between processes: {found[0]!r} at rank 0, {other!r} at rank "
                f"{rank}; give all the same"
            )


def check_shared(model: Any, share: Share) -> None:
    """Raises for what cannot be fitted by several processes, and for parameters that differ."""
    if share.size == 1:
        return
    if model.booster == "gblinear":
        raise ValueError("process_group needs trees: booster='gblinear' runs in one process only")
    if model.tree_method not in ("hist", "auto"):
        raise ValueError(
            f"process_group needs tree_method='hist', not {model.tree_method!r}: use one process"
        )
    check_same("parameters", describe_params(model) | {"rounds": model.n_estimators}, share)


def unify_features(model: Any, features: Features, share: Share, reset: bool) -> None:
    """Makes the codes of categories those of all processes; raises where columns differ."""
    if share.size == 1:
        return
    names = [str(name) for name in getattr(model, "feature_names_in_", ())]
    kinds = ["category" if flag else "number" for flag in features.categorical]
    found = share.objects((names, kinds))
    for rank, (other_names, other_kinds) in enumerate(found):
        _compare(rank, found[0], (other_names, other_kinds))
    if not reset:
        return
    everyone = share.objects(model._categories_)
    for j in np.flatnonzero(features.categorical).tolist():
        parts = [part[j] for part in everyone]
        for rank, part in enumerate(parts):
            if len(part) and any(len(p) and p.dtype.kind != part.dtype.kind for p in parts):
                raise ValueError(
                    f"{_title(names, j)} holds text in one process and numbers in another "
                    f"(rank {rank}: {part.dtype}); convert it before"
                )
        union = _distinct(np.concatenate([part for part in parts if len(part)] or parts[:1]))
        place = {value: code for code, value in enumerate(union.tolist())}
        lookup = np.array([place[value] for value in parts[share.rank].tolist()], np.float32)
        column = features.values[:, j]
        known = ~np.isnan(column)
        column[known] = lookup[column[known].astype(np.int64)]
        model._categories_[j] = features.categories[j] = union


def _title(names: list[str], j: int) -> str:
    return f"column {names[j]!r}" if names else f"column {j}"


def _compare(rank: int, first: tuple[list, list], other: tuple[list, list]) -> None:
    (names, kinds), (other_names, other_kinds) = first, other
    if len(kinds) != len(other_kinds):
        extra = sorted(set(names) ^ set(other_names))
        raise ValueError(
            f"rank {rank} has {len(other_kinds)} columns and rank 0 has {len(kinds)}"
            + (f"; only one of them has {', '.join(map(repr, extra[:5]))}" if extra else "")
        )
    for j, (a, b) in enumerate(zip(names, other_names, strict=len(names) == len(other_names))):
        if a != b:
            raise ValueError(f"column {j} is {b!r} at rank {rank} and {a!r} at rank 0")
    for j, (a, b) in enumerate(zip(kinds, other_kinds, strict=True)):
        if a != b:
            raise ValueError(
                f"{_title(names, j)} is a {b} at rank {rank} and a {a} at rank 0; "
                "give it one dtype everywhere"
            )


def unify_classes(classes: np.ndarray, share: Share) -> np.ndarray:
    """Returns the sorted labels of all processes."""
    parts = share.objects(classes)
    if len(parts) == 1:
        return classes
    text = ["text" if part.dtype.kind in "USO" else "numbers" for part in parts]
    for rank, kind in enumerate(text):
        if kind != text[0]:
            raise ValueError(f"y holds {kind} at rank {rank} and {text[0]} at rank 0")
    return np.unique(np.concatenate(parts))
