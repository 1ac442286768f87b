"""Baselines and committees of scikit-learn that need a word more than their defaults.

scikit-learn's stacking and voting have no default members. They get the same three kinds that
paragone's have: a forest, a boosting, and a linear model on standardised columns. Members keep
the defaults of their own classes.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BaselineClassifier", "BaselineRegressor", "StackingClassifier", "StackingRegressor",
    "VotingClassifier", "VotingRegressor",
]  # fmt: skip


def _members(kind: str) -> list[tuple[str, Any]]:
    from sklearn import ensemble
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    last = LogisticRegression(max_iter=1000) if kind == "Classifier" else RidgeCV()
    return [
        ("forest", getattr(ensemble, f"RandomForest{kind}")()),
        ("boosting", getattr(ensemble, f"HistGradientBoosting{kind}")()),
        ("linear", make_pipeline(SimpleImputer(), StandardScaler(), last)),
    ]


def BaselineClassifier() -> Any:  # noqa: N802
    """Predicts the class shares of the training rows: the floor that a method must beat."""
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


def BaselineRegressor() -> Any:  # noqa: N802
    """Predicts the mean of the training rows."""
    from sklearn.dummy import DummyRegressor

    return DummyRegressor()


def StackingClassifier() -> Any:  # noqa: N802
    """scikit-learn's stacking of a forest, a boosting and a linear model."""
    from sklearn import ensemble

    return ensemble.StackingClassifier(_members("Classifier"))


def StackingRegressor() -> Any:  # noqa: N802
    """scikit-learn's stacking of a forest, a boosting and a linear model."""
    from sklearn import ensemble

    return ensemble.StackingRegressor(_members("Regressor"))


def VotingClassifier() -> Any:  # noqa: N802
    """scikit-learn's mean of the members' probabilities."""
    from sklearn import ensemble

    return ensemble.VotingClassifier(_members("Classifier"), voting="soft")


def VotingRegressor() -> Any:  # noqa: N802
    """scikit-learn's mean of the members' predictions."""
    from sklearn import ensemble

    return ensemble.VotingRegressor(_members("Regressor"))
