"""Heads of patches by themselves: paths of noise, the toy of two modes, codes, generators."""

import math

import numpy as np
import pytest
import torch

from paragone.multimodal._heads_codes import CodeHead, kmeans, nearest
from paragone.multimodal._heads_draws import normals
from paragone.multimodal._heads_noise import NoisePath, TimeEmbedding
from paragone.multimodal._heads_rows import cosine_plan, some_masked
from paragone.multimodal.patch_heads import HEADS, DiffusionHead, MeanHead, make_head

PATHS = [(schedule, prediction) for schedule in ("flow", "cosine")
         for prediction in ("v", "x0", "eps")]  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def restarted(head, seed=0):
    """All weights drawn again, none of them 0."""
    generator = seeded(seed)
    with torch.no_grad():
        for weight in head.parameters():
            weight.normal_(0, 0.2, generator=generator)
    return head


@pytest.mark.parametrize(("schedule", "prediction"), PATHS)
def test_clean_and_noise_follow_from_what_is_predicted(schedule, prediction):
    path = NoisePath(schedule, prediction, "uniform")
    clean, noise = randn(2, 7, 3, dtype=torch.float64).unbind()
    for t in (1e-3, 0.3, 0.9):
        noisy, target = path.noised(clean, noise, torch.full((7,), t, dtype=torch.float64))
        found = path.found(noisy, target, t)
        torch.testing.assert_close(found[0], clean, rtol=0, atol=1e-11)
        torch.testing.assert_close(found[1], noise, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("schedule", "factor"), [("flow", 1.0), ("cosine", math.pi / 2)])
def test_v_is_the_speed_along_the_path(schedule, factor):
    path = NoisePath(schedule, "v", "uniform")
    clean, noise = randn(2, 5, 3, dtype=torch.float64).unbind()
    t, d = torch.full((5,), 0.4, dtype=torch.float64), 1e-6
    speed = (path.noised(clean, noise, t + d)[0] - path.noised(clean, noise, t - d)[0]) / (2 * d)
    torch.testing.assert_close(speed, factor * path.noised(clean, noise, t)[1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(("schedule", "prediction"), PATHS)
def test_a_walk_with_the_true_denoiser_ends_in_the_true_normal(schedule, prediction, eta):
    # Of x ~ N(m, d^2), E[x | x_t] = m + a d^2 (x_t - a m) / (a^2 d^2 + s^2).
    path, m, d, generator = NoisePath(schedule, prediction, "uniform"), 0.7, 0.3, seeded(5)

    def predict(noisy, t):
        a, s = path.factors(t)
        clean = m + a * d**2 * (noisy - a * m) / (a**2 * d**2 + s**2)
        noise = (noisy - a * clean) / s
        speed = noise - clean if schedule == "flow" else a * noise - s * clean
        return {"x0": clean, "eps": noise, "v": speed}[prediction]

    def draw():
        return torch.randn(20_000, generator=generator, dtype=torch.float64)

    x = path.walk(predict, draw, 400 if eta else 100, eta)
    assert abs(float(x.mean()) - m) < 0.012
    assert abs(float(x.std()) / d - 1) < 0.03


def test_times_are_what_they_are_called():
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    assert torch.equal(NoisePath("flow", "v", "uniform").spread(u), u)
    t = NoisePath("flow", "v", "logit-normal").spread(u)
    normal = torch.special.ndtri(u)
    torch.testing.assert_close(torch.logit(t), normal, rtol=0, atol=1e-6)
    times, _ = DiffusionHead(2, 3, repeats=4).noises(
        50, seeded(), device="cpu", dtype=torch.float32
    )
    assert ((times * 4).long() == torch.arange(4)).all()  # one of each stratum


MODES = torch.tensor([[0.8, -0.8, 0.8, -0.8], [-0.8, 0.8, -0.8, 0.8]])


def near_modes(head, steps=250):
    """Trains on two modes that the state does not tell apart; the share of draws at a mode."""
    generator, rate = seeded(1), 5e-3
    with torch.no_grad():
        for weight in head.parameters():
            if weight.ndim == 2 and weight.any():
                weight.normal_(0, weight.shape[1] ** -0.5, generator=generator)
    states = torch.ones(128, 8)
    optimizer = torch.optim.Adam(head.parameters(), rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        which = torch.randint(2, (128,), generator=generator)
        x = MODES[which] + 0.05 * torch.randn(128, 4, generator=generator)
        head.loss(states, x, generator).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    drawn = head.sample(torch.ones(1000, 8), generator)
    gaps = (drawn[:, None] - MODES).square().mean(2).sqrt()
    first = float((gaps[:, 0] < gaps[:, 1]).float().mean())
    return float((gaps.min(1).values < 0.2).float().mean()), first


def test_the_toy_of_two_modes():
    found, first = near_modes(DiffusionHead(8, 4, hidden=32))
    assert found >= 0.95
    assert 0.4 < first < 0.6
    assert near_modes(MeanHead(8, 4, hidden=32), 100)[0] <= 0.05


@pytest.mark.parametrize(
    "head", [DiffusionHead(5, 3, hidden=8), MeanHead(5, 3, hidden=8)], ids=["mar", "mse"]
)
def test_rows_do_not_depend_on_the_batch(head):
    restarted(head)
    states, patches = randn(6, 5), randn(6, 3, seed=1)
    owners = (0, 0, 0, 1, 2, 2)

    def own():
        made = [seeded(7 + number) for number in range(3)]
        return [made[owner] for owner in owners]

    whole, drawn = head.loss(states, patches, own()), head.sample(states, own())
    for owner in range(3):
        rows = [row for row in range(6) if owners[row] == owner]
        mine = [own()[row] for row in rows]
        mine = [mine[0]] * len(rows)
        torch.testing.assert_close(whole[rows], head.loss(states[rows], patches[rows], mine))
        mine = [seeded(7 + owner)] * len(rows)
        torch.testing.assert_close(drawn[rows], head.sample(states[rows], mine))
    # The planted bug: one generator for all rows is not that.
    if isinstance(head, DiffusionHead):
        last = head.loss(states[4:], patches[4:], seeded(7))
        assert not torch.allclose(whole[4:], last)


def test_odd_numbers_of_rows():
    for count in (0, 1, 63, 65):
        head = DiffusionHead(4, 3, hidden=8)
        assert head.loss(randn(count, 4), randn(count, 3), seeded()).shape == (count,)
        assert head.sample(randn(count, 4), seeded()).shape == (count, 3)
        # Expanded and strided input.
        head.loss(randn(1, 4).expand(count, 4), randn(3, count).T)
    assert normals((0, 3), [], device="cpu", dtype=torch.float32).shape == (0, 3)


def test_gradients_are_those_of_float64():
    head = restarted(DiffusionHead(3, 2, hidden=4, depth=1, repeats=2, dtype=torch.float64))
    states = randn(2, 3, dtype=torch.float64).requires_grad_()
    patches = randn(2, 2, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda h, x: head.loss(h, x, seeded()), (states, patches))
    head.loss(states, patches, seeded()).sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in head.parameters())


def test_narrow_weights():
    head = restarted(DiffusionHead(4, 3, hidden=8, dtype=torch.bfloat16))
    states = randn(5, 4).bfloat16()
    assert head.loss(states, randn(5, 3)).dtype == torch.float32
    assert head.sample(states, seeded()).dtype == torch.bfloat16
    assert TimeEmbedding(8)(torch.tensor([0.0, 1.0])).shape == (2, 8)


def test_guidance_and_temperature():
    states, without = randn(2, 6, 5).unbind()
    head = restarted(MeanHead(5, 3, hidden=8))
    c, u = head.mean(states), head.mean(without)
    found = head.sample(states, guidance=2.5, unguided=without)
    torch.testing.assert_close(found, u + 2.5 * (c - u))
    head = restarted(DiffusionHead(5, 3, hidden=8, scale=0.5))
    plain = head.sample(states, seeded())
    torch.testing.assert_close(head.sample(states, seeded(), guidance=1.0, unguided=without), plain)
    other = head.sample(states, seeded(), guidance=0.0, unguided=without)
    torch.testing.assert_close(other, head.sample(without, seeded()))
    assert not torch.allclose(plain, head.sample(states, seeded(), guidance=3.0, unguided=without))
    still = head.sample(states, seeded(1), temperature=0.0)
    assert torch.equal(still, head.sample(states, seeded(2), temperature=0.0))


def test_scale_is_one_of_units():
    one = restarted(DiffusionHead(5, 3, hidden=8, scale=1.0))
    ten = DiffusionHead(5, 3, hidden=8, scale=10.0)
    ten.load_state_dict(one.state_dict())
    states, patches = randn(4, 5), randn(4, 3, seed=1)
    torch.testing.assert_close(
        one.loss(states, patches, seeded()), ten.loss(states, 10 * patches, seeded())
    )
    torch.testing.assert_close(10 * one.sample(states, seeded()), ten.sample(states, seeded()))


def test_nearest_codes_are_those_of_brute_force():
    codes, x = randn(17, 5), randn(65, 5, seed=1)
    brute = (x[:, None] - codes).square().sum(2).argmin(1)
    assert torch.equal(nearest(x, codes), brute)
    twice = torch.cat([codes, codes])
    assert torch.equal(nearest(x, twice), brute)  # ties go to the lowest
    assert torch.equal(nearest(x.double() + 1e-3, codes.double()), nearest(x + 1e-3, codes))


def test_kmeans_finds_what_is_there():
    centres = 10 * randn(8, 4)
    x = centres.repeat(20, 1) + 0.01 * randn(160, 4, seed=1)
    found = kmeans(x, 8, 25, 0)
    assert nearest(centres, found).unique().numel() == 8
    torch.testing.assert_close(
        found[nearest(centres, found)], x.view(20, 8, 4).mean(0), rtol=0, atol=1e-4
    )
    few = kmeans(x[:3], 5, 10, 0)
    assert (few[nearest(x[:3], few)] - x[:3]).abs().max() < 1e-6
    assert kmeans(torch.ones(9, 4), 5, 10, 0).isfinite().all()


def fitted(codes=6, **options):
    head = CodeHead(5, 3, codes=codes, **options)
    head.fit(randn(200, 3, seed=3))
    return restarted(head)


def test_codes_are_nats_and_draws():
    head = fitted()
    states, patches = randn(9, 5), randn(9, 3, seed=1)
    expected = torch.nn.functional.cross_entropy(
        head.linear(states), nearest(patches, head.codebook), reduction="none"
    )
    torch.testing.assert_close(head.loss(states, patches), expected)
    likeliest = head.sample(states, temperature=0.0)
    assert torch.equal(likeliest, head.codebook[head.linear(states).argmax(1)])
    many = head.sample(states[:1].expand(20_000, 5), seeded())
    shares = torch.bincount(nearest(many, head.codebook), minlength=6) / 20_000
    assert (shares - head.linear(states[0]).softmax(0)).abs().max() < 0.015
    guided = head.sample(states, temperature=0.0, guidance=0.0, unguided=states.flip(0))
    assert torch.equal(guided, likeliest.flip(0))


def test_a_codebook_learns_as_it_is_shown_patches():
    head = CodeHead(5, 3, codes=16)
    with pytest.raises(ValueError, match="no codebook yet"):
        head.loss(randn(2, 5), randn(2, 3))
    far = randn(400, 3) + torch.tensor([5.0, 0.0, 0.0])
    for step in range(60):
        shown = head.shown(randn(256, 3, seed=step) if step < 20 else far)
    assert (shown[:, None] == head.codebook).all(2).any(1).all()
    head.eval()
    error = float((head.shown(far) - far).square().mean())
    assert error < 0.5  # they have moved: before they are 25 / 3 off
    assert head.nearest(far).unique().numel() > 14
    before = head.codebook.clone()
    head.shown(randn(50, 3))
    with torch.no_grad():
        head.train().shown(randn(50, 3))
    assert torch.equal(head.codebook, before)
    head.fit(randn(100, 3))
    before = head.codebook.clone()
    head.shown(randn(50, 3))
    assert torch.equal(head.codebook, before)
    other = CodeHead(5, 3, codes=16)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.shown(far), head.shown(far))


def test_the_share_that_is_masked():
    shares = np.array([some_masked(20, seeded(seed)).sum() / 20 for seed in range(400)])
    assert shares.min() >= 0.7
    assert shares.max() == 1.0
    assert abs(shares.mean() - 0.88) < 0.02  # rounded up to a twentieth
    for count in (1, 2, 16, 63):
        for passes in range(1, count + 1):
            plan = cosine_plan(count, passes)
            assert (plan[0], plan[-1], len(plan)) == (0, count, passes + 1)
            assert (np.diff(plan) > 0).all()


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="none of mar, mse, vq, expanded"):
        make_head("gan", 4, 3)
    with pytest.raises(ValueError, match="does not take"):
        make_head("mse", 4, 3, {"codes": 3})
    for wrong in (
        {"order": "spiral"}, {"drop": 1.0}, {"schedule": "line"}, {"prediction": "y"},
        {"times": "beta"}, {"repeats": 0}, {"steps": 0}, {"eta": 2.0}, {"scale": 0.0},
        {"passes": 0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make_head("mar", 4, 3, wrong)
    with pytest.raises(ValueError, match="width=0"):
        MeanHead(0, 3)
    with pytest.raises(ValueError, match="'raster' order alone"):
        make_head("expanded", 4, 3, {"order": "random"})
    with pytest.raises(ValueError, match="codes=1"):
        make_head("vq", 4, 3, {"codes": 1})
    head = DiffusionHead(4, 3)
    with pytest.raises(ValueError, match=r"\(N, 4\) is expected"):
        head.loss(randn(5, 3), randn(5, 3))
    with pytest.raises(ValueError, match=r"\(5, 3\) is expected"):
        head.loss(randn(5, 4), randn(4, 3))
    with pytest.raises(ValueError, match="2 generators for 5 rows"):
        head.loss(randn(5, 4), randn(5, 3), [seeded(), seeded()])
    with pytest.raises(ValueError, match=r"\(N, 3\) is expected"):
        fitted().fit(randn(5, 4))
    with pytest.raises(NotImplementedError, match="call `draw`"):
        make_head("expanded", 4, 3).sample(randn(1, 4))


def test_heads_are_built_on_meta():
    for name in HEADS:
        head = make_head(name, 8, 4, device="meta")
        assert all(weight.is_meta for weight in head.parameters())
