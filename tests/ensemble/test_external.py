"""Fits to files against fits to the same tables in memory: the same model, bit for bit."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

from paragone._core.errors import MissingPackageError  # noqa: E402
from paragone.ensemble import (  # noqa: E402
    NewtonBoostingClassifier,
    NewtonBoostingRegressor,
    _row_groups,
)
from paragone.ensemble._binning import bin_features  # noqa: E402
from paragone.ensemble._predict import apply, pack  # noqa: E402
from paragone.ensemble._table_bins import BinnedTable, apply_table  # noqa: E402

N = 2003


def table(n=N, seed=0):
    """Numbers, integers, booleans, text and categories, with holes in all but one."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({f"x{i}": rng.normal(size=n) for i in range(4)})
    frame["x1"] = frame["x1"].astype(np.float32)
    frame.loc[rng.random(n) < 0.2, "x1"] = np.nan
    frame["offset"] = 1e6 + rng.normal(size=n)
    frame["whole"] = rng.integers(0, 9, n)
    frame["nothing"] = np.nan
    frame["flag"] = rng.random(n) < 0.5
    frame["text"] = rng.choice(list("abcdefgh"), n)
    frame.loc[rng.random(n) < 0.1, "text"] = None
    frame["kind"] = pd.Categorical(rng.choice([f"k{i}" for i in range(300)], n))
    frame["w"] = rng.integers(0, 3, n) * 0.3
    score = frame["x0"] * frame["x2"].abs() + (frame["text"] == "a") + rng.normal(size=n)
    frame["y"] = np.where(score > 0, "yes", "no")
    return frame.assign(z=score)


FRAME = table()
X = FRAME.drop(columns=["y", "z", "w"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files, with row groups of odd sizes."""
    path = tmp_path_factory.mktemp("files") / "data"
    path.mkdir()
    FRAME[:700].to_parquet(path / "a.parquet", row_group_size=311)
    FRAME[700:].to_parquet(path / "b.parquet", row_group_size=64)
    return path


def same(a, b):
    assert len(a.trees_) == len(b.trees_)
    for one, other in zip(a.trees_, b.trees_, strict=True):
        for u, v in zip(one, other, strict=True):
            for name in u.__slots__:
                assert np.array_equal(getattr(u, name), getattr(v, name)), name
    assert np.array_equal(a.base_score_, b.base_score_)
    assert a.evals_result_ == b.evals_result_
    assert a.feature_names_in_.tolist() == b.feature_names_in_.tolist()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"early_stopping_rounds": 2, "learning_rate": 0.9},
        {"booster": "dart", "rate_drop": 0.3, "max_bin": 16},
        {"subsample": 0.5, "max_leaves": 6, "grow_policy": "lossguide", "colsample_bynode": 0.5},
    ],
)
@pytest.mark.parametrize("weight", [None, "w"])
def test_files_give_the_model_of_memory(folder, params, weight):
    params = {"n_estimators": 8, "max_depth": 4, "random_state": 3, "n_jobs": 1} | params
    memory = NewtonBoostingClassifier(**params)
    memory.fit(X, FRAME["y"], None if weight is None else FRAME["w"])
    columns = X.columns.tolist()
    files = NewtonBoostingClassifier(**params)
    files.fit_files(folder, target="y", sample_weight=weight, columns=columns)
    same(memory, files)
    assert np.array_equal(memory.predict_proba(X), files.predict_proba(X))


def test_watched_files_and_numbers(folder, tmp_path):
    far = table(301, 1)
    far.to_parquet(tmp_path / "far.parquet")
    params = {"n_estimators": 30, "max_depth": 3, "early_stopping_rounds": 2, "n_jobs": 1}
    memory = NewtonBoostingRegressor(**params, random_state=0)
    memory.fit(X, FRAME["z"], eval_set=(far[X.columns], far["z"]))
    files = NewtonBoostingRegressor(**params, random_state=0)
    files.fit_files(
        [folder / "a.parquet", folder / "b.parquet"], target="z", columns=X.columns.tolist(),
        eval_set=tmp_path / "far.parquet",
    )  # fmt: skip
    same(memory, files)
    assert memory.best_iteration_ == files.best_iteration_


def test_csv_files(tmp_path):
    numbers = FRAME[["x0", "x1", "whole", "text", "z"]]
    numbers.to_csv(tmp_path / "t.csv", index=False, float_format="%.17g")
    read = pd.read_csv(tmp_path / "t.csv", float_precision="round_trip", keep_default_na=False,
                       na_values={"x1": [""]})  # fmt: skip
    params = {"n_estimators": 4, "max_depth": 3, "n_jobs": 1, "random_state": 0}
    memory = NewtonBoostingRegressor(**params).fit(read.drop(columns="z"), read["z"])
    same(memory, NewtonBoostingRegressor(**params).fit_files(tmp_path / "t.csv", target="z"))


def test_a_stopped_fit_goes_on(folder, tmp_path, monkeypatch):
    params = {"max_depth": 3, "n_jobs": 1, "early_stopping_rounds": 3, "learning_rate": 0.9}
    arguments = {"target": "y", "columns": X.columns.tolist(), "cache": tmp_path / "cache"}
    whole = NewtonBoostingClassifier(n_estimators=20, random_state=7, **params)
    whole.fit_files(folder, **arguments)

    def stop(message):
        raise KeyboardInterrupt

    # Stopped while binning: the finished columns are not read again.
    other = arguments | {"cache": tmp_path / "other", "checkpoint": tmp_path / "rounds.jsonl"}
    first = NewtonBoostingClassifier(n_estimators=20, random_state=7, verbose=1, **params)
    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", stop)
        with pytest.raises(KeyboardInterrupt):
            first.fit_files(folder, **other)
    index = tmp_path / "other" / "part-0-of-1" / "columns.jsonl"
    assert len(index.read_text().splitlines()) == 1 + 8
    # Stopped while boosting, in the middle of a line.
    NewtonBoostingClassifier(n_estimators=4, random_state=7, **params).fit_files(folder, **other)
    assert index.read_text().splitlines()[-1] == "true"
    rounds = tmp_path / "rounds.jsonl"
    rounds.write_bytes(rounds.read_bytes()[:-100])

    def never(*arguments):
        raise AssertionError("the bins are there")

    again = NewtonBoostingClassifier(n_estimators=20, random_state=7, **params)
    with monkeypatch.context() as patch:
        patch.setattr("paragone.ensemble._external.cut_shared", never)
        again.fit_files(folder, **other)
    same(whole, again)
    assert len(rounds.read_text().splitlines()) == 1 + len(
        whole.evals_result_["validation_0"]["logistic"]
    )


@pytest.mark.parametrize("params", [{}, {"booster": "dart", "rate_drop": 0.5}, {"subsample": 0.7}])
def test_a_checkpoint_replays_to_the_same_bits(tmp_path, params):
    numbers = X[["x0", "x1", "x2", "whole"]]
    made = {"max_depth": 3, "n_jobs": 1} | params
    path = tmp_path / "deep" / "rounds.jsonl"
    start = NewtonBoostingRegressor(n_estimators=3, **made)
    start.fit(numbers, FRAME["z"], checkpoint=path)
    # No random_state: the seed is the checkpoint's.
    seed = json.loads(path.read_text().splitlines()[0])["seed"]
    went_on = NewtonBoostingRegressor(n_estimators=7, **made)
    went_on.fit(numbers, FRAME["z"], checkpoint=path)

    class Fixed(np.random.Generator):
        def integers(self, *arguments, **more):
            return seed

    whole = NewtonBoostingRegressor(n_estimators=7, **made)
    whole._seed = lambda plan, share: seed
    whole.fit(numbers, FRAME["z"])
    for a, b in ((start, 3), (went_on, 7)):
        assert a.n_estimators_ == b
    for one, other in zip(whole.trees_, went_on.trees_, strict=True):
        assert np.array_equal(one[0].value, other[0].value)
    assert np.array_equal(whole.predict(numbers), went_on.predict(numbers))


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    numbers, path = X[["x0", "x1"]], tmp_path / "rounds.jsonl"
    made = {"n_estimators": 2, "random_state": 0}
    NewtonBoostingRegressor(**made).fit(numbers, FRAME["z"], checkpoint=path)
    with pytest.raises(ValueError, match="max_depth=3, there 6"):
        NewtonBoostingRegressor(**made, max_depth=3).fit(numbers, FRAME["z"], checkpoint=path)
    with pytest.raises(ValueError, match="columns"):
        NewtonBoostingRegressor(**made).fit(numbers + 1, FRAME["z"], checkpoint=path)
    with pytest.raises(ValueError, match="base score"):
        NewtonBoostingRegressor(**made).fit(numbers, FRAME["z"] + 1, checkpoint=path)
    with pytest.raises(ValueError, match="gblinear"):
        NewtonBoostingRegressor(**made, booster="gblinear").fit(
            numbers, FRAME["z"], checkpoint=tmp_path / "new.jsonl"
        )
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="no file of boosting rounds"):
        NewtonBoostingRegressor(**made).fit(numbers, FRAME["z"], checkpoint=path)


def test_errors_name_file_row_group_and_column(folder, tmp_path, monkeypatch):
    model = NewtonBoostingRegressor(n_estimators=1)
    with pytest.raises(ValueError, match="'nope'"):
        model.fit_files(folder, target="nope")
    with pytest.raises(ValueError, match="does not exist"):
        model.fit_files(tmp_path / "nope.parquet", target="z")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"bad\.parquet cannot be read as Parquet"):
        model.fit_files(tmp_path / "bad.parquet", target="z")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no"):
        model.fit_files(tmp_path / "empty", target="z")
    some = pd.DataFrame({"a": [0.0, 1.0, 2.0, np.inf], "z": [0.0, 1, 2, 3]})
    some.to_parquet(tmp_path / "inf.parquet", row_group_size=2)
    with pytest.raises(ValueError, match=r"inf\.parquet, row group 1, column 'a' holds infinity"):
        model.fit_files(tmp_path / "inf.parquet", target="z")
    for name, frame in (("1", some[["z"]]), ("2", some.assign(a="text"))):
        some[:2].to_parquet(tmp_path / "one.parquet")
        frame.to_parquet(tmp_path / f"{name}.parquet")
        with pytest.raises(ValueError, match=rf"{name}\.parquet.*'a'"):
            model.fit_files([tmp_path / "one.parquet", tmp_path / f"{name}.parquet"], target="z")
    dates = some[:2].assign(a=pd.to_datetime(["2020-01-01", "2020-01-02"]))
    dates.to_parquet(tmp_path / "dates.parquet")
    with pytest.raises(ValueError, match="row group 0, column 'a' has dtype Datetime"):
        model.fit_files(tmp_path / "dates.parquet", target="z")
    for params in ({"tree_method": "exact"}, {"booster": "gblinear"}):
        with pytest.raises(ValueError, match="fit_files needs trees on fixed bins"):
            NewtonBoostingRegressor(**params).fit_files(folder, target="z")
    # A damaged page: the file opens, the row group does not.
    whole = (folder / "a.parquet").read_bytes()
    damaged = whole[:4] + bytes(2000) + whole[2004:]
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"damaged\.parquet, row group 0, columns"):
        model.fit_files(tmp_path / "damaged.parquet", target="z", columns=["x0", "x1"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingPackageError, match="pip install pyarrow"):
        _row_groups.open_files(folder, tmp_path)


def test_trees_see_bins_as_they_see_floats():
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=(500, 3)), 1).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    model = NewtonBoostingRegressor(n_estimators=5, max_bin=9).fit(
        values, np.nan_to_num(values[:, 0])
    )
    packed = pack([group[0] for group in model.trees_])
    binned = bin_features(values, np.zeros(3, bool), 9)
    want = apply(packed, values)
    assert np.array_equal(want, apply_table(packed, BinnedTable(binned), 1))
    # The planted bug: representatives off by one bin.
    wrong = BinnedTable(binned)
    wrong._values = np.roll(wrong._values, 1, axis=1)
    assert not np.array_equal(want, apply_table(packed, wrong, 1))


MEMORY = """
    import sys, threading, time
    from pathlib import Path
    import numpy as np
    from paragone.ensemble import NewtonBoostingRegressor

    def anonymous():
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    small, large, cache = sys.argv[1:]
    def fit(path, rounds):
        model = NewtonBoostingRegressor(n_estimators=rounds, max_depth=4, n_jobs=1, random_state=0)
        return model.fit_files(path, target="y", cache=cache)
    fit(small, 1)
    before, peak, done = anonymous(), 0, False
    def watch():
        global peak
        while not done:
            peak = max(peak, anonymous())
            time.sleep(0.002)
    thread = threading.Thread(target=watch)
    thread.start()
    model = fit(large, 3)
    done = True
    thread.join()
    print(peak - before, model.n_estimators_)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_stays_below_a_quarter_of_the_table(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    n, p = 160_000, 100

    def write(path, rows):
        columns = {f"c{j}": rng.random(rows, np.float32) for j in range(p)}
        columns["y"] = columns["c0"] + columns["c1"]
        pq.write_table(pa.table(columns), path, row_group_size=10_000, compression="none")

    write(tmp_path / "small.parquet", 1000)
    write(tmp_path / "large.parquet", n)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path / "small.parquet"),
         str(tmp_path / "large.parquet"), str(tmp_path / "cache")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak, rounds = map(int, done.stdout.split())
    assert rounds == 3
    assert peak < n * p * 8 / 4, f"{peak / n:.0f} bytes a row"
