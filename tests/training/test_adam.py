"""Adam and AdamW: the definition against PyTorch's for-loop, bit for bit, and against the papers."""

import copy
import io
import math
import pickle

import pytest
import torch

from paragone.training import Adam, AdamW

PEERS = {Adam: torch.optim.Adam, AdamW: torch.optim.AdamW}
OWN = {"foreach": False}


def parameters(dtype=torch.float32, shapes=((), (1,), (0,), (7,), (63, 5), (4, 3, 2, 2)), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape in shapes
    ]


def fill(params, step, scale=1.0):
    """The same gradients for equal parameters; two of them have none now and then."""
    generator = torch.Generator().manual_seed(1000 + step)
    for at, p in enumerate(params):
        grad = torch.randn(p.shape, generator=generator, dtype=torch.float64) * scale
        if p.is_complex():
            grad = torch.complex(grad, torch.randn(p.shape, generator=generator).double())
        p.grad = None if (at + step) % 5 == 0 else grad.to(p.dtype)


def equal(mine, theirs):
    mine, theirs = list(mine), list(theirs)
    assert len(mine) == len(theirs) > 0
    return all(
        a.dtype == b.dtype and torch.equal(a.detach(), b.detach())
        for a, b in zip(mine, theirs, strict=True)
    )


def states_equal(mine, theirs):
    a, b = mine.state_dict()["state"], theirs.state_dict()["state"]
    assert a.keys() == b.keys()
    assert len(a) > 0
    for key in a:
        assert a[key].keys() == b[key].keys()
        assert equal(a[key].values(), b[key].values()), key


CASES = [
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "lr": 0.01},
    {"weight_decay": 0.1, "maximize": True},
    {"weight_decay": 0.1, "amsgrad": True},
    {"weight_decay": 0.1, "amsgrad": True, "maximize": True},
    {"weight_decay": 0.3, "betas": (0.5, 0.9), "eps": 1e-4},
    {"weight_decay": 0.1, "betas": (0.0, 0.0)},
    {"weight_decay": 0.1, "lr": torch.tensor(0.001)},
    {"weight_decay": 0.1, "lr": torch.tensor([0.001]), "amsgrad": True},
    {"weight_decay": 0.1, "betas": (torch.tensor(0.9), torch.tensor([[0.99]]))},
]


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("options", CASES, ids=str)
def test_exact_is_pytorchs_loop_bit_for_bit(kind, options):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex64):
        mine, theirs = parameters(dtype), parameters(dtype)
        a, b = kind(mine, exact=True, **options), PEERS[kind](theirs, **options, **OWN)
        for step in range(6):
            fill(mine, step)
            fill(theirs, step)
            a.step()
            b.step()
        assert equal(mine, theirs), dtype
        states_equal(a, b)


def by_hand(p, grads, *, lr, betas, eps, wd, decay, epsilon, schedule=None):
    """The papers' algorithms in float64 with Python's own numbers."""
    m = v = 0.0
    for t, g in enumerate(grads, 1):
        now = lr if schedule is None else lr * schedule[t - 1]
        if decay == "l2":
            g = g + wd * p
        else:
            p = p - (now if decay == "torch" else now / lr) * wd * p
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        first, second = 1 - betas[0] ** t, 1 - betas[1] ** t
        if epsilon == "torch":
            p = p - now * (m / first) / (math.sqrt(v / second) + eps)
        else:
            p = p - now * math.sqrt(second) / first * m / (math.sqrt(v) + eps)
    return p


@pytest.mark.parametrize("decay", ["torch", "paper", "l2"])
@pytest.mark.parametrize("epsilon", ["torch", "hat"])
@pytest.mark.parametrize("exact", [True, False])
def test_every_form_by_hand(decay, epsilon, exact):
    grads = [0.3, -1.5, 0.02, 4.0, -0.7]
    schedule = [1.0, 0.8, 0.6, 0.4, 0.2]
    options = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 0.01}
    expected = by_hand(
        1.5, grads, wd=0.1, decay=decay, epsilon=epsilon, schedule=schedule, **options
    )
    dtype = torch.float64 if exact else torch.float32
    p = torch.nn.Parameter(torch.tensor([1.5], dtype=dtype))
    optimizer = AdamW([p], weight_decay=0.1, decay=decay, epsilon=epsilon, exact=exact, **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: schedule[min(t, 4)])
    for g in grads:
        p.grad = torch.tensor([g], dtype=dtype)
        optimizer.step()
        scheduler.step()
    assert p.item() == pytest.approx(expected, rel=1e-14 if exact else 3e-7)


def test_forms_differ_where_they_should():
    """Planted bugs: each other form is one, and must be seen at these sizes."""
    forms = [(d, e) for d in ("torch", "paper", "l2") for e in ("torch", "hat")]
    options = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 0.01, "wd": 0.1}
    found = {
        form: by_hand(1.5, [0.3, -1.5], decay=form[0], epsilon=form[1], **options) for form in forms
    }
    assert len({round(x, 6) for x in found.values()}) == len(forms)


KERAS = {
    Adam: [0.996625222041731, -1.9622933544815833, 2.9614554699040276],
    AdamW: [0.9926344755003561, -1.9543618197043529, 2.9495318129026544],
}
"""Keras 3.15.1 (torch backend, float64 variables), `Adam` and `AdamW(weight_decay=0.1)` of
`keras.optimizers` with learning_rate=0.01, epsilon=1e-3: four steps from [1, -2, 3] with the
gradients t [1e-3, -0.5, 2], t = 1 ... 4. Its learning rate is a float32."""


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_hat_is_the_epsilon_of_keras(kind, exact):
    dtype = torch.float64 if exact else torch.float32
    moved = {}
    for epsilon in ("hat", "torch"):
        p = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=dtype))
        decay = 0.1 if kind is AdamW else 0.0
        optimizer = kind([p], lr=0.01, eps=1e-3, weight_decay=decay, epsilon=epsilon)
        for t in range(1, 5):
            p.grad = torch.tensor([1e-3, -0.5, 2.0], dtype=dtype) * t
            optimizer.step()
        moved[epsilon] = p.tolist()
    assert moved["hat"] == pytest.approx(KERAS[kind], rel=3e-7)
    assert moved["torch"] != pytest.approx(KERAS[kind], rel=1e-4)


def test_l2_shrinks_large_gradient_weights_less():
    """The claim of the AdamW paper's section 3: by the same share against by the root."""

    def shrink(kind):
        p = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        optimizer = kind([p], lr=1e-3, weight_decay=0.1, betas=(0.0, 0.999))
        for step in range(400):
            # Alternating signs cancel, so that what remains is the decay.
            p.grad = torch.tensor([100.0, 0.1], dtype=torch.float64) * (-1) ** step
            optimizer.step()
        return (1 - p.detach()).tolist()

    l2, decoupled = shrink(Adam), shrink(AdamW)
    assert l2[0] < 0.05 * l2[1]
    assert decoupled[0] == pytest.approx(decoupled[1], rel=0.05)


@pytest.mark.parametrize("exact", [True, False])
def test_state_goes_to_pytorch_and_back(exact):
    mine, theirs = parameters(), parameters()
    a, b = AdamW(mine, weight_decay=0.1, exact=exact), torch.optim.AdamW(theirs, weight_decay=0.1)
    for step in range(3):
        fill(mine, step)
        fill(theirs, step)
        a.step()
        b.step()
    third, fourth = parameters(), parameters()
    for p, q, r, s in zip(mine, theirs, third, fourth, strict=True):
        r.data.copy_(p.detach())
        s.data.copy_(q.detach())
    c = torch.optim.AdamW(third, lr=5.0)
    c.load_state_dict(copy.deepcopy(a.state_dict()))
    d = AdamW(fourth, lr=5.0, exact=exact)
    d.load_state_dict(b.state_dict())
    assert d.param_groups[0]["lr"] == 1e-3
    assert d.param_groups[0]["decay"] == "torch"
    for step in range(3, 6):
        for params in (mine, theirs, third, fourth):
            fill(params, step)
        for optimizer in (a, b, c, d):
            optimizer.step()
    if exact:
        assert equal(mine, third)
        assert equal(theirs, fourth)
    for x, y in ((mine, third), (theirs, fourth)):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)
    names = {"step", "exp_avg", "exp_avg_sq"}
    assert all(set(s) == names for s in a.state_dict()["state"].values())


def test_pytorchs_adam_says_by_its_group_which_form_it_is():
    theirs = torch.optim.Adam(parameters(), weight_decay=0.1, decoupled_weight_decay=True)
    mine = Adam(parameters())
    mine.load_state_dict(theirs.state_dict())
    assert mine.param_groups[0]["decay"] == "torch"


def test_resume_pickle_and_deepcopy_go_on_as_before():
    params = parameters()
    optimizer = AdamW(params, weight_decay=0.1, rounding="stochastic", seed=9)
    fill(params, 1)
    optimizer.step()
    twin_params, twin = copy.deepcopy((params, optimizer))
    stored = io.BytesIO()
    torch.save(optimizer.state_dict(), stored)
    stored.seek(0)
    fresh = parameters()
    for p, q in zip(fresh, params, strict=True):
        p.data.copy_(q.detach())
    third = AdamW(fresh, seed=9)
    third.load_state_dict(torch.load(stored))
    fourth = pickle.loads(pickle.dumps(optimizer))
    assert fourth.seed == 9
    for step in (2, 3):
        for ps, o in ((params, optimizer), (twin_params, twin), (fresh, third)):
            fill(ps, step)
            o.step()
    assert equal(params, twin_params)
    assert equal(params, fresh)


def test_groups_closures_and_added_groups():
    a, b = parameters(seed=1), parameters(seed=2)
    c, d = parameters(seed=1), parameters(seed=2)
    mine = AdamW([{"params": a, "lr": 0.1}], weight_decay=0.2, exact=True)
    mine.add_param_group({"params": b, "weight_decay": 0.3, "decay": "l2"})
    first = torch.optim.AdamW(c, lr=0.1, weight_decay=0.2, foreach=False)
    second = torch.optim.Adam(d, weight_decay=0.3, foreach=False)

    def closure():
        assert torch.is_grad_enabled()
        fill(a, 2)
        fill(b, 3)
        return 5.0

    assert mine.step(closure) == 5.0
    assert mine.stepped
    fill(c, 2)
    fill(d, 3)
    first.step()
    second.step()
    assert equal(a + b, c + d)


def test_what_cannot_be_had_is_refused():
    p = parameters()
    bad = [
        ({"lr": -1.0}, "lr=-1"), ({"betas": (1.0, 0.9)}, "betas"), ({"betas": (0.9, -0.1)}, "betas"),
        ({"eps": -1e-8}, "eps"), ({"weight_decay": -0.1}, "weight_decay"),
        ({"decay": "both"}, "decay='both'"), ({"epsilon": "tilde"}, "epsilon"),
        ({"states": "int4"}, "states"), ({"rounding": "up"}, "rounding"),
        ({"capturable": True}, "capturable"), ({"differentiable": True}, "differentiable"),
        ({"exact": True, "states": "8bit"}, "exact"), ({"max_norm": 0.0}, "max_norm"),
        ({"exact": True, "rounding": "stochastic"}, "exact"), ({"seed": -1}, "seed"),
        ({"states": "8bit", "amsgrad": True}, "amsgrad"), ({"lr": torch.ones(2)}, "lr is a tensor"),
        ({"lr": 0.0, "decay": "paper"}, "lr=0"), ({"copy_to": p[:2]}, "copy_to"),
        ({"copy_to": [q.detach().double() for q in p]}, "copy_to"), ({"lr": math.nan}, "lr"),
    ]  # fmt: skip
    for options, words in bad:
        with pytest.raises(ValueError, match=words):
            AdamW(p, **options)
    with pytest.raises(ValueError, match="empty parameter list"):
        AdamW([])
    q = torch.nn.Parameter(torch.ones(4, 2, dtype=torch.float64))
    q.grad = torch.ones_like(q)
    with pytest.raises(ValueError, match="32 or 16 bits"):
        AdamW([q], states="bfloat16").step()


@pytest.mark.parametrize("exact", [True, False])
def test_sparse_gradients_are_refused(exact):
    p = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = AdamW([p], weight_decay=0.1, exact=exact)
    for _ in range(2):
        p.grad = torch.ones(4, 2).to_sparse()
        with pytest.raises(RuntimeError, match=r"SparseAdam"):
            optimizer.step()
        p.grad = torch.ones(4, 2)
        optimizer.step()


def test_empty_states_of_unused_parameters_are_not_made():
    p, q = parameters(shapes=((3,), (4,)))
    optimizer = AdamW([p, q], weight_decay=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    assert q not in optimizer.state
    before = q.detach().clone()
    q.grad = torch.ones(4)
    p.grad = None
    kept = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, kept)
    assert not torch.equal(q, before)
    assert [int(optimizer.state[x]["step"]) for x in (p, q)] == [1, 1]
