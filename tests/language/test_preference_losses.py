"""Losses of preferences: by hand, by their definition, and what they refuse."""

import math

import pytest
import torch

from paragone.language._preference_losses import (
    ALIASES,
    LOSSES,
    Options,
    Scores,
    checked_losses,
    pair_losses,
    rewards,
)


def scores(n=4, kl=None):
    generator = torch.Generator().manual_seed(0)
    draw = [-5 * torch.rand(n, generator=generator, dtype=torch.float64) - 0.1 for _ in range(4)]
    counts = torch.tensor([3, 1, 7, 2])[:n]
    return Scores(*[x.requires_grad_() for x in draw[:2]], *draw[2:], counts, counts.flip(0),
                  None, kl)  # fmt: skip


def one(chosen, rejected, tokens=(1, 1)):
    """A pair with a reference of log-probability 0."""
    zero = torch.zeros(1, dtype=torch.float64)
    made = [torch.tensor([x], dtype=torch.float64) for x in (chosen, rejected)]
    return Scores(*made, zero, zero, torch.tensor([tokens[0]]), torch.tensor([tokens[1]]))


def value(name, options, pair):
    return float(pair_losses(checked_losses(name, options), pair, options))


def sigma(x):
    return 1 / (1 + math.exp(-x))


def test_losses_by_hand():
    o = Options(beta=0.5)
    pair = one(2.0, -1.0, (4, 2))
    h = 0.5 * 3
    assert value("sigmoid", o, pair) == pytest.approx(-math.log(sigma(h)))
    assert value("hinge", o, pair) == pytest.approx(max(0, 1 - h))
    assert value("ipo", o, pair) == pytest.approx((2 / 4 + 1 / 2 - 1) ** 2)
    assert value("ipo", Options(beta=0.5, ipo="sum"), pair) == pytest.approx((3 - 1) ** 2)
    assert value("sppo", o, pair) == pytest.approx((2 - 1) ** 2 + (-1 + 1) ** 2)
    assert value("kto", o, pair) == pytest.approx(0.5 * (sigma(-1.0) + sigma(-0.5)))
    assert value("apo_zero", o, pair) == pytest.approx(sigma(-1.0) + sigma(-0.5))


def test_conservative_and_robust_labels():
    # trap 13: smoothing is in the sigmoid loss; robust may be negative
    o, pair = Options(beta=1.0, label_smoothing=0.2), one(4.0, -4.0)
    right, wrong = -math.log(sigma(8)), -math.log(sigma(-8))
    assert value("sigmoid", o, pair) == pytest.approx(0.8 * right + 0.2 * wrong)
    assert value("robust", o, pair) == pytest.approx((0.8 * right - 0.2 * wrong) / 0.6)
    assert value("robust", o, pair) < 0


def test_robust_is_unbiased_under_flipped_labels():
    o, clean = Options(beta=0.7, label_smoothing=0.3), Options(beta=0.7)
    mean = 0.7 * value("robust", o, one(1.3, 0.2)) + 0.3 * value("robust", o, one(0.2, 1.3))
    assert mean == pytest.approx(value("sigmoid", clean, one(1.3, 0.2)))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients(name):
    options = Options(beta=0.3)
    weights = checked_losses(name, options)
    given = scores(kl=0.4)

    def total(chosen, rejected):
        pair = Scores(chosen, rejected, given.reference_chosen, given.reference_rejected,
                      given.chosen_tokens, given.rejected_tokens, None, 0.4)  # fmt: skip
        return pair_losses(weights, pair, options)

    assert torch.autograd.gradcheck(total, (given.chosen, given.rejected))
    # Making the chosen answer likelier lowers every loss but those that regress or push both down.
    if name not in ("ipo", "sppo", "apo_down", "discopop", "exo", "nca", "hinge"):
        (up,) = torch.autograd.grad(total(given.chosen, given.rejected).sum(), given.chosen)
        assert (up < 0).all()


def test_reference_has_no_gradient_and_kl_counts_for_kto():
    far = pair_losses({"kto": 1.0}, scores(kl=2.0), Options())
    near = pair_losses({"kto": 1.0}, scores(kl=0.0), Options())
    assert not torch.allclose(far, near)
    good, bad = rewards({"kto": 1.0}, scores(kl=2.0), Options(beta=0.5))
    assert not good.requires_grad
    torch.testing.assert_close(good, 0.5 * scores().chosen_ratios.detach())
    torch.testing.assert_close(bad, 0.5 * scores().rejected_ratios.detach())


def test_a_mixture_is_the_sum():
    options, given = Options(), scores()
    mixed = pair_losses(checked_losses({"dpo": 0.8, "sft": 0.1}, options), given, options)
    parts = [pair_losses({name: 1.0}, given, options) for name in ("sigmoid", "sft")]
    torch.testing.assert_close(mixed, 0.8 * parts[0] + 0.1 * parts[1])


def test_token_mean_of_the_step():
    given = scores()
    mean = -given.chosen.sum() / given.chosen_tokens.sum()
    torch.testing.assert_close(pair_losses({"sft": 1.0}, given, Options()).mean(), mean)


def test_extremes_stay_finite():
    for name in LOSSES:
        if name == "discopop":
            continue  # its exponential is the paper's own
        for pair in (one(-1e-9, -800.0), one(-800.0, -1e-9)):
            assert math.isfinite(value(name, Options(), pair)), name


def test_a_mean_over_tokens_is_caught():
    # The planted bug of trap 12: log-probabilities averaged, not summed.
    o, pair = Options(beta=0.5), one(-4.0, -9.0, (4, 3))
    averaged = one(-4.0 / 4, -9.0 / 3, (4, 3))
    assert abs(value("sigmoid", o, pair) - value("sigmoid", o, averaged)) > 0.1


@pytest.mark.parametrize(
    ("loss", "options", "words"),
    [
        ("dop", {}, "none of sigmoid"),
        ("sigmoid", {"beta": 0.0}, "above 0"),
        ("sigmoid", {"label_smoothing": 0.5}, "below 0.5"),
        ("hinge", {"label_smoothing": 0.1}, "no meaning for hinge"),
        ("kto", {"divergence": "js"}, "not for kto"),
        ("sigmoid", {"divergence": "tv"}, "none of reverse_kl"),
        ("ipo", {"ipo": "mean"}, "'token'"),
    ],
)
def test_refusals(loss, options, words):
    with pytest.raises(ValueError, match=words):
        checked_losses(loss, Options(**options))


def test_aliases_lead_to_losses():
    assert set(ALIASES.values()) <= set(LOSSES)
