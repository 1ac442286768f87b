"""The step in one pass: near PyTorch's loop, whatever lies where, however many threads work."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.kernels import narrow
from paragone.kernels.jit import njit
from paragone.training import Adam, AdamW, _step_kernels, _table

PEERS = {Adam: torch.optim.Adam, AdamW: torch.optim.AdamW}
SHAPES = ((), (1,), (0,), (63,), (64,), (65, 3), (997,), (3, 5, 7))


@njit(cache=False)
def words(seed, step, start, count):
    """Random words of the elements from `start` on, and those that go by parts."""
    out = np.empty((2, count), np.uint32)
    done = 0
    while done < count:
        key = narrow.random_key(seed, step)
        part, low, near = _step_kernels._part(start + done, count - done, key)
        for i in range(part):
            out[0, done + i] = narrow.random_bits(seed, step, np.uint64(start + done + i))
            out[1, done + i] = narrow.random_word(near, np.uint32(low + i))
        done += part
    return out


def parameters(shapes=SHAPES, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def fill(params, step, scale=1.0):
    generator = torch.Generator().manual_seed(1000 + step)
    for p in params:
        p.grad = (torch.randn(p.shape, generator=generator) * scale).to(p.dtype)


def units(found, expected, at=None):
    """Largest distance in units in the last place of the larger of both and of `at`."""
    found, expected = found.detach(), expected.detach()
    size = torch.maximum(found.abs(), expected.abs())
    size = size if at is None else torch.maximum(size, at.detach().abs())
    bits = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}[found.dtype]
    exponent = torch.frexp(size.double()).exponent.clamp(min=-126)
    unit = torch.ldexp(torch.ones_like(size, dtype=torch.float64), exponent - bits)
    return float(((found.double() - expected.double()).abs() / unit).max()) if size.numel() else 0.0


def same_bits(mine, theirs):
    mine, theirs = list(mine), list(theirs)
    assert len(mine) == len(theirs) > 0
    return all(torch.equal(a.detach(), b.detach()) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"maximize": True, "eps": 1e-3}])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_a_step_is_within_two_units_of_pytorchs(kind, options, size):
    """Of its fused step, that is: its loop takes its roots from a library that rounds worse."""
    mine = [torch.nn.Parameter(torch.cat([p.detach().ravel() * size for p in parameters()]))]
    theirs, slow = ([torch.nn.Parameter(p.detach().clone()) for p in mine] for _ in "ab")
    options = {"weight_decay": 0.1, **options}
    a, b = kind(mine, **options), PEERS[kind](theirs, fused=True, **options)
    c = PEERS[kind](slow, foreach=False, **options)
    for step in range(8):
        before = mine[0].detach().clone()
        old = {k: v.clone() for k, v in b.state[theirs[0]].items()}
        for params, optimizer in ((mine, a), (theirs, b), (slow, c)):
            fill(params, step, 3.0)
            optimizer.step()
        assert units(mine[0], theirs[0], before) <= 2
        assert units(mine[0], slow[0], before) <= 8
        for name, value in a.state[mine[0]].items():
            # The first moment may cancel: then the units are those of what was added.
            at = torch.maximum(old.get(name, value).abs(), 0.1 * mine[0].grad.abs())
            assert units(value, b.state[theirs[0]][name], at) <= 2, name
            # Each step starts from the same place, or errors would add up.
            b.state[theirs[0]][name].copy_(value)
            c.state[slow[0]][name].copy_(value)
        theirs[0].data.copy_(mine[0].detach())
        slow[0].data.copy_(mine[0].detach())


def test_planted_bugs_are_seen():
    """The bound of two units tells the forms apart that simple versions mix up."""
    theirs = parameters(((997,),))
    b = torch.optim.AdamW(theirs, weight_decay=0.1)
    fill(theirs, 0)
    b.step()
    for wrong in ({"decay": "l2"}, {"epsilon": "hat", "eps": 1e-5}, {"weight_decay": 0.1001}):
        mine = parameters(((997,),))
        a = AdamW(mine, **{"weight_decay": 0.1, **wrong})
        fill(mine, 0)
        a.step()
        assert units(mine[0], theirs[0]) > 2, wrong


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("states", ["parameter", "float32", "bfloat16"])
def test_halves_are_stepped_in_single_precision(dtype, states):
    mine = parameters(dtype=dtype)
    wide = [torch.nn.Parameter(p.detach().float()) for p in mine]
    a = AdamW(mine, weight_decay=0.1, lr=0.01, eps=1e-6, states=states)
    b = torch.optim.AdamW(wide, weight_decay=0.1, lr=0.01, eps=1e-6)
    for step in range(3):
        fill(mine, step)
        for p, q in zip(mine, wide, strict=True):
            q.grad = p.grad.float()
        a.step()
        b.step()
        for p, q in zip(mine, wide, strict=True):
            assert units(p, q.detach().to(dtype)) <= 1
            q.data.copy_(p.detach().float())
            for name in ("exp_avg", "exp_avg_sq"):
                value = a.state[p][name]
                assert value.dtype == {"parameter": dtype, "float32": torch.float32,
                                       "bfloat16": torch.bfloat16}[states]  # fmt: skip
                b.state[q][name].copy_(value.float())


def test_layouts_aliases_and_new_memory():
    base = torch.randn(40, 30)
    made = {
        "transposed": torch.randn(6, 5).t(),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "with gaps": base[:, ::2],
        "offset": torch.randn(100)[3:],
    }
    mine = [torch.nn.Parameter(t.detach()) for t in made.values()]
    theirs = [torch.nn.Parameter(t.clone(memory_format=torch.preserve_format))
              for t in made.values()]  # fmt: skip
    a, b = AdamW(mine, weight_decay=0.1), torch.optim.AdamW(theirs, weight_decay=0.1)
    for step in range(4):
        fill(mine, step)
        fill(theirs, step)
        if step == 1:
            for p in mine:
                p.grad = p.grad.contiguous()
        if step == 2:
            for p in mine:
                p.grad = torch.stack([p.grad, p.grad], dim=-1)[..., 0]
        if step == 3:
            mine[0].data = mine[0].data.clone()
            a.state[mine[1]]["exp_avg"] = a.state[mine[1]]["exp_avg"].clone()
            for value in a.state[mine[3]].values():
                value.data = value.data.clone()
        a.step()
        b.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)
    # The gaps are left as they were, and the memory behind the view has moved with it.
    assert torch.equal(base[:, ::2], mine[2].detach())


def test_parameters_that_share_memory_are_updated_in_their_order():
    def made():
        memory = torch.linspace(-1, 1, 20_000)
        return [torch.nn.Parameter(memory[:15_000]), torch.nn.Parameter(memory[5_000:]),
                torch.nn.Parameter(torch.ones(3))]  # fmt: skip

    mine, theirs = made(), made()
    for params, optimizer in (
        (mine, AdamW(mine, weight_decay=0.1)), (theirs, torch.optim.AdamW(theirs, weight_decay=0.1))
    ):  # fmt: skip
        for step in range(3):
            fill(params, step)
            optimizer.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("threads", [2, 3])
def test_results_do_not_depend_on_threads(threads):
    def trained(count):
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            params = parameters(((300_000,), (17,), (150_001,)), torch.bfloat16)
            optimizer = AdamW(params, weight_decay=0.1, rounding="stochastic", max_norm=1.0)
            for step in range(2):
                fill(params, step)
                optimizer.step()
            return params, optimizer.grad_norm
        finally:
            torch.set_num_threads(before)

    (one, norm), (many, other) = trained(1), trained(threads)
    assert same_bits(one, many)
    assert norm == other


def test_unscale_clip_step_and_copy_in_one_pass():
    shapes = ((300, 7), (2000,), (5,))
    masters, theirs = parameters(shapes), parameters(shapes)
    model = [torch.nn.Parameter(p.detach().bfloat16()) for p in masters]
    a = AdamW(masters, weight_decay=0.1, max_norm=1.0, copy_to=model)
    b = torch.optim.AdamW(theirs, weight_decay=0.1)
    for step in range(3):
        fill(model, step, 1024.0)
        for p, q in zip(model, theirs, strict=True):
            q.grad = p.grad.float() / 1024
        a.grad_scale = torch.tensor(1024.0)
        a.step()
        norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        b.step()
        assert a.grad_norm == pytest.approx(float(norm), rel=1e-6)
        torch.testing.assert_close(masters, theirs, rtol=1e-6, atol=1e-7)
        assert same_bits(model, [p.detach().bfloat16() for p in masters])
        a.zero_grad()
        assert all(p.grad is None for p in model)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_is_not_finite_skips_the_step_and_says_so(bad, exact):
    params = parameters()
    optimizer = AdamW(params, weight_decay=0.1, max_norm=math.inf, exact=exact)
    fill(params, 0)
    optimizer.step()
    assert optimizer.stepped
    expected = math.sqrt(sum(float(p.grad.double().square().sum()) for p in params))
    assert optimizer.grad_norm == pytest.approx(expected, rel=1e-12)
    before = [p.detach().clone() for p in params]
    params[-1].grad.view(-1)[-1] = bad
    optimizer.step()
    assert not optimizer.stepped
    assert not math.isfinite(optimizer.grad_norm)
    assert same_bits(params, before)
    assert int(optimizer.state[params[0]]["step"]) == 1
    params[-1].grad.view(-1)[-1] = 1.0
    optimizer.step()
    assert optimizer.stepped


@pytest.mark.parametrize("exact", [True, False])
def test_gradscaler_hands_over_its_scale_and_what_it_found(exact):
    mine, theirs = parameters(), parameters()
    a = AdamW(mine, weight_decay=0.1, exact=exact)
    b = torch.optim.AdamW(theirs, weight_decay=0.1, foreach=False)
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=2) for _ in "ab"]
    ran = []
    for step in range(5):
        for params, optimizer, scaler in ((mine, a, scalers[0]), (theirs, b, scalers[1])):
            scaler.scale(torch.ones(()))
            fill(params, step, float(scaler.get_scale()))
            if step == 2:
                params[0].grad.fill_(math.inf)
            if step == 3:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        ran.append(a.stepped)
        assert scalers[0].get_scale() == scalers[1].get_scale()
        if exact:
            assert same_bits(mine, theirs)
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)
    assert ran == [True, True, False, True, True]


def test_norm_of_large_gradients_does_not_overflow():
    p = torch.nn.Parameter(torch.zeros(1000))
    p.grad = torch.full((1000,), 1e30)
    optimizer = AdamW([p], lr=0.1, weight_decay=0.1, max_norm=1.0)
    optimizer.step()
    assert optimizer.stepped
    assert optimizer.grad_norm == pytest.approx(1e30 * math.sqrt(1000), rel=1e-6)


def test_stochastic_rounding_is_unbiased():
    count, value = 1 << 22, 1.00146484375
    params = [torch.nn.Parameter(torch.zeros(count, dtype=torch.bfloat16))]
    optimizer = AdamW(params, lr=value, betas=(0.0, 0.0), eps=0.0, weight_decay=0.1,
                      rounding="stochastic", maximize=True)  # fmt: skip
    total, draws = 0.0, 0
    for _ in range(3):
        params[0].data.zero_()
        params[0].grad = torch.ones(count, dtype=torch.bfloat16)
        optimizer.step()
        found = params[0].detach().double()
        assert set(found.unique().tolist()) == {1.0, 1.0078125}
        total, draws = total + float(found.sum()), draws + count
    assert draws > 1e7
    share = (np.float32(value) - 1.0) / 0.0078125
    sigma = 0.0078125 * math.sqrt(share * (1 - share) / draws)
    assert abs(total / draws - np.float32(value)) < 3 * sigma


def test_stochastic_rounding_is_replayed_from_seed_step_and_index():
    shapes = ((100,), (9000,))
    params = parameters(shapes, torch.bfloat16)
    wide = [p.detach().float() for p in params]
    optimizer = AdamW(params, lr=0.01, weight_decay=0.1, states="float32",
                      rounding="stochastic", seed=77)  # fmt: skip
    exact = [torch.nn.Parameter(w.clone()) for w in wide]
    twin = AdamW(exact, lr=0.01, weight_decay=0.1)
    fill(params, 0)
    for p, q in zip(params, exact, strict=True):
        q.grad = p.grad.float()
    optimizer.step()
    twin.step()
    start = 0
    for p, q in zip(params, exact, strict=True):
        bits = q.detach().numpy().view(np.uint32).astype(np.uint64)
        chance = words(77, 1, start, p.numel())[0].astype(np.uint64) & np.uint64(0xFFFF)
        expected = ((bits + chance) >> np.uint64(16)).astype(np.uint16)
        assert np.array_equal(p.detach().view(torch.uint16).numpy(), expected)
        start += p.numel()


def test_small_updates_survive_random_rounding_and_not_the_nearest():
    """Section 4 of Zamirai et al.: nearest rounding stalls where lr is below half a unit."""
    ends = {}
    for rounding in ("nearest", "stochastic"):
        p = torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
        optimizer = AdamW([p], lr=1e-4, weight_decay=0.01, rounding=rounding)
        for _ in range(100):
            p.grad = torch.ones_like(p)
            optimizer.step()
        ends[rounding] = float(p.detach().float().mean())
    assert ends["nearest"] == 1.0
    assert ends["stochastic"] == pytest.approx(0.99, abs=3e-4)


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(0, 200), min_size=1, max_size=6),
    without=st.sets(st.integers(0, 5)),
    cut=st.integers(1, 5),
)
def test_grouping_and_missing_gradients_change_nothing(sizes, without, cut):
    mine, theirs = (parameters([(n,) for n in sizes]) for _ in "ab")
    groups = [{"params": part} for part in (mine[:cut], mine[cut:]) if part]
    a, b = AdamW(groups, weight_decay=0.1), torch.optim.AdamW(theirs, weight_decay=0.1)
    for step in range(3):
        for params in (mine, theirs):
            fill(params, step)
            for at in without:
                if at < len(params) and step != 1:
                    params[at].grad = None
        a.step()
        b.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_nan_stays_where_it_is(dtype, rounding):
    params = parameters(((100,), (50,)), dtype)
    optimizer = AdamW(params, weight_decay=0.1, rounding=rounding)
    fill(params, 0)
    params[0].grad[17] = math.nan
    if dtype == torch.bfloat16:
        params[0].grad.view(torch.int16)[17] = 0x7FFF  # the NaN that a carry would make -0
    optimizer.step()
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.isnan(optimizer.state[params[0]][name]).nonzero().ravel().tolist() == [17]
    assert torch.isnan(params[0]).nonzero().ravel().tolist() == [17]
    assert not torch.isnan(params[1]).any()


def test_index_beyond_32_bits_reaches_the_key():
    for start in (0, (1 << 32) - 3, 1 << 32, (5 << 32) + 17, (6 << 32) - 1):
        found = words(5, 3, start, 10)
        assert np.array_equal(found[0], found[1])
    assert not np.array_equal(words(5, 3, 0, 10)[0], words(5, 3, 1 << 32, 10)[0])


def test_dense_knows_gaps_and_overlaps():
    t = torch.zeros(4, 6)
    for dense in (t, t.t(), t[1:3], torch.zeros(()), torch.zeros(3, 0), t[:, :1].expand(4, 1)[:1]):
        assert _table.dense(dense)
    for other in (t[:, 1:], t[:1, :1].expand(2, 3), t[::2]):
        assert not _table.dense(other)


def test_shards_are_stepped_where_they_lie(tmp_path):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        whole = parameters(((64, 3), (10,)))
        parts = [torch.nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(0)]))
                 for p in whole]  # fmt: skip
        a, b = (
            AdamW(parts, weight_decay=0.1, max_norm=1.0),
            torch.optim.AdamW(whole, weight_decay=0.1),
        )
        for step in range(2):
            fill(whole, step)
            for p, q in zip(parts, whole, strict=True):
                p.grad = distribute_tensor(q.grad.clone(), mesh, [Shard(0)])
            a.step()
            norm = torch.nn.utils.clip_grad_norm_(whole, 1.0)
            b.step()
            assert a.grad_norm == pytest.approx(float(norm), rel=1e-6)
        assert isinstance(a.state[parts[0]]["exp_avg"], DTensor)
        torch.testing.assert_close([p.full_tensor() for p in parts], [p.detach() for p in whole],
                                   rtol=1e-6, atol=1e-7)  # fmt: skip
    finally:
        dist.destroy_process_group()


def test_model_trains_and_goes_on_after_a_copy():
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimizer = AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    x = torch.randn(64, 8, generator=generator)
    y = x[:, :1] * x[:, 1:2]
    losses = []
    for step in range(60):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step == 30:
            model, optimizer = copy.deepcopy((model, optimizer))
    assert losses[-1] < 0.6 * losses[0]
    assert losses[31] < losses[29] * 1.05


def test_a_step_is_seen_by_who_keeps_what_was_made_of_the_weights():
    weight = torch.nn.Parameter(torch.ones(70))
    optimizer = AdamW([weight], lr=0.1)
    weight.grad = torch.ones(70)
    before = weight._version
    optimizer.step()
    assert weight._version > before
    doubled = (weight * weight).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        doubled.backward()
