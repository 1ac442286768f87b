"""KimiVL against transformers: K2.5's tower and projector (one frame), DeepSeek-V3's decoder."""

import pytest
import torch

from paragone.multimodal import KimiImageProcessor, KimiVL

pytestmark = pytest.mark.peers

TEXT = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 24, "moe_intermediate_size": 16,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
    "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 2,
    "first_k_dense_replace": 1, "routed_scaling_factor": 2.446, "n_group": 1, "topk_group": 1,
    "norm_topk_prob": True, "q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8, "v_head_dim": 12, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5, "rope_theta": 800000.0, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
VISION = {
    "patch_size": 4, "num_attention_heads": 2, "num_hidden_layers": 2, "hidden_size": 24,
    "intermediate_size": 40, "merge_kernel_size": [2, 2],
}  # fmt: skip
PAD = 57


@pytest.fixture(scope="module")
def both():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    kimi = pytest.importorskip("transformers.models.kimi_k25.modeling_kimi_k25")
    from transformers.models.kimi_k25.configuration_kimi_k25 import Kimi_K25Config

    text = dict(TEXT, rope_parameters={"rope_type": "default", "rope_theta": TEXT["rope_theta"]},
                model_type="deepseek_v3", rope_interleave=True)  # fmt: skip
    config = Kimi_K25Config(
        text_config=transformers.DeepseekV3Config(**text), image_token_id=PAD, video_token_id=60,
        vision_config={**VISION, "pos_emb_height": 5, "pos_emb_width": 5},
        projection_hidden_size=24, tie_word_embeddings=False,
    )  # fmt: skip
    config._attn_implementation = "eager"
    peer = kimi.Kimi_K25ForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, x in [*peer.named_parameters(), *peer.named_buffers()]:
            if x.is_floating_point() and "inv_freq" not in name and "time_pos" not in name:
                x.copy_(torch.randn(x.shape, generator=generator) * (0.5 if x.ndim < 2 else 0.2))
    ours = KimiVL.from_config({
        "text_config": TEXT,
        "vision_config": {**VISION, "init_pos_emb_height": 5, "init_pos_emb_width": 5},
        "media_placeholder_token_id": PAD, "media_start_token_id": 58,
        "media_content_token_id": None, "media_end_token_id": 59, "pad_token_id": 0,
    })  # fmt: skip
    ours.load_state_dict(renamed(peer.state_dict()))
    return peer, ours.eval()


def renamed(state: dict) -> dict:
    """The peer's names into ours; the tower's layout is converted when it is loaded."""
    parts = {
        "model.vision_tower.": "vision_tower.", "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.mm_projector.pre_norm.": "multi_modal_projector.pre_norm.",
        "model.mm_projector.in_proj.": "multi_modal_projector.linear_1.",
        "model.mm_projector.out_proj.": "multi_modal_projector.linear_2.",
    }  # fmt: skip
    found = {}
    for name, x in state.items():
        for start, ours in parts.items():
            if name.startswith(start):
                found[ours + name.removeprefix(start)] = x
    return found


def test_logits_of_mixed_pictures_and_texts(both):
    peer, ours = both
    generator = torch.Generator().manual_seed(1)
    grids = [(4, 6), (2, 2), (6, 4)]
    patches = torch.rand(52, 3, 4, 4, generator=generator) * 2 - 1
    rows = [[3, 58, *[PAD] * 6, 59, 7, 58, PAD, 59, 9], [8, 58, *[PAD] * 6, 59, 5, 6, 7, 8, 9]]
    length = max(map(len, rows))
    ids = torch.tensor([row + [2] * (length - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(length) < lengths[:, None]).long()
    with torch.no_grad():
        wanted = peer(
            input_ids=ids, attention_mask=mask, pixel_values=patches,
            image_grid_thw=torch.tensor([(1, h, w) for h, w in grids]),
        ).logits  # fmt: skip
        found = ours(ids, patches, grids, lengths=lengths).logits
        features = peer.model.get_image_features(
            patches, image_grid_thw=torch.tensor([(1, h, w) for h, w in grids])
        ).pooler_output
    there = mask.bool()
    assert wanted[there].std() > 0.3
    torch.testing.assert_close(found[there], wanted[there], rtol=1e-5, atol=1e-5)
    seen = ours.features(patches, grids).detach()
    torch.testing.assert_close(seen, torch.cat(features), rtol=1e-5, atol=1e-5)


def test_sizes_are_those_of_the_peers_processor():
    module = pytest.importorskip("transformers.models.kimi_k25.image_processing_kimi_k25")
    ours = KimiImageProcessor(in_token_limit=1000, patch_limit_on_one_side=64)
    for size in [(1, 1), (15, 29), (448, 448), (449, 450), (890, 37), (3, 5000), (2000, 1000)]:
        wanted = module.navit_resize(*size, 14, 2, 1000, 64)
        assert ours.sizes(*size) == wanted, size
