"""A prompt forwarded once for all its answers: exactly the rows apart, gradients too."""

import dataclasses

import pytest
import torch

from paragone.language import Llama, LlamaConfig
from paragone.language._preference_forward import (
    Group,
    hidden_states,
    pack_groups,
    shares_prompts,
    summed,
    token_scores,
)
from paragone.language._preference_reference import group_scores, parts_of, token_scores_of

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPS = [
    Group([1, 2, 3, 4], [[5, 6, 7], [8], []]),
    Group([1], [[9, 9], [3, 4, 5, 6, 7, 8]], [[1, 0], [0, 1, 1, 0, 1, 1]]),
    Group([4] * 13, [[1, 2]]),
]  # fmt: skip


def llama(dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(0)
    model = Llama(LlamaConfig(**SIZES, **options), generator=generator, dtype=dtype)
    for parameter in model.parameters():
        parameter.data.mul_(4)
    return model.eval()


def grads(model, packed, apart):
    model.zero_grad()
    scores = token_scores(model, packed, hidden_states(model, packed, apart=apart), 0.7)
    sums = summed(scores, packed)
    (sums * torch.arange(1, len(sums) + 1)).sum().backward()
    flat = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return sums.detach(), torch.cat(flat)


@pytest.mark.parametrize(
    "options",
    [
        {"num_key_value_heads": 2, "tie_word_embeddings": True},
        {"mixer": "window", "mixer_options": {"window": 3}},
        {"qk_norm": True, "attention_bias": True, "rope_layout": "interleaved"},
        {"n_routed_experts": 3, "num_experts_per_tok": 1, "moe_intermediate_size": 8},
    ],
    ids=["gqa", "window", "norm", "experts"],
)
@pytest.mark.parametrize("whole", [False, True])
def test_shared_is_apart(options, whole):
    model = llama(**options)
    assert shares_prompts(model)
    packed = pack_groups(GROUPS, whole=whole)
    shared, apart = grads(model, packed, False), grads(model, packed, True)
    torch.testing.assert_close(shared[0], apart[0], atol=1e-11, rtol=1e-10)
    torch.testing.assert_close(shared[1], apart[1], atol=1e-10, rtol=1e-9)


def test_kernels_agree_with_the_definition():
    model = llama(torch.float32)
    packed = pack_groups(GROUPS)
    shared, apart = grads(model, packed, False), grads(model, packed, True)
    torch.testing.assert_close(shared[0], apart[0], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(shared[1], apart[1], atol=5e-3, rtol=1e-3)


def test_scores_are_those_of_the_logits():
    # trap 12: shifted, summed, only answers' tokens
    model = llama()
    packed = pack_groups(GROUPS)
    found = summed(token_scores(model, packed, hidden_states(model, packed)), packed).detach()
    at = 0
    for prompt, answers, marks in GROUPS:
        for number, answer in enumerate(answers):
            text = torch.tensor([[*prompt, *answer]])
            logs = torch.log_softmax(model(text).logits[0], -1).detach()
            expected = sum(
                float(logs[len(prompt) + t - 1, token])
                for t, token in enumerate(answer)
                if marks is None or marks[number][t]
            )
            assert float(found[at]) == pytest.approx(expected, abs=1e-10)
            at += 1
    assert packed.counts.tolist() == [3, 1, 0, 1, 4, 2]


def test_wrong_places_are_caught():
    # The planted bug: the second answer placed behind the first one.
    model = llama()
    packed = pack_groups(GROUPS)
    running = dataclasses.replace(packed, places=torch.arange(len(packed.places)))
    right = token_scores(model, packed, hidden_states(model, packed))
    wrong = token_scores(model, running, hidden_states(model, running))
    assert float((right - wrong).detach().abs().max()) > 1e-3


def test_other_mixers_take_rows_apart():
    model = llama(mixer="retention")
    assert not shares_prompts(model)
    together = group_scores(model, GROUPS)
    single = []
    for prompt, answers, marks in GROUPS:
        for number, answer in enumerate(answers):
            group = Group(prompt, [answer], None if marks is None else [marks[number]])
            single.append(group_scores(model, [group]))
    torch.testing.assert_close(torch.tensor(together), torch.tensor(single).flatten())


def test_parts_do_not_change_scores():
    model = llama()
    torch.testing.assert_close(
        torch.tensor(group_scores(model, GROUPS)),
        torch.tensor(group_scores(model, GROUPS, tokens=1)),
    )
    assert [len(part) for part in parts_of(GROUPS, 1)] == [1, 1, 1]
    assert [len(scores) for scores in token_scores_of(model, GROUPS)] == [3, 1, 0, 1, 4, 2]


@pytest.mark.parametrize("length", [1, 63, 64, 65])
def test_odd_lengths(length):
    model = llama()
    group = Group([1] * length, [[7] * length, [3]])
    packed = pack_groups([group])
    shared = token_scores(model, packed, hidden_states(model, packed))
    apart = token_scores(model, packed, hidden_states(model, packed, apart=True))
    torch.testing.assert_close(shared, apart)


def test_the_last_token_reads_everything():
    model = llama()
    packed = pack_groups(GROUPS, whole=True)
    hidden = hidden_states(model, packed)[packed.last]
    text = torch.tensor([[*GROUPS[1].prompt, *GROUPS[1].answers[1]]])
    torch.testing.assert_close(hidden[4], model(text).hidden[0, -1])


def test_prompts_need_a_token():
    with pytest.raises(ValueError, match="begin prompts with BOS"):
        pack_groups([Group([], [[1]])])
    with pytest.raises(ValueError, match="at least one"):
        pack_groups([])
