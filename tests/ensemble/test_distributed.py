"""Boosting by several real processes over gloo, against the same fit by one."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch.distributed")
pd = pytest.importorskip("pandas")

from tests.training.ranks import run_ranks  # noqa: E402

from paragone.ensemble import (  # noqa: E402
    NewtonBoostingClassifier,
    NewtonBoostingRegressor,
    load_model,
)
from paragone.ensemble._fixed_point import measure, node_sums  # noqa: E402
from paragone.lab.build import resolve_target  # noqa: E402

SCRIPT = str(Path(__file__).with_name("shards.py"))
shards = {name: resolve_target(f"{SCRIPT}:{name}") for name in
          ("N", "fits", "run", "content", "fatal_fit", "numbers")}  # fmt: skip


def start_to_hang(folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    return [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), "2", str(folder)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


def same(a, b, path=""):
    """Bit for bit, NaN included."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}[{i}]")
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, path
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), path
    else:
        assert a == b, path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    found = {}
    for size in (2, 3):
        run_ranks(size, "tests.ensemble.shards:equal", folder, init=False, timeout=300)
        found[size] = [
            pickle.loads((folder / f"{size}-{rank}.pickle").read_bytes()) for rank in range(size)
        ]
    found["refused"] = [
        pickle.loads((folder / f"refused-{rank}.pickle").read_bytes()) for rank in range(2)
    ]
    return found


@pytest.mark.parametrize("name", shards["fits"]())
def test_the_model_of_many_processes_is_that_of_one(fitted, name):
    one = shards["content"](shards["run"](name))
    assert len(one["trees"]) >= 2
    compared = 0
    for size in (2, 3):
        for rank in range(size):
            if name in fitted[size][rank]:
                same(one, fitted[size][rank][name], f"{name}, rank {rank} of {size}")
                compared += 1
    assert compared in (3, 5)


def test_shards_that_do_not_fit_together_are_named(fitted):
    for messages in fitted["refused"]:
        assert "rank 1 has 5 columns and rank 0 has 6" in messages["width"]
        assert "column 2 is 'other' at rank 1 and 'c' at rank 0" in messages["name"]
        assert "column 'd' is a category at rank 1 and a number at rank 0" in messages["dtype"]
        assert "parameters differs between processes" in messages["parameter"]
        assert "'hist'" in messages["method"]
        assert "gblinear" in messages["booster"]
        assert messages.keys() >= {"value", "length", "target"}
    for name in ("value", "length", "target"):
        assert "rank 1" in fitted["refused"][0][name]


def test_a_killed_process_ends_the_others_and_the_rounds_stay(tmp_path):
    ended = run_ranks(
        3, "tests.ensemble.shards:kill", tmp_path, init=False, timeout=300, dead_ok=True
    )
    assert ended == [None] * 3
    assert not (tmp_path / "lost-2.pickle").exists()
    whole = shards["fatal_fit"](None, slice(None))
    for rank in (0, 1):
        told = pickle.loads((tmp_path / f"lost-{rank}.pickle").read_bytes())
        # A broken connection is noticed long before the time-out of 200 s.
        assert told["seconds"] < 100, told["message"]
        assert told["rounds"] == 4
        assert told["missing"] == [2], told["message"]
        same(shards["content"](whole)["trees"][:4], told["model"]["trees"])
    went_on = shards["fatal_fit"](None, slice(None), checkpoint=tmp_path / "rounds.jsonl")
    same(shards["content"](whole), shards["content"](went_on))


def test_a_process_that_hangs_is_an_error_after_the_timeout(tmp_path):
    processes = start_to_hang(tmp_path)
    try:
        log = processes[0].communicate(timeout=300)[0]
    finally:
        for process in processes:
            process.kill()
        processes[1].communicate()
    told = pickle.loads((tmp_path / "lost-0.pickle").read_bytes())
    assert told["rounds"] == 4, log
    assert told["missing"] == [1]
    assert "timeout 2 s" in told["message"]


def test_a_process_group_needs_torch_distributed():
    with pytest.raises(ValueError, match="connect"):
        NewtonBoostingRegressor().fit([[0.0], [1.0]], [0.0, 1.0], process_group=True)


def test_sums_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    g, h = rng.normal(size=1000) * 10.0 ** rng.integers(-12, 12, 1000), rng.random(1000)
    order = rng.permutation(1000)
    first, second = measure(g, h), measure(g[order], h[order])
    assert first == second
    leaf = rng.integers(1, 3, 1000).astype(np.int32)
    left = np.array([1, 0, 0], np.int32)
    sums = node_sums(leaf, g, h, left, first)
    assert np.array_equal(sums, node_sums(leaf[order], g[order], h[order], left, second))
    # The planted bug would be a plain sum: it changes with the order.
    assert np.cumsum(h)[-1] != np.cumsum(h[order])[-1]
    assert sums[0, 1] == pytest.approx(h.sum(), rel=1e-14)
    assert sums[1, 0] == pytest.approx(g[leaf == 1].sum(), rel=1e-9)


def test_torchrun_trains_on_files(tmp_path):
    pytest.importorskip("pyarrow")
    X, y = shards["numbers"]()
    table = pd.DataFrame(X, columns=list("abcdef")).assign(y=np.where(y > 1, "up", "down"))
    table.to_parquet(tmp_path / "t.parquet", row_group_size=250)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "paragone.ensemble.distributed", "train", "--data", str(tmp_path / "t.parquet"),
        "--target", "y", "--out", str(tmp_path / "m.json"), "--cache", str(tmp_path / "cache"),
        "--set", "n_estimators=5", "max_depth=3", "random_state=0", "n_jobs=1",
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "5 rounds by 2 processes" in done.stdout
    one = NewtonBoostingClassifier(n_estimators=5, max_depth=3, random_state=0, n_jobs=1)
    one.fit(table.drop(columns="y"), table["y"]).save_model(tmp_path / "one.json")
    both = [shards["content"](load_model(tmp_path / name)) for name in ("m.json", "one.json")]
    same(*both)


def _by_dask(rank, size, address, X, y):
    from paragone.ensemble.distributed import connect, disconnect

    connect(rank=rank, world_size=size, init_method=address)
    model = NewtonBoostingRegressor(n_estimators=4, random_state=0, n_jobs=1)
    model.fit(X, y, process_group=True)
    disconnect()
    return model


@pytest.mark.slow
@pytest.mark.skipif(
    "PARAGONE_TEST_DASK" not in os.environ,
    reason="its workers do not always answer on a busy machine; PARAGONE_TEST_DASK=1 runs it",
)
@pytest.mark.filterwarnings("ignore")
def test_dask_places_the_processes(tmp_path):
    distributed = pytest.importorskip("distributed")
    X, y = shards["numbers"]()
    address = f"file://{tmp_path}/meet"
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            memory_limit=None,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        workers = list(client.scheduler_info()["workers"])
        futures = [
            client.submit(_by_dask, r, 2, address, X[r::2], y[r::2], workers=[w], retries=0)
            for r, w in enumerate(workers)
        ]
        distributed.wait(futures, timeout=200)
        models = client.gather(futures)
    one = NewtonBoostingRegressor(n_estimators=4, random_state=0, n_jobs=1)
    one.fit(np.concatenate([X[::2], X[1::2]]), np.concatenate([y[::2], y[1::2]]))
    for model in models:
        same(shards["content"](one), shards["content"](model))
