"""Mixed precision: scales as GradScaler's, training that needs them, masters, recorder, ranks."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.training.ranks import run_ranks
from torch import nn

from paragone.training import MixedPrecision, UnderflowRecorder, formats
from paragone.training._simulate import POLICIES


def net(seed=0, width=16):
    torch.random.default_generator.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.LayerNorm(width), nn.Linear(width, 2))


def data(seed=0, rows=32):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 4, generator=random), torch.randn(rows, 2, generator=random)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def equal(a, b):
    assert len(a) == len(b) > 0
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def train(mixed, steps, factor=1.0, seed=0):
    x, y = data(seed)
    for _ in range(steps):
        with mixed.autocast():
            loss = (mixed.model(x) - y).square().mean()
        mixed.backward(loss * factor)
        mixed.step()
        mixed.zero_grad()
    with torch.no_grad():
        return float((mixed.model(x) - y).square().mean())


@given(
    st.lists(st.booleans(), min_size=1, max_size=40),
    st.integers(1, 4),
    st.sampled_from([2.0, 1.5, 1e30]),
    st.sampled_from([0.5, 0.3, 1e-30]),
    st.sampled_from([65536.0, 1.0, 3e38, 1e-37]),
)
@settings(max_examples=60, deadline=None)
def test_scales_are_those_of_gradscaler(overflows, interval, growth, backoff, start):
    options = {"growth_factor": growth, "backoff_factor": backoff, "growth_interval": interval}
    ours, theirs = nn.Linear(1, 1), nn.Linear(1, 1)
    mixed = MixedPrecision(
        ours, torch.optim.SGD(ours.parameters(), 0.0), "fp32", loss_scale="dynamic",
        init_scale=start, **options,
    )  # fmt: skip
    optimizer = torch.optim.SGD(theirs.parameters(), 0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=start, **options)
    scaler.scale(torch.ones(()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for overflow in overflows:
            for model in (ours, theirs):
                for p in model.parameters():
                    p.grad = torch.full_like(p, math.inf if overflow else 0.0)
            scaler.step(optimizer)
            scaler.update()
            assert mixed.step() is not overflow
            assert mixed.loss_scale == scaler.get_scale()
            # At zero torch goes on with NaN, and we leave every step out.
            assume(mixed.loss_scale > 1e-38)
    state = mixed.state_dict()
    assert {k: state[k] for k in scaler.state_dict()} == scaler.state_dict()
    mixed.load_state_dict(scaler.state_dict())


def test_training_in_fp16_stalls_without_a_scale_and_converges_with_one():
    """A loss that is a small share of a large batch's mean: its gradients are below 2^-25."""
    found = {}
    for name, precision, scale in (("fp32", "fp32", None), ("plain", "fp16", 1.0),
                                   ("dynamic", "fp16", None), ("constant", "fp16", 2.0**24),
                                   ("bf16", "bf16", None)):  # fmt: skip
        model = net()
        mixed = MixedPrecision(
            model, torch.optim.AdamW(model.parameters(), 1e-2, eps=1e-20), precision,
            simulate=precision != "fp32" or None, loss_scale=scale, growth_interval=5,
        )  # fmt: skip
        start = weights(model)
        loss = train(mixed, 60, 2.0**-24)
        found[name] = loss, mixed.underflow, equal(start, weights(model))
    assert found["plain"][1] > 0.99
    assert found["plain"][0] > 2 * found["fp32"][0]
    for name in ("dynamic", "constant", "bf16"):
        assert found[name][0] < 1.1 * found["fp32"][0], name
        assert found[name][1] < 0.2


def test_a_scale_that_is_a_power_of_two_changes_no_bit():
    """Unscaled by us, or by an optimizer that takes the scale itself."""
    for fused in (False, True):
        results = []
        for scale in (1.0, 1024.0):
            model = net()
            optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=fused, foreach=False)
            mixed = MixedPrecision(model, optimizer, "fp32", loss_scale=scale)
            train(mixed, 4)
            results.append(weights(model))
            assert not hasattr(optimizer, "grad_scale")
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=fused, foreach=False)
        x, y = data()
        for _ in range(4):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
        assert equal(results[0], weights(model))
        assert equal(results[1], weights(model))


@pytest.mark.parametrize("fused", [False, True])
def test_clipping_sees_unscaled_gradients_once(fused):
    results = []
    x, y = data()
    for ours in (True, False):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=fused)
        if ours:
            mixed = MixedPrecision(model, optimizer, "fp32", loss_scale=4096.0)
            for part in (slice(0, 16), slice(16, 32)):
                mixed.backward((model(x[part]) - y[part]).square().mean() / 2)
            assert mixed.step(clip_norm=0.05)
            norm = mixed.norm
        else:
            for part in (slice(0, 16), slice(16, 32)):
                ((model(x[part]) - y[part]).square().mean() / 2).backward()
            expected = float(nn.utils.clip_grad_norm_(model.parameters(), 0.05))
            optimizer.step()
        results.append(weights(model))
    assert norm == pytest.approx(expected, rel=1e-6)
    assert norm > 0.05
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-8)


def test_one_overflow_holds_all_optimizers_and_the_schedule():
    model = net()
    parts = [torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.SGD(model[3].parameters(), 1)]
    schedule = torch.optim.lr_scheduler.StepLR(parts[0], 1)
    mixed = MixedPrecision(model, parts, "fp32", loss_scale="dynamic", init_scale=8.0)
    x, y = data()
    for bad in (math.inf, math.nan, 0.0):
        before = weights(model)
        mixed.backward((model(x) - y).square().mean())
        model[3].bias.grad[0] += bad
        taken = mixed.step(clip_norm=1.0)
        if taken:
            schedule.step()
        mixed.zero_grad()
        assert taken is (bad == 0.0) is mixed.stepped
        assert equal(before, weights(model)) is not taken
    assert (mixed.skipped, mixed.steps, mixed.loss_scale) == (2, 3, 2.0)
    assert schedule.last_epoch == 1


def test_order_of_calls_is_held():
    model = net()
    mixed = MixedPrecision(model, torch.optim.SGD(model.parameters(), 0.1), "fp16", loss_scale=8.0)
    x, y = data()
    for call in (mixed.unscale, mixed.step):
        with pytest.raises(RuntimeError, match="backward"):
            call()
    with mixed.autocast():
        loss = (model(x) - y).square().mean()
    mixed.backward(loss, retain_graph=True)
    scaled = model[0].bias.grad.clone()
    mixed.unscale()
    assert torch.equal(model[0].bias.grad, scaled / 8.0)
    with pytest.raises(RuntimeError, match="already"):
        mixed.unscale()
    with pytest.raises(RuntimeError, match="step"):
        mixed.backward(loss)
    assert mixed.step()


def test_what_is_scaled_and_simulated_by_default():
    found = {}
    for precision in ("fp32", *POLICIES):
        model = net()
        mixed = MixedPrecision(model, torch.optim.SGD(model.parameters(), 0.1), precision)
        found[precision] = mixed.loss_scale, mixed.simulated
        mixed.remove()
    assert found == {
        "fp32": (1.0, False), "bf16": (1.0, False), "tf32": (1.0, True), "fp16": (65536.0, True),
        "fp8": (65536.0, True), "e4m3": (65536.0, True), "e5m2": (65536.0, True),
    }  # fmt: skip


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp8"])
def test_numbers_lie_on_the_grid_where_the_policy_says(precision):
    model, policy = net(), POLICIES[precision]
    mixed = MixedPrecision(
        model, torch.optim.SGD(model.parameters(), 0.1), precision, simulate=True, loss_scale=64.0
    )
    seen = {}
    model[3].register_forward_pre_hook(lambda m, inputs: seen.update(inputs=inputs[0]))
    x, y = data()
    with mixed.autocast():
        output = model(x)
        output.register_hook(lambda g: seen.update(back=g))
        loss = (output - y).square().mean()
    mixed.backward(loss)

    def on(value, format):
        return torch.equal(value, formats.cast(value.detach(), format))

    assert on(model[0].weight, policy.weight)
    assert on(model[3].weight.grad, policy.gradient)
    assert on(output, policy.output)
    assert on(model[1](x[:, :1] @ torch.ones(1, 16)), "fp32")
    assert not on(model[0].weight * 1.001, policy.weight), "the check itself must see a miss"
    assert mixed.step()
    masters = mixed.state_dict()["masters"]
    assert not on(masters["0.weight"], policy.weight)
    assert torch.equal(formats.cast(masters["0.weight"], policy.weight), model[0].weight)
    if precision == "fp8":
        assert on(model[2].weight, "fp32")
        assert "2.weight" not in masters


def test_the_product_is_that_of_hardware():
    """Against torch's own fp16 on the CPU: forward, and gradients of inputs and weights."""
    layer, (x, _) = nn.Linear(4, 3), data()
    twin = copy.deepcopy(layer)
    mixed = MixedPrecision(layer, torch.optim.SGD(layer.parameters(), 0.1), "fp16", loss_scale=1.0)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    with mixed.autocast():
        ours = layer(a)
    with torch.autocast("cpu", dtype=torch.float16):
        theirs = twin(b)
    assert torch.allclose(ours, theirs.float(), rtol=2e-3, atol=1e-4)
    for out in (ours, theirs):
        out.float().square().mean().backward()
    assert torch.allclose(a.grad, b.grad, rtol=4e-3, atol=1e-5)
    assert torch.allclose(layer.weight.grad, twin.weight.grad, rtol=4e-3, atol=1e-4)


def test_masters_keep_small_updates():
    """Steps of 2^-10 from 1: bf16 rounds each of them away, masters and chance do not."""
    ends = {}
    for name, stored, options in (
        ("master", torch.bfloat16, {}), ("bare", torch.bfloat16, {"master": False}),
        ("simulated", torch.float32, {"simulate": True}),
        ("bare simulated", torch.float32, {"simulate": True, "master": False}),
        ("stochastic", torch.float32,
         {"simulate": True, "master": False, "rounding": "stochastic"}),
    ):  # fmt: skip
        layer = nn.Linear(1, 512, bias=False).to(stored)
        with torch.no_grad():
            layer.weight.fill_(1.0)
        mixed = MixedPrecision(layer, torch.optim.SGD(layer.parameters(), 2.0**-10), "bf16",
                               **options)  # fmt: skip
        for _ in range(256):
            layer.weight.grad = -torch.ones_like(layer.weight)
            assert mixed.step()
        assert layer.weight.dtype == stored
        ends[name] = float(layer.weight.detach().float().mean())
    assert ends["master"] == ends["simulated"] == 1.25
    assert ends["bare"] == ends["bare simulated"] == 1.0
    assert ends["stochastic"] == pytest.approx(1.25, abs=0.01)


def test_narrow_weights_are_restored_and_changes_from_outside_are_seen():
    model = net().to(torch.bfloat16)
    places = [p.data_ptr() for p in model.parameters()]
    mixed = MixedPrecision(model, torch.optim.SGD(model.parameters(), 0.5), "bf16")
    model(data()[0].bfloat16()).float().sum().backward()
    mixed.unscale()
    assert model[0].weight.dtype == model[0].weight.grad.dtype == torch.float32
    assert mixed.step()
    assert [p.data_ptr() for p in model.parameters()] == places
    model.load_state_dict({k: torch.ones_like(v) for k, v in model.state_dict().items()})
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    assert mixed.step()
    assert all((m == 1.0).all() for m in mixed.state_dict()["masters"].values())


def test_a_run_goes_on_where_it_was_saved():
    def make():
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        return MixedPrecision(model, optimizer, "fp16", growth_interval=3)

    whole, first, second = make(), make(), make()
    train(whole, 8)
    train(first, 5)
    state = copy.deepcopy((first.state_dict(), first.optimizers[0].state_dict()))
    second.load_state_dict(state[0])
    second.optimizers[0].load_state_dict(state[1])
    train(second, 3)
    assert equal(weights(whole.model), weights(second.model))
    assert whole.state_dict()["scale"] == second.state_dict()["scale"]
    assert (whole.steps, whole.skipped) == (second.steps, second.skipped)
    wrong = {**state[0], "masters": {"0.weight": torch.ones(1)}}
    with pytest.raises(ValueError, match="master weights differ"):
        second.load_state_dict(wrong)


def test_removed_hooks_leave_the_true_weights():
    model, twin = net(), net()
    mixed = MixedPrecision(model, torch.optim.SGD(model.parameters(), 0.1), "e5m2")
    assert not equal(weights(model), weights(twin))
    mixed.remove()
    assert equal(weights(model), weights(twin))
    with mixed.autocast():
        assert torch.equal(model(data()[0]), twin(data()[0]))


def test_a_scale_that_never_fits_is_told():
    model = net()
    mixed = MixedPrecision(model, torch.optim.SGD(model.parameters(), 0.1), "fp16")
    for p in model.parameters():
        p.grad = torch.full_like(p, math.nan)
    for _ in range(24):
        assert not mixed.step()
    with pytest.warns(RuntimeWarning, match="25 steps in a row"):
        mixed.step()


def test_what_is_wrong_is_said():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for options, words in (
        ({"precision": "fp12"}, "fp32, fp16"), ({"loss_scale": 0.0}, "number > 0"),
        ({"loss_scale": "auto"}, "dynamic"), ({"precision": "fp8", "simulate": False}, "knows no"),
        ({"rounding": "up"}, "stochastic"), ({"growth_factor": 1.0, "precision": "fp16"}, "grow"),
        ({"backoff_factor": 1.5, "precision": "fp16"}, "0.5"),
        ({"growth_interval": 0, "precision": "fp16"}, "1 and above"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            MixedPrecision(model, optimizer, **options)
    with pytest.raises(ValueError, match="twice"):
        MixedPrecision(model, [optimizer, optimizer])
    with pytest.raises(ValueError, match="clip_norm=-1"):
        MixedPrecision(model, optimizer).step(clip_norm=-1)
    with pytest.raises(ValueError, match="use 4"):
        UnderflowRecorder(model).begin(3.1)
    with pytest.raises(ValueError, match="every=0"):
        UnderflowRecorder(model, every=0)


@given(st.integers(0, 40), st.sampled_from(["fp16", "e4m3", "e5m2", "bf16"]), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_histograms_tell_exactly_what_a_cast_loses(power, name, seed):
    rng = np.random.default_rng(seed)
    x = np.ldexp(
        rng.choice([1.0, 1.5, -1.0, -1.25, 1 + 2.0**-23], 500), rng.integers(-149, 60, 500)
    )
    x = np.append(x, [0.0, np.inf, np.nan, -0.0]).astype(np.float32)
    layer = nn.Linear(1, len(x), bias=False)
    recorder = UnderflowRecorder(layer)
    recorder.begin()
    layer.weight.grad = None
    layer.weight.backward(torch.from_numpy(x)[:, None])
    found = recorder.histogram("weight gradient")
    alive = x[np.isfinite(x) & (x != 0)].astype(np.float64)
    scaled = alive * 2.0**power
    fits = np.abs(scaled) < 3e38
    lost = formats.cast(np.where(fits, scaled, 1.0), name) == 0
    assert found.lost(name, 2.0**power) == pytest.approx(lost.mean(), abs=1e-12)
    assert (found.size, found.zeros, found.not_finite) == (len(alive), 2, 2)
    f = formats.find(name)
    beyond = np.abs(scaled) >= 2.0 ** (f.top + 1)
    assert found.overflow(name, 2.0**power) == pytest.approx(beyond.mean(), abs=1e-12)
    k, counts = found.exponents
    assert counts.sum() == len(alive)
    assert k[0] == np.frexp(np.abs(alive).min())[1] - 1
    safe = np.abs(alive).max() * found.recommend(name, margin=0)
    assert f.max / 2 < safe * 2 <= 4 * f.max
    assert safe < 2.0 ** (f.top + 1)


def test_the_recorder_takes_the_scale_out_and_looks_at_some_steps():
    model, (x, y) = net(), data()
    recorder = UnderflowRecorder(model, every=3, most=8)
    plain = None
    for step, scale in enumerate((1.0, 4.0, 16.0, 1024.0)):
        recorder.begin(scale)
        model.zero_grad()
        ((model(x) - y).square().mean() * scale).backward()
        if step == 0:
            plain = recorder.histogram("activation gradient").counts.copy()
    total = recorder.histogram("activation gradient").counts
    assert total.sum() == 2 * plain.sum() > 0
    assert recorder.histogram("activation").size > 0
    for text in (recorder.table(), recorder.histogram().text(), recorder.histogram().svg()):
        assert "2^" in text
    assert recorder.histogram("activation", "nowhere").svg().startswith("<svg")
    assert "scale: 1" in recorder.histogram("activation", "nowhere").text()
    recorder.remove()
    before = recorder.histogram().size
    recorder.begin()
    model(x).sum().backward()
    assert recorder.histogram().size == before


def on_ranks(rank, world):
    """Rank 1 overflows once; all must skip. Then norms of shards add up."""
    model = net()
    mixed = MixedPrecision(model, torch.optim.SGD(model.parameters(), 0.1), "fp16", sharded=True)
    alone = MixedPrecision(net(1), torch.optim.SGD(net(1).parameters(), 0.1), "fp16", group=False)
    found = []
    for step in range(3):
        for p in model.parameters():
            p.grad = torch.full_like(p, float(rank + 1) * 65536.0)
        if step == 1 and rank == 1:
            model[0].bias.grad[0] = math.inf
        found.append((mixed.step(), mixed.loss_scale, mixed.norm))
    return found, alone.group


def test_all_ranks_skip_together_and_norms_of_shards_add_up():
    results = run_ranks(2, on_ranks)
    (one, _), (two, _) = results
    assert [r[:2] for r in one] == [r[:2] for r in two]
    assert [r[0] for r in one] == [True, False, True]
    assert one[0][2] == two[0][2]
    numbers = sum(p.numel() for p in net().parameters())
    assert one[0][2] == pytest.approx(math.sqrt(numbers * (1 + 4)))
