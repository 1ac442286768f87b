"""The winner as files: the model fitted on all rows, its columns, and the code that loads it.

winner/
  model.json     in paragone's or the rival library's own format (joblib for scikit-learn)
  columns.json   names, kinds and categories of the columns, classes of the target
  predict.py     applies the model to a CSV: `python winner/predict.py new.csv`
  README.md      what this is, how sure the study was, how it was made
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve
from paragone.lab import data as tables
from paragone.lab import studies
from paragone.lab.result import Prefer, Study, shown
from paragone.lab.spec import Contestant, Workload
from paragone.lab.tasks.estimators import prepare

__all__ = ["Exported", "export"]

TEMPLATE = Path(__file__).parent / "predict_template.py"

PICKLE_WARNING = (
    "model.joblib is a pickle: load it only if you trust its source, with the library versions "
    "named in columns.json"
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written; `str()` says so.

    Attributes:
        folder: Where it lies.
        contestant: Whose model it is.
        model: The fitted estimator.
        warning: What its user must know.
        use: How it is used, where it is no table's model.
    """

    folder: Path
    contestant: str
    model: Any
    warning: str = ""
    use: str = ""

    def __str__(self) -> str:
        place = shown(self.folder)
        lines = [f"{self.contestant}, fitted on all rows: {place}/", *filter(None, [self.warning])]
        return "\n".join([*lines, f"use it: {self.use or f'python {place}/predict.py NEW.csv'}"])


def export(
    study: Study,
    to: str | os.PathLike[str],
    *,
    pick: str = "best",
    workload: str | None = None,
    prefer: Prefer = "quality",
) -> Exported:
    """Fits a contestant on all rows of the study's table and writes it.

    Args:
        study: A finished study of tables, or one that says how its winner is written.
        to: Folder to write; an earlier export there is replaced, anything else is not touched.
        pick: "best", or a contestant's id.
        workload: Which data set; the first without it.
        prefer: What decides among those of equal quality.

    Raises:
        UsageError: The contestant cannot be written, or the folder holds something else.
    """
    place = study.workload(workload)
    name = study.choose(prefer).contestant if pick == "best" else study.contestant(pick).id
    writer = studies.load(study.summary.study).export if _known(study) else ""
    mark = "config.json" if writer else "columns.json"
    folder = Path(to).expanduser().resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / mark).exists():
        raise UsageError(f"{to}: the folder is not empty and holds no earlier export")
    if writer:
        return resolve(writer)(study, place, study.contestant(name), folder)
    table = _table(study, place, study.contestant(name))
    missing = bool(np.isnan(table.values).any())
    ready = prepare(
        study.estimator(name, place.id), categorical=table.categorical, missing=missing,
        seed=int(study.content["request"]["seed"]), threads=int(study.content["threads"]),
    )  # fmt: skip
    target = table.target.astype(np.int64) if table.classes is not None else table.target
    ready.fit(table.values, target)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    form, file = _save(ready.estimator, part)
    contestant = study.contestant(name)
    described = _columns(table, form, file, contestant.title, ready.integer_columns)
    (part / "columns.json").write_text(
        json.dumps(described, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    shutil.copy(TEMPLATE, part / "predict.py")
    warning = PICKLE_WARNING if form == "joblib" else ""
    (part / "README.md").write_text(
        _readme(study, place, contestant.title, described, warning), encoding="utf-8"
    )
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return Exported(folder=folder, contestant=contestant.title, model=ready.estimator,
                    warning=warning)  # fmt: skip


def _known(study: Study) -> bool:
    return study.summary.study in studies.ids()


def _table(study: Study, place: Workload, winner: Contestant) -> tables.Table:
    if "folder" not in place.params:
        way = f": paragone show {winner.method} tells the call" if winner.method else ""
        raise UsageError(
            f"study {study.summary.study!r} has no table to fit a winner on, so no file is written;"
            f" {winner.title} is used from Python{way}"
        )
    folder = Path(place.params["folder"])
    if not (folder / "schema.json").exists():
        folder = study.folder / "data" / folder.name
    table = tables.load(folder)
    if place.digest and tables.digest(table) != place.digest:
        raise UsageError(f"{folder}: the stored table is not the one that the study used")
    return table


def _save(model: Any, folder: Path) -> tuple[str, str]:
    """Writes the model in its own library's format; returns the format and the file's name."""
    family = type(model).__module__.split(".")[0]
    if family == "paragone":
        model.save_model(folder / "model.json")
        return "paragone", "model.json"
    if family == "lightgbm":
        model.booster_.save_model(folder / "model.txt")
        return "lightgbm", "model.txt"
    if family == "xgboost":
        model.save_model(folder / "model.json")
        return "xgboost", "model.json"
    if family == "catboost":
        model.save_model(str(folder / "model.cbm"))
        return "catboost", "model.cbm"
    import joblib

    joblib.dump(model, folder / "model.joblib")
    return "joblib", "model.joblib"


def _columns(
    table: tables.Table, form: str, file: str, title: str, integer_columns: Any
) -> dict[str, Any]:
    versions = {}
    for name in ("paragone", "numpy", "scikit-learn", "lightgbm", "xgboost-cpu", "xgboost"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "schema": 1, "model": title, "format": form, "file": file, "versions": versions,
        "target": table.target_name, "classes": table.classes,
        "integer_columns": [int(j) for j in integer_columns or ()],
        "columns": [
            {"name": name, "kind": kind, "categories": texts, "origin": origin}
            for name, kind, texts, origin in zip(
                table.names, table.kinds, table.categories, table.origins, strict=True
            )
        ],
    }  # fmt: skip


def _readme(
    study: Study, place: Workload, title: str, described: dict[str, Any], warning: str
) -> str:
    kinds = "probabilities of each class and the likeliest" if described["classes"] else "numbers"
    verdict = "\n".join(study.summary.verdict)
    return f"""# {title} on {place.title}

Fitted on all {place.facts["rows"]:,} rows, to predict `{described["target"]}`. The figures below
come from splits of the same rows, on which the model was tested without having seen them.

    python predict.py NEW.csv > predictions.csv

writes {kinds}. `NEW.csv` needs a header and these columns (others are ignored):
{", ".join(f"`{column['name']}`" for column in described["columns"])}.

{warning}

## How it was chosen

{verdict}

    {study.summary.command}
"""
