"""Ensembles of named members of any kind: names, defaults, and fitting each on the same rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import TransformerMixin, is_classifier
from sklearn.utils import Bunch
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.parallel import Parallel, delayed

from paragone._core.random import RandomState
from paragone.ensemble._any_table import inherit_tags
from paragone.ensemble._serialize import JsonModel

__all__ = ["Composite", "aligned", "fit_all"]


class Composite(TransformerMixin, JsonModel, _BaseComposition):
    """Base of stacking and voting: `estimators` is a list of (name, estimator), or None."""

    estimators: list[tuple[str, Any]] | None
    random_state: RandomState
    n_jobs: int | None
    names_: list[str]
    estimators_: list[Any]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Returns parameters, those of members as `name__parameter`."""
        return self._get_params("estimators", deep=deep)

    def set_params(self, **params: Any) -> Any:
        """Sets parameters, members by name, members' own as `name__parameter`."""
        return self._set_params("estimators", **params)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = []
        if self.estimators is None:
            tags.input_tags.allow_nan = tags.input_tags.sparse = True
            return tags
        return inherit_tags(tags, [member for _, member in self.estimators if member != "drop"])

    @property
    def named_estimators_(self) -> Bunch:
        """Fitted members by name."""
        return Bunch(**dict(zip(self.names_, self.estimators_, strict=True)))

    def _members(self) -> list[tuple[str, Any]]:
        """Returns the members in use, checked; the default ones if none were given."""
        if self.estimators is None:
            return self._default_members()
        names = [name for name, _ in self.estimators]
        taken = set(names) & set(self.get_params(deep=False))
        if len(set(names)) < len(names) or taken or any("__" in name for name in names):
            raise ValueError(
                f"members are named {names}; names must differ, hold no '__', and not be those "
                "of arguments"
            )
        members = [(name, member) for name, member in self.estimators if member != "drop"]
        if not members:
            raise ValueError(f"estimators={self.estimators!r} leaves no member; give at least one")
        for name, member in members:
            if is_classifier(member) != is_classifier(self):
                kind = "classifier" if is_classifier(self) else "regressor"
                raise ValueError(f"member {name!r} ({type(member).__name__}) is no {kind}")
        return members

    def _default_members(self) -> list[tuple[str, Any]]:
        from paragone.ensemble import _linear_member, gradient_boosting, random_forest

        kind = "Classifier" if is_classifier(self) else "Regressor"
        seed = {"random_state": self.random_state}
        return [
            ("forest", getattr(random_forest, f"RandomForest{kind}")(**seed)),
            ("boosting", getattr(gradient_boosting, f"GradientBoosting{kind}")(**seed)),
            ("linear", getattr(_linear_member, f"Linear{kind}")()),
        ]


def fit_all(jobs: list[tuple[Any, tuple[Any, ...]]], n_jobs: int | None) -> list[Any]:
    """Calls each function with its arguments, on `n_jobs` threads; results in order."""
    run = Parallel(n_jobs=n_jobs, prefer="threads")
    return list(run(delayed(function)(*arguments) for function, arguments in jobs))


def aligned(member: Any, output: np.ndarray, num_classes: int, fill: str) -> np.ndarray:
    """Returns a member's columns (n, its classes) as columns of all classes, (n, K).

    A member fitted on part of the data may not know every class; its column is then 0
    (`fill="zero"`, probabilities) or the row's least score (`fill="least"`).
    """
    known = np.asarray(member.classes_)
    if output.shape[1] == num_classes:
        return output
    floor = 0.0 if fill == "zero" else output.min(axis=1, keepdims=True)
    full = np.zeros((len(output), num_classes)) + floor
    full[:, known.astype(np.int64)] = output
    return full
