"""Heads of patches in the trunk: who depends on whom, and drawing as training has it."""

import string

import numpy as np
import pytest
import torch

from paragone.language import Tokenizer
from paragone.multimodal._heads_expanded import noisy_rows
from paragone.multimodal._heads_rows import clean_rows, joined, lane, masked_block
from paragone.multimodal._lossless_layout import batched
from paragone.multimodal.documents import Document
from paragone.multimodal.lossless import LosslessTransformer

KINDS = {
    "mar": ("mar", {"steps": 3}),
    "mar-random": ("mar", {"steps": 3, "order": "random", "passes": 3}),
    "mse": ("mse", {}),
    "mse-random": ("mse", {"order": "random", "passes": 1}),
    "vq": ("vq", {"codes": 7}),
    "vq-random": ("vq", {"codes": 7, "order": "random"}),
    "expanded": ("expanded", {"steps": 3, "repeats": 3}),
}
TEXTS = ("a seven", "an eight", "no")
GRID = (2, 3)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([string.ascii_lowercase + " "], vocab_size=260)


@pytest.fixture(scope="module")
def models(tokenizer):
    made = {}
    for name, (head, options) in KINDS.items():
        model = LosslessTransformer.from_config(
            "digits", tokenizer=tokenizer, head=head,
            head_options={**options, **({} if head in ("vq", "expanded") else {"hidden": 16})},
            patch_size=2, image_size=(4, 6), hidden_size=16, num_hidden_layers=2,
            num_attention_heads=2, intermediate_size=24, generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.normal_(0, 0.3, generator=generator)
            if head == "vq":
                model.head.fit(torch.randn(100, 4, generator=generator))
        made[name] = model.eval()
    return made


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (4, 6, 1), np.uint8)


def drawing(number, **changes):
    return Document((changes.get("text", TEXTS[number]), pixels(number)), (False, True))


def gradients(model, document, drop):
    """Rows of the document's picture, and |d state k / d input| of each state that is read."""
    model.head.drop = drop
    for seed in range(20):
        batch, _ = model.lay([document], [seed])
        masked = batch.rows[0].masked
        if masked is None or not masked[batch.rows[0].hidden > 0].all():
            break
    batch.inputs.requires_grad_()
    states = model(batch).flatten(0, 1)[batch.reads]
    found = [
        torch.autograd.grad(one.square().sum(), batch.inputs, retain_graph=True)[0].abs().sum(1)
        for one in states
    ]
    return batch.rows[0], torch.stack(found)


@pytest.mark.parametrize("drop", [0.0, 0.9999], ids=["with text", "alone"])
@pytest.mark.parametrize("name", ["mar", "expanded", "mar-random"])
def test_no_state_depends_on_what_it_predicts(models, name, drop):
    rows, found = gradients(models[name], drawing(0), drop)
    place, hidden, count = rows.place, rows.hidden, GRID[0] * GRID[1]
    assert (found[:, hidden == 0] == 0).all()  # the clean picture is for what comes after it
    if name == "mar":
        copy = (hidden > 0) & (place >= 0)
        for patch in range(count):
            expected = torch.from_numpy(place[copy] < patch)
            assert torch.equal(found[patch, copy] > 0, expected), patch
    elif name == "expanded":
        for row, one in zip(rows.reads - 1, found, strict=True):
            inside = (hidden == 2) & (place >= 0)
            expected = torch.from_numpy(place[inside] < place[row])
            assert torch.equal(one[inside] > 0, expected)
            noisy = np.flatnonzero(hidden == 3)
            assert torch.equal(one[noisy] > 0, torch.from_numpy(noisy == row))
    else:
        copy = hidden > 0
        known = torch.from_numpy(~rows.masked[copy])
        assert known.any()
        assert torch.equal(found[:, copy] > 0, known.expand(len(found), -1))


@pytest.mark.parametrize("name", ["mar", "mar-random", "expanded"])
def test_what_follows_sees_the_clean_picture_alone(models, name):
    model = models[name]
    page = Document((TEXTS[0], pixels(0), TEXTS[1], pixels(1)), (False, True, True, True))
    model.head.drop = 0.0
    batch, _ = model.lay([page], [3])
    batch.inputs.requires_grad_()
    hidden = model(batch)[0]
    text = (batch.labels[0] != -100).nonzero()[-3]  # the mark before the second picture, or text
    found = torch.autograd.grad(hidden[text].square().sum(), batch.inputs)[0].abs().sum(1)
    first = torch.from_numpy(batch.rows[0].hidden == 0)
    assert torch.equal(found[: len(first)] > 0, first)


@pytest.mark.parametrize("name", list(KINDS))
def test_losses_alone_and_in_a_batch(models, name):
    model = models[name]
    model.head.drop = 0.5
    documents = [drawing(number) for number in range(3)]
    documents.append(Document((pixels(4), pixels(5), TEXTS[2]), (True, True, True)))
    every = model.losses(documents, range(4))
    alone = [model.losses([one], [seed]) for seed, one in enumerate(documents)]
    assert every.image_count == sum(one.image_count for one in alone)
    torch.testing.assert_close(every.image, torch.stack([one.image for one in alone]).sum())
    torch.testing.assert_close(every.text, torch.stack([one.text for one in alone]).sum())
    if "random" not in name:
        assert every.image_count == 5 * GRID[0] * GRID[1]
    plain = model.losses([Document(("seven",))])
    assert (plain.image_count, float(plain.image)) == (0, 0.0)


@pytest.mark.parametrize("name", ["mar", "mse-random", "expanded"])
def test_a_copy_alone_does_not_know_the_text(models, name):
    model = models[name]
    for drop, same in ((0.0, False), (0.9999, True)):
        model.head.drop = drop
        one, two = (model.losses([drawing(0, text=text)], [3]).image for text in ("seven", "three"))
        assert bool(torch.isclose(one, two, rtol=1e-6)) == same


@pytest.mark.parametrize("name", list(KINDS))
def test_every_weight_learns(models, name):
    model = models[name]
    model.head.drop = 0.0
    model.zero_grad()
    pages = [drawing(0), Document((pixels(1), TEXTS[1]), (False, True))]
    model.losses(pages, [0, 1]).total.backward()
    for key, weight in model.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.isfinite().all(), key
        assert weight.grad.any(), key
    model.zero_grad()


@pytest.mark.parametrize("name", list(KINDS))
def test_drawings_do_not_depend_on_the_batch(models, name):
    model = models[name]
    options = {"guidance": 2.0, "seed": 5}
    three = model.draw(TEXTS, **options)
    assert [one.shape for one in three] == [(4, 6, 1)] * 3
    alone = model.draw(TEXTS[:1], **options)[0]
    assert np.abs(three[0].astype(int) - alone).max() <= 1


def states_of(model, rows, text):
    """(R, M) states of a picture's rows behind a text."""
    scribe = model.written(Document((text,)))
    scribe.text([model.config.boi_token_id])
    scribe.picture(rows, GRID)
    line = scribe.take()
    return model(batched([line], model.config.numbers))[0, -len(rows) - 1 :]


def drawn_by(model, text, guidance):
    """Patches before they are rounded to pixels, as the head drew them."""
    kept = []
    draw = model.head.draw

    def spy(*given, **options):
        kept.extend(draw(*given, **options))
        return list(kept)

    model.head.draw = spy
    try:
        model.generate([(text,)], pictures="one", guidance=guidance, size=(4, 6), seed=2)
    finally:
        del model.head.draw
    return kept[0]


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_drawing_is_what_training_sees_raster(models, guidance):
    model = models["mse"]
    drawn = drawn_by(model, "seven", guidance)
    n = len(drawn)
    with torch.no_grad():
        states = states_of(model, joined(clean_rows(drawn), lane(drawn, 0, n - 1)), "seven")
        mean = model.head.mean(torch.cat([states[:1], states[n + 1 :]]))
        lone = lane(drawn, -1, n - 1, alone=True)
        without = model.head.mean(states_of(model, lone, "seven")[1:])
    torch.testing.assert_close(drawn, without + guidance * (mean - without), rtol=0, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_drawing_is_what_training_sees_random(models, guidance):
    model = models["mse-random"]
    drawn = drawn_by(model, "seven", guidance)
    masked = np.ones(len(drawn), bool)
    with torch.no_grad():
        mean, without = (
            model.head.mean(states_of(model, masked_block(drawn, masked, alone=alone), "seven")[1:])
            for alone in (False, True)
        )
    torch.testing.assert_close(drawn, without + guidance * (mean - without), rtol=0, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_drawing_is_what_training_sees_expanded(models, guidance):
    model = models["expanded"]
    drawn = drawn_by(model, "seven", guidance)
    n, head = len(drawn), model.head
    # The walk of one patch again, from the noise that its generator gives, behind a lane in full.
    noises = []
    walk = head.path.walk

    def spy(predict, noise, steps, eta):
        def noted():
            noises.append(noise())
            return noises[-1]

        return walk(predict, noted, steps, eta)

    head.path.walk = spy
    try:
        again = drawn_by(model, "seven", guidance)
    finally:
        del head.path.walk
    assert torch.equal(again, drawn)
    for patch in (0, 3):

        def predict(noisy, t, patch=patch):
            found = []
            for alone in (False, True):
                copy = noisy_rows(noisy, torch.full((1,), t), np.full(1, patch), n, alone=alone)
                full = lane(drawn, -1 if alone else 0, n - 1, alone=alone)
                rows = joined(clean_rows(drawn), full, copy)
                found.append(head.linear(states_of(model, rows, "seven")[-1:]))
            return found[1] + guidance * (found[0] - found[1])

        with torch.no_grad():
            expected = walk(predict, lambda patch=patch: noises[patch], head.steps, 0.0)
        torch.testing.assert_close(drawn[patch : patch + 1], expected, rtol=0, atol=2e-5)


def test_a_mask_that_shows_too_much_is_caught(models):
    # The planted bug: a lane whose orders begin one too low, so that each patch sees itself.
    model = models["mar"]
    rows = joined(clean_rows(torch.zeros(6, 4)), lane(torch.zeros(6, 4), 0, 5))
    rows.order[:6] = 0
    rows.inputs.requires_grad_()
    states = states_of(model, rows, "seven")[7:]
    found = torch.autograd.grad(states[0].square().sum(), rows.inputs)[0].abs().sum(1)
    assert (found[:6] > 0).any()


def test_a_page_goes_on_behind_a_picture_read_clean(models):
    for name in ("mar", "expanded", "mar-random"):
        model = models[name]
        likely = torch.zeros(model.config.text_config.vocab_size)
        likely[model.config.boi_token_id] = 30.0
        hook = model.language.lm_head.register_forward_hook(
            lambda *given, more=likely: given[2] + more
        )
        seen = []
        see = model.forward

        def spy(batch, *given, see=see, seen=seen):
            seen.append(batch.marks[:, 3].clone())
            return see(batch, *given)

        model.forward = spy
        try:
            found = model.generate(
                [("seven",), ("three",)], pictures="free", max_new_tokens=12, temperature=1.0
            )
        finally:
            del model.forward
            hook.remove()
        assert all(one.pictures for one in found), name
        # The six clean patches, seen by all that comes later, go through it by themselves.
        assert any((one == 0).all() and one.shape[1] == 6 for one in seen), name


def test_codebooks_are_kept_in_files(models, tmp_path):
    model = models["vq"]
    model.save_pretrained(tmp_path)
    other = LosslessTransformer.from_pretrained(tmp_path)
    assert torch.equal(other.head.codebook, model.head.codebook)
    assert int(other.head.fitted) == 2
    model.head.drop = other.head.drop = 0.1
    assert torch.equal(model.losses([drawing(0)], [1]).image, other.losses([drawing(0)], [1]).image)
    assert np.array_equal(model.draw(["no"], seed=3)[0], other.draw(["no"], seed=3)[0])
