"""Reward models: the likelihood of preferences, what reads them, and their files."""

import math

import pytest
import torch

from paragone.language import Llama, LlamaConfig, RewardModel, ppo, reward_model
from paragone.language._preference_forward import Group
from paragone.language.rows import EncodedPair

SIZES = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 32}  # fmt: skip


class Letters:
    """A token for each of sixteen letters."""

    bos_id, eos_id, chat_template = 1, 2, None

    def encode(self, text, bos=True, eos=False):
        return [1] * bos + [4 + ord(c) % 16 for c in text] + [2] * eos

    def decode(self, ids, *, after=()):
        return "".join(chr(96 + i) for i in ids)


def llama(seed=0):
    return Llama(LlamaConfig(**SIZES), generator=torch.Generator().manual_seed(seed))


def pair(good, bad):
    return EncodedPair([1, 5], [*good, 2], [*bad, 2], [True] * (len(good) + 1),
                       [True] * (len(bad) + 1))  # fmt: skip


PAIRS = [pair([4, 6], [5]), pair([8], [7, 9]), pair([10, 4, 6], [11]), pair([6], [5, 7, 9])] * 3


def test_it_learns_what_is_preferred():
    model = llama()
    before = model.lm_head.weight.clone()
    found = reward_model(model, None, PAIRS, epochs=8, batch=6, lr=3e-3, evaluation=PAIRS[:4])
    first, last = found.run.history[0], found.run.metrics
    assert first["loss"] == pytest.approx(math.log(2), abs=0.05)
    assert last["accuracy"] == 1.0
    assert last["validation_accuracy"] == 1.0
    assert last["loss"] < 0.3
    assert last["margin"] > 1
    assert torch.equal(before, model.lm_head.weight)
    rewards = found.group_rewards([Group([1, 5], [p.chosen, p.rejected]) for p in PAIRS])
    assert float(rewards.mean()) == pytest.approx(0, abs=1e-4)


def test_loss_by_hand():
    found = reward_model(llama(), None, PAIRS[:1], batch=1, margins=[0.5], center=0.1, seed=3)
    generator = torch.Generator().manual_seed(3)
    start = RewardModel(llama(), generator=generator)
    good, bad = start.group_rewards([Group([1, 5], [PAIRS[0].chosen, PAIRS[0].rejected])]).tolist()
    expected = math.log1p(math.exp(-(good - bad - 0.5))) + 0.1 * (good + bad) ** 2
    assert found.run.history[0]["loss"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="2 margins for 1 pairs"):
        reward_model(llama(), None, PAIRS[:1], margins=[0.5, 1.0])


def test_texts_are_their_tokens():
    tokenizer = Letters()
    reward = RewardModel(llama(), tokenizer, generator=torch.Generator().manual_seed(1))
    ids = tokenizer.encode("ab")
    expected = reward.group_rewards([Group(ids, [[4 + ord("c") % 16, 2], [2]])]).tolist()
    assert reward(["ab", "ab"], ["c", ""]) == pytest.approx(expected)
    assert reward([], []) == []
    with pytest.raises(ValueError, match="one for each"):
        reward(["a"], [])
    with pytest.raises(ValueError, match="need a tokenizer"):
        RewardModel(llama())(["a"], ["b"])


def test_other_answers_change_nothing():
    reward = RewardModel(llama(), generator=torch.Generator().manual_seed(1))
    groups = [Group([1, 5], [[4, 2], [7, 9, 2]]), Group([1], [[6, 2]])]
    alone = [reward.group_rewards([Group(g.prompt, [a])]) for g in groups for a in g.answers]
    torch.testing.assert_close(reward.group_rewards(groups), torch.cat(alone))


def test_a_folder_and_back(tmp_path):
    reward = RewardModel(llama(), generator=torch.Generator().manual_seed(1))
    reward.level += 0.25
    reward.save(tmp_path)
    again = RewardModel.load(tmp_path)
    groups = [Group([1, 5], [[4, 2], [7, 9, 2]])]
    torch.testing.assert_close(again.group_rewards(groups), reward.group_rewards(groups))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json"):
        RewardModel.load(tmp_path)


def test_a_policy_learns_it_and_its_critic_starts_from_it():
    reward = reward_model(llama(), None, PAIRS, epochs=8, batch=6, lr=3e-3)
    kept = [p.clone() for p in reward.parameters()]
    policy = llama()
    found = ppo(policy, None, [[1, 5]], reward, steps=5, batch=16, max_new_tokens=4, lr=5e-3,
                kl=0.01, truncated="score")  # fmt: skip
    assert found.history[-1]["reward"] > found.history[0]["reward"]
    for a, b in zip(kept, reward.parameters(), strict=True):
        assert torch.equal(a, b)
