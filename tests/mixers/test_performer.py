"""Performer against all pairs in float64, its own past, and the package it improves on."""

import math
import warnings

import pytest
import torch

from paragone.mixers import Performer
from paragone.mixers.ops import features as maps
from paragone.mixers.ops.features.reference import feature_attention
from paragone.mixers.performer import approximation_error, feature_rank


def normal(*shape, seed=0, scale=1.0, dtype=torch.float32):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(found, wanted, tolerance=2e-5):
    torch.testing.assert_close(found.double(), wanted.double(), rtol=tolerance, atol=tolerance)


def past(a, b, v, *state, **options):
    y, state = maps.attend_past(a, b, b.new_zeros(b.shape[:-1]), v, state or None, **options)
    return y, *state


def everywhere(a, b, v, **options):
    return maps.attend_all(a, b, b.new_zeros(b.shape[:-1]), v, **options)


def logs(time, features, scale, heads=2):
    a, b = normal(2, 1, heads, time, features, scale=scale, dtype=torch.float64)
    return a, b, normal(1, heads, time, 5, seed=1, dtype=torch.float64)


@pytest.mark.parametrize("time", [1, 63, 64, 65, 131])
@pytest.mark.parametrize("scale", [0.5, 12.0])
def test_causal_chunks_are_all_pairs_in_float64(time, scale):
    a, b, v = logs(time, 7, scale)
    wanted = feature_attention(a, b, v, causal=True)
    for chunk in (16, 64):
        found, *_ = past(a, b, v, chunk=chunk)
        close(found, wanted, 1e-9)
    found, *_ = past(a.float(), b.float(), v.float())
    close(found, wanted, 1e-4)
    close(everywhere(a.float(), b.float(), v.float()), feature_attention(a, b, v), 1e-4)


def test_growing_keys_overflow_nothing():
    """Logarithms from -300 to 300: exp of them is no float32."""
    a, b, v = logs(200, 6, 1.0)
    b = b + torch.linspace(-300, 300, 200, dtype=b.dtype)[:, None]
    for keys in (b, b.flip(2)):
        wanted = feature_attention(a, keys, v, causal=True)
        found, sums, _, peak = past(a.float(), keys.float(), v.float())
        assert sums.isfinite().all()
        assert peak.isfinite().all()
        close(found, wanted, 1e-3)


def test_opposite_features_stay_finite():
    """No feature is large for both: the quotient must not be 0 / 0."""
    a = torch.tensor([[400.0, -400.0]]).expand(1, 1, 3, 2)
    found, *_ = past(a, -a, torch.ones(1, 1, 3, 1))
    close(found, torch.ones_like(found))


def test_gradients_are_those_of_all_pairs():
    a, b, v = (t.requires_grad_() for t in logs(5, 3, 1.0, heads=1))
    assert torch.autograd.gradcheck(lambda *t: past(*t, chunk=3)[0], (a, b, v))
    assert torch.autograd.gradcheck(everywhere, (a, b, v))
    state = past(a, b, v)[1:]
    more = [t.detach() for t in logs(2, 3, 1.0, heads=1)]
    out = past(*more, *state)[0]
    found = torch.autograd.grad(out.sum(), (b, v))
    whole = [torch.cat([x, y], 2) for x, y in zip((a, b, v), more, strict=True)]
    wanted = torch.autograd.grad(feature_attention(*whole, causal=True)[:, :, 5:].sum(), (b, v))
    for one, two in zip(found, wanted, strict=True):
        close(one, two, 1e-9)


@pytest.mark.parametrize("kernel", maps.KERNELS)
def test_no_bit_of_the_past_depends_on_the_future(kernel):
    mixer = Performer(16, 2, kernel=kernel, seed=3).eval()
    x = normal(1, 300, 16)
    changed = x.clone()
    changed[:, 200:] = 100 * normal(1, 100, 16, seed=8)
    before, after = mixer(x)[0], mixer(changed)[0]
    assert torch.equal(before[:, :200], after[:, :200])
    assert not torch.allclose(before[:, 200:], after[:, 200:])


def test_a_maximum_over_all_keys_would_be_caught():
    """The planted bug: the reference of the keys looks at the whole sequence."""
    a, b, v = (t.float() for t in logs(50, 8, 1.0))
    late = b.clone()
    late[:, :, 40:] += 200
    ones = torch.ones(1, 1)

    def planted(keys):
        peak = keys.amax((-1, -2), keepdim=True)
        weights = (torch.exp(a - a.amax(-1, keepdim=True)) @ torch.exp(keys - peak).mT).tril()
        return weights @ v / weights.sum(-1, keepdim=True).clamp(min=1e-6) * ones

    assert not torch.equal(planted(b)[:, :, :40], planted(late)[:, :, :40])


@pytest.mark.parametrize("kernel", ["softmax", "softmax-hyperbolic", "softmax-optimal"])
def test_features_are_unbiased(kernel):
    q, k = normal(2, 4, 6, scale=0.5, dtype=torch.float64)
    spread = (q[:, None] + k[None]).square().sum(-1).mean()
    found = []
    for seed in range(60):
        count = maps.directions_for(kernel, 240)
        directions = maps.draw(count, 6, torch.Generator().manual_seed(seed))
        a, b = (maps.log_features(t, directions, kernel, spread).exp() for t in (q, k))
        found.append(a @ b.T / 240)
    found = torch.stack(found)
    error = found.std(0) / math.sqrt(60)
    assert ((found.mean(0) - (q @ k.T).exp()).abs() < 5 * error).all()


def test_error_falls_with_the_root_of_features_and_pairs_halve_it():
    q, k = normal(2, 128, 64, scale=0.3)
    sizes = (64, 256, 1024)
    found = {
        kernel: [
            approximation_error(q, k, m, kernel, draws=8).relative.square().mean() for m in sizes
        ]
        for kernel in ("softmax", "softmax-hyperbolic", "softmax-optimal")
    }
    slope = math.log(found["softmax"][2] / found["softmax"][0]) / 2 / math.log(16)
    assert slope == pytest.approx(-0.5, abs=0.05)
    for kernel in ("softmax-hyperbolic", "softmax-optimal"):
        for at in (1, 2):
            assert found["softmax"][at] > 2 * found[kernel][at], (kernel, sizes[at])


def test_error_report_is_honest_at_unit_scale():
    q, k = normal(2, 256, 64)
    report = approximation_error(q, k, 256, draws=4)
    assert report.baseline == pytest.approx(0.8, abs=0.03)
    assert report.relative.mean() > 1.5
    causal = approximation_error(0.2 * q, 0.2 * k, 1024, causal=True, draws=2)
    assert causal.relative.mean() < causal.baseline


@pytest.mark.parametrize("kernel", ["softmax", "relu", "exp"])
def test_rank_is_at_most_the_number_of_features(kernel):
    q, k = normal(2, 200, 32)
    exact, estimated = feature_rank(q, k, 24, kernel)
    assert exact == 200
    assert estimated <= (32 if kernel == "exp" else 24)


def test_rank_of_512_random_tokens():
    assert feature_rank(*normal(2, 512, 64), features=64) == (512, 64)


def test_directions_are_orthogonal_and_their_norms_chi():
    w = maps.draw(4000, 8, torch.Generator().manual_seed(1)).double()
    blocks = w.reshape(-1, 8, 8)
    gram = blocks @ blocks.mT
    close(gram, torch.diag_embed(torch.diagonal(gram, dim1=1, dim2=2)), 1e-4)
    squares = w.square().sum(-1)
    assert squares.mean().item() == pytest.approx(8, abs=0.2)
    assert squares.var().item() == pytest.approx(16, abs=1.2)
    close(w.mean(0), torch.zeros(8), 0.05)
    close(w.T @ w / 4000, torch.eye(8), 0.06)
    assert maps.draw(11, 8, torch.Generator()).shape == (11, 8)
    assert maps.draw(0, 8, torch.Generator()).shape == (0, 8)


def test_redraws_in_training_by_a_saved_count():
    mixer, x = Performer(16, 2, redraw=3, seed=5), normal(1, 9, 16)
    first = mixer.directions.clone()
    for _ in range(3):
        mixer(x)
    assert torch.equal(mixer.directions, first)
    kept = {key: value.clone() for key, value in mixer.state_dict().items()}
    mixer.eval()
    for _ in range(5):
        mixer(x)
    assert torch.equal(mixer.directions, first)
    mixer.train()
    y = mixer(x)[0]
    assert not torch.equal(mixer.directions, first)
    other = Performer(16, 2, redraw=3, seed=99)
    other.load_state_dict(kept)
    torch.testing.assert_close(other(x)[0], y, rtol=0, atol=0)
    assert torch.equal(other.directions, mixer.directions)
    never = Performer(16, 2, redraw=None, seed=5)
    for _ in range(4):
        never(x)
    assert torch.equal(never.directions, first)


def test_redrawing_leaves_torch_generator_alone():
    mixer, x = Performer(16, 2, redraw=1, seed=5), normal(1, 9, 16)
    before = torch.get_rng_state()
    for _ in range(3):
        mixer(x)
    assert torch.equal(torch.get_rng_state(), before)


def test_optimal_map_follows_the_size_of_its_input_in_training_alone():
    mixer, x = Performer(16, 2, kernel="softmax-optimal", seed=5), normal(1, 9, 16)
    start = mixer.spread.clone()
    mixer.eval()(x)
    assert torch.equal(mixer.spread, start)
    mixer.train()(x)[0].sum().backward()
    assert not torch.equal(mixer.spread, start)


def test_optimal_tilt_is_a_minimum():
    """Log of the second moment at rho, from the Gaussian integral."""
    for width, spread in ((8, 3.0), (64, 16.0), (64, 0.01)):
        tilt = float(maps.optimal_tilt(torch.tensor(spread, dtype=torch.float64), width))

        def moment(a, d=width, s=spread):
            return (
                d * math.log(1 - 4 * a)
                - d / 2 * math.log(1 - 8 * a)
                + (2 * (1 - 4 * a) * s / (1 - 8 * a))
            )

        assert moment(tilt) <= min(moment(tilt * 1.01), moment(tilt * 0.99)) + 1e-12


def test_half_precision_keeps_its_type_and_is_near():
    mixer = Performer(32, 2, seed=1).eval()
    x = normal(2, 70, 32)
    wanted = mixer(x)[0]
    for dtype in (torch.bfloat16, torch.float16):
        y, state = mixer.to(dtype)(x.to(dtype))
        assert y.dtype == dtype
        assert state.sums.dtype == torch.float32
        assert (y.float() - wanted).abs().max() < 0.06


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"heads": 3}, "width=16 is no multiple of heads=3"),
        ({"heads": 2, "kernel": "cosine"}, "kernel='cosine' is none of softmax"),
        ({"heads": 2, "features": 7, "kernel": "softmax-hyperbolic"}, "features=7"),
        ({"heads": 2, "features": 7, "kernel": "exp"}, "as many as D = 8"),
        ({"heads": 2, "redraw": 0}, "redraw=0"),
        ({"heads": 2, "chunk": 0}, "chunk=0"),
    ],
)
def test_bad_options_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        Performer(16, **options)


@pytest.mark.peers
def test_known_implementation_leaks_and_collapses_and_this_one_does_not():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = pytest.importorskip("performer_pytorch.performer_pytorch", exc_type=ImportError)
    q, k, v = normal(3, 1, 1, 256, 64)
    directions = maps.draw(256, 64, torch.Generator().manual_seed(0))

    def theirs(q, k, v, causal):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            phi_q = peer.softmax_kernel(q, projection_matrix=directions, is_query=True)
            phi_k = peer.softmax_kernel(k, projection_matrix=directions, is_query=False)
        if causal:
            return peer.causal_linear_attention_noncuda(phi_q, phi_k, v, chunk_size=4)
        return peer.linear_attention(phi_q, phi_k, v)

    def ours(q, k, v, causal):
        scale = 64**-0.25
        a, b = (maps.log_features(t * scale, directions) for t in (q, k))
        return past(a, b, v)[0] if causal else everywhere(a, b, v)

    later = k.clone()
    later[:, :, 200:] *= 4
    moved = [
        (f(q, k, v, True) - f(q, later, v, True))[:, :, :200].abs().max() for f in (theirs, ours)
    ]
    assert moved[0] > 0.1
    assert moved[1] == 0
    exact = torch.softmax(q @ k.mT / 8, -1) @ v
    mean = v.mean(2, keepdim=True).expand_as(v)
    assert (theirs(q, k, v, False) - mean).norm() / mean.norm() < 0.5 * (
        exact - mean
    ).norm() / mean.norm()
    small = [t * 0.1 for t in (q, k)]
    wanted = torch.softmax(small[0] @ small[1].mT / 8, -1) @ v
    errors = [(f(*small, v, False) - wanted).norm() for f in (theirs, ours)]
    assert errors[1] < 2 * errors[0]
