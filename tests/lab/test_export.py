"""The exported winner: `predict.py` in a process of its own says what the model said."""

import csv
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

import paragone
from paragone._core.errors import UsageError
from paragone.lab import data
from paragone.lab.export import PICKLE_WARNING


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    generator = np.random.default_rng(0)
    rows = 150
    size, other = generator.normal(size=(2, rows))
    color = generator.choice(["red", "blue", "dark, green"], rows)
    frame = pl.DataFrame({
        "size": [None if i % 13 == 0 else v for i, v in enumerate(size)],
        "day": [f"2021-{1 + i % 12:02d}-{1 + i % 28:02d}" for i in range(rows)],
        "color": [None if i % 17 == 0 else c for i, c in enumerate(color)],
        "flag": generator.random(rows) < 0.5,
        "other": other,
        "kind": np.where(size + (color == "red") > 0.4, "yes", "no"),
        "price": np.nan_to_num(size) * 3 + other,
    })  # fmt: skip
    path = tmp_path_factory.mktemp("export") / "table.csv"
    frame.write_csv(path)
    return path


def study_of(table, target, out):
    columns = [c for c in ("kind", "price") if c != target]
    frame = pl.read_csv(table).drop(columns)
    path = out.parent / f"{target}.csv"
    frame.write_csv(path)
    return paragone.compare(
        "ensembles", data=path, target=target, repeats=1, threads=1, out=out,
        methods="decision_tree,sklearn_decision_tree,lightgbm,baseline", with_="xgboost",
    )  # fmt: skip


@pytest.fixture(scope="module")
def studies(table, tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    return {
        target: study_of(table, target, place / f"{target}-run") for target in ("kind", "price")
    }


@pytest.fixture
def study(studies):
    return studies["kind"]


CASES = [
    ("kind", "decision_tree", "paragone"), ("price", "decision_tree", "paragone"),
    ("kind", "sklearn_decision_tree", "joblib"), ("price", "lightgbm", "lightgbm"),
    ("kind", "lightgbm", "lightgbm"), ("kind", "xgboost", "xgboost"),
]  # fmt: skip
WRONG = {"wrong": "no column 'day'", "no": "no such file"}
SHELL = """
import contextlib, io, json, runpy, sys
for line in sys.stdin:
    sys.argv[:] = json.loads(line)
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


def table_of(study):
    return data.load(study.workload().params["folder"])


@pytest.fixture(scope="module")
def shell(studies, tmp_path_factory):
    """(exports, what each `predict.py` answered) by case: all are run by one process."""
    place = tmp_path_factory.mktemp("exports")
    exports, calls = {}, {}
    for target, pick, _ in CASES:
        study = studies[target]
        written = paragone.export(study.folder, place / f"{target}-{pick}", pick=pick)
        exports[target, pick] = written
        frame = pl.read_csv(study.folder.parent / f"{table_of(study).target_name}.csv")
        shuffled = place / f"{target}-{pick}.csv"
        frame.select(reversed(frame.columns)).drop(target).write_csv(shuffled)
        calls[target, pick] = written.folder, shuffled
    (place / "wrong.csv").write_text("size,color\n1,red\n")
    for name in WRONG:
        calls[name] = exports["kind", "decision_tree"].folder, place / f"{name}.csv"
    asked = [json.dumps([str(folder / "predict.py"), str(x)]) for folder, x in calls.values()]
    done = subprocess.run(
        [sys.executable, "-c", SHELL], input="\n".join(asked), capture_output=True, text=True,
        cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return exports, dict(zip(calls, answers, strict=True))


@pytest.mark.parametrize(("target", "pick", "form"), CASES)
def test_the_shell_predicts_what_the_model_predicts(studies, shell, target, pick, form):
    written = shell[0][target, pick]
    told = json.loads((written.folder / "columns.json").read_text())
    assert told["format"] == form
    assert bool(written.warning) == (form == "joblib")
    assert (PICKLE_WARNING in (written.folder / "README.md").read_text()) == (form == "joblib")
    stored = table_of(studies[target])
    status, out, err = shell[1][target, pick]
    assert status == 0, err
    rows = list(csv.DictReader(out.splitlines()))
    assert len(rows) == len(stored.values)
    if stored.classes:
        expected = written.model.predict_proba(stored.values)
        found = np.array([[float(row[f"p({c})"]) for c in stored.classes] for row in rows])
        labels = [stored.classes[i] for i in expected.argmax(axis=1)]
        assert [row[stored.target_name] for row in rows] == labels
    else:
        expected = np.asarray(written.model.predict(stored.values))
        found = np.array([float(row[stored.target_name]) for row in rows])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(np.asarray(found).ravel()) > 0.1


def test_an_export_is_replaced_and_a_foreign_folder_is_left_alone(study, tmp_path):
    place = tmp_path / "winner"
    paragone.export(study.folder, place, pick="baseline")
    paragone.export(study.folder, place, pick="decision_tree")
    assert (place / "model.json").exists()
    assert not (place / "model.joblib").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        paragone.export(study.folder, other, pick="baseline")
    assert (other / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", list(WRONG))
def test_predict_says_what_is_wrong_with_its_input(shell, name):
    status, _, err = shell[1][name]
    assert status == 2
    assert WRONG[name] in err
    assert "Traceback" not in err
