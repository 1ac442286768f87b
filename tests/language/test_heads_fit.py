"""Draft heads' data and training: own samples, labels, kept streams, runs that go on."""

import numpy as np
import pytest
import torch
from torch import nn

from paragone.language import Llama, LlamaConfig
from paragone.language._heads_data import HeadBatch, own_samples, streams
from paragone.language._heads_fit import fit_heads, held_out, main_loss
from paragone.language.fitting import Loss
from paragone.language.losses import token_loss
from paragone.training.by_name import make_optimizer

SIZES = {"vocab_size": 29, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "max_position_embeddings": 64, "bos_token_id": 1}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return Llama(LlamaConfig(**SIZES), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 29, n) for n in (5, 9, 2, 17, 30, 8, 9, 1)]


def test_labels_ahead_stay_within_their_row():
    batch = HeadBatch(torch.tensor([[5, 6, 7, 8], [1, 2, 0, 0]]), torch.tensor([4, 2]),
                      torch.zeros(2, 4, 1))  # fmt: skip
    assert batch.ahead(1).tolist() == [[6, 7, 8, -100], [2, -100, -100, -100]]
    assert batch.ahead(3).tolist() == [[8, -100, -100, -100], [-100] * 4]
    assert batch.shifted(9).tolist() == [[0] * 4] * 2


def test_streams_are_those_of_single_rows(model, rows):
    whole = streams(model, rows)
    for at, row in enumerate(rows):
        alone = model(torch.from_numpy(row)[None], logits=False).hidden[0]
        torch.testing.assert_close(whole.hidden[at, : len(row)], alone, rtol=1e-4, atol=1e-5)
    assert not whole.hidden.requires_grad


def test_samples_are_the_models_own(model):
    """Greedy samples are what the model takes; seeds decide draws; beginnings are kept."""
    texts = [list(range(1, 20)), [3, 4], list(range(20))]
    found = own_samples(model, None, texts, 200, temperature=0, prefix=(2, 5), length=16)
    for row in found:
        assert len(row) <= 16
        scores = model(torch.from_numpy(row)[None]).logits[0]
        assert (scores.argmax(-1)[5:-1] == torch.from_numpy(row)[6:]).all()
    one, again, other = (own_samples(model, None, None, 150, length=20, prefix=(1, 4), seed=s)
                         for s in (3, 3, 4))  # fmt: skip
    assert [r.tolist() for r in one] == [r.tolist() for r in again]
    assert [r.tolist() for r in one] != [r.tolist() for r in other]
    assert len({tuple(r) for r in one}) == len(one)
    assert sum(len(r) - 1 for r in one) >= 150


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": 0}, "every row"), ({"length": 3}, "length=3"), ({"length": 99}, "64 tokens"),
     ({"texts": [[]]}, "no beginning"), ({"texts": ["a text"]}, "tokenizer")],
    ids=["greedy", "short", "long", "empty", "text"],
)  # fmt: skip
def test_samples_that_cannot_be_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        own_samples(model, None, options.pop("texts", None), 10, **options)


def _setup(model):
    head = nn.Linear(16, 16)
    with torch.no_grad():
        head.weight.copy_(torch.eye(16))
        head.bias.zero_()

    def loss(batch):
        return Loss(*token_loss(head(batch.hidden), model.lm_head.weight, batch.ahead(2)))

    return head, loss


def test_kept_streams_change_nothing(model, rows):
    found = []
    for keep in (1 << 30, 0):
        head, loss = _setup(model)
        fitted = fit_heads(head, model, rows, loss, steps=7, batch=2, length=12, keep=keep)
        found.append((head.weight.detach().clone(), fitted))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].metrics == found[1][1].metrics
    assert all(p.requires_grad for p in model.parameters())


def test_runs_go_on_bit_for_bit(model, rows, tmp_path):
    head, loss = _setup(model)
    fit_heads(head, model, rows, loss, steps=8, batch=2, folder=tmp_path / "whole")
    other, inner = _setup(model)
    steps = []

    def stopped(batch):
        steps.append(0)
        if len(steps) == 5:
            raise RuntimeError("killed")
        return inner(batch)

    with pytest.raises(RuntimeError, match="killed"):
        fit_heads(other, model, rows, stopped, steps=8, batch=2, folder=tmp_path / "part")
    again, loss_again = _setup(model)
    fit_heads(again, model, rows, loss_again, steps=8, batch=2, folder=tmp_path / "part")
    assert torch.equal(head.weight, again.weight)
    with pytest.raises(ValueError, match="another run"):
        fit_heads(again, model, rows, loss_again, steps=9, batch=2, folder=tmp_path / "part")


def test_joint_training_moves_the_model_by_its_own_rate(rows):
    model = Llama(LlamaConfig(**SIZES), generator=torch.Generator().manual_seed(0))
    before = model.lm_head.weight.detach().clone()
    head, _ = _setup(model)

    def loss(batch):
        total, count = main_loss(model, batch)
        more, _ = token_loss(head(batch.hidden), model.lm_head.weight, batch.ahead(2))
        return Loss(total + more, count)

    fit_heads(head, model, rows, loss, steps=3, batch=2, joint=True, base_rate=0.1, lr=1e-2,
              warmup=0, schedule="constant")  # fmt: skip
    moved = float((model.lm_head.weight.detach() - before).abs().max())
    assert 0 < moved < 4 * 1e-3
    assert float((head.weight.detach() - torch.eye(16)).abs().max()) > 1e-2
    with pytest.raises(ValueError, match="muon"):
        make_optimizer(head, "muon", lr=1.0, rates={"weight": 0.1})


def test_budgets_and_rows_are_checked(model, rows):
    head, loss = _setup(model)
    with pytest.raises(ValueError, match="one budget"):
        fit_heads(head, model, rows, loss, steps=1, tokens=3)
    with pytest.raises(ValueError, match="three tokens"):
        fit_heads(head, model, [row[:2] for row in rows], loss, steps=1)
    with pytest.raises(ValueError, match="one to validate"):
        held_out(rows[:1])
    assert [len(part) for part in held_out(rows)] == [7, 1]
    assert fit_heads(head, model, rows, loss, seconds=0.05, batch=4).tokens > 0
