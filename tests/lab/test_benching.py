"""`bench`: who is meant by a name, what the table shows, and how a method starts."""

import dataclasses
import json
import subprocess
import sys

import pytest

from paragone._core import catalog
from paragone._core.errors import MissingPackageError, UsageError
from paragone.lab import benching, starts, studies
from paragone.lab.outcome import Cell, Row, Summary
from paragone.lab.spec import Block, Contestant, Job, Request, Workload

HERE = __file__


def known(study, **options):
    return studies.load(study).contestants(Request(options={"bench": True, **options}))


def meant(study, ours, *names):
    found = known(study)
    return [c.id for c in benching.peers(found, next(c for c in found if c.id == ours), names)]


@pytest.mark.parametrize(
    ("study", "ours", "name", "peer"),
    [
        ("boosting_speed", "newton_boosting", "xgboost", "xgboost"),
        ("boosting_speed", "newton_boosting", "lightgbm", "lightgbm"),
        ("boosting_speed", "newton_boosting", "sklearn", "sklearn_hist_gbdt"),
        ("boosting_speed", "newton_boosting", "scikit-learn", "sklearn_hist_gbdt"),
        ("boosting_speed", "newton_boosting", "gbdt", "gbdt"),
        ("boosting_speed", "gbdt", "sklearn", "sklearn_gbdt"),
        ("boosting_speed", "adaboost", "sklearn", "sklearn_adaboost"),
        ("forest_speed", "random_forest", "sklearn", "sklearn_random_forest"),
        ("forest_speed", "bagging", "sklearn", "sklearn_bagging"),
        ("forest_speed", "decision_tree", "sklearn", "sklearn_decision_tree"),
        ("neighbors", "kd_tree", "scipy", "scipy_kd_tree"),
        ("neighbors", "kd_tree", "sklearn", "sklearn_kd_tree"),
        ("neighbors", "kd_tree", "brute", "brute"),
        ("ensembles", "stacking", "sklearn", "sklearn_stacking"),
    ],
)
def test_ids_aliases_and_libraries_lead_to_the_right_peer(study, ours, name, peer):
    assert meant(study, ours, name) == [peer]


def test_several_peers_and_none():
    assert meant("boosting_speed", "newton_boosting", "xgboost", "lightgbm", "xgboost") == [
        "xgboost", "lightgbm"]  # fmt: skip
    assert meant("boosting_speed", "newton_boosting") == ["xgboost"]
    assert meant("forest_speed", "random_forest") == ["sklearn_random_forest"]
    assert meant("neighbors", "kd_tree") == ["scipy_kd_tree"]


def test_a_name_that_says_nothing_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="no such rival"):
        meant("neighbors", "kd_tree", "lightgbn")
    monkeypatch.setattr(benching.guests, "installed", lambda c: c.id != "scipy_kd_tree")
    with pytest.raises(MissingPackageError, match="pip install scipy"):
        meant("neighbors", "kd_tree", "scipy")


def test_methods_are_measured_in_the_study_of_their_speed():
    ensembles = studies.load("ensembles")
    for method in catalog.methods():
        if method.study == "ensembles" and method.id in ensembles.speed:
            found = known(ensembles.speed[method.id])
            assert any(c.method == method.id for c in found)
    with pytest.raises(UsageError, match="--leaves 31: only gradient boostings"):
        benching.bench("random_forest", leaves=31)


def records():
    rows = []
    for block, drift in enumerate((1.0, 1.4, 0.9, 1.1, 1.2, 0.8, 1.05)):
        for name, fit in (("a", 1.0), ("b", 2.0), ("a~2", 1.0)):
            rows.append({
                "id": f"{name}{block}", "contestant": name, "workload": "w", "block": block,
                "split": 0, "status": "ok",
                "values": {"fit_s": fit * drift, "fit_cpu_s": fit * drift, "auc": 0.8,
                           "fit_peak": 1e8 * fit},
            })  # fmt: skip
    return rows


def test_the_table_has_a_row_for_each_peer_with_ratio_interval_and_quality():
    measures = studies.load("boosting_speed").measures
    place = Workload(id="w", title="A table", load="", facts={"rows": 100, "columns": 3})
    cells = {
        name: {"fit_s": Cell(value=fit), "fit_cpu_s": Cell(value=fit), "auc": Cell(value=0.8),
               "fit_peak": Cell(value=1e8 * fit)}
        for name, fit in (("a", 1.0), ("b", 2.0))
    }  # fmt: skip
    summary = Summary(
        study="boosting_speed", question="?", measures=measures, workloads=[place],
        contestants=[Contestant(id=n, title=n.upper(), make="", method="b" if n == "a" else "")
                     for n in "ab"],
        tables={"w": [Row(contestant=n, title=n.upper(), origin="", cells=cells[n], done=7)
                      for n in "ab"]},
        protocol={"blocks": [7, 7], "blocks_done": {"w": 7}, "threads": 2}, records=records(),
    )  # fmt: skip
    lines = benching._table(summary, place, "a", ["b", "c"])
    assert lines[0] == "A table (100 x 3); 7 blocks, 2 threads, ratios by wall time"
    head, ours, peer, absent = lines[1], lines[3], lines[4], lines[5]
    assert head.split() == ["fit", "fit", "CPU", "peak", "RAM", "AUC"]
    assert ours.split() == ["A", "1.0", "s", "1.0", "s", "100", "MB", "0.8"]
    assert peer.count("2.00x [2.00, 2.00]") == 3
    assert peer.endswith("0.8")
    assert absent.strip() == "c"


def numbers():
    return ()


class Sleepy:
    """Takes long the first time in a process, or ever, as a compiler does."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self):
        import os
        import time

        if not hasattr(type(self), "loaded"):
            type(self).loaded = True
            mark = os.path.join(os.environ["NUMBA_CACHE_DIR"], "compiled")
            time.sleep(0.05 if os.path.exists(mark) else 0.3)
            open(mark, "w").close()


def one_call(job):
    return lambda: Sleepy("x")


def job():
    return Job(
        key="", task=f"{HERE}:run", contestant=Contestant(id="c", title="c", make=f"{HERE}:Sleepy"),
        workload=Workload(id="w", title="w", load=f"{HERE}:numbers"),
        block=Block(workload="w", index=0, split=0, seed=0), threads=1,
    )  # fmt: skip


def test_cold_cached_and_warm_are_told_apart():
    cold, cached, warm = starts.measure(job())
    assert (cold.name, cached.name, warm.name) == ("cold", "cached", "warm")
    assert cold.call_s > 0.3 > cached.call_s > 0.05 > warm.call_s
    assert cold.more_s == pytest.approx(cold.call_s - warm.call_s)
    text = "\n".join(starts.table([cold, cached, warm]))
    assert "cold: no kernel compiled yet" in text
    assert len(text.splitlines()) == 4


def test_a_method_that_does_not_start_says_why():
    bad = dataclasses.replace(job(), task=f"{HERE}nowhere:run")
    with pytest.raises(RuntimeError, match="did not start"):
        starts.measure(bad)


def test_the_shell_knows_the_options(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "paragone", "bench", "kd_tree", "--against", "nothing"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no such rival" in done.stderr
    assert done.stderr.count("\n") == 1
    assert json.dumps(done.stdout) == '""'
