"""The rule of compound scaling, its search against enumeration, and scaling to a budget."""

import itertools
import json
import math
from functools import partial

import pytest
import torch
from torch import nn

from paragone.vision import compound_scaling
from paragone.vision.compound_scaling import Scaling, scale_to, search_scaling
from paragone.vision.contract import Backbone


class Tiny(Backbone):
    """`repeats` convolutions of `channels` channels, so that its count has a closed form."""

    def __init__(self, width=1.0, depth=1.0, device=None):
        super().__init__()
        self.num_classes, self.in_channels, self.image_size = 0, 1, (32, 32)
        self.wide, self.repeats = max(1, round(32 * width)), math.ceil(4 * depth)
        self.channels = {1: self.wide}
        layers = [nn.Conv2d(1, self.wide, 1, device=device)]
        layers += [nn.Conv2d(self.wide, self.wide, 3, padding=1, device=device)
                   for _ in range(self.repeats)]  # fmt: skip
        self.layers = nn.Sequential(*layers)

    def steps(self):
        return [(1, self.layers)]

    def head(self, features):
        return features.mean((2, 3))


def closed_form(depth, width, side):
    wide, repeats = max(1, round(32 * width)), math.ceil(4 * depth)
    return side**2 * (wide + repeats * 9 * wide**2)


small = partial(search_scaling, network=Tiny, base=32, multiple=2)


def test_the_rule_is_the_papers():
    assert compound_scaling(0) == Scaling(1, 1, 1)
    s = compound_scaling(2, 1.2, 1.1, 1.15)
    assert (s.depth, s.width, s.resolution) == pytest.approx((1.44, 1.21, 1.3225))
    assert s.cost == pytest.approx((1.2 * 1.1**2 * 1.15**2) ** 2)
    assert compound_scaling(0.5).side(224) == 240  # B1's
    assert compound_scaling(-1).side(224) == 196


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1, 0.9), "alpha=0.9"), ((1, 1.2, math.inf), "beta=inf"), ((1, 1, 1, math.nan), "gamma=nan"),
     ((math.nan,), "phi=nan")],
)  # fmt: skip
def test_bad_factors_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        compound_scaling(*arguments)


def test_a_scaling_builds_its_network_and_counts_it():
    s = Scaling(1.5, 2.0, 1.5)
    net = s.build(Tiny, device="meta")
    assert (net.repeats, net.wide) == (6, 64)
    assert s.macs(Tiny, 32) == closed_form(1.5, 2.0, 48)
    given = []
    Scaling(1, 2.0, 1).build(lambda **more: given.append(more) or net)
    assert given == [{"width": 2.0}]


@pytest.mark.parametrize("along", ["compound", "depth", "width", "resolution"])
@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_no_other_scaling_comes_nearer(along, factor):
    own = closed_form(1, 1, 32)
    target = factor * own
    found = scale_to(target, along, network=Tiny, base=32, multiple=2)
    reached = found.macs(Tiny, 32, 2)
    assert reached == closed_form(found.depth, found.width, found.side(32, 2))
    growth = {"compound": (1.2, 1.1, 1.15), "depth": (2, 1, 1), "width": (1, 2**0.5, 1),
              "resolution": (1, 1, 2**0.5)}[along]  # fmt: skip
    off = min(
        abs(math.log(closed_form(s.depth, s.width, s.side(32, 2)) / target))
        for s in (compound_scaling(phi / 20, *growth) for phi in range(-40, 41))
    )
    assert abs(math.log(reached / target)) <= off + 2e-3
    if along != "compound":
        kept = {"depth", "width", "resolution"} - {along}
        assert all(getattr(found, name) == 1 for name in kept)


def test_budgets_out_of_reach_are_told():
    with pytest.raises(ValueError, match="along='height' is none of"):
        scale_to(1e6, "height", network=Tiny)
    for budget in (0, math.nan, 1e15):
        with pytest.raises(ValueError, match="is out of reach: the network has"):
            scale_to(budget, network=Tiny)
    with pytest.raises(ValueError, match="out of reach along depth: its networks have"):
        scale_to(closed_form(1, 1, 32) / 50, "depth", network=Tiny, base=32)


def test_the_paper_s_grid_is_enumerated():
    found = small(lambda d, w, r: -abs(d - 1.2) - abs(w - 1.1), step=0.1, tolerance=0.05,
                  counted=False)  # fmt: skip
    axis = [1 + i / 10 for i in range(12)]
    fits = [t for t in itertools.product(axis, axis, axis)
            if abs(t[0] * t[1] ** 2 * t[2] ** 2 / 2 - 1) <= 0.05]  # fmt: skip
    assert [(t.alpha, t.beta, t.gamma) for t in found.trials] == pytest.approx(fits)
    best = max(fits, key=lambda t: -abs(t[0] - 1.2) - abs(t[1] - 1.1))
    assert (found.alpha, found.beta, found.gamma) == pytest.approx(best)


def test_the_counted_grid_has_every_network_that_fits_and_none_twice():
    found = small(lambda d, w, r: d, step=0.1, tolerance=0.06)
    own = closed_form(1, 1, 32)
    assert found.base_macs == own
    axis = [1 + i / 10 for i in range(13)]
    fits = {}
    for a, b, c in itertools.product(axis, axis, axis):
        side = Scaling(a, b, c).side(32, 2)
        if abs(closed_form(a, b, side) / own / 2 - 1) <= 0.06:
            fits.setdefault((math.ceil(round(4 * a, 9)), round(32 * b), side), (a, b, c))
    assert [(t.alpha, t.beta, t.gamma) for t in found.trials] == pytest.approx([*fits.values()])
    assert all(abs(t.macs / own / 2 - 1) <= 0.06 for t in found.trials)
    assert found.score == max(t.score for t in found.trials) == found.alpha


def test_a_search_that_was_stopped_goes_on(tmp_path):
    store, calls = tmp_path / "search.jsonl", []

    def evaluate(d, w, r, stop=None):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append((d, w, r))
        return d + 2 * w

    whole = small(partial(evaluate), step=0.15)
    every, calls[:] = list(calls), []
    with pytest.raises(KeyboardInterrupt):
        small(partial(evaluate, stop=3), step=0.15, store=store)
    assert calls == every[:3]
    with store.open("a") as out:
        out.write('{"at": [1.0, 1.')  # Cut off while it was written.
    again = small(evaluate, step=0.15, store=store)
    assert calls == every
    assert again == whole
    assert small(evaluate, step=0.15, store=store) == whole
    assert calls == every
    assert [set(json.loads(line)) for line in store.read_text().splitlines()[1:]] == [
        {"at", "score"}
    ] * len(every)


def test_bad_stores_and_searches_are_told(tmp_path):
    store = tmp_path / "search.jsonl"
    small(lambda d, w, r: d, step=0.25, store=store)
    with pytest.raises(ValueError, match="holds another search"):
        small(lambda d, w, r: d, step=0.2, store=store)
    text = store.read_text().splitlines()
    store.write_text("\n".join([text[0], '{"at": 3}', *text[1:], ""]))
    with pytest.raises(ValueError, match=r"search.jsonl, line 2: expected a triple"):
        small(lambda d, w, r: d, step=0.25, store=store)
    store.write_text("not json\n")
    with pytest.raises(ValueError, match="holds another search"):
        small(lambda d, w, r: d, step=0.25, store=store)
    with pytest.raises(ValueError, match="only nan"):
        small(lambda d, w, r: math.nan, step=0.25)
    with pytest.raises(ValueError, match=r"no triple of step=0\.7"):
        small(lambda d, w, r: d, step=0.7, tolerance=0.01)
    for options in ({"budget": 1.0}, {"step": 0.0}, {"phi": math.inf}, {"tolerance": 1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}=.* is out of range"):
            small(lambda d, w, r: d, **options)


def test_a_score_that_is_no_number_is_kept_and_never_the_best():
    found = small(lambda d, w, r: math.nan if d > 1 else w, step=0.1)
    assert found.alpha == 1
    assert any(math.isnan(t.score) for t in found.trials)
    assert torch.tensor(found.score).isfinite()
