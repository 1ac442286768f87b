"""Training of the picture tokenizer: running means, dead codes, the critic, runs that go on."""

import itertools

import numpy as np
import pytest
import torch

from paragone.multimodal import ImageTokenizer, ImageTokenizerConfig
from paragone.multimodal._vq_training import Options, _Trainee, measured

SMALL = ImageTokenizerConfig(
    resolution=4, in_channels=1, base_channels=4, channel_multiplier=(1, 2), num_res_blocks=1,
    latent_channels=4, embed_dim=3, num_embeddings=6, norm_groups=2,
)  # fmt: skip


def drawn(count=40, side=4, seed=0):
    """Pictures of few kinds: bars, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    made = np.zeros((count, side, side), np.uint8)
    for one, column in zip(made, rng.integers(side, size=count), strict=True):
        one[:, column] = rng.integers(180, 256)
    return made


def trainee(**options):
    made = ImageTokenizer(SMALL, generator=torch.Generator().manual_seed(0))
    return _Trainee(made, Options(**{"batch": 8, **options}))


def test_codes_are_running_means():
    one = trainee(decay=0.9, revive=0.0)
    pixels = one.tokenizer.pixels(drawn(8))
    one.begin([pixels])
    one.steps.fill_(1000)
    often, means = one.often.clone(), one.means.clone()
    found = one.tokenizer.losses(pixels)
    z, ids = found.latents.detach().flatten(0, 2), found.ids.flatten()
    one.loss(pixels)
    one.after()
    for code in range(6):
        mine = z[ids == code]
        often[code] = 0.9 * often[code] + 0.1 * len(mine)
        means[code] = 0.9 * means[code] + 0.1 * mine.sum(0)
    weight = one.tokenizer.quantize.embedding.weight
    torch.testing.assert_close(weight, means / often[:, None], rtol=1e-5, atol=1e-6)
    assert not weight.requires_grad


def test_dead_codes_come_back():
    one = trainee(revive=0.5)
    pixels = one.tokenizer.pixels(drawn(8))
    one.begin([pixels])
    one.means[2] = 1e3 * one.often[2]
    one.often[4] = 1e-3
    one.means[4] = 50.0 * one.often[4]
    one.settle()
    one.loss(pixels)
    z = one._last[0]
    one.after()
    weight = one.tokenizer.quantize.embedding.weight
    assert (weight[4] - z).abs().amax(1).min() == 0
    assert one.often[4] == pytest.approx(float(one.often[0]), rel=1.5)
    for _ in range(80):
        one.loss(pixels)
        one.after()
    assert weight.abs().max() < 50


def test_gradient_codes_learn():
    one = trainee(codebook="gradient")
    one.begin([one.tokenizer.pixels(drawn(8))])
    loss = one.loss(one.tokenizer.pixels(drawn(8)))
    loss.total.backward()
    grad = one.tokenizer.quantize.embedding.weight.grad
    assert grad is not None
    assert grad.abs().max() > 0
    before = one.tokenizer.quantize.embedding.weight.detach().clone()
    one.after()
    assert torch.equal(one.tokenizer.quantize.embedding.weight, before)


def test_the_critic_and_the_tokenizer_pull_apart():
    one = trainee(critic=0.5, critic_after=1)
    pixels = one.tokenizer.pixels(drawn(8))
    one.begin([pixels])
    found = one.tokenizer.losses(pixels)
    made = found.pictures.detach()
    hinge = (1 + one.critic(made)).relu().mean() + (1 - one.critic(pixels)).relu().mean()
    own = torch.autograd.grad(hinge, list(one.critic.parameters()))
    plain = found.absolute + found.squared + 0.25 * found.commitment
    torch.testing.assert_close(one.loss(pixels).total, 8 * (plain + hinge))
    one.steps += 1
    loss = one.loss(pixels)
    opinion = one.critic(made).mean()
    torch.testing.assert_close(loss.total, 8 * (plain + hinge - 0.5 * opinion))
    loss.total.backward()
    for p, expected in zip(one.critic.parameters(), own, strict=True):
        torch.testing.assert_close(p.grad, 8 * expected)


def test_measures_by_hand():
    tokenizer = trainee().tokenizer
    pixels = tokenizer.pixels(drawn(5))
    found = measured(tokenizer, pixels, batch=2)
    ids = tokenizer.encode(pixels)
    error = tokenizer.decode_pixels(ids) - pixels
    share = np.bincount(ids.flatten(), minlength=6) / ids.numel()
    entropy = -sum(p * np.log(p) for p in share if p)
    assert found["absolute"] == pytest.approx(float(error.abs().mean()))
    assert found["psnr"] == pytest.approx(10 * np.log10(4 / float(error.square().mean())), rel=1e-5)
    assert found["usage"] == pytest.approx(np.mean(share > 0))
    assert found["perplexity"] == pytest.approx(np.exp(entropy))


def test_it_learns_and_goes_on_bit_for_bit(tmp_path):
    given = {"steps": 30, "batch": 8, "lr": 5e-3, "seed": 3, "evaluate_every": 10}
    given["validation"] = drawn(60, seed=1)
    whole = ImageTokenizer.fit(drawn(), SMALL, **given)
    assert whole.metrics["squared"] < 0.6 * whole.history[0]["squared"]
    assert whole.metrics["usage"] > 0.9
    assert not whole.tokenizer.training
    assert whole.tokenizer.quantize.embedding.weight.requires_grad

    seen = itertools.count()

    def stop(event):
        if event.kind == "validated" and next(seen) == 1:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        ImageTokenizer.fit(drawn(), SMALL, folder=folder, progress=stop, **given)
    part = ImageTokenizer.from_pretrained(folder)
    assert part.encode(drawn(2)).shape == (2, 2, 2)
    rest = ImageTokenizer.fit(drawn(), SMALL, folder=folder, **given)
    again = ImageTokenizer.from_pretrained(folder).state_dict()
    for name, x in whole.tokenizer.state_dict().items():
        assert torch.equal(x, rest.tokenizer.state_dict()[name]), name
        assert torch.equal(x, again[name]), name
    with pytest.raises(ValueError, match="another run"):
        ImageTokenizer.fit(drawn(), SMALL, folder=folder, **{**given, "lr": 1e-3})


def test_pictures_and_options_that_do_not_fit():
    with pytest.raises(ValueError, match="picture 1 has 3 x 4 pixels"):
        ImageTokenizer.fit([drawn(1)[0], drawn(1)[0][:3]], SMALL, steps=1)
    with pytest.raises(ValueError, match="no training picture"):
        ImageTokenizer.fit([], SMALL, steps=1)
    with pytest.raises(ValueError, match="no such option"):
        ImageTokenizer.fit(drawn(), SMALL, steps=1, rate=1)
    with pytest.raises(ValueError, match="cannot be trained"):
        ImageTokenizer.fit(drawn(), SMALL.replace(decoder=False), steps=1)
    for name, value in (("batch", 0), ("codebook", "k"), ("decay", 1.0), ("critic", -1.0)):
        with pytest.raises(ValueError, match=f"{name}="):
            Options(**{name: value})


def test_large_pictures_are_cropped():
    found = ImageTokenizer.fit(drawn(3, side=7), SMALL, steps=2, batch=4, flip=True, critic=0.1)
    assert found.tokenizer.encode(drawn(3, side=6)).shape == (3, 3, 3)
