"""`paragone.compare` from end to end, on a small table, with contestants that behave and do not."""

import json

import numpy as np
import polars as pl
import pytest

import paragone
from paragone._core.errors import UsageError
from paragone.lab import api, units
from paragone.lab.result import Plan, Study

PLAIN = "sklearn_hist_gbdt,sklearn_decision_tree,baseline"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def table(folder):
    generator = np.random.default_rng(0)
    size = generator.normal(size=120)
    color = generator.choice(["red", "blue"], 120)
    frame = pl.DataFrame({
        "size": [None if i % 13 == 0 else v for i, v in enumerate(size)],
        "color": color,
        "kind": np.where(size + (color == "red") > 0.4, "yes", "no"),
    })  # fmt: skip
    path = folder / "table.csv"
    frame.write_csv(path)
    return path


@pytest.fixture(scope="module")
def events():
    return []


@pytest.fixture(scope="module")
def study(folder, table, events):
    bad = folder / "bad.py"
    bad.write_text(
        "class Broken:\n    def fit(self, X, y):\n        raise RuntimeError('on purpose')\n"
    )
    return paragone.compare(
        "ensembles", data=table, target="kind", methods=PLAIN, with_=f"{bad}:Broken",
        repeats=2, threads=1, out=folder / "run", progress=events.append,
    )  # fmt: skip


def test_everything_lies_in_the_folder(study, folder):
    assert isinstance(study, Study)
    names = {path.name for path in (folder / "run").iterdir()}
    assert {"study.json", "records.jsonl", "results.parquet", "report.html"} <= names
    assert pl.read_parquet(folder / "run" / "results.parquet").height == 2 * 4 + 1


def test_every_contestant_has_a_row_and_a_broken_one_costs_its_own(study):
    board = study.leaderboard()
    rows = {row["contestant"]: row for row in board.iter_rows(named=True)}
    assert set(rows) == {*PLAIN.split(","), "broken"}
    assert rows["broken"]["status"] == "failed"
    assert rows["sklearn_hist_gbdt"]["status"] == "ok"
    assert rows["sklearn_hist_gbdt"]["log_loss"] < rows["baseline"]["log_loss"]
    assert study.exit_code == 1
    assert "on purpose" in (study.folder / "report.html").read_text()


def test_verdicts_name_winner_interval_and_word(study):
    assert "sklearn hist gbdt" in study.verdict()
    found = study.verdict("sklearn_hist_gbdt", "baseline")
    assert found.metric == "log loss"
    assert found.diff < 0
    assert found.word in ("better", "inconclusive")
    turned = study.verdict("baseline", "sklearn_hist_gbdt")
    assert turned.diff == pytest.approx(-found.diff)
    with pytest.raises(UsageError, match="did you mean sklearn_decision_tree"):
        study.verdict("sklearn_decision_tre", "baseline")


def test_the_winner_is_an_estimator_ready_to_fit(study, table):
    model = study.best()
    frame = pl.read_csv(table).drop_nulls()
    features = frame.select("size").to_numpy()
    model.fit(features, frame["kind"].to_numpy())
    assert len(model.predict(features)) == frame.height
    with pytest.raises(UsageError):
        study.best(max_latency="1us")


def test_the_same_call_runs_nothing_again(study, folder, table):
    before = (folder / "run" / "records.jsonl").read_bytes()
    again = []
    repeated = paragone.compare(
        "ensembles", data=table, target="kind", methods=PLAIN,
        with_=f"{folder / 'bad.py'}:Broken", repeats=2, threads=1, out=folder / "run",
        progress=again.append,
    )  # fmt: skip
    assert (folder / "run" / "records.jsonl").read_bytes() == before
    assert not [event for event in again if event.kind == "start"]
    assert repeated.leaderboard().equals(study.leaderboard())


def test_progress_told_of_every_run(events, study):
    runs = [event for event in events if event.kind == "run"]
    assert len(runs) == len(study.records)
    assert events[-1].kind == "end"


def test_all_contestants_of_a_block_saw_the_same_bytes(study):
    blocks = {}
    for record in study.records:
        if record["status"] == "ok":
            key = (record["workload"], record["block"])
            blocks.setdefault(key, set()).add(json.dumps(record["digests"], sort_keys=True))
    assert all(len(found) == 1 for found in blocks.values())
    assert len(blocks) == 2


def test_drawings_reports_and_text(study, tmp_path):
    assert study.plot.differences()._repr_svg_().startswith("<svg")
    assert study.plot.front().save(tmp_path / "f.svg").stat().st_size > 500
    for form in ("md", "json", "html", "parquet"):
        assert api.report(study.folder, format=form).stat().st_size > 200
    assert "sklearn hist gbdt" in str(study)
    assert study._repr_html_().startswith("<pre>")


def test_a_dry_run_touches_nothing(folder, table):
    plan = paragone.compare(
        "ensembles", data=table, target="kind", out=folder / "dry", dry_run=True, fresh=True
    )
    assert isinstance(plan, Plan)
    assert not (folder / "dry").exists()
    for words in ("120 x 2", "classification of 'kind'", "hidden duplicate", "paragone compare"):
        assert words in str(plan)


def test_fresh_moves_the_old_study_aside(study, folder, table, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(folder / "run", copy)
    paragone.compare(
        "ensembles", data=table, target="kind", methods="baseline", repeats=1, threads=1,
        out=copy, fresh=True,
    )  # fmt: skip
    aside = tmp_path / "run.old1"
    assert (aside / "records.jsonl").read_bytes() == (folder / "run" / "records.jsonl").read_bytes()
    assert Study(copy).leaderboard().height == 1


def test_arrays_and_objects_given_in_python(tmp_path):
    from sklearn.tree import DecisionTreeRegressor

    generator = np.random.default_rng(0)
    values = generator.normal(size=(80, 3))
    study = paragone.compare(
        "ensembles", data=(values, values[:, 0] * 2 + 0.1), methods="baseline",
        contestants=[DecisionTreeRegressor(max_depth=3)], repeats=1, threads=1,
        out=tmp_path / "run",
    )  # fmt: skip
    assert study.exit_code == 0
    found = study.leaderboard()
    assert set(found["contestant"]) == {"baseline", "decision_tree_regressor"}
    assert study.best().max_depth == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": "soon"}, "--budget: 'soon'"),
        ({"max_memory": "-1GB"}, "--max-memory"),
        ({"repeats": "9-3"}, "goes down"),
        ({"methods": "nothing_such"}, "no contestant 'nothing_such'"),
        ({"target": "kin"}, "did you mean 'kind'"),
        ({"tune": -1}, "--tune -1: at least 0"),
        ({"threads": 0}, "--threads 0: at least 1"),
    ],
)
def test_wrong_arguments_stop_before_the_first_run(table, tmp_path, options, words):
    with pytest.raises(UsageError) as caught:
        paragone.compare(
            "ensembles", **{"data": table, "target": "kind", "out": tmp_path / "x", **options}
        )
    assert words in str(caught.value)
    assert not (tmp_path / "x" / "records.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("1.5h", 5400), ("2 ms", 0.002), ("10m", 600), ("3us", 3e-6)]
)
def test_durations(text, value):
    assert units.seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"), [("1GB", 10**9), ("1GiB", 2**30), ("512k", 512_000), ("7", 7)]
)
def test_sizes(text, value):
    assert units.size(text) == value
