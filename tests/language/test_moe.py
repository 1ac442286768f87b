"""Experts: grouped against the plain form, the router's rules one by one, balance."""

import pytest
import torch

from paragone.kernels.backends import why_not
from paragone.language.config import LlamaConfig
from paragone.language.llama import Llama
from paragone.language.moe import MixtureOfExperts, balance_experts
from paragone.language.ops.experts import reference, routed_experts

TINY = {
    "vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "n_routed_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
BACKENDS = [name for name in ("numba", "torch") if why_not(name) is None]


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def routes(tokens, most, experts, seed=0):
    source = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(experts, generator=source)[:most] for _ in range(tokens)]
    return torch.stack(rows) if rows else torch.zeros(0, most, dtype=torch.int64)


def made(**changes):
    config = LlamaConfig(**TINY | changes)
    mixture = MixtureOfExperts(config)
    mixture.reset_parameters(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for x in (mixture.gate.weight, *mixture.experts.parameters()):
            x.mul_(20)
    return mixture


def close(found, wanted, tolerance=1e-5):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def results(form, parts, chosen, dtype, **options):
    x, weights, gate_up, down = (v.to(dtype).clone().requires_grad_() for v in parts)
    y = form(x, chosen, weights, gate_up, down, **options)
    y.square().sum().backward()
    return [y.detach(), *(v.grad for v in (x, weights, gate_up, down))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", [(0, 2, 4, 8, 8), (1, 1, 3, 5, 7), (64, 3, 8, 65, 63)], ids=str)
def test_grouped_experts_are_the_plain_ones(sizes, backend):
    tokens, most, experts, inner, width = sizes
    parts = [
        drawn(tokens, width), drawn(tokens, most, seed=1).abs(),
        drawn(experts, 2 * inner, width, seed=2), drawn(experts, width, inner, seed=3),
    ]  # fmt: skip
    chosen = routes(tokens, most, experts)
    chosen[chosen == 2] = experts  # nobody's tokens
    wanted = results(reference.routed_experts, parts, chosen, torch.float64)
    for dtype, found in (
        (torch.float32, results(routed_experts, parts, chosen, torch.float32, backend=backend)),
        (torch.float64, results(routed_experts, parts, chosen, torch.float64)),
    ):
        for a, b in zip(found, wanted, strict=True):
            assert a is not None, "an expert without tokens has a gradient of zero"
            scale = b.abs().max().item() if b.numel() else 1.0
            limit = (2e-6 if dtype == torch.float32 else 1e-12) * (scale or 1.0)
            torch.testing.assert_close(a.double(), b, rtol=0, atol=limit)
        assert (found[3][2] == 0).all()
        assert (found[4][2] == 0).all()
    swapped = parts[2].roll(inner, 1)
    wrong = results(routed_experts, [*parts[:2], swapped, parts[3]], chosen, torch.float64)
    assert tokens < 2 or (wrong[0] - wanted[0]).abs().max() > 1e-3


def test_gradients_are_those_of_differences():
    chosen = routes(4, 2, 3)
    parts = [drawn(4, 3), drawn(4, 2, seed=1), drawn(3, 4, 3, seed=2), drawn(3, 3, 2, seed=3)]
    x, weights, gate_up, down = (v.double().requires_grad_() for v in parts)
    assert torch.autograd.gradcheck(
        lambda *given: routed_experts(given[0], chosen, *given[1:]), (x, weights, gate_up, down)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_hang_neither_on_threads_nor_on_neighbours(backend):
    parts = [
        drawn(700, 32), drawn(700, 2, seed=1), drawn(4, 320, 32, seed=2) / 8,
        drawn(4, 32, 160, seed=3) / 8,
    ]  # fmt: skip
    chosen = routes(700, 2, 4)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(routed_experts(parts[0], chosen, *parts[1:], backend=backend))
    finally:
        torch.set_num_threads(threads)
    close(found[0], found[1], 1e-6)
    some = slice(100, 165)
    alone = routed_experts(parts[0][some], chosen[some], parts[1][some], *parts[2:])
    close(found[0][some], alone, 2e-5)
    strided = drawn(700, 64)[:, ::2]
    close(
        routed_experts(strided, chosen, *parts[1:], backend=backend),
        routed_experts(strided.contiguous(), chosen, *parts[1:], backend="torch"), 1e-4,
    )  # fmt: skip


def test_torch_knows_the_operation():
    from paragone.language.ops.experts.registration import _forward

    parts = [drawn(5, 4), drawn(5, 2, seed=1), drawn(3, 6, 4, seed=2), drawn(3, 4, 3, seed=3)]
    x, weights, gate_up, down = (v.requires_grad_() for v in parts)
    torch.library.opcheck(
        _forward, (x, routes(5, 2, 3), weights, gate_up, down, True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"\(E, 2 F, M\)"):
        routed_experts(x, routes(5, 2, 3), weights, gate_up[:, :, 1:], down)
    double = (x.double(), routes(5, 2, 3), weights.double(), gate_up.double(), down.double())
    with pytest.raises(ValueError, match="works in float32"):
        routed_experts(*double, backend="numba")


RULES = {
    "softmax": {}, "raw": {"norm_topk_prob": False, "routed_scaling_factor": 1.7},
    "sigmoid": {"scoring_func": "sigmoid", "routed_scaling_factor": 2.5},
    "groups": {"scoring_func": "sigmoid", "n_group": 4, "topk_group": 2},
    "shared": {"scoring_func": "sigmoid", "n_shared_experts": 2, "moe_intermediate_size": 8},
}  # fmt: skip


def by_hand(mixture, x):
    """Token by token, with numbers."""
    config, out = mixture.config, []
    weights = {name: v.double() for name, v in mixture.state_dict().items()}
    bias = weights["gate.e_score_correction_bias"].tolist()
    for token in x.double():
        logits = weights["gate.weight"] @ token
        soft = config.scoring_func == "softmax"
        scores = (logits.softmax(0) if soft else logits.sigmoid()).tolist()
        choice = [s + b for s, b in zip(scores, bias, strict=True)]
        size = len(choice) // config.n_group
        groups = [choice[g * size : g * size + size] for g in range(config.n_group)]
        value = [sum(sorted(group)[-2:]) for group in groups]
        best = sorted(range(config.n_group), key=lambda g: -value[g])[: config.topk_group]
        allowed = [e for e in range(len(choice)) if e // size in best]
        kept = sorted(allowed, key=lambda e: -choice[e])[: config.num_experts_per_tok]
        share = {e: scores[e] for e in kept}
        if config.norm_topk_prob:
            share = {e: s / sum(share.values()) for e, s in share.items()}
        y = torch.zeros_like(token)
        for e, s in share.items():
            gate, up = (weights["experts.gate_up_proj"][e] @ token).chunk(2)
            inner = gate * gate.sigmoid() * up
            y += config.routed_scaling_factor * s * (weights["experts.down_proj"][e] @ inner)
        if mixture.shared_experts is not None:
            gate = weights["shared_experts.gate_proj.weight"] @ token
            inner = gate * gate.sigmoid() * (weights["shared_experts.up_proj.weight"] @ token)
            y += weights["shared_experts.down_proj.weight"] @ inner
        out.append(y)
    return torch.stack(out)


@pytest.mark.parametrize("name", RULES)
def test_a_mixture_is_what_its_equation_says(name):
    mixture = made(**RULES[name])
    spread = 0.3 if "sigmoid" in str(RULES[name]) else 0.05
    mixture.gate.e_score_correction_bias.copy_(spread * drawn(8, seed=5))
    x = drawn(2, 9, 16, seed=6)
    wanted = by_hand(mixture, x.flatten(0, 1)).view(2, 9, 16)
    close(mixture.double()(x.double()), wanted, 1e-10)
    mixture.gate.e_score_correction_bias.zero_()
    assert (mixture(x.double()) - wanted).abs().max() > 1e-4, "the bias chooses"


def test_the_bias_is_set_by_balance_alone():
    mixture = made(scoring_func="sigmoid").train()
    assert "gate.e_score_correction_bias" not in dict(mixture.named_parameters())
    x = drawn(3, 20, 16, seed=2)
    mixture(x).square().sum().backward()
    bias = mixture.gate.e_score_correction_bias
    assert bias.grad is None
    load = mixture.load.double()
    assert load.sum() == 3 * 20 * 2
    worst = mixture.rebalance(0.25)
    assert worst == pytest.approx(float(load.max() / load.mean()))
    close(bias, 0.25 * torch.sign(load.mean() - load).float())
    assert mixture.rebalance() is None, "loads are forgotten"
    mixture.eval()(x)
    assert mixture.load is None, "only training counts"
    assert mixture.half().gate.e_score_correction_bias.dtype == torch.float32


def test_balance_without_a_loss_evens_out_the_loads():
    mixture = made(scoring_func="sigmoid").train()
    with torch.no_grad():
        mixture.gate.weight[0] += 0.5
        for step in range(300):
            mixture(1 + drawn(1, 128, 16, seed=step))
            worst = balance_experts(mixture, rate=0.02 if step < 200 else 0.002)
            if step == 0:
                first = worst
        mixture(1 + drawn(1, 4096, 16, seed=999))
    assert first > 2
    assert balance_experts(mixture) <= 1.2


def test_padding_is_sent_to_nobody_and_counts_for_nothing():
    mixture = made(router_aux_loss_coef=1.0).train()
    x, lengths = drawn(2, 6, 16), torch.tensor([6, 2])
    y = mixture(x, lengths)
    assert int(mixture.load.sum()) == 8 * 2
    loss = mixture.balance_loss
    assert (y[1, 2:] == 0).all()
    alone = made(router_aux_loss_coef=1.0).train()
    close(y[0], alone(x[:1])[0])
    alone = made(router_aux_loss_coef=1.0).train()
    alone(torch.cat([x[0], x[1, :2]])[None])
    close(loss, alone.balance_loss)
    with torch.no_grad():
        alone.gate.weight.zero_()
        alone(x)
    close(alone.balance_loss, torch.tensor(1.0))


def test_the_model_gathers_the_loss_and_pads_by_the_mask():
    config = LlamaConfig(**TINY, router_aux_loss_coef=0.5, first_k_dense_replace=1)
    model = Llama(config, generator=torch.Generator().manual_seed(0)).train()
    assert not isinstance(model.model.layers[0].mlp, MixtureOfExperts)
    ids = torch.randint(0, 30, (2, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    out = model(ids, attention_mask=mask)
    close(out.balance_loss, 0.5 * model.model.layers[1].mlp.balance_loss)
    assert int(model.model.layers[1].mlp.load.sum()) == 7 * 2
    (out.logits.square().mean() + out.balance_loss).backward()
    assert model.model.layers[1].mlp.gate.weight.grad.abs().max() > 0
    assert model.eval()(ids).balance_loss is None
    assert balance_experts(model) >= 1


def test_training_and_tuning_add_the_loss_that_balances():
    from paragone.language.finetune import answer_loss
    from paragone.language.packing import pack
    from paragone.language.train import next_token_loss

    config = LlamaConfig(**TINY, router_aux_loss_coef=0.5)
    model = Llama(config, generator=torch.Generator().manual_seed(0)).train()
    (row,) = pack([[1, 2, 3, 4, 5], [6, 7, 8]], 8)
    for loss in (next_token_loss(model, row), answer_loss(model, row)):
        added = 0.5 * sum(block.mlp.balance_loss for block in model.model.layers) / 2
        model.eval()
        close(loss.total, next_token_loss(model, row).total + loss.count * added)
        model.train()


def test_the_router_is_wide_whatever_the_weights_are():
    mixture = made(scoring_func="sigmoid")
    x = drawn(64, 16).bfloat16()
    scores, _, weights = mixture.bfloat16().gate(x)
    assert scores.dtype == weights.dtype == torch.float32
    wide = torch.sigmoid(x.float() @ mixture.gate.weight.float().T)
    close(scores, wide, 1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        y = mixture.float()(x.float())
        close(mixture.gate(x.float())[0], wide, 1e-6)
    assert y.dtype == torch.bfloat16
