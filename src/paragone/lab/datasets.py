"""Real tables that ship with libraries, for studies without `--data`.

scikit-learn's have no missing values and no text; statsmodels' survey data (where statsmodels
is installed) add counts and ratings of people. Each is read once into the study's folder like a
user's file, and stays there.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from paragone.lab import data

__all__ = ["BUNDLED", "available", "bundled"]

BUNDLED: dict[str, tuple[str, str, str]] = {
    "breast_cancer": ("scikit-learn", "Breast cancer: 30 measures of cell nuclei", "diagnosis"),
    "diabetes": ("scikit-learn", "Diabetes: progression after a year", "progression"),
    "wine": ("scikit-learn", "Wine: cultivar by chemical analysis", "cultivar"),
    "digits": ("scikit-learn", "Digits: 8 x 8 pixel images", "digit"),
    "iris": ("scikit-learn", "Iris: species by leaf sizes", "species"),
    "anes96": ("statsmodels", "Election study 1996: vote", "vote"),
    "fair": ("statsmodels", "Survey of 1974: affairs", "affairs"),
}
"""Name to distribution, title, and the target's name."""


def available() -> list[str]:
    """Names of the tables whose library is installed, in the order of `BUNDLED`."""
    found = {}
    for library, _, _ in BUNDLED.values():
        if library not in found:
            try:
                found[library] = bool(metadata.version(library))
            except metadata.PackageNotFoundError:
                found[library] = False
    return [name for name, (library, _, _) in BUNDLED.items() if found[library]]


def bundled(name: str, folder: str | Path) -> dict[str, Any]:
    """Stores a table in `folder` unless it is there; returns its schema."""
    library, _, target = BUNDLED[name]
    source = {"bundled": name, "library": library, "version": metadata.version(library)}
    stored = Path(folder) / "schema.json"
    if stored.exists():
        schema = json.loads(stored.read_text(encoding="utf-8"))
        if schema["source"] == source:
            return schema
    table = _from_sklearn(name, target) if library == "scikit-learn" else _from_statsmodels(name)
    data.save(table, folder, source)
    return json.loads(stored.read_text(encoding="utf-8"))


def _from_sklearn(name: str, target: str) -> data.Table:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    names = [str(text) for text in bunch.feature_names]
    if name == "diabetes":
        return _table(bunch.data, bunch.target, names, target, "regression")
    labels = [str(bunch.target_names[code]) for code in bunch.target]
    return _table(bunch.data, labels, names, target, "classification")


def _from_statsmodels(name: str) -> data.Table:
    import importlib

    frame = importlib.import_module(f"statsmodels.datasets.{name}").load_pandas().data
    target = BUNDLED[name][2]
    columns = [column for column in frame.columns if column != target]
    task: data.Task = "classification" if name == "anes96" else "regression"
    return _table(frame[columns].to_numpy(), frame[target].to_numpy(), columns, target, task)


def _table(values: Any, labels: Any, names: list[str], target: str, task: data.Task) -> data.Table:
    import polars as pl

    frame = pl.DataFrame(values, schema=names).with_columns(pl.Series(target, labels))
    return data.from_frame(frame, target, source=target, task=task)
