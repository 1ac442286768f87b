"""Kiefer-Wolfowitz and SPSA against closed forms and their own conditions."""

import numpy as np
import pytest

from paragone.estimation import SPSA, KieferWolfowitz
from paragone.estimation.robbins_monro import DivergenceError
from paragone.estimation.steps import Harmonic, Power

TARGET = np.array([1.0, -2.0, 0.5])


def noisy(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return lambda w: float(np.sum((np.asarray(w) - TARGET) ** 2)) + scale * rng.standard_normal()


def test_on_a_parabola_without_noise_it_is_gradient_descent():
    # Central differences of a parabola are its gradient, so the path has a closed form.
    steps = Power(0.2, 1.0, 0.8)
    found = KieferWolfowitz([0.0, 0.0, 0.0], steps=steps).run(noisy(0, 0.0), 50)
    factor = np.prod(1 - 2 * steps(np.arange(1, 51)))
    np.testing.assert_allclose(found.w, TARGET * (1 - factor), rtol=1e-9)
    assert found.evaluations == 50 * 6


def test_spsa_step_is_its_equation():
    found = SPSA([0.5, 0.5, 0.5], random_state=3)
    plus, minus = found.ask()
    signs = np.sign(plus - found.w)
    width = float(found.widths(1))
    np.testing.assert_allclose(plus - minus, 2 * width * signs)
    loss = noisy(0, 0.0)
    slope = (loss(plus) - loss(minus)) / (2 * width * signs)
    expected = found.w - float(found.steps(1)) * slope
    np.testing.assert_allclose(found.step([loss(plus), loss(minus)]), expected, rtol=1e-12)
    assert found.evaluations == 2


def test_spsa_gradient_is_unbiased_on_a_parabola():
    gradient, loss = np.zeros(3), noisy(0, 0.0)
    found = SPSA(np.zeros(3), random_state=1)
    for _ in range(4000):
        plus, minus = found.ask()
        gradient += (loss(plus) - loss(minus)) / (plus - minus)
        found._draw()
    np.testing.assert_allclose(gradient / 4000, -2 * TARGET, atol=0.25)


@pytest.mark.parametrize("make", [KieferWolfowitz, SPSA])
def test_minima_under_noise(make):
    found = make(np.zeros(3), averaging=True, burn_in=300).run(noisy(2), 4000)
    np.testing.assert_allclose(found.value, TARGET, atol=0.12)
    assert found.k == 4000


def test_one_unknown_asking_and_telling():
    found = KieferWolfowitz(0.0)
    rng = np.random.default_rng(4)
    for _ in range(3000):
        points = found.ask()
        assert points.shape == (2,)
        found.step((points - 2.0) ** 2 + 0.3 * rng.standard_normal(2))
    assert float(found.w) == pytest.approx(2.0, abs=0.1)


def test_conditions_and_bounds():
    assert KieferWolfowitz(0.0).check()
    assert KieferWolfowitz(0.0, widths=0.1).check().violated == ("c_k -> 0", "sum a_k c_k < inf")
    assert "sum a_k c_k < inf" in SPSA([0.0]).check().violated
    kept = KieferWolfowitz(5.0, projection=(4.0, 6.0)).run(lambda w: float(w) ** 2, 20)
    assert float(kept.w) == 4.0
    with pytest.raises(DivergenceError):
        KieferWolfowitz(50.0, steps=Harmonic()).run(lambda w: float(w) ** 4, 50)
    back = KieferWolfowitz(3.0, steps=Harmonic(), expanding=5.0).run(lambda w: float(w) ** 4, 4000)
    assert abs(float(back.w)) < 0.3
    assert back.resets > 0


def test_the_same_seed_gives_the_same_path():
    paths = [SPSA(np.zeros(3), random_state=s).run(noisy(5), 30).w for s in (1, 1, 2)]
    assert np.array_equal(paths[0], paths[1])
    assert not np.array_equal(paths[0], paths[2])


def test_bad_values_say_what_to_do():
    for make, words in [
        (lambda: KieferWolfowitz(0.0).step([1.0]), "1 values for 2 points"),
        (lambda: SPSA([0.0, 1.0]).step([1.0, np.nan]), "must be finite"),
        (lambda: KieferWolfowitz([np.inf]), "not finite"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()


def test_the_oracle_catches_one_sided_differences(monkeypatch):
    # A planted bug: forward in place of central differences shifts the minimum by c_k.
    steps = Power(0.2, 1.0, 0.8)
    plain = KieferWolfowitz.ask

    def forward(self):
        points = plain(self)
        points[1::2] = self.w
        return points

    monkeypatch.setattr(KieferWolfowitz, "ask", forward)
    found = KieferWolfowitz([0.0, 0.0, 0.0], steps=steps).run(noisy(0, 0.0), 50)
    factor = np.prod(1 - 2 * steps(np.arange(1, 51)))
    assert np.abs(found.w - TARGET * (1 - factor)).max() > 0.01
