"""The operation: its definition by hand, every form and back end against it, and its traps."""

import pytest
import torch

from paragone.kernels import choice
from paragone.mixers.ops.linear import _cpu
from paragone.mixers.ops.linear.chunked import chunked
from paragone.mixers.ops.linear.interface import FUSED, linear_attention, start
from paragone.mixers.ops.linear.reference import LinearState, recurrent

KINDS = [(gate, delta, norm) for gate in (0, 1, 2) for delta, norm in ((0, 0), (1, 0), (0, 1))]


def inputs(gate, delta, norm, time, *, rows=1, heads=2, keys=9, values=5, pace=0.5, seed=0,
           dtype=torch.float32):  # fmt: skip
    """q, k, v, gate, beta and a state; keys and queries not negative where they are normalised."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    q, k = normal(2, rows, heads, time, keys)
    v = normal(rows, time, heads, values).transpose(1, 2)
    if norm:
        q, k = q.abs(), k.abs()
    if delta:
        k = torch.nn.functional.normalize(k, dim=-1)
    g = [None, -pace * normal(rows, heads, time).abs(), -pace * normal(*k.shape).abs()][gate]
    beta = 2 * torch.sigmoid(normal(rows, heads, time)) if delta else None
    z = normal(rows, heads, keys if norm else 0).abs()
    return q, k, v, g, beta, LinearState(normal(rows, heads, keys, values), z)


def call(q, k, v, gate, beta, state, **options):
    normalize = bool(state is not None and state.norm.shape[-1])
    return linear_attention(
        q, k, v, gate=gate, beta=beta, state=state, normalize=normalize, **options
    )


def doubled(arguments):
    *tensors, state = arguments
    return [None if x is None else x.double() for x in tensors] + [
        LinearState(*(x.double() for x in state))
    ]


def close(found, wanted, tolerance=3e-6):
    for one, two in zip(found, wanted, strict=True):
        if two.numel():
            size = two.abs().max().clamp(min=1e-30)
            assert (one - two).abs().max() <= tolerance * size
            assert one.isfinite().all()


def flat(o, state):
    return [o, *state]


def test_definition_by_hand():
    q, k = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [0.5]])
    v, g = torch.tensor([[10.0], [20.0]]), torch.tensor([0.0, -1.0])
    e = torch.tensor(-1.0).exp()
    given = [x[None, None].double() for x in (q, k, v)]
    o, state = recurrent(*given, g[None, None].double(), None, start(1, 1, 1, 1, normalize=False,
                         like=given[0]), 0.5)  # fmt: skip
    assert o.flatten().tolist() == pytest.approx([0.5 * 30, 0.5 * 2 * float(30 * e + 10)])
    assert state.memory.item() == pytest.approx(float(30 * e + 10))
    beta = torch.tensor([[[1.0, 1.5]]]).double()
    o, _ = recurrent(*given, None, beta, start(1, 1, 1, 1, normalize=False, like=given[0]), 1.0)
    second = 30 + 0.5 * 1.5 * (20 - 30 * 0.5)
    assert o.flatten().tolist() == pytest.approx([30, 2 * second])


def test_normalised_is_a_weighted_mean_over_all_pairs():
    q, k, v, *_ = inputs(0, 0, 1, 13, dtype=torch.float64)
    weights = (q @ k.transpose(-1, -2)).tril()
    wanted = weights @ v / weights.sum(-1, keepdim=True)
    for form in ("recurrent", "chunked", "parallel"):
        o, state = linear_attention(q, k, v, normalize=True, form=form, chunk=4)
        torch.testing.assert_close(o, wanted)
        torch.testing.assert_close(state.norm, k.sum(2))
    both = linear_attention(q, k, v, normalize=True, causal=False)[0]
    weights = q @ k.transpose(-1, -2)
    torch.testing.assert_close(both, weights @ v / weights.sum(-1, keepdim=True))


@pytest.mark.parametrize(("gate", "delta", "norm"), KINDS)
def test_forms_agree_in_float64(gate, delta, norm):
    given = inputs(gate, delta, norm, 41, dtype=torch.float64)
    wanted = flat(*call(*given, form="recurrent", scale=0.3))
    for options in ({"form": "parallel"}, {"chunk": 7}, {"chunk": 32}):
        for one, two in zip(flat(*call(*given, scale=0.3, **options)), wanted, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("gate", "delta", "norm"), KINDS)
@pytest.mark.parametrize("time", [1, 63, 65, 131])
def test_kernel_is_the_definition_in_float64_with_every_gradient(gate, delta, norm, time):
    shapes = {1: (3, 2), 63: (64, 64), 65: (9, 1), 131: (13, 17)}[time]
    given = inputs(gate, delta, norm, time, keys=shapes[0], values=shapes[1], pace=1.0)
    feature_map = "elu1" if norm else ("identity", "relu")[time == 131]
    results = []
    for arguments in (given, doubled(given)):
        leaves = [*arguments[:5], *arguments[5]]
        leaves = [x.clone().requires_grad_() for x in leaves if x is not None and x.numel()]
        rest = iter(leaves)
        q, k, v, g, beta, memory, z = (
            next(rest) if x is not None and x.numel() else x
            for x in (*arguments[:5], *arguments[5])
        )
        if arguments is given:
            found = flat(*call(q, k, v, g, beta, LinearState(memory, z), scale=0.3,
                               feature_map=feature_map, backend="numba"))  # fmt: skip
        else:
            phi = FUSED[feature_map]
            found = flat(*recurrent(phi(q), phi(k), v, g, beta, LinearState(memory, z), 0.3))
        weights = [torch.linspace(-1, 1, x.numel()).view_as(x).to(x.dtype) for x in found]
        loss = sum((x * w).sum() for x, w in zip(found, weights, strict=True))
        results.append([*found, *torch.autograd.grad(loss, leaves)])
    close(*results, tolerance=2e-5)


@pytest.mark.parametrize(("gate", "delta", "norm"), KINDS)
def test_chunks_of_any_size_give_the_same(gate, delta, norm):
    """Trap 18."""
    given = inputs(gate, delta, norm, 97, keys=20)
    wanted = flat(*recurrent(*doubled(given), 1.0))
    for chunk in (1, 16, 60, 64, 128):
        close(flat(*call(*given, chunk=chunk, backend="numba")), wanted, 5e-6)


@pytest.mark.parametrize(("delta", "norm"), [(0, 0), (1, 0), (0, 1)])
def test_gate_of_zero_changes_no_bit(delta, norm):
    """Trap 20, in the outputs and in every other gradient."""
    q, k, v, _, beta, state = inputs(0, delta, norm, 130, keys=24)
    found = []
    for gate in (None, torch.zeros(1, 2, 130), torch.zeros(1, 2, 130, 24)):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        o, after = call(*leaves, gate, beta, state, backend="numba")
        grads = torch.autograd.grad(o.square().sum() + after.memory.sum(), leaves)
        found.append([o, *after, *grads])
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


@pytest.mark.parametrize("pace", [20.0, 300.0])
@pytest.mark.parametrize(("gate", "delta", "norm"), [k for k in KINDS if k[0]])
def test_strong_decay_is_finite_and_right(gate, delta, norm, pace):
    """Trap 19: in single steps, and beside channels that do not decay."""
    q, k, v, g, beta, state = inputs(gate, delta, norm, 70, pace=0.01)
    g[..., 20:30, None if gate == 1 else 3] = -pace
    wanted = flat(*recurrent(*doubled((q, k, v, g, beta, state)), 1.0))
    for backend in ("numba", "torch"):
        leaf = g.clone().requires_grad_()
        o, after = call(q, k, v, leaf, beta, state, backend=backend)
        close(flat(o, after), wanted, 1e-5)
        assert torch.autograd.grad(o.sum(), leaf)[0].isfinite().all()


def test_no_output_knows_the_future_bitwise():
    for gate, delta, norm in ((0, 0, 1), (2, 1, 0)):
        q, k, v, g, beta, state = inputs(gate, delta, norm, 90)
        before = call(q, k, v, g, beta, state)[0]
        for at in (1, 62, 89):
            changed = [x.clone() for x in (q, k, v)]
            for x in changed:
                x[:, :, at:] *= 50
            assert torch.equal(call(*changed, g, beta, state)[0][:, :, :at], before[:, :, :at])


@pytest.mark.parametrize(("gate", "delta", "norm"), KINDS)
def test_prefix_and_rest_are_the_whole(gate, delta, norm):
    """Trap 18: with gradients that flow through the state."""
    q, k, v, g, beta, state = inputs(gate, delta, norm, 100)
    leaf = k.clone().requires_grad_()
    whole, last = call(q, leaf, v, g, beta, state)
    wanted = [whole, *last, torch.autograd.grad(whole.square().sum(), leaf)[0]]
    outputs, after = [], state
    for part in (slice(0, 37), slice(37, 38), slice(38, 100)):
        cut = [None if x is None else x[:, :, part] for x in (q, leaf, v, g, beta)]
        o, after = call(*cut, after)
        outputs.append(o)
    found = torch.cat(outputs, 2)
    close([found, *after, torch.autograd.grad(found.square().sum(), leaf)[0]], wanted, 1e-5)


@pytest.mark.parametrize(("gate", "delta", "norm"), KINDS)
def test_one_token_without_gradients_is_the_step_kernel(gate, delta, norm):
    given = inputs(gate, delta, norm, 1, keys=20, values=23)
    kept = [x.clone() for x in given[5]]
    with torch.no_grad():
        found = flat(*call(*given, scale=0.4, backend="numba"))
    close(found, flat(*recurrent(*doubled(given), 0.4)))
    assert all(torch.equal(x, y) for x, y in zip(kept, given[5], strict=True))


def test_one_token_of_a_state_beyond_the_cache():
    q, k, v, *_ = inputs(0, 0, 0, 1, rows=9, heads=4, keys=128, values=256)
    state = LinearState(torch.rand(9, 4, 128, 256), torch.zeros(9, 4, 0))
    with torch.no_grad():
        o, after = call(q, k, v, None, None, state)
    wanted = state.memory + k.transpose(-1, -2) * v
    torch.testing.assert_close(after.memory, wanted)
    torch.testing.assert_close(o, q @ wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(("gate", "delta", "norm"), [(1, 1, 0), (2, 0, 1)])
def test_lengths_cut_rows_and_padding_may_be_nan(backend, gate, delta, norm):
    q, k, v, g, beta, state = inputs(gate, delta, norm, 70, rows=4)
    lengths = torch.tensor([70, 0, 1, 33])
    for row, length in enumerate(lengths):
        v[row, :, length:] = torch.nan if backend == "numba" else 0.0
    leaf = q.clone().requires_grad_()
    o, after = call(leaf, k, v, g, beta, state, lengths=lengths, backend=backend)
    grad = torch.autograd.grad(o.sum(), leaf)[0]
    for row, length in enumerate(lengths.tolist()):
        assert (o[row, :, length:] == 0).all()
        assert (grad[row, :, length:] == 0).all()
        cut = [None if x is None else x[row : row + 1, :, :length] for x in (q, k, v, g, beta)]
        begun = LinearState(*(x[row : row + 1] for x in state))
        alone, last = call(*cut, begun, backend=backend)
        close([o[row : row + 1, :, :length]], [alone], 1e-6)
        close([x[row : row + 1] for x in after], last, 1e-6)


def test_threads_change_no_bit():
    given = inputs(2, 1, 0, 200, rows=3, heads=4, keys=32, values=64)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            leaf = given[1].clone().requires_grad_()
            o, after = call(given[0], leaf, *given[2:], backend="numba")
            found.append([o, *after, torch.autograd.grad(o.square().sum(), leaf)[0]])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_strides_are_taken_as_they_come():
    q, k, v, g, *_ = inputs(1, 0, 0, 30, rows=2, keys=16, values=8)
    wanted = linear_attention(q, k, v, gate=g)[0]
    column = torch.empty(2, 2, 16, 30).transpose(-1, -2).copy_(q)
    holes = torch.empty(2, 2, 60, 40)[:, :, ::2, 3:19].copy_(k)
    assert torch.equal(linear_attention(column, holes, v, gate=g)[0], wanted)
    one = k[:, :1].expand(-1, 2, -1, -1)
    dense = linear_attention(q, one.contiguous(), v, gate=g)[0]
    assert torch.equal(linear_attention(q, one, v, gate=g)[0], dense)
    same = torch.full((2,), -0.1)[:, None].expand(2, 2, 30)
    dense = linear_attention(q, k, v, gate=same.contiguous())[0]
    assert torch.equal(linear_attention(q, k, v, gate=same)[0], dense)


def test_half_precision_is_storage():
    q, k, v, g, beta, state = inputs(1, 1, 0, 80)
    wanted, last = call(q.bfloat16().float(), k.bfloat16().float(), v.bfloat16().float(), g, beta,
                        state)  # fmt: skip
    for dtype in (torch.bfloat16, torch.float16):
        o, after = call(q.to(dtype), k.to(dtype), v.to(dtype), g, beta, state)
        assert (o.dtype, after.memory.dtype) == (dtype, torch.float32)
        torch.testing.assert_close(o.float(), wanted, rtol=2e-2, atol=5e-2)
    assert last.memory.dtype == torch.float32


def test_empty_inputs():
    q, k, v, g, beta, state = inputs(1, 1, 0, 0)
    o, after = call(q, k, v, g, beta, state)
    assert o.shape == v.shape
    assert torch.equal(after.memory, state.memory)
    none = [x[:0] for x in inputs(0, 0, 0, 5)[:3]]
    assert linear_attention(*none)[0].shape == (0, 2, 5, 5)


def test_sum_of_no_weight_is_zero_not_nan():
    """Trap 23: also where all features underflow."""
    q = torch.zeros(1, 1, 4, 8)
    v = torch.ones(1, 1, 4, 3)
    assert (linear_attention(q, q, v, normalize=True)[0] == 0).all()
    tiny = torch.full((1, 1, 4, 8), 1e-14)
    torch.testing.assert_close(linear_attention(tiny, tiny, v, normalize=True)[0], v)
    low = torch.full((1, 1, 4, 8), -200.0, requires_grad=True)
    o = linear_attention(low, low, v, normalize=True, feature_map="elu1")[0]
    assert o.isfinite().all()
    assert torch.autograd.grad(o.sum(), low)[0].isfinite().all()


@pytest.mark.parametrize(("gate", "delta", "norm"), KINDS)
def test_gradients_of_the_forms_in_torch(gate, delta, norm):
    *tensors, state = inputs(gate, delta, norm, 5, heads=1, keys=3, values=2, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (*tensors, *state) if x is not None and x.numel()]

    def function(*leaves, form):
        rest = iter(leaves)
        *given, memory, z = (
            next(rest) if x is not None and x.numel() else x for x in (*tensors, *state)
        )
        if form == "recurrent":
            return tuple(flat(*recurrent(*given, LinearState(memory, z), 0.7)))
        return tuple(flat(*chunked(*given, LinearState(memory, z), 0.7, 2)))

    for form in ("recurrent", "chunked"):
        assert torch.autograd.gradcheck(lambda *x, form=form: function(*x, form=form), leaves)


def test_operation_keeps_torchs_rules():
    q, k, v, g, beta, state = inputs(1, 1, 0, 6)
    leaves = [x.requires_grad_() for x in (q, k, v, g, beta)]
    arguments = (*leaves, None, *state, False, 1, 4, 1.0)
    torch.library.opcheck(_cpu.linear_attention_cpu, arguments)


def test_memory_grows_by_values_not_by_states():
    """Trap 22: 16384 tokens of 64 x 64 would be 268 MB of states."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, function, kinds, arguments=(), keywords=None):
            out = function(*arguments, **(keywords or {}))
            for x in out if isinstance(out, tuple | list) else (out,):
                if isinstance(x, torch.Tensor):
                    self.found = max(self.found, x.numel())
            return out

    q, k, v = torch.zeros(3, 1, 1, 2048, 64)
    with Largest() as mode:
        linear_attention(q, k, v, backend="torch")
    assert mode.found <= 2 * q.numel()


def test_oracle_catches_a_gate_that_is_one_token_late():
    q, k, v, g, _, state = inputs(1, 0, 0, 20)
    wanted = recurrent(*doubled((q, k, v, g, None, state)), 1.0)[0]
    late = torch.cat([torch.zeros(1, 2, 1), g[:, :, :-1]], 2)
    with pytest.raises(AssertionError):
        close([call(q, k, v, late, None, state)[0]], [wanted])


def test_what_cannot_be_is_refused_by_name():
    q, k, v, g, beta, state = inputs(1, 1, 0, 6)
    for options, text in (
        ({"k": k[..., :-1]}, r"k \(1, 2, 6, 8\)"),
        ({"v": v.double()}, "v is torch.float64"),
        ({"gate": g[..., None]}, r"gate has shape \(1, 2, 6, 1\)"),
        ({"beta": beta[:, :1]}, r"beta has shape \(1, 1, 6\)"),
        ({"normalize": True}, "the delta rule"),
        ({"causal": False}, "causal=False has no order"),
        ({"form": "fast"}, "form='fast' is none of"),
        ({"chunk": 0}, "chunk=0 holds no token"),
        ({"feature_map": "cos"}, "feature_map='cos' is none of"),
        ({"state": LinearState(state.memory[..., :2], state.norm)}, r"\(1, 2, 9, 2\)"),
        ({"gate": g.to("meta")}, "gate is on meta, q on cpu"),
        ({"backend": "numpy"}, "backend='numpy' is none of"),
        ({"backend": "numba", "form": "recurrent"}, "plain torch"),
    ):
        given = {"q": q, "k": k, "v": v, "gate": g, "beta": beta, "state": state, **options}
        with pytest.raises(ValueError, match=text):
            linear_attention(**given)
    with pytest.raises(ValueError, match="float64 needs more"):
        linear_attention(*(x.double() for x in (q, k, v)), backend="numba")
    assert "numba" in choice.backends("linear_attention")
