"""What attention costs is counted, not timed: tiles visited, and what the ladder moves."""

import pytest
import torch

from paragone.mixers import BlockMask, FlashAttention, attention
from paragone.mixers.ops.attention import _cpu, _cpu_parts
from paragone.mixers.ops.attention.rule import Call, Rule


def panels_visited(length, rule, mask=None):
    """Panels of keys that the tiles of queries visit, by the kernels' own search."""
    x = torch.zeros(1, 1, length, 16)
    table = None if mask is None else mask.table
    plan = _cpu.Plan(Call(x, x, x, rule, None, False, None, table,
                          None if mask is None else mask.elements))  # fmt: skip
    n, slots, visited = plan.sizes, torch.zeros(_cpu_parts.SLOTS, dtype=torch.int64).numpy(), 0
    for first in range(0, length, n.times):
        times = min(n.times, length - first)
        lo = max(0, first - n.left) if n.left >= 0 else 0
        hi = min(length, first + times + n.right) if n.right >= 0 else length
        panel = 0
        while True:
            used, panel = _cpu_parts.slotted(
                n, 0, 0, 1, first, first + times - 1, plan.extra.table, panel, lo, hi, slots
            )
            visited += used
            if not used:
                break
    return visited / (-(-length // n.times) * -(-length // _cpu_parts.PANEL))


def test_work_follows_the_area_that_is_left():
    assert panels_visited(1536, Rule(1.0)) == 1
    assert panels_visited(1536, Rule(1.0, right=0)) < 0.56
    for length in (2048, 4096, 8192):
        share = panels_visited(length, Rule(1.0, left=255, right=0))
        assert share * length == pytest.approx(256 + 96 + 64, rel=0.15)
    near = BlockMask.from_rule(lambda b, h, i, j: (i - j).abs() < 64, 1536, 1536)
    assert panels_visited(1536, Rule(1.0), near) < 1.4 * near.density


def test_a_mask_by_rule_looks_only_where_it_is_told_to():
    blocks = torch.eye(4, dtype=torch.bool)
    made = BlockMask.from_rule(lambda b, h, i, j: j <= i + h, 250, 250, heads=2, blocks=blocks)
    i, j = torch.arange(250)[:, None], torch.arange(250)
    wanted = torch.stack([(j <= i + h) & (i // 64 == j // 64) for h in range(2)])[None]
    assert torch.equal(made.dense(), wanted)
    assert made.density == 0.25
    assert torch.equal(made.to("cpu").dense(), wanted)
    x = torch.randn(1, 2, 250, 8)
    torch.testing.assert_close(attention(x, x, x, mask=made), attention(x, x, x, mask=wanted))
    with pytest.raises(ValueError, match="does not broadcast"):
        attention(x[:, :, :240], x, x, mask=made)


def test_memory_is_linear_in_length():
    """Scratch of the forward pass: panels of keys and values, nothing of T by T."""
    for length in (1024, 4096):
        x = torch.zeros(1, 1, length, 64)
        plan = _cpu.Plan(Call(x, x, x, Rule(1.0)))
        assert plan.packed_panels(x, 1, True).size == length * 64
        assert plan.packed_panels(x, 2, False).size == length * 64


def test_module_is_the_function_and_goes_on_from_states():
    torch.manual_seed(0)
    mixer = FlashAttention(32, heads=4, kv_heads=2, window=9, softcap=5.0, alibi=True, sinks=True)
    x = torch.randn(3, 20, 32)
    whole, _ = mixer(x)
    lengths = torch.tensor([7, 0, 11])
    _, state = mixer(x[:, :11], lengths=lengths)
    assert torch.equal(state.lengths, lengths)
    rest = torch.stack([x[row, n : n + 9] for row, n in enumerate(lengths.tolist())])
    found, after = mixer(rest, state=state)
    for row, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[row], whole[row, n : n + 9], rtol=1e-4, atol=1e-5)
    assert torch.equal(after.lengths, lengths + 9)
    y, _ = mixer.step(rest[:, 0], state)
    torch.testing.assert_close(y, found[:, 0], rtol=1e-4, atol=1e-5)
    for name, parameter in mixer.named_parameters():
        (gradient,) = torch.autograd.grad(found.square().sum(), parameter, retain_graph=True)
        assert gradient.abs().sum() > 0, name


def test_module_rotates_and_drops():
    turned = []

    def rotary(x, positions):
        turned.append(positions)
        return x * torch.cos(positions)[:, None, :, None]

    mixer = FlashAttention(16, heads=2, rotary=rotary, dropout=0.5)
    x = torch.randn(2, 6, 16)
    first, state = mixer.eval()(x)
    assert torch.equal(turned[0], torch.arange(6).expand(2, 6))
    mixer.step(x[:, 0], state)
    assert torch.equal(turned[-1], torch.full((2, 1), 6))
    torch.testing.assert_close(mixer(x)[0], first)
    assert not torch.allclose(mixer.train()(x)[0], mixer(x)[0])


def test_module_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="no multiple of kv_heads=3"):
        FlashAttention(32, heads=4, kv_heads=3)
    with pytest.raises(ValueError, match="width=30"):
        FlashAttention(30, heads=4)
    mixer = FlashAttention(32, heads=4, causal=False, device="meta")
    assert all(parameter.is_meta for parameter in mixer.parameters())
    with pytest.raises(ValueError, match="no state and no step"):
        mixer.step(torch.zeros(1, 32), None)
