"""The statistics against published tables, SciPy, statsmodels, scikit-posthocs and baycomp."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from paragone.lab.statistics import (
    aggregate,
    bayes,
    bootstrap,
    effect,
    mcnemar,
    multiplicity,
    ranks,
    resampled,
    sequential,
    timing,
    wilcoxon,
)

# Demsar (2006), JMLR 7, table 6: AUC of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf on 14 data sets.
# On "voting" the last two are printed as 0.975 with ranks 2 and 3; the tie is rounding only.
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip


class TestDemsar:
    def test_mean_ranks(self):
        means = ranks.rank_table(DEMSAR, "higher").mean(axis=0)
        assert means == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)

    def test_friedman_and_iman_davenport(self):
        found = ranks.friedman(ranks.rank_table(DEMSAR, "higher"), correct_ties=False)
        assert found.chi2 == pytest.approx(9.28, abs=0.005)
        assert found.f == pytest.approx(3.69, abs=0.005)
        assert found.p_f < 0.05

    def test_nemenyi(self):
        assert ranks.nemenyi_difference(4, 14, 0.05) == pytest.approx(1.25, abs=0.005)
        assert ranks.nemenyi_difference(4, 14, 0.10) == pytest.approx(1.12, abs=0.005)

    def test_nemenyi_table(self):
        # Table 5a: critical values q of the two-tailed Nemenyi test.
        table = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
        for k, q in enumerate(table, 2):
            found = ranks.nemenyi_difference(k, 100) / math.sqrt(k * (k + 1) / 600)
            assert found == pytest.approx(q, abs=1.1e-3)

    def test_wilcoxon_with_zeros_split(self):
        found = wilcoxon.wilcoxon(DEMSAR[:, 1] - DEMSAR[:, 0], zeros="split")
        assert (found.plus, found.minus, found.n) == (93.0, 12.0, 14)
        assert found.p < 0.05

    def test_cliques_of_the_nemenyi_diagram(self):
        means = ranks.rank_table(DEMSAR, "higher").mean(axis=0)
        apart = np.abs(means[:, None] - means) > ranks.nemenyi_difference(4, 14, 0.10)
        # Section 3.2.2: C4.5 is worse than both with m; "cf" alone belongs to either group.
        groups = [set(group) for group in ranks.cliques(means, apart)]
        assert groups == [{3, 1, 2}, {2, 0}]


class TestWilcoxon:
    @pytest.mark.parametrize("n", [1, 2, 5, 6, 17, 50])
    def test_exact_as_scipy(self, n):
        d = np.random.default_rng(n).normal(0.3, 1, n)
        theirs = stats.wilcoxon(d, method="exact")
        found = wilcoxon.wilcoxon(d)
        assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)
        assert min(found.plus, found.minus) == theirs.statistic

    @given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
    @settings(deadline=None, max_examples=60)
    def test_ties_and_zeros_as_enumeration(self, values):
        d = np.array([v for v in values if v != 0], dtype=float)
        r = stats.rankdata(np.abs(d))
        sums = [sum(s) for s in itertools.product(*[(0.0, x) for x in r])]
        low = min(r[d > 0].sum(), r[d < 0].sum())
        brute = min(1.0, 2 * np.mean([s <= low + 1e-9 for s in sums]))
        assert wilcoxon.wilcoxon(values).p == pytest.approx(brute, abs=1e-12)

    def test_normal_approximation_for_many(self):
        d = np.random.default_rng(3).normal(0.2, 1, 300).round(1)
        d = d[d != 0]
        theirs = stats.wilcoxon(d, method="asymptotic", correction=False)
        assert wilcoxon.wilcoxon(d).p == pytest.approx(theirs.pvalue, rel=1e-9)

    def test_pratt_as_scipy(self):
        d = np.r_[np.zeros(7), np.random.default_rng(1).normal(0.4, 1, 60)]
        theirs = stats.wilcoxon(d, method="asymptotic", zero_method="pratt", correction=False)
        assert wilcoxon.wilcoxon(d, zeros="pratt").p == pytest.approx(theirs.pvalue, rel=1e-9)

    def test_all_zero_is_no_evidence(self):
        assert wilcoxon.wilcoxon(np.zeros(5)).p == 1.0

    def test_nan_is_refused(self):
        with pytest.raises(ValueError, match="finite"):
            wilcoxon.wilcoxon([1.0, math.nan])

    @given(st.integers(0, 10**6), st.integers(8, 20))
    @settings(deadline=None, max_examples=40)
    def test_interval_is_what_the_test_accepts(self, seed, n):
        d = np.random.default_rng(seed).normal(0, 1, n)
        found = wilcoxon.pseudo_median(d, level=0.05)
        inside, outside = found.high - 1e-9, found.high + 1e-9
        assert wilcoxon.wilcoxon(d - inside).p > 0.05
        assert wilcoxon.wilcoxon(d - outside).p <= 0.05

    def test_a_short_sample_gets_students_width(self):
        d = np.array([0.9, 1.0, 1.1])
        found = wilcoxon.pseudo_median(d, level=0.05)
        theirs = stats.t.interval(0.95, 2, d.mean(), stats.sem(d))
        assert (found.low, found.high) == pytest.approx(theirs)

    def test_large_samples_keep_the_level(self):
        d = np.random.default_rng(0).normal(0, 1, 120)
        found = wilcoxon.pseudo_median(d)
        assert wilcoxon.wilcoxon(d - found.high - 1e-9).p == pytest.approx(0.05, abs=2e-3)


class TestResampled:
    def test_without_correction_it_is_the_paired_t_test(self):
        rng = np.random.default_rng(0)
        a, b = rng.normal(0.2, 1, 12), rng.normal(0, 1, 12)
        found, theirs = resampled.corrected_interval(a - b), stats.ttest_rel(a, b)
        assert found.p == pytest.approx(theirs.pvalue)
        ends = theirs.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((ends.low, ends.high))

    def test_the_variance_factor_of_the_paper(self):
        # Ten-fold cross-validation: 1/10 + 1/9; the width grows by the root of the ratio.
        d = np.random.default_rng(1).normal(0.1, 1, 10)
        plain, wide = resampled.corrected_interval(d), resampled.corrected_interval(d, 1 / 9)
        ratio = (wide.high - wide.low) / (plain.high - plain.low)
        assert ratio == pytest.approx(math.sqrt((1 / 10 + 1 / 9) / (1 / 10)))

    @pytest.mark.peers
    def test_as_baycomp(self):
        from baycomp import CorrelatedTTest

        d = np.random.default_rng(2).normal(0.05, 0.1, 10)
        theirs = CorrelatedTTest(d, np.zeros(10), runs=1)
        # baycomp takes n_test / n_total for the correlation rho; n_test / n_train = rho/(1-rho).
        found = resampled.corrected_interval(d, test_share=(1 / 10) / (1 - 1 / 10))
        half = stats.t.ppf(0.975, theirs.df) * math.sqrt(theirs.var)
        assert found.estimate == pytest.approx(-theirs.mean)
        assert (found.high - found.low) / 2 == pytest.approx(half)

    def test_equal_differences_have_no_width(self):
        found = resampled.corrected_interval([0.3] * 5, 0.25)
        assert (found.low, found.high, found.p) == (found.estimate, found.estimate, 0.0)
        assert resampled.corrected_interval([0.0] * 5, 0.25).p == 1.0

    def test_one_split_has_no_interval(self):
        assert resampled.corrected_interval([0.3]).low is None

    def test_folds_treated_as_independent_would_be_caught(self):
        # Planted bug: with overlapping training sets the plain interval errs far too often.
        rng, wrong = np.random.default_rng(5), {0.0: 0, 1 / 4: 0}
        for _ in range(400):
            shared = rng.normal(0, math.sqrt(0.2))
            d = shared + rng.normal(0, math.sqrt(0.8), 10)
            for share in wrong:
                found = resampled.corrected_interval(d, share)
                wrong[share] += not found.low <= 0 <= found.high
        assert wrong[1 / 4] / 400 <= 0.07
        assert wrong[0.0] / 400 >= 0.15


class TestMcNemar:
    @pytest.mark.peers
    @pytest.mark.parametrize(("b", "c"), [(1, 9), (0, 5), (6, 6), (30, 51), (0, 1)])
    def test_as_statsmodels(self, b, c):
        from statsmodels.stats.contingency_tables import mcnemar as peer

        theirs = peer([[20, b], [c, 11]], exact=True)
        assert mcnemar.mcnemar_counts(b, c) == pytest.approx(theirs.pvalue)

    def test_from_who_was_right(self):
        a, b = np.array([1, 1, 1, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 0, 1, 0, 0, 0])
        expected = stats.binomtest(1, 6, 0.5).pvalue
        assert mcnemar.mcnemar(a, b) == pytest.approx(expected)

    def test_no_disagreement_and_wrong_shapes(self):
        assert mcnemar.mcnemar([1, 0], [1, 0]) == 1.0
        with pytest.raises(ValueError, match="same examples"):
            mcnemar.mcnemar([1, 0], [1])


class TestMultiplicity:
    @pytest.mark.peers
    @given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
    @settings(deadline=None, max_examples=15)
    def test_as_statsmodels(self, p):
        from statsmodels.stats.multitest import multipletests

        theirs = multipletests(p, method="holm")[1]
        assert multiplicity.holm(p) == pytest.approx(theirs, abs=1e-12)


class TestRanks:
    def test_friedman_as_scipy_with_ties(self):
        table = np.random.default_rng(0).normal(size=(9, 5)).round(0)
        theirs = stats.friedmanchisquare(*table.T)
        found = ranks.friedman(ranks.rank_table(table))
        assert (found.chi2, found.p_chi2) == pytest.approx((theirs.statistic, theirs.pvalue))

    def test_all_tied(self):
        assert ranks.friedman(ranks.rank_table(np.ones((4, 3)))).p_f == 1.0

    @pytest.mark.parametrize(("k", "level"), [(2, 0.05), (7, 0.01), (20, 0.10)])
    def test_range_quantile_as_scipy(self, k, level):
        q = stats.studentized_range.ppf(1 - level, k, 1e7)
        expected = q / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * 12))
        assert ranks.nemenyi_difference(k, 12, level) == pytest.approx(expected, rel=1e-4)

    @pytest.mark.peers
    def test_nemenyi_as_scikit_posthocs(self):
        import scikit_posthocs

        table = np.random.default_rng(2).normal([0, 0.3, 0.9, 1.5], 1, (15, 4))
        theirs = np.asarray(scikit_posthocs.posthoc_nemenyi_friedman(table))
        means = ranks.rank_table(table).mean(axis=0)
        gaps = np.abs(means[:, None] - means)
        apart = gaps > ranks.nemenyi_difference(4, 15)
        assert np.array_equal(apart, theirs < 0.05)

    @pytest.mark.peers
    def test_wilcoxon_holm_as_scikit_posthocs(self):
        import scikit_posthocs

        table = np.random.default_rng(4).normal([0, 0.3, 0.9, 1.5], 1, (11, 4))
        theirs = scikit_posthocs.posthoc_wilcoxon(list(table.T), p_adjust="holm")
        assert ranks.wilcoxon_holm(table) == pytest.approx(np.asarray(theirs), abs=1e-9)

    def test_win_tie_loss(self):
        assert ranks.win_tie_loss([1, 2, 3, 4], [1.4, 5, 3, 1], margin=0.5) == (1, 2, 1)
        assert ranks.win_tie_loss([1, 2], [0, 0], better="higher") == (2, 0, 0)

    @given(st.integers(0, 10**6), st.integers(2, 9))
    @settings(deadline=None, max_examples=40)
    def test_cliques_hold_no_pair_that_differs(self, seed, k):
        rng = np.random.default_rng(seed)
        apart = np.triu(rng.random((k, k)) < 0.3, 1)
        apart = apart | apart.T
        means = rng.random(k)
        for group in ranks.cliques(means, apart):
            assert not any(apart[i, j] for i in group for j in group)
            assert means[group].tolist() == sorted(means[group])


class TestBayes:
    @pytest.mark.peers
    def test_as_baycomp(self):
        from baycomp import SignedRankTest

        a = DEMSAR[:, 1]
        theirs = SignedRankTest.probs(a, DEMSAR[:, 0], rope=0.01, prior=0.5, nsamples=20_000,
                                      random_state=1)  # fmt: skip
        found = bayes.bayesian_signed_rank(DEMSAR[:, 0] - a, 0.01, draws=20_000)
        assert found == pytest.approx(theirs, abs=0.02)

    def test_mirror(self):
        d = np.random.default_rng(0).normal(0.5, 1, 15)
        one = bayes.bayesian_signed_rank(d, 0.1, draws=4000)
        two = bayes.bayesian_signed_rank(-d, 0.1, draws=4000)
        assert (one.left, one.rope, one.right) == (two.right, two.rope, two.left)


class TestBootstrap:
    def test_as_the_normal_interval_on_many_examples(self):
        rng = np.random.default_rng(0)
        a, b = rng.gamma(2, 1, 3001), rng.gamma(2, 1, 3001)
        found = bootstrap.paired_bootstrap(a, b)
        d = a - b
        low, high = stats.norm.interval(0.95, d.mean(), d.std() / math.sqrt(d.size))
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)
        assert found.estimate == pytest.approx(d.mean())

    def test_bags_leave_the_width_alone(self):
        rng = np.random.default_rng(1)
        a, b = rng.normal(0, 1, 9001), rng.normal(0, 1, 9001)
        found = bootstrap.paired_bootstrap(a, b)
        assert (found.high - found.low) / 3.92 == pytest.approx((a - b).std() / 95, rel=0.08)

    def test_clusters_widen_the_interval(self):
        rng = np.random.default_rng(2)
        groups = np.repeat(np.arange(40), 25)
        d = np.repeat(rng.normal(0, 1, 40), 25) + rng.normal(0, 0.1, 1000)
        found = bootstrap.paired_bootstrap(d, np.zeros(1000), groups)
        means = d.reshape(40, 25).mean(axis=1)
        expected = 3.92 * means.std() / math.sqrt(40)
        assert found.high - found.low == pytest.approx(expected, rel=0.1)
        # Planted bug: without the clusters the same data look five times as certain.
        naive = bootstrap.paired_bootstrap(d, np.zeros(1000))
        assert (found.high - found.low) > 3 * (naive.high - naive.low)

    def test_root_link_is_the_difference_of_roots(self):
        rng = np.random.default_rng(3)
        a, b = rng.normal(0, 2, 500) ** 2, rng.normal(0, 1, 500) ** 2
        found = bootstrap.paired_bootstrap(a, b, link="root")
        assert found.estimate == pytest.approx(math.sqrt(a.mean()) - math.sqrt(b.mean()))
        assert found.low < found.estimate < found.high

    @pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 101])
    def test_odd_sizes_and_identity(self, n):
        a = np.random.default_rng(n).normal(1e6, 1, n)
        found = bootstrap.paired_bootstrap(a, a, draws=100)
        assert (found.low, found.high, found.p) == (0.0, 0.0, 1.0)

    def test_same_examples_for_all(self):
        losses = np.random.default_rng(5).normal(size=(3, 77))
        losses[2] = losses[0] + 1
        draws = bootstrap.resampled_means(losses, draws=50)
        assert draws[:, 2] - draws[:, 0] == pytest.approx(np.ones(50))

    @pytest.mark.parametrize("bad", [np.zeros((2, 0)), [[1.0, math.nan]]])
    def test_bad_input(self, bad):
        with pytest.raises(ValueError, match="finite and not empty"):
            bootstrap.resampled_means(bad)


class TestAggregate:
    def test_interquartile_mean_is_the_trimmed_mean(self):
        x = np.random.default_rng(0).normal(size=(7, 9))
        assert aggregate.interquartile_mean(x) == pytest.approx(stats.trim_mean(x, 0.25, None))

    def test_probability_of_improvement_is_mann_whitney(self):
        rng = np.random.default_rng(1)
        x, y = rng.integers(0, 5, (6, 3)), rng.integers(0, 5, (8, 3))
        us = [stats.mannwhitneyu(x[:, m], y[:, m]).statistic / 48 for m in range(3)]
        assert aggregate.probability_of_improvement(x, y) == pytest.approx(np.mean(us))
        both = aggregate.probability_of_improvement(y, x)
        assert both + aggregate.probability_of_improvement(x, y) == pytest.approx(1)

    def test_interval_covers_and_narrows(self):
        rng = np.random.default_rng(2)
        few = aggregate.stratified_interval(aggregate.interquartile_mean, rng.normal(size=(5, 4)))
        many = aggregate.stratified_interval(aggregate.interquartile_mean, rng.normal(size=(80, 4)))
        assert few[1] <= few[0] <= few[2]
        assert many[2] - many[1] < (few[2] - few[1]) / 2

    def test_strata_stay_apart(self):
        # Two tasks, no noise within a task: resampling within tasks changes nothing.
        x = np.tile([0.0, 100.0], (6, 1))
        found = aggregate.iqm_difference(x + 1, x)
        assert (found.estimate, found.low, found.high) == (1.0, 1.0, 1.0)

    def test_different_tasks_are_refused(self):
        with pytest.raises(ValueError, match="same tasks"):
            aggregate.probability_of_improvement(np.ones((2, 3)), np.ones((2, 2)))


class TestSequential:
    # Reboussin et al. (2000) and Lan and DeMets (1983): five equal looks, two-sided 5 %.
    @pytest.mark.parametrize(("kind", "bounds"), [
        ("obrien-fleming", [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
        ("pocock", [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]),
    ])  # fmt: skip
    def test_published_bounds(self, kind, bounds):
        shares = (0.2, 0.4, 0.6, 0.8, 1.0)
        budget = tuple(sequential.spent(t, 0.05, kind) for t in shares)
        found = stats.norm.isf(np.array(sequential.nominal_levels(shares, budget)) / 2)
        assert found == pytest.approx(bounds, abs=2e-4)

    @pytest.mark.parametrize("kind", ["power", "obrien-fleming", "pocock"])
    def test_all_is_spent_at_the_end(self, kind):
        assert sequential.spent(1.0, 0.05, kind) == pytest.approx(0.05)
        assert sequential.spent(0.0, 0.05, kind) == 0.0

    def test_brownian_motion_leaves_as_often_as_planned(self):
        rng, n = np.random.default_rng(0), 20_000
        levels = [sequential.look_level(k, 5, 30) for k in range(5, 31)]
        steps = rng.normal(size=(n, 30)).cumsum(axis=1)[:, 4:]
        z = np.abs(steps) / np.sqrt(np.arange(5, 31))
        crossed = (z > stats.norm.isf(np.array(levels) / 2)).any(axis=1).mean()
        assert crossed == pytest.approx(0.05, abs=0.005)
        # Planted bug: 5 % at each look is several times too often.
        assert (z > 1.96).any(axis=1).mean() > 0.15

    def test_one_look_is_not_corrected(self):
        assert sequential.look_level(15, 15, 15) == 0.05
        assert sequential.look_level(3, 5, 30, final=True) == 0.05

    def test_an_early_end_spends_the_rest(self):
        early = sequential.look_level(15, 5, 30)
        assert early < sequential.look_level(15, 5, 30, final=True) < 0.05


class TestTiming:
    def test_a_ratio_is_symmetric(self):
        rng = np.random.default_rng(0)
        a, b = np.exp(rng.normal(0.2, 0.1, 15)), np.exp(rng.normal(0, 0.1, 15))
        one, two = timing.paired_log_ratio(a, b), timing.paired_log_ratio(b, a)
        assert one.estimate == pytest.approx(-two.estimate)
        assert (one.low, one.high) == pytest.approx((-two.high, -two.low))

    def test_drift_cancels_and_a_spike_does_little(self):
        drift = np.linspace(1, 3, 15)
        a, b = 2 * drift, 1 * drift
        a[4] *= 10
        found = timing.paired_log_ratio(a, b)
        assert math.exp(found.estimate) == pytest.approx(2.0)
        assert math.exp(found.high) < 2.2

    def test_missing_blocks_are_left_out(self):
        found = timing.paired_log_ratio([2, math.nan, 4, 3], [1, 1, math.nan, 1.5])
        assert (found.n, math.exp(found.estimate)) == (2, pytest.approx(2.0))
        assert math.isnan(timing.paired_log_ratio([math.nan], [1.0]).estimate)

    def test_median_interval_covers(self):
        rng, hits = np.random.default_rng(1), 0
        for _ in range(400):
            middle, low, high = timing.median_interval(rng.exponential(size=12))
            assert low <= middle <= high
            hits += low <= math.log(2) <= high
        assert hits / 400 >= 0.94


class TestWord:
    @pytest.mark.parametrize(("low", "estimate", "high", "word"), [
        (-0.04, 0.0, 0.04, "same"), (0.01, 0.02, 0.03, "same"), (0.01, 0.06, 0.11, "worse"),
        (-0.11, -0.06, -0.01, "better"), (-0.01, 0.06, 0.13, "inconclusive"),
        (0.01, 0.04, 0.07, "inconclusive"), (None, 0.5, None, "inconclusive"),
        (0.0, 0.0, 0.0, "same"),
    ])  # fmt: skip
    def test_words(self, low, estimate, high, word):
        found = effect.Effect(estimate, low, high)
        assert effect.word_of(found, 0.05) == word
        mirrored = {"worse": "better", "better": "worse"}.get(word, word)
        assert effect.word_of(found, 0.05, "higher") == mirrored

    def test_identical_is_same_without_a_margin(self):
        assert effect.word_of(effect.Effect(0.0, 0.0, 0.0), 0.0) == "same"
