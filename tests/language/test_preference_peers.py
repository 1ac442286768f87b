"""Losses and reward models against TRL and transformers, on random numbers."""

import types
import warnings
from collections import defaultdict

import pytest
import torch

from paragone.language import Llama, LlamaConfig, RewardModel
from paragone.language._preference_forward import Group
from paragone.language._preference_losses import Options, Scores, checked_losses, pair_losses

pytestmark = pytest.mark.peers
N, T = 5, 7
NAMES = {
    "sigmoid": "sigmoid", "hinge": "hinge", "ipo": "ipo", "exo": "exo_pair", "nca": "nca_pair",
    "robust": "robust", "bco": "bco_pair", "sppo": "sppo_hard", "aot": "aot",
    "aot_unpaired": "aot_unpaired", "apo_zero": "apo_zero", "apo_down": "apo_down",
    "discopop": "discopop", "sft": "sft", "sigmoid_norm": "sigmoid_norm",
}  # fmt: skip


@pytest.fixture(scope="module")
def trl_modules():
    trainers = types.SimpleNamespace()
    pytest.importorskip("trl", reason="no TRL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.cpo.cpo_trainer import CPOTrainer
        from trl.experimental.orpo.orpo_trainer import ORPOTrainer
        from trl.trainer.dpo_trainer import DPOTrainer
        from trl.trainer.kto_trainer import KTOTrainer
    trainers.dpo, trainers.kto, trainers.cpo, trainers.orpo = (
        DPOTrainer, KTOTrainer, CPOTrainer, ORPOTrainer
    )  # fmt: skip
    return trainers


def same(value):
    return value


def stage(**more):
    """A trainer's own attributes, as far as its loss reads them."""
    accelerator = types.SimpleNamespace(
        device=torch.device("cpu"), gather=same, gather_for_metrics=same
    )
    return types.SimpleNamespace(
        accelerator=accelerator, model=types.SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)}, aux_loss_enabled=False, _total_train_tokens=0,
        _tp_size=1, use_weighting=False, **more,
    )  # fmt: skip


class Fixed:
    """A model whose log-probabilities are given."""

    training = True

    def __init__(self, per_token):
        self.per_token = per_token

    def __call__(self, **inputs):
        zero = torch.zeros_like(self.per_token)
        return types.SimpleNamespace(
            log_probs=self.per_token, entropy=zero, mean_logits=zero, is_top1=zero.bool(),
            log_sum_sq_probs=zero,
        )  # fmt: skip


@pytest.fixture
def trace():
    generator = torch.Generator().manual_seed(3)
    mask = torch.zeros(2 * N, T + 1, dtype=torch.int64)
    lengths = torch.tensor([3, 5, 1, 6, 4, 2, 6, 5, 1, 3])
    for row, length in enumerate(lengths.tolist()):
        mask[row, 1 : 1 + length] = 1
    scored = mask[:, 1:].bool()
    policy = -3 * torch.rand(2 * N, T, generator=generator).masked_fill(~scored, 0)
    reference = (-3 * torch.rand(2 * N, T, generator=generator)).masked_fill(~scored, 0).sum(1)
    return policy, reference, lengths, mask


def ours(trace, name, options, kl=None):
    policy, reference, lengths, _ = trace
    sums = policy.sum(1)
    scores = Scores(
        sums[:N], sums[N:], reference[:N], reference[N:], lengths[:N], lengths[N:], None, kl
    )
    return pair_losses(checked_losses(name, options), scores, options).mean()


def theirs(trl_modules, trace, name, options, divergence="reverse_kl"):
    policy, reference, _, mask = trace
    trainer = stage(
        ld_alpha=None, precompute_ref_logps=True, f_divergence_type=divergence,
        f_alpha_divergence_coef=options.alpha, loss_types=[NAMES[name]], loss_weights=[1.0],
        beta=options.beta, label_smoothing=options.label_smoothing,
        args=types.SimpleNamespace(discopop_tau=options.tau),
    )  # fmt: skip
    inputs = {
        "input_ids": mask, "attention_mask": mask, "completion_mask": mask,
        "ref_chosen_logps": reference[:N], "ref_rejected_logps": reference[N:],
    }  # fmt: skip
    return trl_modules.dpo._compute_loss(trainer, Fixed(policy), inputs, False)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_losses_of_trl(trl_modules, trace, name):
    smoothing = 0.1 if name in ("robust", "exo", "aot", "aot_unpaired") else 0.0
    options = Options(beta=0.3, label_smoothing=smoothing)
    policy = trace[0].requires_grad_()
    (mine,) = torch.autograd.grad(ours(trace, name, options), policy)
    (peer,) = torch.autograd.grad(theirs(trl_modules, trace, name, options), policy)
    scored = trace[3][:, 1:]
    torch.testing.assert_close(mine * scored, peer * scored, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(
            ours(trace, name, options), theirs(trl_modules, trace, name, options)
        )


@pytest.mark.parametrize("kind", ["forward_kl", "js", "alpha"])
def test_divergences_of_trl(trl_modules, trace, kind):
    options = Options(beta=0.3, divergence=kind, alpha=0.4)
    name = {"js": "js_divergence", "alpha": "alpha_divergence"}.get(kind, kind)
    torch.testing.assert_close(
        ours(trace, "sigmoid", options), theirs(trl_modules, trace, "sigmoid", options, name)
    )


def test_smoothed_sigmoid_is_where_trl_differs(trl_modules, trace):
    options = Options(beta=0.3, label_smoothing=0.2)
    plain = theirs(trl_modules, trace, "sigmoid", options)
    torch.testing.assert_close(plain, ours(trace, "sigmoid", Options(beta=0.3)))
    assert abs(float(ours(trace, "sigmoid", options) - plain)) > 1e-3


def test_kto_of_trl(trl_modules, trace):
    policy, reference, _, mask = trace
    generator = torch.Generator().manual_seed(4)
    others = -3 * torch.rand(2 * N, T, generator=generator)
    before = others.sum(1) - 0.5
    trainer = stage(
        calculate_KL=True, precompute_ref_logps=True, loss_type="kto", beta=0.3,
        desirable_weight=1.5, undesirable_weight=0.7, aux_loss_coef=0.0,
    )  # fmt: skip
    trainer._compute_kl_logps = lambda model, batch: others.sum(1)
    batch = {
        "input_ids": mask, "attention_mask": mask, "completion_mask": mask,
        "label": torch.tensor([True] * N + [False] * N), "ref_logps": reference,
        "ref_KL_logps": before,
    }  # fmt: skip
    peer = trl_modules.kto._compute_loss(trainer, Fixed(policy), batch, False)
    options = Options(beta=0.3, desirable=1.5, undesirable=0.7)
    torch.testing.assert_close(ours(trace, "kto", options, kl=0.5), peer)


def test_losses_without_reference_of_trl(trl_modules, trace):
    policy, _, lengths, _ = trace
    sums, options = policy.sum(1), Options(beta=0.3, label_smoothing=0.1, gamma=0.4, nll=0.0)
    trainer = stage(alpha=0.0, beta=0.3, label_smoothing=0.1, loss_type="simpo", simpo_gamma=0.4)
    means = sums / lengths
    peer = trl_modules.cpo.cpo_loss(trainer, means[:N], means[N:])[0].mean()
    torch.testing.assert_close(ours(trace, "simpo", options), peer)
    trainer.loss_type = "sigmoid"
    peer = trl_modules.cpo.cpo_loss(trainer, sums[:N], sums[N:])[0].mean()
    torch.testing.assert_close(ours(trace, "cpo", options), peer)
    peer = -trl_modules.orpo.odds_ratio_loss(stage(beta=0.3), means[:N], means[N:])[0].mean()
    torch.testing.assert_close(ours(trace, "orpo", Options(beta=0.3, nll=0.0)), peer)


def test_transformers_reads_a_saved_reward(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = Llama(LlamaConfig(vocab_size=30, rope_layout="interleaved", **sizes))
    reward = RewardModel(llama, generator=torch.Generator().manual_seed(1))
    reward.save(tmp_path)
    peer = transformers.LlamaForSequenceClassification.from_pretrained(tmp_path)
    ids = [1, 5, 9, 17, 2]
    expected = peer(torch.tensor([ids])).logits[0, 0].detach()
    found = reward.group_rewards([Group(ids[:2], [ids[2:]])])[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
