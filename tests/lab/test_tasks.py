"""Sweep, race and count, each in a tiny but real study with a known answer."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from paragone.lab.build import resolve_target
from paragone.lab.probe import Probe
from paragone.lab.protocol import execute
from paragone.lab.spec import Block, Contestant, Job, Workload
from paragone.lab.tasks import count, race, sweep

HERE = str(Path(__file__).with_name("small_studies.py"))
REQUEST = resolve_target(f"{HERE}:REQUEST")


def perform(name, folder):
    study = resolve_target(f"{HERE}:{name}")
    store = execute(study, REQUEST, study.contestants(REQUEST), study.workloads(REQUEST), folder)
    rows = {}
    for row in store.records():
        rows.setdefault((row["contestant"], row["workload"]), []).append(row)
    return rows


def job(task_options, make, load="builtins:dict", **params):
    return Job(
        key="k", task="", contestant=Contestant(id="c", title="c", make=make, params=params),
        workload=Workload(id="w", title="w", load=load),
        block=Block(workload="w", index=0, split=0, seed=3), threads=1, options=task_options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sorting(tmp_path_factory):
    return perform("SORTING", tmp_path_factory.mktemp("sorting"))


def test_a_sweep_covers_every_point_with_the_truth(sorting):
    for n in (100, 2000):
        for kind in ("quicksort", "stable", "stable~2", "insertion"):
            rows = sorting[kind, f"n{n}"]
            assert [row["status"] for row in rows] == ["ok", "ok"]
            for row in rows:
                values = row["values"]
                assert values["error"] == 0.0
                assert values["calls"] >= 3
                assert 0 < values["call_s"] <= values["call_s"] * values["calls"]
                assert {"first_call_s", "import_s", "load_s", "call_peak"} <= values.keys()


def test_a_sweep_catches_a_wrong_answer_and_a_changed_input(sorting):
    assert sorting["wrong", "n100"][0]["values"]["error"] > 0.1
    row = sorting["in_place", "n2000"][0]
    assert row["status"] == "failed"
    assert "changed its inputs" in row["message"]


def test_blocks_of_a_sweep_get_their_own_inputs(sorting):
    digests = [row["digests"]["data"] for row in sorting["stable", "n100"]]
    assert len(set(digests)) == 2
    assert digests == [row["digests"]["data"] for row in sorting["insertion", "n100"]]


def test_extra_memory_of_a_call_is_what_it_allocates():
    probe = Probe()
    sweep.run(
        job({"least_time": 0.0}, "numpy:ones", load="numpy:int64", dtype="u1"), probe
    )  # numpy.ones(0): nothing
    assert probe.values["call_extra"] < 1 << 20
    probe = Probe()
    where = f"{Path(__file__)}:sixty_four"
    # Pages of its own: a heap that keeps its memory may have as much free.
    sweep.run(job({"least_time": 0.0}, f"{Path(__file__)}:pages", load=where), probe)
    assert 63 << 20 <= probe.values["call_extra"] < 70 << 20


def sixty_four():
    return (64 << 20,)


def pages(size):
    found = mmap.mmap(-1, size)
    found[:: mmap.PAGESIZE] = b"x" * (size // mmap.PAGESIZE)
    return np.frombuffer(found, np.uint8)


def test_relative_error_of_tuples_tensors_and_wrong_shapes():
    class Tensor(np.ndarray):
        def detach(self):
            return self

        def cpu(self):
            return np.asarray(self)

    truth = (np.array([3.0, 0.0]), np.array([[4.0]]))
    found = (np.array([3.0, 0.0]).view(Tensor), np.array([[4.5]]))
    assert sweep.relative_error(found, truth) == pytest.approx(0.1)
    assert sweep.relative_error(np.ones(2), np.zeros(2)) == pytest.approx(2**0.5)
    with pytest.raises(ValueError, match="returned 2 numbers, the reference 3"):
        sweep.relative_error(np.ones(2), np.ones(3))


@pytest.fixture(scope="module")
def descent(tmp_path_factory):
    return perform("DESCENT", tmp_path_factory.mktemp("descent"))


def test_a_race_records_the_curve_that_the_recurrence_gives(descent):
    load, learn, loss = (
        resolve_target(f"{HERE}:{name}") for name in ("least_squares", "descent", "loss")
    )
    for row in descent["momentum", "ls"]:
        a, b = load(row["seed"])
        steps = learn(a, b, seed=0, rate=0.004, momentum=0.9)
        expected = [loss(a, b, next(steps)[1]) for _ in range(150)]
        curve = row["curves"]["value"]
        assert curve["x"] == list(range(1, 151))
        np.testing.assert_allclose(curve["y"], expected, rtol=1e-10)
        values = row["values"]
        assert values["final"] == curve["y"][-1]
        assert values["best"] == min(curve["y"])
        assert values["area"] == pytest.approx(np.trapezoid(expected) / 149)
        first = next(i for i, v in enumerate(expected, 1) if v <= 1e-2)
        assert (values["reached"], values["target_steps"]) == (1.0, first)
        seconds = row["curves"]["value_time"]["x"]
        assert seconds == sorted(seconds)
        assert values["target_s"] == seconds[first - 1] <= values["race_s"] == seconds[-1]


def test_a_race_tells_the_winner_and_a_divergence(descent):
    plain, momentum = (descent[name, "ls"][0]["values"] for name in ("plain", "momentum"))
    assert momentum["final"] < plain["final"]
    assert "target_steps" not in plain
    assert plain["reached"] == 0.0
    row = descent["diverging", "ls"][0]
    assert row["status"] == "failed" or row["values"]["final"] > 1e6


def learner(problem, seed, values=(3.0, 1.0, 2.0), steps=None, pause=0.0):
    import time

    for i, value in enumerate(values):
        time.sleep(pause)
        yield (steps[i] if steps else i), value


def raced(options, **params):
    probe = Probe()
    race.run(job(options, f"{Path(__file__)}:learner", **params), probe)
    return probe


def test_a_race_ends_at_steps_seconds_or_by_itself():
    assert raced({"steps": 1}).curves["value"]["y"] == [3.0, 1.0]
    assert raced({"steps": 5}, steps=[0, 4, 8]).curves["value"]["x"] == [0.0, 4.0]
    assert raced({"steps": 99}).curves["value"]["y"] == [3.0, 1.0, 2.0]
    assert raced({"seconds": 0.01}, pause=0.02).curves["value"]["y"] == [3.0]
    higher = raced({"steps": 9, "better": "higher", "target": 2.5}).values
    assert (higher["best"], higher["target_steps"], higher["reached"]) == (3.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("options", "params", "text"),
    [
        ({}, {}, "needs an end"),
        ({"steps": 3}, {"values": []}, "yielded nothing"),
        ({"steps": 3}, {"steps": [0, 1, 1]}, "do not increase"),
    ],
)
def test_a_race_refuses_what_is_none(options, params, text):
    with pytest.raises(ValueError, match=text):
        raced(options, **params)


def test_a_count_tells_the_price_of_greed(tmp_path):
    rows = perform("CHANGE", tmp_path)
    assert set(rows) == {("greedy", "c"), ("optimal", "c")}
    for greedy, optimal in zip(rows["greedy", "c"], rows["optimal", "c"], strict=True):
        ours, best = greedy["curves"]["each"]["y"], optimal["curves"]["each"]["y"]
        assert len(best) == 40
        assert all(a >= b for a, b in zip(ours, best, strict=True))
        assert greedy["values"]["coins"] == np.mean(ours) > optimal["values"]["coins"]


def test_counts_without_a_score_come_from_the_contestant():
    probe = Probe()
    count.run(job({}, f"{Path(__file__)}:returns"), probe)
    assert probe.values["tokens"] == 3.0
    assert probe.curves["reward"] == {"x": [1.0, 2.0], "y": [0.5, 1.5]}


def returns(problem, seed):
    return {"tokens": seed, "reward": [0.5, 1.5]}
