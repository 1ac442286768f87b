"""The picture tokenizer: sizes, codes there and back, gradients of its loss, files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from paragone.multimodal import ChameleonImageProcessor, ImageTokenizer, ImageTokenizerConfig

SMALL = ImageTokenizerConfig(
    resolution=8, in_channels=1, base_channels=4, channel_multiplier=(1, 2), num_res_blocks=1,
    latent_channels=4, embed_dim=3, num_embeddings=9, norm_groups=2,
)  # fmt: skip


def made(config=SMALL, seed=0, **where):
    return ImageTokenizer(config, generator=torch.Generator().manual_seed(seed), **where)


def pictures(count=5, height=8, width=8, channels=1, seed=0):
    shape = (count, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def spread(tokenizer):
    """Codes among the latents of an untrained encoder, so that several of them are used."""
    z = tokenizer.latents(tokenizer.pixels(pictures(20, seed=9))).detach().flatten(0, 2)
    count = tokenizer.config.num_embeddings
    tokenizer.quantize.embedding.weight.data.copy_(z[:: len(z) // count][:count])
    return tokenizer


def test_published_sizes():
    config = ImageTokenizerConfig.make("chameleon")
    assert (config.factor, config.grid) == (16, 32)
    tokenizer = ImageTokenizer.from_config("chameleon", device="meta")
    shapes = {name: tuple(x.shape) for name, x in tokenizer.state_dict().items()}
    # Names and shapes as in transformers' ChameleonVQVAE and, for the decoder, taming's.
    assert shapes["quantize.embedding.weight"] == (8192, 256)
    assert shapes["encoder.down.2.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert shapes["encoder.down.3.downsample.conv.weight"] == (256, 256, 3, 3)
    assert shapes["encoder.mid.attn_1.proj_out.weight"] == (512, 512, 1, 1)
    assert shapes["decoder.up.4.block.2.conv1.weight"] == (512, 512, 3, 3)
    assert shapes["decoder.up.1.upsample.conv.weight"] == (128, 128, 3, 3)
    assert "decoder.up.0.upsample.conv.weight" not in shapes
    assert "encoder.down.4.downsample.conv.weight" not in shapes
    assert not any("attn." in name for name in shapes)


@pytest.mark.parametrize(("name", "grid", "most"), [("digits", 4, 200_000), ("tiny", 8, 900_000)])
def test_small_presets(name, grid, most):
    tokenizer = ImageTokenizer.from_config(name, device="meta")
    assert tokenizer.config.grid == grid
    assert sum(p.numel() for p in tokenizer.parameters()) < most


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 9}, "no multiple of 2"),
        ({"in_channels": 2}, "grey"),
        ({"norm_groups": 3}, "must divide every width"),
        ({"num_embeddings": 0}, "at least 1"),
        ({"channel_multiplier": ()}, "one number"),
        ({"double_latent": True}, "continuous latents"),
        ({"attn_type": "linear"}, "none of"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_bad_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        SMALL.replace(**changes)
    with pytest.raises(ValueError, match="none of chameleon, digits, tiny"):
        ImageTokenizer.from_config("digit")


def test_there_and_back():
    tokenizer = spread(made())
    ids = tokenizer.encode(pictures(5, 8, 12))
    assert ids.shape == (5, 4, 6)
    assert ids.dtype == torch.int64
    assert len(ids.unique()) > 3
    drawn = tokenizer.decode(ids.numpy())
    assert drawn.shape == (5, 8, 12, 1)
    assert drawn.dtype == np.uint8
    pixels = tokenizer.decode_pixels(ids)
    assert pixels.abs().max() <= 1
    np.testing.assert_allclose(drawn[..., 0], (pixels[:, 0].numpy() + 1) * 127.5, atol=0.51)
    alone = torch.cat([tokenizer.encode(one[None]) for one in pictures(5, 8, 12)])
    assert torch.equal(alone, ids)


def test_a_picture_in_any_form():
    tokenizer = spread(made())
    one = pictures(1)[0]
    ids = tokenizer.encode([one])
    colour = np.repeat(one, 3, -1)
    for other in ([one[..., 0]], [Image.fromarray(one[..., 0])], [colour], tokenizer.pixels([one])):
        assert torch.equal(tokenizer.encode(other), ids)


def test_pictures_that_do_not_fit():
    tokenizer = made()
    with pytest.raises(ValueError, match="cells of 2 x 2"):
        tokenizer.encode(pictures(1, 7, 8))
    with pytest.raises(ValueError, match="one size"):
        tokenizer.encode([pictures()[0], pictures(1, 8, 10)[0]])
    with pytest.raises(ValueError, match="none"):
        tokenizer.encode([])
    with pytest.raises(ValueError, match=r"\(n, 1, H, W\)"):
        tokenizer.encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="0 to 8 are codes"):
        tokenizer.decode(np.full((1, 4, 4), 9))
    with pytest.raises(ValueError, match="whole numbers"):
        tokenizer.decode(torch.zeros(1, 4, 4))
    half = made(SMALL.replace(decoder=False))
    with pytest.raises(ValueError, match="cannot draw"):
        half.decode(half.encode(pictures(1)))


def test_the_gradient_goes_straight_through():
    tokenizer = spread(made().double())
    found = tokenizer.losses(pictures())
    latents, codes = found.latents, tokenizer.quantize.embedding.weight[found.ids]
    error = found.absolute + found.squared
    (through,) = torch.autograd.grad(error, latents, retain_graph=True)
    given = codes.detach().requires_grad_()
    pixels = tokenizer.pixels(pictures())
    drawn = tokenizer.reconstructed(given)
    again = (drawn - pixels).abs().mean() + (drawn - pixels).square().mean()
    (direct,) = torch.autograd.grad(again, given)
    torch.testing.assert_close(through, direct, rtol=1e-9, atol=1e-12)
    assert through.abs().max() > 0
    (pull,) = torch.autograd.grad(found.commitment, latents, retain_graph=True)
    apart = 2 * (latents - codes).detach() / latents.numel()
    torch.testing.assert_close(pull, apart, rtol=1e-9, atol=1e-15)
    weight = tokenizer.quantize.embedding.weight
    (moved,) = torch.autograd.grad(found.codebook, weight, retain_graph=True)
    expected = torch.zeros_like(weight).index_add_(0, found.ids.flatten(), -apart.flatten(0, 2))
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-15)
    assert torch.autograd.grad(error, weight, allow_unused=True) == (None,)


def test_folder(tmp_path):
    tokenizer = spread(made())
    tokenizer.save_pretrained(tmp_path / "a")
    other = ImageTokenizer.from_pretrained(tmp_path / "a")
    assert other.config == SMALL
    assert not other.training
    ids = tokenizer.encode(pictures())
    assert torch.equal(other.encode(pictures()), ids)
    np.testing.assert_array_equal(other.decode(ids), tokenizer.decode(ids))
    narrow = ImageTokenizer.from_pretrained(tmp_path / "a", dtype=torch.bfloat16)
    assert narrow.quant_conv.weight.dtype == torch.bfloat16
    assert narrow.decode(narrow.encode(pictures())).shape == (5, 8, 8, 1)


def test_a_tamings_checkpoint(tmp_path):
    tokenizer = spread(made())
    state = {**tokenizer.state_dict(), "loss.discriminator.main.0.weight": torch.zeros(3)}
    torch.save({"state_dict": state}, tmp_path / "vqgan.ckpt")
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_dict()))
    other = ImageTokenizer.from_pretrained(tmp_path / "vqgan.ckpt")
    assert torch.equal(other.encode(pictures()), tokenizer.encode(pictures()))
    (tmp_path / "bad.ckpt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.ckpt: expected a checkpoint"):
        ImageTokenizer.from_pretrained(tmp_path / "bad.ckpt")


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json: no such file"):
        ImageTokenizer.from_pretrained(tmp_path)
    made().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SMALL.replace(embed_dim=4).to_dict()))
    with pytest.raises(ValueError, match=r"quant_conv\.weight: shape \(3, 4, 1, 1\)"):
        ImageTokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected a JSON object"):
        ImageTokenizer.from_pretrained(tmp_path)


def test_processor_squares():
    process = ChameleonImageProcessor(16)
    assert process([pictures(1, 30, 20)[0], pictures(1, 5, 250)[0]]).shape == (2, 3, 16, 16)
    one = pictures(1, 16, 16, 3)[0]
    np.testing.assert_array_equal(process.squared(one), one)
    assert process([one]).amax() <= 1
    wide = np.zeros((16, 40, 3), np.uint8)
    wide[:, 12:28] = 255
    assert (process.squared(wide) == 255).all()
    clear = np.zeros((16, 16, 4), np.uint8)
    assert torch.equal(process([clear]), torch.ones(1, 3, 16, 16))
    assert ChameleonImageProcessor(8, channels=1)([one]).shape == (1, 1, 8, 8)
    for size, channels, message in ((0, 3, "1 pixel"), (8, 2, "grey")):
        with pytest.raises(ValueError, match=message):
            ChameleonImageProcessor(size, channels)
    with pytest.raises(ValueError, match="at least one"):
        process([])
