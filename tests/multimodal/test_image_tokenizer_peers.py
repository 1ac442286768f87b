"""The picture tokenizer against transformers: Chameleon's half of it, Janus's decoder."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from paragone.multimodal import ChameleonImageProcessor, ImageTokenizer, ImageTokenizerConfig

pytestmark = pytest.mark.peers

SIZES = {
    "resolution": 16, "base_channels": 32, "channel_multiplier": [1, 1, 2], "num_res_blocks": 1,
    "embed_dim": 8, "num_embeddings": 40, "latent_channels": 12, "double_latent": False,
}  # fmt: skip


def drawn(module):
    """Weights that are not those of the start: norms differ, biases are there."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return module.eval()


@pytest.fixture(scope="module")
def chameleon():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ChameleonVQVAEConfig(**SIZES, attn_resolutions=[8])
    kind = transformers.models.chameleon.modeling_chameleon.ChameleonVQVAE
    return drawn(kind(config))


def test_chameleons_encoder(chameleon, tmp_path):
    from safetensors.torch import save_file

    state = {f"model.vqmodel.{name}": x for name, x in chameleon.state_dict().items()}
    save_file({**state, "model.norm.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    vq = json.loads(chameleon.config.to_json_string(use_diff=False))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "chameleon", "vq_config": vq}))
    ours = ImageTokenizer.from_pretrained(tmp_path)
    assert ours.decoder is None
    assert set(ours.state_dict()) == set(chameleon.state_dict())
    pixels = torch.randn(3, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = chameleon.encode(pixels, return_dict=True)
        z = ours.latents(pixels)
        expected = chameleon.quant_conv(theirs.last_hidden_state).permute(0, 2, 3, 1)
    torch.testing.assert_close(z, expected, rtol=1e-5, atol=1e-5)
    ids = ours.encode(pixels)
    assert torch.equal(ids.flatten(), theirs.image_tokens.flatten())
    assert len(ids.unique()) > 5


def test_published_names_and_sizes():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    kind = transformers.models.chameleon.modeling_chameleon.ChameleonVQVAE
    with torch.device("meta"):
        theirs = kind(transformers.ChameleonVQVAEConfig()).state_dict()
    ours = ImageTokenizer.from_config("chameleon", device="meta", decoder=False).state_dict()
    assert {n: x.shape for n, x in ours.items()} == {n: x.shape for n, x in theirs.items()}


def test_januss_decoder():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    janus = transformers.models.janus.modeling_janus
    sizes = {name: value for name, value in SIZES.items() if name != "resolution"}
    theirs = drawn(janus.JanusVQVAE(transformers.JanusVQVAEConfig(**sizes)))
    # Janus attends at the coarsest size as well, and counts levels of the decoder from there.
    ours = ImageTokenizer(ImageTokenizerConfig.make(SIZES, attn_resolutions=(4,)))
    state = {}
    for name, x in theirs.state_dict().items():
        if name.startswith("decoder.up."):
            level, rest = name.removeprefix("decoder.up.").split(".", 1)
            name = f"decoder.up.{2 - int(level)}.{rest}"
        state[name] = x
    ours.load_state_dict(state)
    codes = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.decoder(theirs.post_quant_conv(codes.permute(0, 3, 1, 2)))
        torch.testing.assert_close(ours.reconstructed(codes), expected, rtol=1e-5, atol=1e-5)
        pixels = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(2))
        expected = theirs.quant_conv(theirs.encoder(pixels)).permute(0, 2, 3, 1)
        torch.testing.assert_close(ours.latents(pixels), expected, rtol=1e-5, atol=1e-5)


def test_processor():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    module = transformers.models.chameleon.image_processing_pil_chameleon
    size = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    theirs = module.ChameleonImageProcessorPil(**size)
    rng = np.random.default_rng(0)
    for shape in ((31, 57, 3), (90, 40, 3), (24, 24, 3)):
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        expected = torch.as_tensor(np.array(theirs(image)["pixel_values"]))
        ours = ChameleonImageProcessor(24)([image])
        # 0.0078 stands there for 1 / 127.5.
        torch.testing.assert_close((ours + 1) * 127.5 * 0.0078 - 1, expected, rtol=0, atol=1e-5)
