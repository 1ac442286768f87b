"""Blocks, order, keys, hidden duplicate, adaptive repeats, budgets, events, fairness."""

import dataclasses
import json
import time
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paragone._core.errors import UsageError
from paragone.lab import protocol, runner
from paragone.lab.build import resolve_target
from paragone.lab.plan import Plan, block_order, run_key, setup_key
from paragone.lab.protocol import MismatchError, execute
from paragone.lab.spec import Block
from paragone.lab.store import read_records, read_study
from paragone.lab.summary import summarize

HERE = Path(__file__).parent
SMALL = str(HERE / "small.py")
study, request_, workload, contestant = (
    resolve_target(f"{SMALL}:{name}") for name in ("study", "request", "workload", "contestant")
)
MEAN, MEDIAN = contestant("mean"), contestant("median")


def go(folder, *, contestants=(MEAN, MEDIAN), workloads=None, of=None, **more):
    return execute(
        of or study(preload=("numpy",)), more.pop("request", request_()), contestants,
        workloads or [workload("w")], folder, **more,
    )  # fmt: skip


def runs(store, **where):
    rows = store.records()
    return [r for r in rows if all(r[name] == value for name, value in where.items())]


# Order, blocks, duplicate.


def test_every_block_holds_every_contestant_once_and_the_duplicate(tmp_path):
    inputs = [workload("w", splits=2), workload("v", rows=50)]
    store = go(tmp_path, workloads=inputs, repeats=3)
    blocks = {}
    for row in store.records():
        blocks.setdefault((row["workload"], row["block"]), []).append(row)
    assert set(blocks) == {(w, i) for w in "wv" for i in range(3)}
    for rows in blocks.values():
        assert sorted(row["contestant"] for row in rows) == ["mean", "mean~2", "median"]
        assert len({(row["seed"], row["split"]) for row in rows}) == 1
    assert [blocks["w", i][0]["split"] for i in range(3)] == [0, 1, 0]
    assert [blocks["v", i][0]["split"] for i in range(3)] == [0, 0, 0]
    assert len({blocks["w", i][0]["seed"] for i in range(3)}) == 3
    told = [c for c in store.study["contestants"] if c["hidden"]]
    assert [c["id"] for c in told] == ["mean~2"]
    assert store.study["reference"] == "mean"
    assert store.study["complaints"] == []
    assert (store.study["ended"], store.study["complete"]) == ("most", True)


def test_blocks_are_not_interleaved_but_workloads_are(tmp_path):
    store = go(tmp_path, workloads=[workload("w"), workload("v")], repeats=2)
    seen = [(row["block"], row["workload"]) for row in store.records()]
    assert seen == [(i, w) for i in range(2) for w in "wv" for _ in range(3)]


@given(st.integers(1, 8), st.integers(0, 50))
def test_order_is_a_permutation_and_the_same_again(count, index):
    names = [f"c{i}" for i in range(count)]
    block = Block(workload="w", index=index, split=0, seed=index)
    order = block_order(names, block)
    assert sorted(order) == sorted(names)
    assert order == block_order(names[::-1], block)


def test_each_place_in_the_block_falls_to_each_contestant_alike():
    names = ["a", "b", "c", "d"]
    blocks = [Block(workload="w", index=i, split=0, seed=i) for i in range(2000)]
    orders = [block_order(names, block) for block in blocks]
    for place in range(4):
        for name in names:
            share = sum(order[place] == name for order in orders) / len(orders)
            # Four standard errors of a share of 1/4 over 2000 blocks.
            assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 2000) ** 0.5


def test_without_the_reference_another_one_is_duplicated_and_untimed_studies_have_none(tmp_path):
    store = go(tmp_path / "a", contestants=[MEDIAN], repeats=1)
    assert {row["contestant"] for row in store.records()} == {"median", "median~2"}
    store = go(tmp_path / "b", of=study(timed=False), repeats=1)
    assert {row["contestant"] for row in store.records()} == {"mean", "median"}


def test_contestants_meet_only_inputs_that_they_can_take(tmp_path):
    picky = contestant("median", needs={"kind": ["even", "odd"]})
    inputs = [workload("w", facts={"kind": "odd"}), workload("v", facts={"kind": "none"})]
    store = go(tmp_path, contestants=[MEAN, picky], workloads=inputs, repeats=1)
    assert {r["workload"] for r in runs(store, contestant="median")} == {"w"}
    assert store.study["complete"]


# Keys.


def plan_of(**changes):
    one = changes.pop("contestant", MEAN)
    where = changes.pop("workload", workload("w", digest="d"))
    asked = changes.pop("request", request_())
    machine = changes.pop("machine", "m")
    return setup_key(study(**changes), asked, one, where, machine)


def test_a_key_changes_with_all_that_matters_and_nothing_else(tmp_path):
    there = workload("w", digest="d", params={"rows": 100, "folder": "/a"})
    moved = workload("w", digest="d", params={"rows": 100, "folder": "/b"})
    assert plan_of() == plan_of()
    assert plan_of(workload=there) == plan_of(workload=moved)
    kept, elsewhere = (workload("w", params={"rows": 9, "cache": at}) for at in ("/a", "/b"))
    assert plan_of(workload=kept) == plan_of(workload=elsewhere)
    assert plan_of(question="Else?", blocks=(7, 9)) == plan_of()
    assert plan_of(timed=False) == plan_of(timed=False, machine="other")
    different = [
        plan_of(), plan_of(contestant=MEDIAN), plan_of(workload=workload("w", digest="e")),
        plan_of(contestant=contestant("mean", params={"x": 1})), plan_of(machine="other"),
        plan_of(workload=workload("v", digest="d")), plan_of(request=request_(threads=2)),
        plan_of(request=request_(quick=True)), plan_of(request=request_(tune=5)),
        plan_of(options={"score": "x:y"}), plan_of(task="paragone.lab.tasks.race:run"),
        plan_of(workload=workload("w", digest="d", facts={"split_seed": 1})),
        plan_of(timed=False), plan_of(contestant=contestant("mean", start="exec")),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    block = Block(workload="w", index=0, split=0, seed=0)
    keys = {run_key("s", dataclasses.replace(block, **{k: 1})) for k in ("index", "split", "seed")}
    assert len(keys | {run_key("s", block), run_key("t", block)}) == 5


def told_threads(data, seed):
    """What a contestant sees of its threads."""
    import os

    import threadpoolctl

    pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    return {"error": float(os.environ["OMP_NUM_THREADS"]), "pools": float(max(pools, default=0))}


def test_an_input_may_ask_for_its_own_threads(tmp_path):
    inputs = [workload("w"), workload("one", facts={"threads": 1})]
    curious = dataclasses.replace(MEAN, make=f"{__file__}:told_threads")
    store = go(
        tmp_path, contestants=(curious,), workloads=inputs, repeats=1, request=request_(threads=2)
    )
    for row in store.records():
        threads = 1 if row["workload"] == "one" else 2
        assert (row["threads"], row["values"]["error"]) == (threads, threads)
        assert row["values"]["pools"] <= threads
    one, same = (
        plan_of(workload=workload("w", facts={"threads": 1}), request=request_(threads=t))
        for t in (2, 1)
    )
    assert one == same


def test_a_changed_source_is_another_contestant(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text("def solve(data, seed):\n    return {'error': 1.0}\n")
    mine = dataclasses.replace(MEDIAN, id="mine", make=f"{source}:solve")
    store = go(tmp_path / "runs", contestants=[MEAN, mine], repeats=1)
    assert runs(store, contestant="mine")[0]["values"]["error"] == 1.0
    source.write_text("def solve(data, seed):\n    return {'error': 2.0}\n")
    store = go(tmp_path / "runs", contestants=[MEAN, mine], repeats=1)
    assert [r["values"]["error"] for r in runs(store, contestant="mine")] == [2.0]
    assert len(store.records(every=True)) == 6


# Going on.


def test_the_same_call_again_runs_nothing(tmp_path):
    events = []
    first = go(tmp_path, repeats=2)
    before = (tmp_path / "study.json").read_bytes()
    again = go(tmp_path, repeats=2, on_event=events.append)
    assert again.records(every=True) == first.records(every=True)
    assert events == []
    assert (tmp_path / "study.json").read_bytes() == before


def test_another_preference_measures_nothing_but_is_noted(tmp_path):
    go(tmp_path, repeats=1)
    events = []
    asked = request_(options={"prefer": "speed", "max_latency": 0.1, "max_memory": 7})
    store = go(tmp_path, repeats=1, request=asked, command="again", on_event=events.append)
    assert (events, len(store.records(every=True))) == ([], 3)
    assert read_study(tmp_path)["request"]["options"]["prefer"] == "speed"
    assert read_study(tmp_path)["command"] == "again"
    assert (store.study["ended"], store.study["complete"]) == ("most", True)
    go(tmp_path, repeats=1, request=request_(options={"task": "other"}), on_event=events.append)
    assert len(read_records(tmp_path, every=True)) == 6


def test_more_repeats_add_blocks_only(tmp_path):
    first = go(tmp_path, repeats=1).records()
    second = go(tmp_path, repeats=3)
    assert second.records()[: len(first)] == first
    assert len(second.records(every=True)) == 9


def test_a_newcomer_to_a_timed_study_gets_whole_blocks(tmp_path):
    go(tmp_path, contestants=[MEAN], repeats=2)
    store = go(tmp_path, repeats=2)
    assert {row["attempt"] for row in store.records()} == {1}
    assert len(store.records()) == 6
    assert len(store.records(every=True)) == 10
    assert len(go(tmp_path, contestants=[MEAN], repeats=2).records()) == 4


def test_a_newcomer_to_an_untimed_study_runs_alone(tmp_path):
    free = study(timed=False)
    go(tmp_path, of=free, contestants=[MEAN], repeats=2)
    store = go(tmp_path, of=free, repeats=2)
    assert len(store.records()) == len(store.records(every=True)) == 4


def test_an_interrupted_timed_block_is_done_again_whole(tmp_path):
    def stop(event):
        if event.kind == "run" and event.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, repeats=3, on_event=stop)
    told = read_study(tmp_path)
    assert (told["ended"], told["complete"]) == ("interrupted", False)
    assert json.loads((tmp_path / "progress.json").read_text())["state"] == "interrupted"
    kept = read_records(tmp_path)[:3]
    store = go(tmp_path, repeats=3)
    assert store.records()[:3] == kept
    attempts = {(row["block"], row["attempt"]) for row in store.records()}
    assert attempts == {(0, 0), (1, 1), (2, 0)}
    assert len(store.records(every=True)) == 3 + 2 + 6
    assert store.study["complete"]


def test_a_timeout_is_tried_again_only_with_more_time(tmp_path):
    slow = contestant("slow", params={"pause": 0.8})
    store = go(tmp_path, contestants=[MEAN, slow], repeats=2, run_limit=0.4)
    assert [r["status"] for r in runs(store, contestant="slow")] == ["timeout"]
    again = go(tmp_path, contestants=[MEAN, slow], repeats=2, run_limit=0.3)
    assert len(again.records(every=True)) == len(store.records(every=True))
    longer = go(tmp_path, contestants=[MEAN, slow], repeats=2, run_limit=20)
    assert [r["status"] for r in runs(longer, contestant="slow")] == ["ok", "ok"]


def test_one_that_fails_late_gets_one_more_chance(tmp_path):
    late = contestant("fails_late")
    store = go(tmp_path, contestants=[MEAN, late], repeats=6)
    rows = [(r["block"], r["status"]) for r in runs(store, contestant="fails_late")]
    assert rows == [(0, "ok"), (1, "ok"), (2, "failed"), (3, "failed")]
    assert len(runs(store, contestant="mean")) == 6
    assert [s["contestant"] for s in store.study["skipped"]] == ["fails_late"]


def test_fresh_starts_again(tmp_path):
    go(tmp_path, repeats=1)
    assert len(go(tmp_path, repeats=1, fresh=True).records(every=True)) == 3


# Adaptive repeats and budgets.


def test_blocks_are_added_where_the_verdict_is_not_clear(tmp_path):
    looks = []

    def unsettled(folder):
        rows = read_records(folder)
        looks.append(read_study(folder)["looks"])
        return [w for w, enough in (("w", 3), ("v", 2)) if max(
            r["block"] for r in rows if r["workload"] == w) + 1 < enough]  # fmt: skip

    both = [workload("w"), workload("v")]
    store = go(tmp_path, workloads=both, repeats=(2, 6), unsettled=unsettled)
    assert {r["block"] for r in runs(store, workload="w")} == {0, 1, 2}
    assert {r["block"] for r in runs(store, workload="v")} == {0, 1}
    assert looks == [1, 2]
    assert (store.study["ended"], store.study["looks"]) == ("settled", 2)
    go(tmp_path, workloads=both, repeats=(2, 6), unsettled=unsettled)
    assert looks == [1, 2]


def test_the_most_blocks_end_a_study_that_is_never_clear(tmp_path):
    store = go(tmp_path, repeats=(1, 3), unsettled=lambda folder: ["w"])
    assert (store.study["ended"], store.study["complete"]) == ("most", True)
    assert max(row["block"] for row in store.records()) == 2


def test_the_budget_ends_a_study_and_kills_what_runs(tmp_path):
    slow = [contestant("slow", id=f"s{i}", params={"pause": 60}) for i in range(3)]
    start = time.monotonic()
    store = go(tmp_path, contestants=slow, budget=1.5, run_limit=60)
    assert time.monotonic() - start < 50
    assert (store.study["ended"], store.study["complete"]) == ("budget", False)
    assert store.records() == []
    assert len(go(tmp_path, contestants=slow, budget=1.5, run_limit=60).records()) == 0


def test_blocks_that_do_not_fit_the_budget_are_not_begun(tmp_path, monkeypatch):
    clock = types.SimpleNamespace(ahead=0.0, monotonic=time.monotonic)
    clock.time = lambda: time.time() + clock.ahead
    monkeypatch.setattr(protocol, "time", clock)
    began = time.time()

    def unsettled(folder):
        # Before the third block the clock stands .2 s before the end: less than one block takes.
        if len(read_records(folder)) == 6:
            clock.ahead = began + 39.8 - time.time()
        return ["w"]

    slow = contestant("slow", params={"pause": 0.4})
    store = go(
        tmp_path, contestants=[MEAN, slow], budget=40.0, repeats=(1, 100), unsettled=unsettled
    )
    assert (store.study["ended"], store.study["complete"]) == ("budget", True)
    assert [row["block"] for row in store.records()] == [0, 0, 0, 1, 1, 1]
    assert store.study["run_limit_s"] == 10.0
    clock.ahead = 0.0
    more = go(
        tmp_path, contestants=[MEAN, slow], budget=45.0, repeats=(1, 3),
        unsettled=lambda folder: ["w"],
    )  # fmt: skip
    assert len(more.records()) == 9
    assert len(more.records(every=True)) == 9


def test_with_a_budget_a_later_input_begins_only_if_its_block_fits(tmp_path, monkeypatch):
    clock = types.SimpleNamespace(ahead=0.0, monotonic=time.monotonic)
    clock.time = lambda: time.time() + clock.ahead
    monkeypatch.setattr(protocol, "time", clock)
    began, seen = time.time(), set()

    def late(event):
        seen.add(event.workload)
        # After the first input's block .1 s are left: less than half of what a block takes.
        if len(read_records(tmp_path)) == 3:
            clock.ahead = began + 39.9 - time.time()

    both, slow = [workload("w"), workload("v")], contestant("slow", params={"pause": 0.4})
    store = go(tmp_path, contestants=[MEAN, slow], workloads=both, budget=40.0, on_event=late)
    assert [row["workload"] for row in store.records()] == ["w"] * 3
    assert "v" not in seen
    assert (store.study["ended"], store.study["complete"]) == ("budget", False)


def test_the_first_block_may_pass_the_budget_by_the_grace(tmp_path):
    both = [workload("w"), workload("v")]
    slow = [contestant("slow", id=f"s{i}", params={"pause": 0.6}) for i in range(3)]
    wanted = {"contestants": slow, "workloads": both, "budget": 0.7}
    short = go(tmp_path / "short", **wanted)
    assert len(short.records()) < 4
    assert (short.study["ended"], short.study["cut"]) == ("budget", "w")
    store = go(tmp_path / "grace", **wanted, grace=60.0)
    assert [row["workload"] for row in store.records()] == ["w"] * 4
    assert (store.study["ended"], store.study["cut"]) == ("budget", "")


def test_an_input_whose_first_block_was_cut_is_left_out(tmp_path, monkeypatch):
    clock = types.SimpleNamespace(ahead=0.0, monotonic=time.monotonic, sleep=time.sleep)
    clock.time = lambda: time.time() + clock.ahead
    monkeypatch.setattr(protocol, "time", clock)
    monkeypatch.setattr(runner, "time", clock)

    def late(event):
        if len(read_records(tmp_path)) == 4:
            clock.ahead = 1000.0

    inputs = [workload("w"), workload("v")]
    store = go(tmp_path, workloads=inputs, budget=900.0, run_limit=60, on_event=late)
    assert [row["workload"] for row in store.records()] == ["w"] * 3 + ["v"]
    assert (store.study["ended"], store.study["cut"]) == ("budget", "v")
    found = summarize(tmp_path)
    assert list(found.tables) == ["w"]
    assert "Left out: v, on which not all had run when the budget ended." in found.notes
    # With time for them the same study has both, two blocks of each.
    clock.ahead = 0.0
    more = go(tmp_path, workloads=inputs, budget=901.0, run_limit=60)
    assert (len(more.records()), more.study["cut"]) == (12, "")
    assert list(summarize(tmp_path).tables) == ["w", "v"]


# Fairness, errors, events.


def test_different_data_in_one_block_is_an_error_and_leaves_no_record(tmp_path):
    odd = workload("w", load=f"{SMALL}:drifting")
    with pytest.raises(MismatchError, match=r"block 0 of 'w': .* got data .* the same bytes"):
        go(tmp_path, workloads=[odd])
    assert len(read_records(tmp_path)) == 1
    assert "same bytes" in read_study(tmp_path)["error"]
    with pytest.raises(MismatchError):
        go(tmp_path, workloads=[odd])


def test_data_that_changed_since_it_was_planned_is_an_error(tmp_path):
    with pytest.raises(MismatchError, match="the input changed since"):
        go(tmp_path, workloads=[workload("w", digest="0123456789abcdef")])


def test_another_study_keeps_its_folder(tmp_path):
    go(tmp_path, repeats=1)
    with pytest.raises(UsageError, match="holds the study 'small'"):
        go(tmp_path, of=study(id="large"), repeats=1)
    assert len(read_records(tmp_path)) == 3


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"contestants": []}, "no contestants"),
        ({"contestants": [MEAN, MEAN]}, "'mean' is there twice"),
        ({"workloads": [workload("a|b")]}, "reserved"),
        ({"contestants": [dataclasses.replace(MEAN, id="mean~2")]}, "reserved"),
        ({"repeats": (3, 2)}, "least <= most"),
        ({"repeats": 0}, "least <= most"),
        ({"budget": -1}, "more than 0"),
        ({"engine": "sun grid"}, "engine 'sun grid'"),
    ],
)
def test_what_cannot_be_is_one_clear_line(tmp_path, more, text):
    with pytest.raises(UsageError, match=text) as caught:
        go(tmp_path, **more)
    assert "\n" not in str(caught.value)


def test_events_tell_who_runs_and_when_it_is_done(tmp_path):
    events, states = [], []

    def note(event):
        events.append(event)
        states.append(json.loads((tmp_path / "progress.json").read_text()))

    go(tmp_path, repeats=2, on_event=note)
    kinds = [event.kind for event in events]
    assert kinds == ["study", *["start", "run"] * 6, "end"]
    assert [e.done for e in events if e.kind == "run"] == [1, 2, 3, 4, 5, 6]
    assert {e.planned for e in events} == {6}
    assert events[0].eta is None
    assert [e.eta for e in events[2:]] == sorted((e.eta for e in events[2:]), reverse=True)
    assert events[-1].eta == 0
    first = events[1:3]
    assert first[0].contestant == first[1].contestant == first[1].record["contestant"]
    assert [s["state"] for s in states] == ["running"] * 13 + ["most"]
    assert states[1]["contestant"] == events[1].contestant


def test_a_plan_is_the_same_from_the_same_records():
    plans = [
        Plan(study(), request_(), [MEAN, MEDIAN], [workload("w")], "m", 10.0, 0) for _ in range(2)
    ]
    blocks = [plans[0].block("w", i) for i in range(5)]
    assert plans[0].open(blocks, []) == plans[1].open(blocks, [])
    assert plans[0].digest(5.0, (1, 2)) == plans[1].digest(5.0, (1, 2))
    assert plans[0].digest(5.0, (1, 2)) != plans[0].digest(6.0, (1, 2))
