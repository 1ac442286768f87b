"""Places and patches as transformers' Qwen2-VL and Fuyu have them."""

import numpy as np
import pytest
import torch
from tests.multimodal.lossless_models import small

from paragone.multimodal import positions
from paragone.multimodal.patches import patchify

pytestmark = pytest.mark.peers


def test_m_rope_is_that_of_qwen2_vl() -> None:
    pytest.importorskip("transformers")
    from transformers import Qwen2VLConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    config = Qwen2VLConfig(
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": 20},
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2},
    )  # fmt: skip
    with torch.device("meta"):
        model = Qwen2VLModel(config)
    segments = [("text", 5), ("image", 4, 6), ("text", 3), ("image", 2, 1), ("text", 2),
                ("image", 3, 3), ("text", 1)]  # fmt: skip
    kinds = torch.cat([
        torch.full((np.prod(one[1:]),), int(one[0] == "image")) for one in segments
    ])[None]  # fmt: skip
    merge = config.vision_config.spatial_merge_size
    grids = torch.tensor([[1, merge * h, merge * w] for _, h, w in
                          (one for one in segments if one[0] == "image")])  # fmt: skip
    found, _ = model.get_rope_index(torch.zeros_like(kinds), kinds, image_grid_thw=grids)
    assert torch.equal(found[1:, 0].T.float(), positions("m-rope", segments))


def test_patches_and_their_linear_map_are_those_of_fuyu() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.fuyu.image_processing_pil_fuyu import FuyuImageProcessorPil

    config = transformers.FuyuConfig(
        patch_size=2, num_channels=3, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=32, vocab_size=20,
        text_config={"model_type": "persimmon", "hidden_size": 32, "num_hidden_layers": 1,
                     "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 20},
    )  # fmt: skip
    peer = transformers.FuyuForCausalLM(config)
    pixels = np.random.default_rng(0).random((6, 8, 3)).astype(np.float32)
    cut = FuyuImageProcessorPil(patch_size={"height": 2, "width": 2}).patchify_image(
        pixels.transpose(2, 0, 1)[None], patch_size=None
    )
    cut = torch.as_tensor(np.asarray(cut))
    ours = torch.from_numpy(patchify(pixels, 2))
    cut = cut.view(-1, 12)
    assert torch.equal(cut, ours)
    model = small(channels=3)
    model.patch_embed.load_state_dict(peer.model.vision_embed_tokens.state_dict())
    torch.testing.assert_close(
        model.patch_embed(ours), peer.model.vision_embed_tokens(cut), rtol=1e-5, atol=1e-5
    )
