"""PPO and GRPO: their terms by hand, their samples, and what they learn on a tiny model."""

import copy
import math

import pytest
import torch

from paragone.language import Llama, LlamaConfig, grpo, ppo
from paragone.language._preference_forward import Group
from paragone.language._preference_reference import token_scores_of
from paragone.language._rollout_gather import Prompts, Reference, gather, measure
from paragone.language._rollout_sampling import Answer, draw, sampler_of
from paragone.language._rollout_terms import (
    Leash,
    Watch,
    gae,
    group_advantages,
    padded,
    policy_loss,
    token_rewards,
    unpadded,
    value_loss,
    whitened,
)
from paragone.language.grpo import divergence, token_weights

SIZES = {"vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "max_position_embeddings": 24}  # fmt: skip
PROMPTS = [[1, 3], [1, 4, 5], [1]]


def llama(seed=0):
    model = Llama(LlamaConfig(**SIZES), generator=torch.Generator().manual_seed(seed))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(5)
    return model.eval()


def evens(prompts, answers):
    return [sum(x % 2 == 0 for x in answer) / max(len(answer), 1) for answer in answers]


def close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype))


def test_advantages_by_hand():
    # Two answers of 3 and 1 tokens, gamma 0.9, lambda 0.5.
    r, v = torch.tensor([0.1, -0.2, 1.0, 2.0]).double(), torch.tensor([0.5, 0.4, 0.3, 0.6]).double()
    d = [0.1 + 0.9 * 0.4 - 0.5, -0.2 + 0.9 * 0.3 - 0.4, 1.0 - 0.3]
    last = d[2]
    middle = d[1] + 0.45 * last
    first = d[0] + 0.45 * middle
    advantages, returns = gae(r, v, torch.tensor([3, 1]), 0.9, 0.5)
    close(advantages, [first, middle, last, 1.4])
    close(returns, [first + 0.5, middle + 0.4, last + 0.3, 2.0])


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_ends_of_lambda(lam):
    generator = torch.Generator().manual_seed(1)
    r, v = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    counts = torch.tensor([4, 0, 5])
    advantages, _ = gae(r, v, counts, 0.8, lam)
    at = 0
    for count in counts.tolist():
        for t in range(count):
            if lam:
                expected = sum(0.8**k * r[at + t + k] for k in range(count - t)) - v[at + t]
            else:
                after = v[at + t + 1] if t + 1 < count else 0.0
                expected = r[at + t] + 0.8 * after - v[at + t]
            assert float(advantages[at + t]) == pytest.approx(float(expected))
        at += count


def test_a_leak_between_answers_is_caught():
    # The planted bug: one long row, so that an answer's value leaks into the one before.
    r, v = torch.zeros(4), torch.tensor([0.1, 0.2, 5.0, 0.4])
    right, _ = gae(r, v, torch.tensor([2, 2]))
    wrong, _ = gae(r, v, torch.tensor([4]))
    assert float((right - wrong)[:2].abs().min()) > 0.2


def test_rewards_of_tokens():
    # trap 14: the score stands on the last token, whichever it is
    old, reference = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.5, -2.0, -1.0])
    found = token_rewards(
        torch.tensor([10.0, 7.0, 20.0]), old, reference, torch.tensor([2, 0, 1]), 0.1
    )
    close(found, [-0.05, 10.0, 20.2])


def test_whitening():
    x = torch.tensor([1.0, 2.0, 3.0, 6.0])
    close(whitened(x), ((x - 3) / x.std()).tolist())
    close(whitened(x, shift=False), ((x - 3) / x.std() + 3).tolist())
    assert torch.equal(whitened(x[:1]), x[:1])


def test_rows_and_back():
    counts = torch.tensor([2, 0, 3])
    rows = padded(torch.arange(5.0), counts)
    assert rows.tolist() == [[0, 1, 0], [0, 0, 0], [2, 3, 4]]
    assert unpadded(rows, counts).tolist() == [0, 1, 2, 3, 4]


def test_clipped_policy():
    old, advantages = torch.zeros(4), torch.tensor([1.0, 1.0, -1.0, -1.0])
    logs = torch.tensor([1.5, 0.5, 1.5, 0.5]).log().requires_grad_()
    losses, clipped = policy_loss(logs, old, advantages)
    close(losses.detach(), [-1.2, -0.5, 1.5, 0.8])
    assert clipped.tolist() == [True, False, False, True]
    losses.sum().backward()
    close(logs.grad, [0.0, -0.5, 1.5, 0.0])


def test_clipped_values():
    values, old, returns = torch.tensor([1.0, 0.1]), torch.zeros(2), torch.tensor([2.0, 2.0])
    close(value_loss(values, old, returns), [0.5 * 1.8**2, 0.5 * 1.9**2])
    close(value_loss(values, old, returns, None), [0.5, 0.5 * 1.9**2])


def test_leash_follows_its_target():
    leash = Leash(0.1, target=6.0, horizon=100.0)
    leash.update(60.0, 50)
    assert leash.coefficient == pytest.approx(0.1 * 1.1)
    leash.update(5.4, 50)
    assert leash.coefficient == pytest.approx(0.11 * (1 - 0.1 * 0.5))
    Leash(0.1).update(60.0, 50)


def test_watch_tells_chance_from_error():
    steady = Watch()
    assert steady.check(torch.tensor([0.3, -0.4, 0.2, -0.2])) is None
    assert steady.check(torch.zeros(4)) is None
    low = torch.tensor([-1.0, -2.0, -0.2, -1.5])
    assert steady.check(low) is None
    assert "drawn at another temperature" in (steady.check(low) or "")
    assert Watch().check(-10 + 0.1 * low) is not None


def test_groups_by_hand():
    found = group_advantages(torch.tensor([1.0, 3.0, 5.0, 5.0]), 2)
    close(found, [-1 / (2**0.5 + 1e-4), 1 / (2**0.5 + 1e-4), 0.0, 0.0])
    close(divergence(torch.tensor([-1.0]), torch.tensor([-2.0])), [math.exp(-1)])
    counts = torch.tensor([1, 3])
    close(token_weights(counts, "answer", 8).double(), [0.5, 1 / 6])
    close(token_weights(counts, "token", 8), [0.25, 0.25])
    close(token_weights(counts, "constant", 8), [1 / 16, 1 / 16])


@pytest.mark.parametrize("backend", ["torch", "engine"])
def test_samples_are_of_the_policy(backend):
    model = llama()
    sampler = draw if backend == "torch" else sampler_of(model, "auto")
    found = sampler(model, PROMPTS * 20, max_new_tokens=6, temperature=0.7, stop=(2,), seed=(3,))
    groups = [Group(p, [a.ids]) for p, a in zip(PROMPTS * 20, found, strict=True)]
    for answer, logs in zip(found, token_scores_of(model, groups, 0.7), strict=True):
        torch.testing.assert_close(logs, torch.tensor(answer.log_probs), atol=1e-5, rtol=1e-5)
        assert answer.finished == (answer.ids[-1] == 2)
        assert 2 not in answer.ids[:-1]
        assert answer.finished or len(answer.ids) == 6
    assert any(answer.finished for answer in found)
    again = sampler(model, PROMPTS * 20, max_new_tokens=6, temperature=0.7, stop=(2,), seed=(3,))
    assert [a.ids for a in again] == [a.ids for a in found]


def test_draws_have_the_right_shares():
    model = llama()
    found = draw(model, [[1, 3]] * 4000, max_new_tokens=1, temperature=1.0)
    shares = torch.bincount(torch.tensor([a.ids[0] for a in found]), minlength=12) / 4000
    expected = torch.softmax(model(torch.tensor([[1, 3]])).logits[0, -1], -1).detach()
    chi = float(((shares - expected) ** 2 / expected).sum() * 4000)
    assert chi < 31  # 0.1 % of the chi-square distribution with 11 degrees


@pytest.mark.parametrize(("truncated", "expected"), [("none", 0.0), ("score", 1.0), (-2.0, -2.0)])
def test_answers_that_were_cut(truncated, expected):
    model = llama()
    found = gather(
        model, Prompts(PROMPTS, None), lambda asked, answers: [1.0] * len(answers),
        Reference(model), [0, 1, 2] * 4, max_new_tokens=3, temperature=1.0, stop=(2,),
        truncated=truncated, seed=(1,),
    )  # fmt: skip
    assert bool(found.finished.any())
    assert not bool(found.finished.all())
    assert found.credited[~found.finished].unique().tolist() == [expected]
    assert found.credited[found.finished].unique().tolist() == [1.0]
    assert found.scores.unique().tolist() == [1.0]


def test_rewards_see_answers_without_their_end():
    seen = []

    def reward(prompts, answers):
        seen.extend(zip(prompts, answers, strict=True))
        return [0.0] * len(answers)

    model = llama()
    measure(model, Reference(model), Prompts(PROMPTS, None), reward, samples=9, max_new_tokens=4,
            stop=(2,))  # fmt: skip
    assert [prompt for prompt, _ in seen[:3]] == PROMPTS
    assert all(2 not in answer for _, answer in seen)


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_a_reward_is_learned(method):
    model = llama()
    start = copy.deepcopy(model)
    how = {"steps": 10, "max_new_tokens": 5, "truncated": "score", "lr": 5e-3, "seed": 1}
    if method == "ppo":
        found = ppo(model, None, PROMPTS, evens, batch=24, kl=0.01, **how)
    else:
        found = grpo(model, None, PROMPTS, evens, batch=4, size=6, kl=0.01, **how)
    first, last = found.history[0], found.history[-1]
    assert len(found.history) == 10
    assert found.notes == []
    assert first["kl"] == pytest.approx(0, abs=1e-4)
    assert first["ratio_gap"] < 1e-4
    assert last["reward"] > first["reward"] + 0.15
    assert last["kl"] > 0
    held = measure(model, Reference(model, start), Prompts(PROMPTS, None), evens, samples=60,
                   max_new_tokens=5, stop=(2,))  # fmt: skip
    assert held["reward"] > 0.6
    assert held["kl"] > 3 * held["kl_error"]


def test_a_run_is_its_seed():
    one, two = llama(), llama()
    for model in (one, two):
        torch.rand(1)
        ppo(model, None, PROMPTS, evens, steps=2, batch=6, max_new_tokens=3, truncated="score")
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_strong_leash_holds():
    free, held = llama(), llama()
    how = {"steps": 6, "batch": 12, "max_new_tokens": 4, "truncated": "score", "lr": 1e-2}
    loose = ppo(free, None, PROMPTS, evens, kl=0.0, **how).history[-1]["kl"]
    tight = ppo(held, None, PROMPTS, evens, kl=1.0, **how).history[-1]["kl"]
    assert tight < 0.6 * loose


def test_an_adaptive_leash_and_a_critic_that_starts_alone():
    model = llama()
    start = copy.deepcopy(model.state_dict())
    found = ppo(
        model, None, PROMPTS, evens, steps=2, batch=6, max_new_tokens=3, truncated="score",
        kl_target=1.0, kl_horizon=60.0, critic_warmup=2,
    )  # fmt: skip
    assert found.history[1]["kl_coefficient"] == pytest.approx(0.05 * (1 - 0.2 * 0.1))
    assert all(torch.equal(a, start[name]) for name, a in model.state_dict().items())
    assert "value_loss" in found.history[0]
    assert "loss" not in found.history[0]


def test_a_wrong_sampler_is_found_out(monkeypatch):
    # trap 14: answers drawn at another temperature than is claimed give a negative divergence
    from paragone.language import _rollout_fit

    def hot(model, prompts, *, temperature, **rest):
        answers = draw(model, prompts, temperature=4.0, **rest)
        groups = [Group(p, [a.ids]) for p, a in zip(prompts, answers, strict=True)]
        logs = token_scores_of(model, groups, 4.0)
        pairs = zip(answers, logs, strict=True)
        # Claimed as of the policy: lower than the reference's at the true temperature.
        return [Answer(a.ids, (one - 1).tolist(), a.finished) for a, one in pairs]

    monkeypatch.setattr(_rollout_fit, "sampler_of", lambda model, backend: hot)
    found = ppo(llama(), None, PROMPTS, evens, steps=9, batch=24, max_new_tokens=5)
    assert len(found.history) < 3
    assert "standard errors below 0" in found.notes[0]


def test_adapters_leave_the_base():
    model = llama()
    start = copy.deepcopy(model.state_dict())
    found = grpo(
        model, None, PROMPTS, evens, steps=5, batch=3, size=4, max_new_tokens=4, lora_rank=2,
        truncated="score", lr=2e-2,
    )  # fmt: skip
    assert found.history[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert found.history[-1]["kl"] != 0
    assert torch.equal(model.state_dict()["lm_head.weight"], start["lm_head.weight"])


@pytest.mark.parametrize(
    ("call", "options", "words"),
    [
        (ppo, {"temperature": 0.0}, "drawn to be learned from"),
        (ppo, {"truncated": "maybe"}, "'none', 'score'"),
        (ppo, {"epochs": 0}, "at least 1 each"),
        (ppo, {"max_new_tokens": 23}, "lower max_new_tokens"),
        (ppo, {"reference": "live"}, "is the model that is trained"),
        (grpo, {"size": 1}, "at least 2 to a prompt"),
        (grpo, {"weighting": "mean"}, "none of 'answer'"),
        (grpo, {"steps": 0}, "steps=0: at least 1"),
    ],
)
def test_refusals(call, options, words):
    model = llama()
    if options.get("reference") == "live":
        options = {"reference": model, "max_new_tokens": 4}
    with pytest.raises(ValueError, match=words):
        call(model, None, PROMPTS, evens, **options)


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (lambda prompts, answers: [1.0], "one number for each"),
        (lambda prompts, answers: [float("nan")] * len(answers), "is nan"),
    ],
    ids=["few", "nan"],
)
def test_rewards_that_are_none(reward, words):
    with pytest.raises(ValueError, match=words):
        ppo(llama(), None, PROMPTS, reward, steps=1, batch=2, max_new_tokens=2)


def test_prompts_are_gone_through_in_rounds():
    prompts = Prompts(PROMPTS, None)
    seen = [at for step in range(3) for at in prompts.pick(step, 2, seed=0)]
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="no prompt"):
        Prompts([], None)
    with pytest.raises(ValueError, match="need a tokenizer"):
        Prompts(["text"], None)
