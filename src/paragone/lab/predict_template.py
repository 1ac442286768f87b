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
from typing import Any, NoReturn

import numpy as np

HERE = Path(__file__).resolve().parent
MISSING = {"", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "?"}
TRUTH = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}


def note(message: str) -> None:
    """Tells what the predictions do not show."""
    print(f"predict.py: {message}", file=sys.stderr)


def stop(message: str) -> NoReturn:
    """Ends with one line and exit code 2."""
    note(message)
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


def encode(texts: Sequence[str], column: dict[str, Any], path: str) -> np.ndarray:
    """One column as float32: category codes, days, or numbers; NaN where missing or unknown.

    What cannot be read counts as missing, as in the table that was compared, and is told.
    """
    values = np.full(len(texts), np.nan, np.float32)
    codes: dict[str, float] = {
        name: float(code) for code, name in enumerate(column["categories"] or ())
    }
    odd: list[int] = []
    for i, raw in enumerate(texts):
        text = raw.strip()
        if text in MISSING:
            continue
        try:
            values[i] = value(text, column, codes)
        except (ValueError, KeyError):
            odd.append(i)
    if odd:
        kind = column["kind"]
        expected = "a category of the table that was fitted" if kind == "category" else f"a {kind}"
        note(
            f"{path}: column {column['name']!r}: {texts[odd[0]]!r} in data row {odd[0] + 1} is not"
            f" {expected}; {len(odd)} of {len(texts)} values count as missing"
        )
    return values


def value(text: str, column: dict[str, Any], codes: dict[str, float]) -> float:
    """What one cell means; a ValueError or KeyError says that it means nothing."""
    kind = column["kind"]
    if kind == "category":
        return codes[text] if text in codes else codes["(other)"]
    if kind == "date":
        origin = datetime.datetime.fromisoformat(column["origin"])
        moment = datetime.datetime.fromisoformat(text).replace(tzinfo=origin.tzinfo)
        return (moment - origin).total_seconds() / 86400
    if kind == "time":
        clock = datetime.time.fromisoformat(text)
        return clock.hour * 3600 + clock.minute * 60 + clock.second
    return TRUTH[text.lower()] if kind == "boolean" else float(text)


def table(path: str) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of a CSV file; ends with a line if it is none."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            separator = max(",;\t|", key=file.readline().count)
            file.seek(0)
            rows = [row for row in csv.reader(file, delimiter=separator) if row]
    except (UnicodeDecodeError, csv.Error):
        stop(f"{path}: not a text file in UTF-8; a CSV file is expected")
    if not rows:
        stop(f"{path}: the file is empty; a header and rows are expected")
    head, body = rows[0], rows[1:]
    if not body:
        stop(f"{path}: no rows below the header")
    for i, row in enumerate(body, 1):
        if len(row) != len(head):
            stop(f"{path}: data row {i} has {len(row)} fields, but the header has {len(head)}")
    return head, body


def predict(path: str) -> tuple[list[str], list[list[Any]]]:
    """Returns the header and the rows of the predictions for a CSV file."""
    told, apply = load()
    head, body = table(path)
    absent = [column["name"] for column in told["columns"] if column["name"] not in head]
    if absent:
        stop(f"{path}: no column {', '.join(map(repr, absent))}")
    matrix = np.empty((len(body), len(told["columns"])), np.float32)
    for j, column in enumerate(told["columns"]):
        place = head.index(column["name"])
        matrix[:, j] = encode([row[place] for row in body], column, path)
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
