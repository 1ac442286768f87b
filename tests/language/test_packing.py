"""Packed rows: every token once, labels within documents, and the loss of single documents."""

import numpy as np
import pytest
import torch

from paragone.language import Llama, LlamaConfig, pack, token_loss
from paragone.language._train_data import Documents, Feed, output_of, validation_rows


def test_labels_are_shifted_within_the_document():
    packed = pack([[5, 6, 7], [8, 9]], length=8)
    (row,) = packed
    assert row.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert row.labels.tolist() == [[6, 7, -100, 9, -100]]
    assert row.lengths.tolist() == [3, 2]
    assert row.documents == (0, 1)
    assert row.targets == 3


def test_only_targets_are_learned_and_what_has_none_is_counted():
    packed = pack([[5, 6, 7, 8], [1, 2]], 8, targets=[[0, 0, 1, 1], [1, 0]])
    assert packed[0].labels.tolist() == [[-100, 7, 8, -100]]
    assert (packed.dropped, packed.lost) == (1, 2)
    assert "1 dropped" in str(packed)


@pytest.mark.parametrize("length", [2, 63, 64, 65, 127])
def test_every_token_is_in_one_row_and_rows_are_full(length):
    generator = np.random.default_rng(length)
    documents = [generator.integers(0, 99, n).tolist() for n in generator.integers(2, 200, 60)]
    packed = pack(documents, length)
    seen = {}
    for row in packed:
        assert row.input_ids.shape[1] <= length
        assert int(row.lengths.sum()) == row.input_ids.shape[1]
        for number, ids in zip(
            row.documents, row.input_ids[0].split(row.lengths.tolist()), strict=True
        ):
            seen.setdefault(number, []).extend(ids.tolist())
    lost = sum(len(d) for d in documents) - sum(map(len, seen.values()))
    assert lost == packed.lost
    for number, ids in seen.items():
        assert sorted(ids) == sorted(documents[number][: len(ids)]) or packed.cut
    if length > 2:
        assert len(packed) <= 1 + 1.25 * sum(map(len, documents)) / length


def test_long_documents_are_cut_truncated_or_dropped_and_it_is_said():
    long, short = list(range(10)), [1, 2]
    cut = pack([long, short], 4)
    assert (cut.cut, cut.truncated, cut.dropped, cut.lost) == (1, 0, 0, 0)
    whole = next(row for row in cut if row.input_ids[0, 0] == 0)
    assert whole.labels[0, 3] == 4, "the label of a piece's last token is the token behind it"
    truncated = pack([long, short], 4, long="truncate")
    assert (truncated.truncated, truncated.lost) == (1, 6)
    dropped = pack([long, short], 4, long="drop")
    assert (dropped.dropped, dropped.lost) == (1, 10)
    assert "tokens left out" in str(dropped)


def test_order_can_be_kept():
    packed = pack([[1, 1], [2] * 5, [3, 3]], 7, order="given")
    assert [row.documents for row in packed] == [(0, 1), (2,)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 1}, "length=1"),
        ({"length": 8, "long": "x"}, "long='x'"),
        ({"length": 8, "order": "x"}, "order='x'"),
        ({"length": 8, "targets": []}, "0 targets for 1"),
        ({"length": 8, "targets": [[1]]}, "2 tokens but 1 targets"),
    ],
)
def test_what_cannot_be_packed_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        pack([[1, 2]], **options)


def _model(**changes):
    config = LlamaConfig(**{
        "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, **changes,
    })  # fmt: skip
    return Llama(config, generator=torch.Generator().manual_seed(3)).double()


def _losses(model, rows):
    total, count = 0.0, 0
    for row in rows:
        hidden = output_of(model, row).hidden.flatten(0, 1)
        found, targets = token_loss(hidden, model.lm_head.weight, row.labels.flatten())
        total, count = total + found, count + int(targets)
    return total, count


@pytest.mark.parametrize("mixer", ["gqa", "linear", "mamba2"])
def test_packed_loss_and_gradients_are_those_of_single_documents(mixer):
    model = _model(mixer=mixer) if mixer == "gqa" else _model(mixer=mixer).float()
    generator = np.random.default_rng(5)
    documents = [generator.integers(0, 40, n).tolist() for n in (9, 2, 13, 5)]
    single = [pack([document], 16)[0] for document in documents]
    wanted, many = _losses(model, single)
    gradients = torch.autograd.grad(wanted, list(model.parameters()))
    found, count = _losses(model, pack(documents, 29))
    assert count == many == 25
    tolerance = {"rtol": 1e-9, "atol": 1e-11} if mixer == "gqa" else {"rtol": 2e-4, "atol": 2e-4}
    torch.testing.assert_close(found, wanted, **tolerance)
    packed = torch.autograd.grad(found, list(model.parameters()))
    torch.testing.assert_close(packed, gradients, **tolerance)


def test_a_label_across_documents_would_be_seen():
    """The oracle above must notice a row whose border was forgotten."""
    model, documents = _model(), [[1, 2, 3], [4, 5, 6]]
    right, _ = _losses(model, pack(documents, 8))
    (row,) = pack(documents, 8)
    merged = type(row)(row.input_ids, row.labels, torch.tensor([6]), row.documents)
    wrong, _ = _losses(model, [merged])
    assert abs((right - wrong).item()) > 1e-8


def _documents(*lengths):
    ids = np.arange(1, sum(lengths) + 1)
    return Documents(ids, np.cumsum(lengths), 4 * len(ids))


def test_rows_of_a_step_depend_on_the_step_alone():
    documents = _documents(300, 20, 7, 150, 33)
    feed = Feed(documents, 32, 2, 2, seed=1)
    later = [feed(step) for step in (0, 5, 9)]
    for step, rows in zip((9, 5, 0), reversed(later), strict=True):
        again = Feed(documents, 32, 2, 2, seed=1)(step)
        for a, b in zip(rows, again, strict=True):
            assert torch.equal(a.input_ids, b.input_ids)
            assert torch.equal(a.labels, b.labels)
    assert not torch.equal(
        later[0][0].input_ids.flatten()[:20], later[1][0].input_ids.flatten()[:20]
    )


def test_ranks_share_out_the_rows_of_a_step():
    documents = _documents(500, 100)
    whole = Feed(documents, 16, 4, 1, seed=2)(1)[0]
    parts = [Feed(documents, 16, 2, 1, seed=2, rank=(r, 2))(1)[0] for r in range(2)]
    assert torch.equal(
        whole.input_ids.flatten(), torch.cat([part.input_ids.flatten() for part in parts])
    )


def test_validation_sees_every_label_once():
    documents = _documents(70, 5, 1, 40)
    rows = validation_rows(documents, 16, 3, "cpu")
    labels = torch.cat([row.labels.flatten() for row in rows])
    wanted = set(range(1, 117)) - {1, 71, 76, 77}
    assert sorted(labels[labels >= 0].tolist()) == sorted(wanted)
