"""One Triton launch for AdamW over many tensors, run by Triton's interpreter on the CPU."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

SIZES = [(), (0,), (1,), (63,), (64,), (65,), (13, 79), (1, 3, 1), (1025,)]


@pytest.fixture(scope="module")
def op():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        from paragone.training.ops import adamw_triton

        yield adamw_triton


def made(dtype=torch.float32, states=None, seed=0, sizes=SIZES):
    draw = torch.Generator().manual_seed(seed)
    params = [torch.randn(size, generator=draw).to(dtype) for size in sizes]
    means = [torch.zeros_like(p, dtype=states or dtype) for p in params]
    squares = [torch.zeros_like(p, dtype=states or dtype) for p in params]
    steps = [torch.zeros(()) for _ in params]
    return params, means, squares, steps


def gradients(params, step, dtype=None):
    draw = torch.Generator().manual_seed(100 + step)
    return [torch.randn(p.shape, generator=draw).to(dtype or p.dtype) for p in params]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("decay", ["torch", "l2"])
def test_it_is_torchs_adamw_and_adam(op, decay, maximize):
    params, means, squares, steps = made()
    theirs = [p.clone().requires_grad_() for p in params]
    kind = torch.optim.AdamW if decay == "torch" else torch.optim.Adam
    torchs = kind(theirs, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1,
                  maximize=maximize, foreach=False)  # fmt: skip
    for step in range(3):
        grads = gradients(params, step)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = g.clone()
        torchs.step()
        op.adamw_step(params, [8 * g for g in grads], means, squares, steps, lr=0.01, beta1=0.8,
                      beta2=0.95, eps=1e-6, weight_decay=0.1, decay=decay, maximize=maximize,
                      grad_scale=8.0)  # fmt: skip
    for mine, other, m, v, t in zip(params, theirs, means, squares, steps, strict=True):
        torch.testing.assert_close(mine, other.detach(), rtol=2e-6, atol=2e-7)
        torch.testing.assert_close(m, torchs.state[other]["exp_avg"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(v, torchs.state[other]["exp_avg_sq"], rtol=1e-6, atol=1e-9)
        assert t.item() == 3


def by_definition(p, g, m, v, t, hat, share):
    """Float64: epsilon beside the uncorrected root; decay by `share`."""
    lr, b1, b2, eps, decay = 0.1, 0.9, 0.999, 1e-3, 0.1
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    if hat:
        change = lr * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
    else:
        change = lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return p * (1 - share * decay) - change, m, v


@pytest.mark.parametrize("hat", [False, True])
def test_places_of_epsilon_and_of_decay(op, hat):
    params, means, squares, steps = made(sizes=[(67,)])
    p, m, v = params[0].double().numpy(), 0.0, 0.0
    for step in range(2):
        grads = gradients(params, step)
        op.adamw_step(params, grads, means, squares, steps, lr=0.1, eps=1e-3, weight_decay=0.1,
                      decay="paper", schedule=0.5, epsilon_hat=hat)  # fmt: skip
        p, m, v = by_definition(p, grads[0].double().numpy(), m, v, step + 1, hat, 0.5)
    np.testing.assert_allclose(params[0].numpy(), p, rtol=3e-6, atol=1e-7)


def test_a_planted_error_is_seen(op, monkeypatch):
    """Without the correction of the mean the definition is missed by far."""
    whole = op._coefficients

    def planted(*given):
        found = whole(*given)
        found[:, 8] *= 1 - 0.9
        return found

    monkeypatch.setattr(op, "_coefficients", planted)
    with pytest.raises(AssertionError):
        test_places_of_epsilon_and_of_decay(op, True)


def test_half_precision_nearest_and_a_copy(op):
    params, means, squares, steps = made(torch.bfloat16)
    wide = [p.float() for p in params]
    grads = gradients(params, 0)
    op.adamw_step(params, grads, means, squares, steps, lr=0.01, weight_decay=0.1)
    zeros = [torch.zeros_like(p) for p in wide]
    copies = [torch.zeros_like(p, dtype=torch.bfloat16) for p in wide]
    op.adamw_step(wide, grads, zeros, [torch.zeros_like(p) for p in wide],
                  [torch.zeros(()) for _ in wide], lr=0.01, weight_decay=0.1,
                  copies=copies)  # fmt: skip
    for half, full, copy, m, exact in zip(params, wide, copies, means, zeros, strict=True):
        assert torch.equal(half, full.bfloat16())
        assert torch.equal(copy, full.bfloat16())
        assert torch.equal(m, exact.bfloat16())


def key_of(seed, step):
    """`kernels.narrow.random_key` in Python's whole numbers."""
    x = (seed + 0x9E3779B97F4A7C15 * (step + 1)) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def word_of(key, index):
    """`kernels.narrow.random_word` likewise."""

    def mixed(x):
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    far = (index >> 32) * 0x9E3779B9 % 2**32
    return mixed((mixed((index ^ key) % 2**32) + ((key >> 32) ^ far)) % 2**32)


def test_rounding_at_random_is_replayed_unbiased_and_the_cpus(op):
    params, means, squares, steps = made(torch.bfloat16, torch.float32, sizes=[(2,), (5000,)])
    params = [torch.ones_like(p) for p in params]
    given = ([p.clone() for p in params], [m.clone() for m in means],
             [v.clone() for v in squares], [t.clone() for t in steps])  # fmt: skip
    grads = [torch.ones_like(p) for p in params]
    for group in ((params, means, squares, steps), given):
        op.adamw_step(group[0], grads, *group[1:], lr=0.001, stochastic=True, seed=2**40 + 7)
    assert all(torch.equal(a, b) for a, b in zip(params, given[0], strict=True))
    # 1 - 0.001 lies a quarter of the way from 0.99609375 + 0.00390625 to below it.
    low, high = 1 - 2**-8, 1.0
    share = (params[1].double() == low).double().mean().item()
    assert set(params[1].tolist()) <= {low, high}
    assert share == pytest.approx(0.256, abs=0.03)
    key = int(op._keys(2**40 + 7, torch.ones(1, dtype=torch.float64))[0]) % 2**64
    assert key == key_of(2**40 + 7, 1)
    exact = np.array(1 - 0.001 * (1 / (1 + 1e-8)), np.float32).view(np.uint32)
    for i in (0, 1, 4999):
        word = word_of(key, 2 + i)
        assert ((int(exact) + (word & 0xFFFF)) >> 16 << 16) == int(
            params[1][i].float().view(torch.int32)
        )


def test_mixed_dtypes_strides_and_infinities(op):
    draw = torch.Generator().manual_seed(3)
    turned = torch.randn((5, 7), generator=draw).t()
    odd = torch.ones(4)[1:]  # not at a multiple of 16 bytes
    params = [turned, torch.randn(9, generator=draw).bfloat16(), odd]
    means, squares = ([torch.zeros_like(p, dtype=torch.float32) for p in params] for _ in range(2))
    steps = [torch.zeros(()) for _ in params]
    grads = [torch.ones(7, 5), torch.ones(9), torch.tensor([float("inf"), float("nan"), -1.0])]
    before = [p.clone().float() for p in params]
    with np.errstate(all="ignore"):  # the interpreter computes with NumPy
        op.adamw_step(params, grads, means, squares, steps, lr=0.25)
    torch.testing.assert_close(params[0], before[0] - 0.25, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(params[1].float(), (before[1] - 0.25).bfloat16().float())
    assert params[2].isnan().tolist() == [True, True, False]
    op.adamw_step([], [], [], [], [], lr=0.1)


def test_the_operator_is_registered_as_torch_expects(op):
    params, means, squares, steps = made(sizes=[(5,), (0,), (3, 2)])
    grads = gradients(params, 0)
    numbers = (0.01, 0.9, 0.999, 1e-8, 0.1, 1.0, "torch", False, False, False, 0)
    torch.library.opcheck(
        torch.ops.paragone.adamw_step, (params, grads, means, squares, steps, [], None, *numbers),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grads": []}, "1 params but 0 grads"), ({"steps": []}, "0 steps"),
        ({"grads": [torch.ones(3)]}, "both must agree"),
        ({"exp_avgs": [torch.ones(4).half()]}, "float32 or bfloat16"),
        ({"exp_avg_sqs": [torch.ones(4).bfloat16()]}, "differ in dtype"),
        ({"copies": [torch.ones(4)]}, "bfloat16 is expected"),
        ({"decay": "none"}, "known are torch, paper and l2"),
        ({"params": [torch.ones(8)[::2]]}, "has holes"),
        ({"exp_avgs": [torch.ones(8)[::2]]}, "torch.empty_like"),
    ],
)  # fmt: skip
def test_what_does_not_agree_is_said(op, change, words):
    whole = {"params": [torch.ones(4)], "grads": [torch.ones(4)], "exp_avgs": [torch.ones(4)],
             "exp_avg_sqs": [torch.ones(4)], "steps": [torch.zeros(())], "lr": 0.1}  # fmt: skip
    with pytest.raises(ValueError, match=words):
        op.adamw_step(**{**whole, **change})


def test_the_cpu_needs_the_interpreter(op, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        op.adamw_step([torch.ones(4)], [torch.ones(4)], [torch.ones(4)], [torch.ones(4)],
                      [torch.zeros(())], lr=0.1)  # fmt: skip
