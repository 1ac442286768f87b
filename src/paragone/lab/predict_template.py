#!/usr/bin/env python3
"""Applies the exported model to a CSV file: `python predict.py NEW.csv [OUT.csv]`.

It needs NumPy and the model's own library; columns are found by name, in any order.
"""

import csv
import datetime
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
MISSING = {"", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "?"}
TRUTH = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}


def stop(message: str) -> None:
    """Ends with one line and exit code 2."""
    print(f"predict.py: {message}", file=sys.stderr)
    raise SystemExit(2)


def load() -> tuple[dict[str, Any], Any]:
    """Returns the description of the columns, and a function from a matrix to predictions."""
    told = json.loads((HERE / "columns.json").read_text(encoding="utf-8"))
    path = str(HERE / told["file"])
    if told["format"] == "paragone":
        from paragone.ensemble import load_model

        model = load_model(path)
    elif told["format"] == "lightgbm":
        import lightgbm

        return told, lightgbm.Booster(model_file=path).predict
    elif told["format"] == "xgboost":
        import xgboost

        model = xgboost.XGBClassifier() if told["classes"] else xgboost.XGBRegressor()
        model.load_model(path)
    elif told["format"] == "catboost":
        import catboost  # pyright: ignore[reportMissingImports]

        model = catboost.CatBoostClassifier() if told["classes"] else catboost.CatBoostRegressor()
        model.load_model(path)
    else:
        import joblib

        model = joblib.load(path)
    chances = getattr(model, "predict_proba", None) if told["classes"] else None
    return told, chances or model.predict


def encode(texts: Sequence[str], column: dict[str, Any]) -> np.ndarray:
    """One column as float32: category codes, days, or numbers; NaN where missing or unknown."""
    values = np.full(len(texts), np.nan, np.float32)
    kind = column["kind"]
    codes: dict[str, float] = {text: code for code, text in enumerate(column["categories"] or ())}
    origin = datetime.datetime.fromisoformat(column["origin"]) if column["origin"] else None
    for i, raw in enumerate(texts):
        text = raw.strip()
        if text in MISSING:
            continue
        if kind == "category":
            values[i] = codes.get(text, codes.get("(other)", np.nan))
        elif kind == "date" and origin is not None:
            moment = datetime.datetime.fromisoformat(text).replace(tzinfo=origin.tzinfo)
            values[i] = (moment - origin).total_seconds() / 86400
        elif kind == "time":
            moment = datetime.time.fromisoformat(text)
            values[i] = moment.hour * 3600 + moment.minute * 60 + moment.second
        else:
            values[i] = TRUTH.get(text.lower(), np.nan) if kind == "boolean" else number(text)
    return values


def number(text: str) -> float:
    """The number, NaN if the text is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def predict(path: str) -> tuple[list[str], list[list[Any]]]:
    """Returns the header and the rows of the predictions for a CSV file."""
    told, apply = load()
    with open(path, encoding="utf-8-sig", newline="") as file:
        separator = max(",;\t|", key=file.readline().count)
        file.seek(0)
        rows = [row for row in csv.reader(file, delimiter=separator) if row]
    head, body = rows[0], rows[1:]
    absent = [column["name"] for column in told["columns"] if column["name"] not in head]
    if absent:
        stop(f"{path}: no column {', '.join(map(repr, absent))}")
    if not body:
        stop(f"{path}: no rows below the header")
    matrix = np.empty((len(body), len(told["columns"])), np.float32)
    for j, column in enumerate(told["columns"]):
        place = head.index(column["name"])
        matrix[:, j] = encode([row[place] for row in body], column)
    features: Any = matrix
    if told["integer_columns"]:
        features = matrix.astype(object)
        for j in told["integer_columns"]:
            features[:, j] = np.nan_to_num(matrix[:, j], nan=-1).astype(np.int64)
    given = np.asarray(apply(features))
    if not told["classes"]:
        return [told["target"]], [[float(value)] for value in given.ravel()]
    if given.ndim == 2 or given.dtype.kind == "f":
        chances = given if given.ndim == 2 else np.column_stack([1 - given, given])
        names = [f"p({name})" for name in told["classes"]]
        best = [told["classes"][code] for code in chances.argmax(axis=1)]
        return [told["target"], *names], [
            [label, *map(float, row)] for label, row in zip(best, chances, strict=True)
        ]
    return [told["target"]], [[told["classes"][int(code)]] for code in given]


def main() -> None:
    """Reads the file named on the command line and writes the predictions."""
    if not 2 <= len(sys.argv) <= 3:
        stop("usage: python predict.py NEW.csv [OUT.csv]")
    if not Path(sys.argv[1]).is_file():
        stop(f"{sys.argv[1]}: no such file")
    head, rows = predict(sys.argv[1])
    if len(sys.argv) == 2:
        try:
            csv.writer(sys.stdout).writerows([head, *rows])
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    with open(sys.argv[2], "w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([head, *rows])


if __name__ == "__main__":
    main()
