"""Chameleon against transformers, random weights; its mask of codes' logits aside."""

import pytest
import torch

from paragone.multimodal._chameleon_words import published_words
from paragone.multimodal.chameleon import Chameleon

pytestmark = pytest.mark.peers

CODES, VOCABULARY = 16, 80


def words():
    """Codes in falling order of their tokens, which sorting both sides would get wrong."""
    found = {word: token for word, token in published_words(CODES).items() if token < 24}
    codes = [word for word in found if word.startswith("IMGIMG")]
    falling = sorted((found[word] for word in codes), reverse=True)
    return found | dict(zip(codes, falling, strict=True)) | {"<image>": 40}


@pytest.fixture(params=[False, True], ids=["norms_before", "norms_behind"], scope="module")
def both(request, tmp_path_factory):
    transformers = pytest.importorskip("transformers", reason="the peer is not installed")
    config = transformers.ChameleonConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, swin_norm=request.param,
        max_position_embeddings=64, vocabulary_map=words(), vq_config={
            "embed_dim": 8, "num_embeddings": CODES, "latent_channels": 8, "resolution": 16,
            "base_channels": 32, "channel_multiplier": [1, 2], "num_res_blocks": 1,
        },
    )  # fmt: skip
    noise = torch.Generator().manual_seed(0)
    theirs = transformers.ChameleonForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, x in theirs.named_parameters():
            middle = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            x.normal_(middle, 0.3 if "norm" in name else x[0].numel() ** -0.5, generator=noise)
        theirs.model.vqmodel.quant_conv.weight.mul_(6)
    folder = tmp_path_factory.mktemp("chameleon")
    theirs.save_pretrained(folder)
    return theirs, Chameleon.from_pretrained(folder), noise


def test_the_same_names_and_shapes(both):
    theirs, ours, _ = both
    shapes = [{n: x.shape for n, x in model.state_dict().items()} for model in (theirs, ours)]
    assert shapes[0] == shapes[1]
    assert not ours.config.vq_config.decoder


def test_the_same_logits(both):
    theirs, ours, noise = both
    ids = torch.randint(0, VOCABULARY, (3, 21), generator=noise)
    text = ours.codes < 0
    with torch.no_grad():
        wanted, found = theirs(ids).logits, ours(ids).logits
    assert wanted[..., text].std() > 0.3
    assert (wanted - found)[..., text].abs().max() <= 1e-5
    assert found[..., ~text].abs().max() < 100, "codes have logits, too"


def test_the_same_codes_of_pictures(both):
    theirs, ours, noise = both
    pixels = torch.rand(2, 3, 16, 16, generator=noise) * 2 - 1
    with torch.no_grad():
        wanted = theirs.model.get_image_tokens(pixels).view(2, -1)
    assert wanted.unique().numel() > 3
    assert ours.words.tokens_of(ours.image_tokenizer.encode(pixels).flatten(1)).equal(wanted.long())


def test_transformers_reads_what_we_write(both, tmp_path):
    theirs, ours, noise = both
    ours.save_pretrained(tmp_path)
    back, told = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    ids = torch.randint(0, VOCABULARY, (1, 9), generator=noise)
    with torch.no_grad():
        assert back(ids).logits.equal(theirs(ids).logits)


def test_it_cannot_draw_without_a_decoder(both):
    with pytest.raises(ValueError, match=r"has no decoder and cannot draw: give one that has"):
        both[1].generate([("",)], pictures="one")
