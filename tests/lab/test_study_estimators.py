"""The study of estimators: its inputs, its judge, its contestants, findings, claims, pictures."""

import numpy as np
import pytest
from scipy import stats

from paragone._core.errors import UsageError
from paragone.lab import guests, samples, studies
from paragone.lab.build import load_inputs, resolve_target
from paragone.lab.outcome import Cell, Row, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Request
from paragone.lab.studies import _estimator_findings as findings
from paragone.lab.studies import _estimator_pictures as pictures
from paragone.lab.studies.estimators import SEARCHED
from paragone.lab.tasks import density

STUDY = studies.load("estimators")
CONTESTANTS = [c for c in STUDY.contestants(Request()) if guests.installed(c)]


def workloads(tmp_path, **more):
    return STUDY.workloads(Request(cache=str(tmp_path), **more))


def job(tmp_path, workload, contestant, index=0):
    return Job(
        key="", task=STUDY.task, contestant=contestant, workload=workload, threads=1,
        block=Block(workload=workload.id, index=index, split=0, seed=7), folder=str(tmp_path),
    )  # fmt: skip


@pytest.mark.parametrize("quick", [True, False])
def test_inputs_have_their_own_ids_and_sweep_n(tmp_path, quick):
    found = workloads(tmp_path, quick=quick)
    assert len({w.id for w in found}) == len(found)
    sizes = sorted(w.axis["n"] for w in found if "n" in w.axis)
    assert sizes == ([5, 50, 1000] if quick else [5, 20, 100, 1000, 10_000])
    for w in found:
        each = w.facts["samples"]
        assert each >= 3
        if w.load.endswith("simulate"):
            # Every block has samples of its own.
            assert w.params["samples"] == each * STUDY.blocks[1]


def test_bench_takes_families_without_closed_form(tmp_path):
    found = workloads(tmp_path, options={"bench": True, "rows": 3000}, quick=True)
    assert [w.facts["family"] for w in found] == list(SEARCHED)
    assert {w.facts["n"] for w in found} == {3000}
    here = found[0].facts
    fit = [c.id for c in CONTESTANTS
           if all(here.get(k) in v for k, v in c.needs.items())]  # fmt: skip
    assert {"mle", "scipy", "statsmodels"} <= set(fit)
    assert not {"map", "bayes_nuts", "bayes_conjugate"} & set(fit)


def test_blocks_get_their_own_samples_and_the_same_fresh_values(tmp_path):
    place = workloads(tmp_path, quick=True)[0]
    one, fresh = density.samples_of(job(tmp_path, place, CONTESTANTS[0]))
    two, same = density.samples_of(job(tmp_path, place, CONTESTANTS[0], 1))
    assert not np.array_equal(one[0].values, two[0].values)
    np.testing.assert_array_equal(fresh[0], same[0])
    again, _ = density.samples_of(job(tmp_path, place, CONTESTANTS[1]))
    np.testing.assert_array_equal(one[1].values, again[1].values)
    values, censored, _ = samples.simulate("weibull", {"shape": 1.5, "scale": 10.0}, 400, 3,
                                           samples=2, limit=12.0)  # fmt: skip
    assert values.max() == 12.0
    assert abs(censored.mean() - np.exp(-(1.2**1.5))) < 0.06


class Truth:
    """Knows the law; its intervals hold the truth always."""

    def fit(self, sample):
        self.params = {"loc": 10.0, "scale": 2.0}

    def logpdf(self, x):
        return stats.norm(10, 2).logpdf(x)

    def interval(self, level):
        return {"loc": (9.0, 11.0), "scale": (1.0, 2.5)}


class Off(Truth):
    """One standard deviation off, and too sure."""

    def fit(self, sample):
        self.params = {"loc": 12.0, "scale": 2.0}

    def logpdf(self, x):
        return stats.norm(12, 2).logpdf(x)

    def interval(self, level):
        return {"loc": (11.9, 12.1), "scale": (1.0, 2.5)}


@pytest.mark.parametrize("who", ["Truth", "Off"])
def test_the_judge_knows_the_truth(tmp_path, who):
    place = workloads(tmp_path, quick=True)[0]
    probe = Probe(tmp_path)
    density.run(
        job(tmp_path, place, Contestant(id="x", title="x", make=f"{__file__}:{who}")), probe
    )
    found = probe.values
    fresh = load_inputs(job(tmp_path, place, CONTESTANTS[0]))[2]
    if who == "Truth":
        assert found["excess"] == pytest.approx(0, abs=1e-12)
        assert found["error"] == 0
        assert found["coverage"] == 1
        assert found["log_loss"] == pytest.approx(-stats.norm(10, 2).logpdf(fresh).mean())
    else:
        # The divergence of two normals one deviation apart is 1/2.
        assert found["excess"] == pytest.approx(0.5, abs=0.1)
        assert found["error"] == pytest.approx(0.5**0.5)
        assert found["coverage"] == 0.5
    assert found["width"] > 0
    assert found["intervals"] == 2 * place.facts["samples"]


def test_a_contestant_that_predicts_nan_has_failed(tmp_path):
    place = workloads(tmp_path, quick=True)[0]
    file = tmp_path / "bad.py"
    file.write_text("class Bad:\n    def fit(self, s):\n        pass\n"
                    "    def logpdf(self, x):\n        return x * float('nan')\n")  # fmt: skip
    with pytest.raises(ValueError, match="NaN"):
        density.run(job(tmp_path, place, Contestant(id="b", title="b", make=f"{file}:Bad")),
                    Probe(tmp_path))  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda c: c.id)
def test_every_contestant_is_near_the_truth_with_many_samples(tmp_path, contestant):
    place = next(w for w in workloads(tmp_path) if w.id == "normal-right-n1000")
    if any(place.facts.get(k) not in v for k, v in contestant.needs.items()):
        pytest.skip("does not take part in this workload")
    sample = density.samples_of(job(tmp_path, place, contestant))[0][0]
    model = resolve_target(contestant.make)(**contestant.params)
    model.fit(sample)
    assert model.params["loc"] == pytest.approx(10, abs=0.25)
    assert model.params["scale"] == pytest.approx(2, abs=0.2)
    x = np.linspace(4, 16, 7)
    np.testing.assert_allclose(model.logpdf(x), stats.norm(10, 2).logpdf(x), atol=0.5)
    if hasattr(model, "interval"):
        low, high = model.interval(0.95)["loc"]
        assert high - low == pytest.approx(2 * 1.96 * 2 / 1000**0.5, rel=0.15)


@pytest.mark.peers
def test_rivals_agree_on_censored_lifetimes(tmp_path):
    place = next(w for w in workloads(tmp_path) if w.id == "weibull-n200")
    sample = density.samples_of(job(tmp_path, place, CONTESTANTS[0]))[0][0]
    assert sample.censored is not None
    found = {}
    for contestant in CONTESTANTS:
        if contestant.id in ("mle", "scipy", "statsmodels", "lifelines"):
            model = resolve_target(contestant.make)(**contestant.params)
            model.fit(sample)
            found[contestant.id] = model.params
    for params in found.values():
        assert params == pytest.approx(found["mle"], rel=2e-3)


def test_a_users_column_and_what_is_wrong_with_it(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("a,b,c\n" + "".join(f"{1 + i * 0.37},{-i},x\n" for i in range(60)))
    found = workloads(tmp_path / "c", data=str(path), target="a")
    assert [w.facts["n"] for w in found] == [10, 30]
    assert {w.facts["family"] for w in found} == {"gamma"}
    assert "all values are positive: the law is a gamma" in found[0].facts["notes"][0]
    samples_, fresh = density.samples_of(job(tmp_path, found[0], CONTESTANTS[0]))
    assert (len(samples_[0].values), len(fresh[0])) == (10, 50)
    assert not np.intersect1d(samples_[0].values, fresh[0]).size
    probe = Probe(tmp_path)
    place = next(c for c in CONTESTANTS if c.id == "scipy")
    density.run(job(tmp_path, found[0], place), probe)
    assert probe.digests["data"] == found[0].digest
    assert set(probe.values) >= {"log_loss", "fit_s"}
    assert "excess" not in probe.values
    assert workloads(tmp_path / "d", data=str(path), target="b")[0].facts["family"] == "normal"
    for target, words in ((None, "name the column"), ("d", "no column 'd'"), ("c", "holds text")):
        with pytest.raises(UsageError, match=words):
            workloads(tmp_path, data=str(path), target=target)
    path.write_text("a\n" + "1\n" * 40)
    with pytest.raises(UsageError, match="1 different"):
        workloads(tmp_path, data=str(path), target="a")
    with pytest.raises(UsageError, match="--data"):
        workloads(tmp_path, target="a")


def summary(tmp_path, excess, coverage=None, width=None):
    places = workloads(tmp_path)
    names = ("mle", "map", "bayes_conjugate", "bayes_nuts")

    def cells(name, w):
        given = {"excess": excess(name, w.axis, w.facts["n"])}
        given["coverage"] = coverage(name, w.facts["n"]) if coverage else 0.95
        given["width"] = width(name, w.facts["n"]) if width else 1.0
        return {key: Cell(value=value) for key, value in given.items()}

    tables = {
        w.id: [Row(contestant=n, title=n, origin="", cells=cells(n, w)) for n in names]
        for w in places
    }
    records = [{"workload": places[0].id, "contestant": "mle", "values": {"intervals": 100.0}}]
    return Summary(study="estimators", question="?", workloads=places, tables=tables,
                   contestants=STUDY.contestants(Request()), records=records)  # fmt: skip


def verdicts(found):
    return [claim.check(found).verdict for claim in STUDY.claims]


def textbook(tmp_path):
    def excess(name, axis, n):
        wrong = 5.0 / n**1.5 if "n_wrong" in axis and name != "mle" else 0.0
        return (1.0 if name == "mle" else 0.7) / n + wrong

    return summary(tmp_path, excess, lambda name, n: 0.95 - (name == "mle") / n)


def test_claims_of_the_textbook_hold_and_agreement_is_found(tmp_path):
    found = textbook(tmp_path)
    assert verdicts(found) == ["holds"] * 4
    told = STUDY.findings(found)
    # 0.3 / n is below 0.005 from n = 100 on; with the wrong prior 5 / n^1.5 is too at 100.
    assert "Right prior, n = 5 to 10,000" in told[0]
    assert "paragone MAP from n = 100 on" in told[0]
    assert "paragone MLE 75 %" in told[-1]


def test_claims_that_do_not_hold_are_shown_as_such(tmp_path):
    found = summary(
        tmp_path, lambda name, axis, n: 0.1 if name == "mle" else 0.2, lambda name, n: 0.95,
        lambda name, n: 1.0 if name == "mle" else 2.0,
    )  # fmt: skip
    assert verdicts(found) == ["does not hold"] * 4
    assert "not yet" in STUDY.findings(found)[0]
    empty = Summary(study="estimators", question="?")
    assert verdicts(empty) == ["not tested"] * 4
    assert STUDY.findings(empty) == []
    assert findings.agree_from({1.0: 0.0, 2.0: 0.0}, {1.0: 1.0, 2.0: 0.001}) == 2.0


def test_pictures_are_drawn(tmp_path, monkeypatch):
    pictures.posterior(str(tmp_path), str(tmp_path / "p.svg"))
    text = (tmp_path / "p.svg").read_text()
    assert text.count('class="posterior"') == 4
    assert "n = 40" in text
    monkeypatch.setattr(pictures, "summarize", lambda folder: textbook(tmp_path))
    pictures.excess(str(tmp_path), str(tmp_path / "e.svg"))
    pictures.coverage(str(tmp_path), str(tmp_path / "c.svg"))
    assert "paragone MLE" in (tmp_path / "c.svg").read_text()
    assert "wrong prior" in (tmp_path / "e.svg").read_text()
    monkeypatch.setattr(pictures, "summarize", lambda folder: Summary(study="e", question="?"))
    with pytest.raises(SystemExit, match="no sweep"):
        pictures.excess(str(tmp_path), str(tmp_path / "n.svg"))
