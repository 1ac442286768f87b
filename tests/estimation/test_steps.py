"""Step policies: verdicts that are theorems, and measured ones that say they are measured."""

import numpy as np
import pytest

from paragone.estimation import steps
from paragone.estimation.steps import Constant, Custom, Harmonic, Power, check


def test_values():
    k = np.arange(1, 6)
    np.testing.assert_allclose(Power(2.0, 3.0, 0.5)(k), 2 / np.sqrt(k + 3))
    np.testing.assert_allclose(Harmonic(2.0, 1.0)(k), 2 / (k + 1))
    np.testing.assert_allclose(Constant(0.3)(k), np.full(5, 0.3))
    np.testing.assert_allclose(Custom(lambda k: 1 / k)(k), 1 / k)
    assert steps.of(0.2) == Constant(0.2)
    assert float(steps.of(lambda k: 0.5)(3)) == 0.5


SUMS = ("sum a_k = inf", "sum a_k^2 < inf")


@pytest.mark.parametrize(
    ("policy", "violated"),
    [
        (Power(c=0.51), ()), (Power(c=0.75), ()), (Harmonic(), ()), (Harmonic(0.01, 100), ()),
        (Power(c=0.5), SUMS[1:]), (Power(c=0.2), SUMS[1:]), (Constant(), SUMS[1:]),
        (Power(c=1.01), SUMS[:1]), (Power(c=2.0), SUMS[:1]),
    ],
)  # fmt: skip
def test_robbins_monro_names_the_violated_sum(policy, violated):
    found = check(policy)
    assert found.proof
    assert found.violated == violated
    assert bool(found) == (not violated)
    # The oracle: partial sums of squares to 1e6 and beyond, by integrals.
    p = policy.c
    assert (2 * p > 1) == ("sum a_k^2 < inf" not in violated)


def test_functions_of_k_are_measured_and_it_is_said():
    fine = check(lambda k: 3 / (k + 10) ** 0.8)
    assert fine
    assert not fine.proof
    assert "measured, no proof" in str(fine)
    assert check(lambda k: 0.1).violated == SUMS[1:]
    assert check(lambda k: k**-1.5).violated == SUMS[:1]
    # sum 1 / (k log k) is infinite, and a slope cannot see it: undecided, not a wrong verdict.
    border = check(lambda k: 1 / (k * np.log(k + 1)))
    assert border.violated == ()
    assert not border
    assert border.conditions[0].holds is None
    assert "undecided" in str(border)
    assert check(lambda k: 0.0 if k > 10 else 1.0).violated == SUMS[:1]


def test_kiefer_wolfowitz():
    def violated(a, c):
        return check(a, theorem="kiefer_wolfowitz", widths=c).violated

    assert violated(Harmonic(), Power(c=1 / 6)) == ()
    assert violated(Harmonic(), Power(c=0.5)) == ("sum (a_k / c_k)^2 < inf",)
    assert violated(Harmonic(), 0.1) == ("c_k -> 0", "sum a_k c_k < inf")
    assert violated(Power(c=0.8), Power(c=0.1)) == ("sum a_k c_k < inf",)
    assert violated(Power(c=1.2), Power(c=0.3)) == ("sum a_k = inf",)
    assert check(lambda k: 1 / k, theorem="kiefer_wolfowitz", widths=lambda k: k**-0.25)
    with pytest.raises(ValueError, match="needs the widths"):
        check(Harmonic(), theorem="kiefer_wolfowitz")


def test_dvoretzky():
    assert check(Harmonic(), theorem="dvoretzky")
    assert check(Constant(), theorem="dvoretzky").violated == (
        "sum alpha_k^2 < inf", "sum beta_k^2 < inf",
    )  # fmt: skip
    assert check(Power(c=0.7), theorem="dvoretzky", noise=Power(c=0.4)).violated == (
        "sum beta_k^2 < inf",
    )
    assert check(Power(c=1.5), theorem="dvoretzky", noise=Power(c=1.0)).violated == (
        "sum alpha_k = inf",
    )


def test_notes_say_what_conditions_do_not():
    assert "ball" in check(Constant(0.1)).notes[0]
    slow = check(Harmonic(0.2), slope=1.0)
    assert slow
    assert "k^-0.2" in slow.notes[0]
    assert check(Harmonic(2.0), slope=1.0).notes == ()
    assert "only if a > 1 / (2 g'(w*))" in check(Harmonic()).notes[0]
    assert check(Power(c=0.7)).notes == ()


def test_the_note_on_slow_rates_is_true():
    # e_{k+1} = (1 - a s / k) e_k falls as k^(-a s), whatever the noise does.
    error = np.prod(1 - 0.2 / np.arange(1, 100_001))
    later = np.prod(1 - 0.2 / np.arange(1, 1_000_001))
    assert np.log(error / later) / np.log(10) == pytest.approx(0.2, abs=0.01)


def test_bad_steps_say_what_to_do():
    for make, words in [
        (lambda: Power(a=0.0), "a=0.0"),
        (lambda: Power(a=-1.0), "above 0"),
        (lambda: Power(b=-1.0), "above -1"),
        (lambda: Power(c=-0.1), "grow"),
        (lambda: Power(a=float("nan")), "above 0"),
        (lambda: steps.of("fast"), "a number, a policy or a function"),
        (lambda: check(Harmonic(), theorem="newton"), "none of"),
        (lambda: check(lambda k: -1.0), "negative"),
        (lambda: check(lambda k: float("nan")), "no number"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()
