"""The sentences, the choice behind them, and the format of numbers."""

import dataclasses
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paragone.lab import format as fmt
from paragone.lab import verdict
from paragone.lab._overall import RELATIVE
from paragone.lab.outcome import Cell, Difference, NoiseFloor
from paragone.lab.spec import Measure
from paragone.lab.summary import summarize


@pytest.fixture(scope="module")
def one(fabricate, tmp_path_factory):
    return summarize(fabricate(tmp_path_factory.mktemp("one"), workloads_count=1, blocks=15))


@pytest.fixture(scope="module")
def two(fabricate, tmp_path_factory):
    return summarize(fabricate(tmp_path_factory.mktemp("two"), workloads_count=2, blocks=15))


@pytest.fixture(scope="module")
def rival(fabricate, tmp_path_factory):
    return summarize(fabricate(
        tmp_path_factory.mktemp("rival"), workloads_count=1, blocks=15, failures=False,
        quality={"lightgbm": -0.2},
    ))  # fmt: skip


class TestChoose:
    def test_quality_is_within_the_margin_of_the_best_and_then_fast(self, one):
        row = verdict.choose(one)
        best = next(r for r in one.rows if r.tier)
        assert row.tier == "A"
        assert row.cells["log_loss"].value <= best.cells["log_loss"].value * 1.01
        near = [r for r in one.rows if r.tier == "A"
                and r.cells["log_loss"].value <= best.cells["log_loss"].value * 1.01]  # fmt: skip
        assert row.cells["fit_s"].value == min(r.cells["fit_s"].value for r in near)

    def test_speed_and_memory_stay_in_the_first_tier(self, one):
        tied = [r for r in one.rows if r.tier == "A"]
        fast, small = verdict.choose(one, "speed"), verdict.choose(one, "memory")
        assert fast.cells["fit_s"].value == min(r.cells["fit_s"].value for r in tied)
        assert small.contestant == "gradient_boosting"

    def test_limits_come_first(self, one):
        quick = verdict.choose(one, max_latency=0.004)
        assert quick.cells["predict_s"].value <= 0.004
        small = verdict.choose(one, max_memory=170e6)
        assert small.cells["fit_peak"].value <= 170e6

    def test_limits_hold_on_every_workload(self, two):
        limit = 240e6
        row = verdict.choose(two, max_memory=limit)
        for table in two.tables.values():
            own = next(r for r in table if r.contestant == row.contestant)
            assert own.cells["fit_peak"].value <= limit

    def test_impossible_wishes(self, one):
        with pytest.raises(ValueError, match="keeps the limit"):
            verdict.choose(one, max_memory=1000)
        with pytest.raises(ValueError, match="prefer='luck'"):
            verdict.choose(one, "luck")
        with pytest.raises(ValueError, match="no contestant finished"):
            verdict.choose(replace(one, rows=[r for r in one.rows if not r.done]))


class TestPairwise:
    def test_both_directions(self, one):
        ab = verdict.pairwise(one, "random_forest", "newton_boosting")
        ba = verdict.pairwise(one, "newton_boosting", "random_forest")
        assert (ab.a, ab.word, ba.word) == ("random_forest", "worse", "better")
        assert ab.estimate == pytest.approx(-ba.estimate)
        assert (ab.low, ab.high) == pytest.approx((-ba.high, -ba.low))

    def test_ratios_are_inverted(self, one):
        ab = verdict.pairwise(one, "random_forest", "lightgbm", "fit_s")
        ba = verdict.pairwise(one, "lightgbm", "random_forest", "fit_s")
        assert ab.estimate == pytest.approx(1 / ba.estimate)
        assert ab.low == pytest.approx(1 / ba.high)

    def test_titles_and_measures_that_were_not_stored(self, one):
        found = verdict.pairwise(one, "lightgbm 4.7", "paragone random_forest", "predict_s")
        assert (found.a, found.word) == ("lightgbm", "better")

    def test_an_id_wins_over_a_catalogue_name(self, one):
        # The catalogue calls our Newton boosting by the rival's id.
        ours = replace(one, contestants=[
            replace(c, method="lightgbm") if c.id == "newton_boosting" else c
            for c in one.contestants
        ])  # fmt: skip
        assert verdict.pairwise(ours, "lightgbm", "random_forest", "fit_s").a == "lightgbm"

    def test_over_all_workloads(self, two):
        found = verdict.pairwise(two, "decision_tree", "lightgbm")
        assert (found.measure, found.word, found.ratio) == (RELATIVE, "worse", True)
        cost = verdict.pairwise(two, "random_forest", "lightgbm", "predict_s")
        assert cost.low <= 11.8 / 2.0 <= cost.high
        local = verdict.pairwise(two, "decision_tree", "lightgbm", workload="diabetes")
        assert local.measure == "rmse"

    @pytest.mark.parametrize(("arguments", "message"), [
        (("nobody", "lightgbm"), "no contestant 'nobody'"),
        (("xgboost", "lightgbm", "beauty"), "no measure 'beauty'"),
        (("xgboost", "lightgbm", None, "mars"), "no workload 'mars'"),
        (("xgboost", "lightgbm", "accuracy"), "name a workload"),
    ])  # fmt: skip
    def test_mistakes_are_named(self, two, arguments, message):
        with pytest.raises(ValueError, match=message):
            verdict.pairwise(two, *arguments)

    def test_sentence(self, one):
        text = verdict.sentence(verdict.pairwise(one, "random_forest", "lightgbm", "fit_s"), one)
        assert text.startswith("paragone random_forest is slower than lightgbm 4.7 in fit: ")
        assert re.search(r": \d.*x \[.*\] \(median paired log-ratio, n = 15; p < 0.0001\)", text)
        nothing = verdict.pairwise(one, "mymodel", "lightgbm", "fit_s")
        assert "cannot be compared" in verdict.sentence(nothing, one)


class TestSentences:
    def test_the_first_says_what_to_use(self, one):
        row = verdict.choose(one)
        assert one.verdict[0].startswith(f"Use {row.title}: ")
        assert "tied with" in one.verdict[0]

    def test_the_price_is_told(self, one):
        assert re.fullmatch(
            r"It takes .* s to fit, .* ms to predict and .* MB of memory\.", one.verdict[1]
        )

    def test_a_rival_that_wins_is_named_and_ours_stands_beside(self, rival):
        assert rival.verdict[0].startswith("Use lightgbm 4.7: best (log loss")
        ours = next(text for text in rival.verdict if text.startswith("Best of paragone's own"))
        assert "worse" in ours

    def test_ours_is_not_mentioned_twice(self, one):
        assert not any(text.startswith("Best of paragone's own") for text in one.verdict)

    def test_a_faster_but_worse_one_is_offered(self, rival):
        text = next(text for text in rival.verdict if text.startswith("Faster but worse"))
        assert "decision_tree" in text

    def test_failures_are_told(self, one):
        text = next(text for text in one.verdict if text.startswith("Not all runs finished"))
        assert "mine.py:MyModel (failed, 0/15 runs)" in text
        assert "catboost" not in text

    def test_limits_are_in_the_first_sentence(self, one):
        text = verdict.sentences(one, max_memory=170e6)[0]
        assert text.startswith("Within a memory of 170 MB, use ")

    def test_no_way(self, one):
        assert verdict.sentences(one, max_memory=1)[0].startswith("No recommendation: ")

    def test_untrusted_clocks_are_told(self, one):
        noisy = replace(one, noise=NoiseFloor(trusted=False, text="Do not trust the clock."))
        assert "Do not trust the clock." in verdict.sentences(noisy)

    def test_every_sentence_is_whole(self, one, two, rival):
        for summary in (one, two, rival):
            for prefer in ("quality", "speed", "memory"):
                for text in verdict.sentences(summary, prefer):
                    assert text.endswith(".")
                    assert not re.search(r"nan|inf\b|None|--(?!repeats)|  ", text)

    def test_wishes_come_from_the_request(self, one):
        options = {"task": "auto", "prefer": "speed", "max_latency": None, "max_memory": 5e8}
        assert verdict.wishes(options) == {"prefer": "speed", "max_memory": 5e8}


class TestFormat:
    @pytest.mark.parametrize(("amount", "text"), [
        (0, "0 s"), (3.14159, "3.1 s"), (11.84, "11.8 s"), (0.0019, "1.9 ms"), (0.0996, "99.6 ms"),
        (0.99999, "1.0 s"), (120.4, "120 s"), (754, "12 min 34 s"), (600, "10 min"),
        (7200.1, "2.0 h"), (2.5e-7, "250 ns"), (math.nan, "--"), (None, "--"), (-0.5, "-500 ms"),
    ])  # fmt: skip
    def test_seconds(self, amount, text):
        assert fmt.seconds(amount) == text

    @pytest.mark.parametrize(("amount", "text"), [
        (212_300_000, "212 MB"), (1.24e9, "1.2 GB"), (17, "17 B"), (0, "0 B"), (999_999, "1.0 MB"),
        (9_960_000, "10 MB"), (3e12, "3.0 TB"), (None, "--"),
    ])  # fmt: skip
    def test_sizes(self, amount, text):
        assert fmt.size(amount) == text

    @given(st.floats(1e-12, 1e12))
    def test_numbers_keep_three_digits(self, amount):
        shown = float(fmt.number(amount).replace(",", ""))
        assert shown == pytest.approx(amount, rel=1e-3) or amount < 1e-5

    @given(st.floats(1e-9, 599.0))
    def test_seconds_keep_two_digits(self, amount):
        number, unit = fmt.seconds(amount).split()
        scale = {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]
        assert float(number) * scale == pytest.approx(amount, rel=0.05)

    @given(st.floats(), st.floats(), st.floats(), st.booleans())
    def test_any_float_gives_a_short_text(self, x, low, high, ratio):
        d = Difference(a="a", b="b", measure="m", estimate=x, low=low, high=high, ratio=ratio)
        loss = Measure(name="m", title="m", better="lower", role="quality", margin=0.01)
        texts = [fmt.seconds(x), fmt.size(x), fmt.number(x), fmt.percent(x), fmt.ratio(x)]
        texts += [fmt.count(x), fmt.p_value(x), fmt.difference(d), fmt.bounds(low, high)]
        texts += [fmt.value(x, loss), fmt.column([Cell(value=x), Cell(value=low)], loss)[0]]
        assert all(0 < len(text) <= 90 for text in texts)
        assert not any("nan" in text or "inf" in text for text in texts)

    def test_no_negative_zero(self):
        assert fmt.number(-1e-5, 2) == "0.00"

    def test_columns_line_up(self):
        loss = Measure(name="l", title="loss", better="lower", role="quality", margin=0.01)
        cells = [Cell(value=0.31), Cell(value=12.0), None]
        shown = fmt.column(cells, loss)
        assert shown[2] == "--"
        assert len({len(text.partition(".")[2]) for text in shown[:2]}) == 1

    def test_differences(self):
        plain = Difference(a="a", b="b", measure="m", estimate=0.1, low=-0.2, high=0.5)
        assert fmt.difference(plain) == "+0.10 [-0.20, +0.50]"
        ratio = replace(plain, ratio=True, estimate=1.25, low=1.18, high=1.33)
        assert fmt.difference(ratio) == "+25 % [+18 %, +33 %]"
        far = replace(ratio, estimate=3.1, low=2.8, high=3.42)
        assert fmt.difference(far) == "3.10x [2.80x, 3.42x]"
        assert fmt.difference(None) == "--"

    def test_words_of_the_measure(self):
        fit = Measure(name="f", title="fit", better="lower", role="time", margin=0.05, unit="s")
        peak = replace(fit, role="memory", unit="B")
        d = Difference(a="a", b="b", measure="f", word="better")
        assert (fmt.word(d, fit), fmt.word(d, peak)) == ("faster", "smaller")
        assert fmt.word(replace(d, word="same"), fit) == "same within 5 %"
        assert fmt.word(replace(d, word="inconclusive"), fit) == "inconclusive"


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "cut"])
def test_the_only_one_of_a_study_that_was_cut_did_not_outlast_the_others(one, complete):
    alone = replace(one, rows=[row for row in one.rows if row.tier][:1], complete=complete)
    end = "the only one that finished." if complete else "the only one measured so far."
    assert verdict.sentences(alone)[0].endswith(end)


def test_a_baseline_is_not_recommended_and_one_that_is_not_beaten_is_told(one):
    leader = one.rows[0]
    floor = dataclasses.replace(
        leader, contestant="baseline", title="baseline (mean)", origin="baseline"
    )
    summary = dataclasses.replace(one, rows=(floor, *one.rows))
    assert verdict.choose(summary).origin != "baseline"
    text = next(text for text in verdict.sentences(summary) if text.startswith("None is shown"))
    assert "baseline (mean)" in text
    beaten = dataclasses.replace(one, rows=(*one.rows, dataclasses.replace(floor, tier="Z")))
    assert not any(text.startswith("None is shown") for text in verdict.sentences(beaten))


def test_a_cost_beyond_a_factor_of_two_says_which_way():
    def said(estimate, role, **bounds):
        found = Difference(a="x", b="y", measure="m", estimate=estimate, ratio=True, **bounds)
        return verdict._by(found, role)

    assert said(51.0, "time") == "51x slower"
    assert said(0.1, "time") == "10x faster"
    assert said(4.0, "memory", low=3.5, high=4.5) == "4.00x larger [3.50x, 4.50x]"
    assert said(1.34, "time") == "+34 %"
