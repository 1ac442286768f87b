"""Summaries of fabricated studies with a known truth: tiers, differences, noise, failures."""

import dataclasses
import json
import math
import time

import numpy as np
import pytest
from scipy import stats

from paragone._core.errors import UsageError
from paragone.lab import _ranking
from paragone.lab._evidence import plan_of
from paragone.lab._overall import RANK, RELATIVE
from paragone.lab.store import read_records, read_study
from paragone.lab.summary import settled, summarize, unsettled


def rows_of(rows):
    return {row.contestant: row for row in rows}


def found(summary, a, b, measure, workload=""):
    for d in summary.differences:
        if (d.measure, d.workload) == (measure, workload) and {d.a, d.b} == {a, b}:
            return d
    raise AssertionError(f"no difference of {a} and {b} on {measure} at {workload!r}")


@pytest.fixture(scope="module")
def one(fabricate, tmp_path_factory):
    return summarize(fabricate(tmp_path_factory.mktemp("one"), workloads_count=1, blocks=15))


@pytest.fixture(scope="module")
def three(fabricate, tmp_path_factory):
    return summarize(fabricate(tmp_path_factory.mktemp("three"), workloads_count=3, blocks=6))


class TestOneWorkload:
    def test_every_contestant_has_a_row_and_the_duplicate_none(self, one):
        names = [row.contestant for row in one.rows]
        assert len(names) == 13
        assert "catboost" in names
        assert not any(name.endswith("~2") for name in names)
        assert one.rows[: len(one.rows) - 1] == list(one.tables["breast_cancer"])

    def test_truth_is_found(self, one):
        rows = rows_of(one.rows)
        assert rows["newton_boosting"].tier == rows["lightgbm"].tier == "A"
        order = [rows[n].tier for n in ("newton_boosting", "random_forest", "adaboost",
                                        "decision_tree")]  # fmt: skip
        assert order == sorted(order)
        assert len(set(order)) == 4

    def test_tier_a_is_who_is_not_worse_than_the_best(self, one):
        ranked = [row for row in one.rows if row.tier]
        assert ranked[0].versus_best is None
        for row in ranked[1:]:
            assert row.versus_best.b == ranked[0].contestant
            assert (row.tier == "A") == (row.versus_best.word != "worse")

    def test_failures_stay_visible(self, one):
        rows = rows_of(one.rows)
        failed = rows["mymodel"]
        assert (failed.status, failed.tier, failed.done, failed.planned) == ("failed", "", 0, 15)
        assert failed.message == "ValueError: Input X contains NaN."
        assert failed.log
        late = rows["stacking"]
        assert (late.status, late.tier, late.done) == ("partial", "", 2)
        assert "pip install catboost" in rows["catboost"].message

    def test_cells_are_the_records(self, one):
        cell = rows_of(one.rows)["lightgbm"].cells["fit_s"]
        values = [r["values"]["fit_s"] for r in one.records if r["contestant"] == "lightgbm"]
        assert cell.value == pytest.approx(np.median(values))
        assert cell.low <= cell.value <= cell.high
        ids = {r["id"] for r in one.records if r["contestant"] == "lightgbm"}
        assert set(cell.runs) == ids
        loss = rows_of(one.rows)["lightgbm"].cells["log_loss"]
        values = [r["values"]["log_loss"] for r in one.records if r["contestant"] == "lightgbm"]
        assert loss.value == pytest.approx(np.mean(values))

    def test_quality_is_nadeau_and_bengio(self, one):
        d = found(one, "newton_boosting", "random_forest", "log_loss", "breast_cancer")
        by = {}
        for r in one.records:
            if r["status"] == "ok":
                by.setdefault(r["contestant"], {})[r["block"]] = r["values"]["log_loss"]
        gaps = np.array([by[d.a][k] - by[d.b][k] for k in sorted(by[d.a])])
        error = math.sqrt((1 / 15 + 0.25) * gaps.var(ddof=1))
        assert d.estimate == pytest.approx(gaps.mean())
        assert d.p == pytest.approx(2 * stats.t.sf(abs(gaps.mean()) / error, 14))
        assert d.method == "corrected resampled t"
        assert d.n == 15

    def test_times_are_ratios_that_cover_the_truth(self, one):
        d = found(one, "random_forest", "lightgbm", "fit_s", "breast_cancer")
        truth = 11.8 / 2.0 if d.a == "random_forest" else 2.0 / 11.8
        assert d.ratio
        assert d.low <= truth <= d.high
        assert d.word == ("worse" if d.a == "random_forest" else "better")

    def test_memory_has_no_noise_here(self, one):
        d = found(one, "xgboost", "lightgbm", "fit_peak", "breast_cancer")
        assert d.low == pytest.approx(d.high)

    def test_all_pairs_are_there(self, one):
        done = sum(row.done > 0 for row in one.rows)
        losses = [d for d in one.differences if d.measure == "log_loss"]
        assert len(losses) == done * (done - 1) // 2

    def test_noise_floor(self, one):
        assert one.noise.trusted
        assert one.noise.contestant == "newton_boosting"
        assert one.noise.low <= 1 <= one.noise.high
        assert "differed from itself" in one.noise.text

    def test_curves_come_from_records_without_the_duplicate(self, one):
        assert {c[0] for c in one.curves} >= {"lightgbm", "xgboost"}
        assert not any(c[0].endswith("~2") for c in one.curves)
        assert all(len(c[3]) == len(c[4]) for c in one.curves)

    def test_everything_is_json(self, one):
        from dataclasses import asdict

        json.dumps(asdict(one)["differences"])
        json.dumps(asdict(one)["rows"])


class TestSeveralWorkloads:
    def test_rank_and_relative_loss(self, three):
        rows = rows_of(three.rows)
        best = three.rows[0]
        assert best.cells[RANK].value == min(
            r.cells[RANK].value for r in three.rows if RANK in r.cells
        )
        assert rows["decision_tree"].cells[RELATIVE].value == pytest.approx(1.6, abs=0.05)
        assert "rmse" not in best.cells

    def test_relative_loss_by_hand(self, three):
        logs = []
        for rows in three.tables.values():
            # The best of an input counts even if it failed elsewhere, as stacking does.
            ranked = [r for r in rows if r.tier]
            name = "log_loss" if "log_loss" in ranked[0].cells else "rmse"
            values = {r.contestant: r.cells[name].value for r in ranked}
            logs.append(math.log(values["adaboost"] / min(values.values())))
        shown = rows_of(three.rows)["adaboost"].cells[RELATIVE].value
        assert shown == pytest.approx(math.exp(np.mean(logs)))

    def test_who_failed_somewhere_has_no_tier_over_all(self, three):
        rows = rows_of(three.rows)
        assert rows["stacking"].tier == rows["mymodel"].tier == rows["sk_forest"].tier == ""
        assert rows["stacking"].status == "partial"

    def test_too_few_data_sets_is_said(self, three):
        assert any(note.startswith("Too few data sets (3)") for note in three.notes)
        d = found(three, "newton_boosting", "adaboost", RELATIVE)
        assert d.method.endswith("on these data sets")
        assert d.word in ("better", "worse")

    def test_signed_ranks_from_enough_data_sets_on(self, fabricate, tmp_path):
        summary = summarize(fabricate(
            tmp_path, workloads_count=7, contestants_count=3, blocks=5, failures=False,
            quality={"gradient_boosting": 0.2, "lightgbm": 0.4},
        ))  # fmt: skip
        assert not any("Too few" in note for note in summary.notes)
        d = found(summary, "newton_boosting", "lightgbm", RELATIVE)
        assert d.method == "Wilcoxon over data sets, Holm"
        assert d.p == pytest.approx(2 / 2**7)
        assert d.word == ("better" if d.a == "newton_boosting" else "worse")
        assert [row.tier for row in summary.rows] == ["A", "B", "C"]

    def test_a_rank_inside_the_noise_is_a_tie(self, fabricate, tmp_path):
        names = ("newton_boosting", "gradient_boosting", "lightgbm", "xgboost", "sk_hist")
        summary = summarize(fabricate(
            tmp_path, workloads_count=2, contestants_count=5, blocks=8, failures=False,
            quality=dict.fromkeys(names, 0.0),
        ))  # fmt: skip
        assert {row.tier for row in summary.rows} == {"A"}


class TestOneSplit:
    def test_paired_bootstrap_on_stored_losses(self, fabricate, tmp_path):
        folder = fabricate(tmp_path, workloads_count=2, blocks=3, splits=1, examples=400,
                           failures=False)  # fmt: skip
        summary = summarize(folder)
        for workload, measure in (("breast_cancer", "log_loss"), ("diabetes", "rmse")):
            d = found(summary, "lightgbm", "decision_tree", measure, workload)
            assert d.method == "paired bootstrap"
            assert d.n == 400
            values = {}
            for r in summary.records:
                if r["workload"] == workload:
                    values.setdefault(r["contestant"], []).append(r["values"][measure])
            assert d.estimate == pytest.approx(np.mean(values[d.a]) - np.mean(values[d.b]))
            assert d.low < d.estimate < d.high

    def test_losses_of_another_measure_are_not_used(self, fabricate, tmp_path):
        folder = fabricate(tmp_path, workloads_count=1, blocks=3, splits=1, examples=50,
                           failures=False)  # fmt: skip
        for path in folder.glob("artifacts/*/example_loss.npy"):
            np.save(path, np.load(path) * 3)
        d = found(summarize(folder), "lightgbm", "decision_tree", "log_loss", "breast_cancer")
        assert d.method == "paired t"

    def test_mcnemar_on_accuracy(self, fabricate, tmp_path):
        folder = fabricate(tmp_path, workloads_count=1, contestants_count=2, blocks=1, splits=1,
                           failures=False)  # fmt: skip
        lines, rng = [], np.random.default_rng(0)
        right = {}
        for record in read_records(folder):
            hits = rng.random(200) < (0.9 if record["contestant"] == "newton_boosting" else 0.7)
            right[record["contestant"]] = hits
            np.save(folder / f"{record['id']}.npy", hits)
            record["artifacts"]["correct"] = f"{record['id']}.npy"
            record["values"]["accuracy"] = float(hits.mean())
            lines.append(json.dumps(record) + "\n")
        (folder / "records.jsonl").write_text("".join(lines))
        d = found(summarize(folder), "newton_boosting", "gradient_boosting", "accuracy",
                  "breast_cancer")  # fmt: skip
        a, b = right[d.a], right[d.b]
        table = int((a & ~b).sum()), int((b & ~a).sum())
        assert d.p == pytest.approx(stats.binomtest(min(table), sum(table), 0.5).pvalue)
        assert d.word == ("better" if d.a == "newton_boosting" else "worse")

    def test_one_run_gives_no_interval(self, fabricate, tmp_path):
        summary = summarize(fabricate(tmp_path, workloads_count=1, blocks=1))
        d = found(summary, "lightgbm", "decision_tree", "fit_s", "breast_cancer")
        assert d.estimate is not None
        assert (d.low, d.high, d.word) == (None, None, "inconclusive")
        assert any("One block only" in note for note in summary.notes)


class TestMachine:
    def test_a_duplicate_that_differs_is_not_trusted(self, fabricate, tmp_path):
        folder = fabricate(tmp_path, workloads_count=1, blocks=15, duplicate_slowdown=1.4)
        noise = summarize(folder).noise
        assert not noise.trusted
        assert noise.low > 1
        assert "cannot be trusted" in noise.text

    def test_a_busy_machine_is_judged_by_cpu_time(self, fabricate, tmp_path):
        summary = summarize(fabricate(tmp_path, workloads_count=1, blocks=10, busy=True))
        assert summary.protocol["times_judged_by"] == "CPU time"
        assert any("CPU time" in note for note in summary.notes)
        d = found(summary, "random_forest", "sk_forest", "fit_s", "breast_cancer")
        assert d.method.endswith("CPU time")
        assert math.log(d.high / d.low) < 0.2

    def test_with_several_threads_it_is_the_wall(self, fabricate, tmp_path):
        folder = fabricate(tmp_path, workloads_count=1, blocks=6, busy=True)
        study = read_study(folder) | {"threads": 2}
        (folder / "study.json").write_text(json.dumps(study))
        summary = summarize(folder)
        assert summary.protocol["times_judged_by"] == "wall time"
        assert any("by the wall" in note for note in summary.notes)


class TestStopping:
    def test_least_blocks_come_first(self, fabricate, tmp_path):
        folder = fabricate(tmp_path, workloads_count=2, blocks=6, failures=False)
        study = read_study(folder)
        few = [r for r in read_records(folder) if r["block"] < 4]
        assert unsettled(few, study=study) == ("breast_cancer", "diabetes")
        assert unsettled([], study=study) == ("breast_cancer", "diabetes")

    def test_clear_differences_settle_at_once(self, fabricate, tmp_path):
        folder = fabricate(
            tmp_path, workloads_count=1, contestants_count=2, blocks=6, failures=False,
            quality={"newton_boosting": 0.0, "gradient_boosting": 1.0},
        )  # fmt: skip
        assert settled(folder, None)

    def test_open_differences_ask_for_more_until_the_most(self, fabricate, tmp_path):
        folder = fabricate(
            tmp_path, workloads_count=1, contestants_count=2, blocks=6, failures=False,
            quality={"newton_boosting": 0.0, "gradient_boosting": 0.0},
            speed={"newton_boosting": 1.0, "gradient_boosting": 1.12},
        )  # fmt: skip
        assert unsettled(folder) == ("breast_cancer",)
        study = read_study(folder)
        assert settled(folder, study=study | {"blocks": [5, 6]})

    def test_records_alone_are_refused(self):
        with pytest.raises(ValueError, match="study="):
            unsettled([])


class TestRobustness:
    def test_no_study(self, tmp_path):
        with pytest.raises(UsageError, match="no study here"):
            summarize(tmp_path)

    def test_no_records_yet(self, fabricate, tmp_path):
        folder = fabricate(tmp_path, workloads_count=2, blocks=2, complete=False)
        (folder / "records.jsonl").write_text("")
        summary = summarize(folder)
        assert summary.verdict[0].startswith("No recommendation")
        assert not summary.complete

    def test_a_torn_line_is_not_seen(self, fabricate, tmp_path):
        whole = summarize(fabricate(tmp_path / "a", workloads_count=1, blocks=3))
        torn = summarize(fabricate(tmp_path / "b", workloads_count=1, blocks=3, torn=True))
        assert torn.rows == whole.rows

    def test_an_unknown_study_only_loses_its_claims(self, fabricate, tmp_path):
        folder = fabricate(tmp_path, workloads_count=1, blocks=3)
        study = read_study(folder) | {"study": "never_written"}
        (folder / "study.json").write_text(json.dumps(study))
        summary = summarize(folder)
        assert summary.claims == []
        assert any("Claims were not checked" in note for note in summary.notes)
        assert summary.rows

    def test_order_of_records_does_not_matter(self, fabricate, tmp_path):
        folder = fabricate(tmp_path, workloads_count=2, blocks=4)
        first = summarize(folder)
        lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
        (folder / "records.jsonl").write_text("".join(lines[::-1]))
        second = summarize(folder)
        assert [(r.contestant, r.tier) for r in first.rows] == [
            (r.contestant, r.tier) for r in second.rows
        ]
        assert list(first.differences) == list(second.differences)

    def test_needs_leave_a_contestant_out_where_it_cannot_run(self, fabricate, tmp_path):
        folder = fabricate(tmp_path, workloads_count=2, contestants_count=3, blocks=3,
                           failures=False)  # fmt: skip
        study = read_study(folder)
        study["contestants"][1]["needs"] = {"kind": ["Classifier"]}
        name = study["contestants"][1]["id"]
        lines = [r for r in read_records(folder)
                 if (r["contestant"], r["workload"]) != (name, "diabetes")]  # fmt: skip
        (folder / "study.json").write_text(json.dumps(study))
        (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
        summary = summarize(folder)
        assert name in rows_of(summary.tables["breast_cancer"])
        assert name not in rows_of(summary.tables["diabetes"])

    def test_unknown_fields_in_study_json_are_ignored(self, fabricate, tmp_path):
        study = read_study(fabricate(tmp_path, workloads_count=1, blocks=1))
        study["measures"][0]["colour"] = "red"
        assert plan_of(study).measures[0].name == "log_loss"

    def test_two_thousand_records_take_at_most_two_seconds_of_work(self, fabricate, tmp_path):
        # Not a speed test: it holds the amount of work, counted in comparisons.
        folder = fabricate(tmp_path, workloads_count=5, blocks=30)
        start = time.process_time()
        summary = summarize(folder)
        print(f"{len(summary.records)} records: {time.process_time() - start:.2f} s")
        pairs = 12 * 11 // 2
        assert len(summary.differences) <= 3 * pairs * 6


class TestTiers:
    def test_letters(self):
        worse = {("c", "a"), ("d", "a"), ("d", "c")}
        letters = _ranking.tiers("abcd", lambda x, y: (x, y) in worse)
        assert letters == {"a": "A", "b": "A", "c": "B", "d": "C"}

    def test_more_tiers_than_letters(self):
        names = [f"m{i}" for i in range(40)]
        letters = _ranking.tiers(names, lambda x, y: True)
        assert letters["m0"] == "A"
        assert letters["m39"] == "Z"

    def test_levels_are_shared(self):
        assert _ranking.shared_level(0.05, 1) == 0.05
        assert _ranking.shared_level(0.05, 10) == pytest.approx(0.005)

    @pytest.mark.parametrize(("equal", "most"), [(12, 0.20), (5, 0.05)])
    def test_equal_contestants_mostly_share_a_tier(self, equal, most):
        # Twelve compared, all or five of them equally good and the rest far behind.
        rng, broken, naive = np.random.default_rng(0), 0, 0
        level = _ranking.shared_level(0.05, 11)
        for _ in range(300):
            x = rng.normal(size=(equal, 20))
            order = x[x.mean(axis=1).argsort()]
            p = stats.ttest_1samp(order[1:] - order[0], 0, axis=1).pvalue.min()
            broken += p < level
            naive += p < 0.05
        assert broken / 300 <= most
        assert naive / 300 > 5 * most / 2


def without_quality(folder):
    """The same study as one that only measures times and memory, as a sweep would."""
    study = read_study(folder)
    study["measures"] = [m for m in study["measures"] if m["role"] != "quality"]
    for workload in study["workloads"]:
        workload["measures"], workload["primary"], workload["splits"] = (), "", 1
    (folder / "study.json").write_text(json.dumps(study))
    return folder


class TestOtherStudies:
    def test_times_alone_rank_too(self, fabricate, tmp_path):
        folder = fabricate(tmp_path, workloads_count=1, contestants_count=6, blocks=20,
                           failures=False)  # fmt: skip
        summary = summarize(without_quality(folder))
        assert summary.rows[0].tier == "A"
        assert summary.rows[-1].contestant == "random_forest"
        assert summary.rows[-1].tier > "A"
        assert summary.verdict[0].startswith("Use ")

    def test_a_sweep_has_a_table_for_each_size(self, fabricate, tmp_path):
        folder = fabricate(tmp_path, workloads_count=3, contestants_count=3, blocks=5,
                           failures=False)  # fmt: skip
        summary = summarize(without_quality(folder))
        assert len(summary.tables) == 3
        assert all(row.tier for rows in summary.tables.values() for row in rows)
        assert all(row.tier and RANK in row.cells for row in summary.rows)
        d = found(summary, "newton_boosting", "gradient_boosting", RELATIVE)
        truth = math.log(1.9 / 3.1) if d.a == "newton_boosting" else math.log(3.1 / 1.9)
        assert math.log(d.low) <= truth <= math.log(d.high)
        assert summary.verdict[0].startswith("Use ")

    def test_open_comparisons_are_counted_in_a_note(self, fabricate, tmp_path):
        folder = fabricate(
            tmp_path, workloads_count=1, contestants_count=2, blocks=6, failures=False,
            quality={"newton_boosting": 0.0, "gradient_boosting": 0.0},
            speed={"newton_boosting": 1.0, "gradient_boosting": 1.12},
        )  # fmt: skip
        summary = summarize(folder)
        note = next(note for note in summary.notes if "inconclusive" in note)
        repeats = int(note.partition("--repeats ")[2].partition(" ")[0])
        assert repeats > 6
        assert note in summary.verdict

    def test_a_quarter_more_is_found_in_whole_studies(self, fabricate, tmp_path):
        kept = 0
        for seed in range(8):
            options = {
                "workloads_count": 1, "contestants_count": 2, "failures": False, "seed": seed,
                "quality": {"newton_boosting": 0.0, "gradient_boosting": 1.0},
                "speed": {"newton_boosting": 1.0, "gradient_boosting": 1.25},
            }  # fmt: skip
            folder = fabricate(tmp_path / str(seed), blocks=20, **options)
            d = found(summarize(folder), "newton_boosting", "gradient_boosting", "fit_s",
                      "breast_cancer")  # fmt: skip
            kept += d.word == ("better" if d.a == "newton_boosting" else "worse")
        assert kept >= 6


class TestFindings:
    def test_they_follow_the_verdict_and_a_broken_one_says_so(self, monkeypatch):
        from types import SimpleNamespace

        from paragone.lab import studies
        from paragone.lab.summary import _own

        def asked(find):
            monkeypatch.setattr(studies, "load", lambda name: SimpleNamespace(findings=find))
            return _own("any", "findings", None)

        assert asked(None) == []
        assert asked(lambda summary: ["It crosses at 9."]) == ["It crosses at 9."]
        assert "could not be told (ZeroDivisionError" in asked(lambda summary: [1 / 0])[0]


def test_a_workload_that_does_not_count_leaves_the_leaderboard_to_the_others(summary_of):
    found = summary_of(workloads=3)
    side = [dataclasses.replace(w, counts=w is found.workloads[1]) for w in found.workloads]
    one = dataclasses.replace(found, workloads=side)
    assert (found.only, len(found.counted)) == ("", 3)
    assert one.counted == [found.workloads[1].id]
    assert one.only == found.workloads[1].id
    none = dataclasses.replace(one, workloads=[dataclasses.replace(w, counts=False) for w in side])
    assert none.counted == found.counted
