"""The study's folder survives crashes, torn lines and second writers."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from paragone._core.errors import UsageError
from paragone.lab.store import Store, export_parquet, read_records, read_study, write_json


def record(key="k", contestant="a", workload="w", block=0, attempt=0, setup="s", **more):
    return {
        "key": key, "setup": setup, "attempt": attempt, "contestant": contestant,
        "workload": workload, "block": block, "split": 0, "seed": 0, "status": "ok",
        "message": "", "values": {"fit_s": 1.5}, "phases": {"fit": {"wall": 1.5, "peak": 7}},
        "curves": {}, "digests": {"data": "d"}, "wall": 2.0, "cpu": 1.0, "group_peak": 0,
        "load": {"psi": 0.0, "foreign": 0.1}, "threads": 1,
        "limits": {"seconds": 1.0, "bytes": 0}, "machine": "m", "versions": {"numpy": "2"}, **more,
    }  # fmt: skip


STUDY = {"schema": 1, "study": "small", "timed": True, "setups": {"a|w": "s", "b|w": "t"}}


def filled(folder, *records, study=STUDY):
    with Store(folder) as store:
        store.study = dict(study)
        store.save()
        for row in records:
            store.append(row, {})
    return folder


def test_appended_records_come_back(tmp_path):
    with Store(tmp_path) as store:
        store.study = dict(STUDY)
        store.save()
        source = store.scratch / "predictions.npy"
        source.write_bytes(b"array")
        row = store.append(record(), {"predictions.npy": source, "log.txt": b"hello"})
    assert row["id"] == "r0001"
    assert row["artifacts"] == {"predictions": "artifacts/r0001/predictions.npy"}
    assert (tmp_path / row["artifacts"]["predictions"]).read_bytes() == b"array"
    assert (tmp_path / row["log"]).read_text() == "hello"
    assert read_records(tmp_path) == [row]
    assert not (tmp_path / "scratch").exists()


def test_a_study_without_records_has_an_empty_table(tmp_path):
    polars = pytest.importorskip("polars")
    filled(tmp_path)
    assert polars.read_parquet(export_parquet(tmp_path)).height == 0


@pytest.mark.parametrize("cut", [1, 2, 17, 60, 100])
def test_a_torn_last_line_is_cut_off_and_nothing_else(tmp_path, cut):
    filled(tmp_path, record("k1"), record("k2", block=1))
    path = tmp_path / "records.jsonl"
    raw = path.read_bytes()
    path.write_bytes(raw[:-cut])
    assert [row["key"] for row in read_records(tmp_path)] == ["k1"]
    with Store(tmp_path) as store:
        assert store.append(record("k3", block=2), {})["id"] == "r0002"
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["k1", "k3"]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    filled(tmp_path, record("k1"), record("k2", block=1))
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"{nonsense\n" + path.read_bytes())
    with pytest.raises(UsageError, match="line 1 is not a record"):
        read_records(tmp_path)


def test_a_second_writer_is_refused_and_told_who_holds_the_folder(tmp_path):
    with Store(tmp_path) as store:
        store.mark("token")
        with pytest.raises(UsageError, match=f"process {os.getpid()} is running a study here"):
            Store(tmp_path)
    Store(tmp_path).close()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    code = (
        "import sys, time\nfrom paragone.lab.store import Store\n"
        "s = Store(sys.argv[1]); s.mark('abc'); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=str(holder.pid)):
            Store(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with Store(tmp_path) as store:
            assert store.left_token == "abc"
    with Store(tmp_path) as store:
        assert store.left_token == ""


def test_readers_see_only_what_the_plan_asks_for(tmp_path):
    filled(
        tmp_path,
        record("k1", "a"),
        record("k2", "b", setup="an older version"),
        record("k3", "b", setup="t"),
        record("k4", "c", setup="u"),
    )
    assert [row["id"] for row in read_records(tmp_path)] == ["r0001", "r0003"]
    assert len(read_records(tmp_path, every=True)) == 4


def test_only_the_last_attempt_of_a_timed_block_counts(tmp_path):
    rows = [
        record("a0", "a"), record("b0", "b", setup="t"),
        record("a1", "a", block=1), record("a1", "a", block=1, attempt=1),
        record("b1", "b", block=1, attempt=1, setup="t"),
        record("b0", "b", attempt=1, setup="t"),
    ]  # fmt: skip
    filled(tmp_path / "timed", *rows)
    assert [row["id"] for row in read_records(tmp_path / "timed")] == ["r0006", "r0004", "r0005"]
    filled(tmp_path / "free", *rows, study={**STUDY, "timed": False})
    assert [row["id"] for row in read_records(tmp_path / "free")] == [
        "r0001", "r0006", "r0004", "r0005",
    ]  # fmt: skip


def test_fresh_removes_only_what_a_study_owns(tmp_path):
    filled(tmp_path, record())
    (tmp_path / "notes.txt").write_text("mine")
    with Store(tmp_path, fresh=True) as store:
        assert store.records(every=True) == []
        assert store.study == {}
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot hold a study"):
        Store(tmp_path / "file" / "runs")


def test_missing_newer_and_broken_studies_are_told(tmp_path):
    with pytest.raises(UsageError, match="no study here"):
        read_study(tmp_path)
    (tmp_path / "study.json").write_text('{"schema": 99}')
    with pytest.raises(UsageError, match="schema 99"):
        read_study(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(UsageError, match="not JSON"):
        read_study(tmp_path)


def test_readers_never_see_half_of_a_replaced_file(tmp_path):
    path = tmp_path / "study.json"
    write_json(path, {"n": 0, "pad": "x" * 50_000})
    stop = threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            n += 1
            write_json(path, {"n": n, "pad": "x" * 50_000})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            assert len(json.loads(path.read_text())["pad"]) == 50_000
    finally:
        stop.set()
        writer.join()
    assert [p.name for p in tmp_path.iterdir()] == ["study.json"]


def test_the_parquet_table_is_flat_and_complete(tmp_path):
    polars = pytest.importorskip("polars")
    filled(
        tmp_path,
        record("k1", status="failed", values={}, phases={}, load={}, versions={}, digests={}),
        record("k2", "b", setup="t", values={"fit_s": 1.5, "status": 3.0, "late": 2}),
    )
    table = polars.read_parquet(export_parquet(tmp_path))
    assert table.height == 2
    assert table["fit_s"].to_list() == [None, 1.5]
    assert table["late"].to_list() == [None, 2.0]
    assert table["value_status"].to_list() == [None, 3.0]
    assert table["status"].to_list() == ["failed", "ok"]
    assert table["phase_fit_peak"].to_list() == [None, 7.0]
    assert table["load_foreign"].to_list() == [None, 0.1]
    assert table["version_numpy"].to_list() == [None, "2"]
