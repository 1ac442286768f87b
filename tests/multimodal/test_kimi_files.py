"""Kimi-VL's files: the published names and shapes, strict reading, writing whole or in shards."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from paragone.multimodal import Document, KimiVL, KimiVLConfig, open_model

# Text half as in the public config.json of Kimi-VL-A3B (moonshotai) and of its fine-tuned copies
# (e.g. sthui/SimpleSeg): names and values of fields, as far as they say something of sizes.
PUBLISHED = {
    "architectures": ["KimiVLForConditionalGeneration"],
    "model_type": "kimi_vl",
    "vision_config": {
        "model_type": "moonvit", "patch_size": 14, "num_attention_heads": 16,
        "num_hidden_layers": 27, "hidden_size": 1152, "intermediate_size": 4304,
        "init_pos_emb_height": 64, "init_pos_emb_width": 64, "merge_kernel_size": [2, 2],
        "torch_dtype": "bfloat16",
    },
    "text_config": {
        "vocab_size": 163840, "max_position_embeddings": 131072, "hidden_size": 2048,
        "intermediate_size": 11264, "moe_intermediate_size": 1408, "num_hidden_layers": 27,
        "num_attention_heads": 16, "n_shared_experts": 2, "n_routed_experts": 64, "ep_size": 1,
        "routed_scaling_factor": 2.446, "kv_lora_rank": 512, "q_lora_rank": None,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128,
        "topk_method": "noaux_tc", "n_group": 1, "topk_group": 1, "num_experts_per_tok": 6,
        "moe_layer_freq": 1, "first_k_dense_replace": 1, "norm_topk_prob": True,
        "scoring_func": "sigmoid", "aux_loss_alpha": 0.001, "seq_aux": True,
        "num_key_value_heads": 16, "hidden_act": "silu", "initializer_range": 0.02,
        "rms_norm_eps": 1e-05, "pretraining_tp": 1, "use_cache": True, "rope_theta": 800000.0,
        "rope_scaling": None, "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 163584, "pad_token_id": 163839, "eos_token_id": 163585,
        "torch_dtype": "bfloat16", "tie_word_embeddings": False,
    },
    "media_placeholder_token_id": 163605,
}  # fmt: skip


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the files of Kimi-VL-A3B, written out from the public description."""
    shapes: dict[str, tuple[int, ...]] = {
        "vision_tower.patch_embed.proj.weight": (1152, 3, 14, 14),
        "vision_tower.patch_embed.proj.bias": (1152,),
        "vision_tower.patch_embed.pos_emb.weight": (64, 64, 1152),
        "vision_tower.encoder.final_layernorm.weight": (1152,),
        "vision_tower.encoder.final_layernorm.bias": (1152,),
        "multi_modal_projector.pre_norm.weight": (1152,),
        "multi_modal_projector.pre_norm.bias": (1152,),
        "multi_modal_projector.linear_1.weight": (4608, 4608),
        "multi_modal_projector.linear_1.bias": (4608,),
        "multi_modal_projector.linear_2.weight": (2048, 4608),
        "multi_modal_projector.linear_2.bias": (2048,),
        "language_model.model.embed_tokens.weight": (163840, 2048),
        "language_model.model.norm.weight": (2048,),
        "language_model.lm_head.weight": (163840, 2048),
    }
    block = {"norm0": (1152,), "norm1": (1152,), "wqkv": (3456, 1152), "wo": (1152, 1152),
             "mlp.fc0": (4304, 1152), "mlp.fc1": (1152, 4304)}  # fmt: skip
    for i in range(27):
        for name, shape in block.items():
            shapes[f"vision_tower.encoder.blocks.{i}.{name}.weight"] = shape
            shapes[f"vision_tower.encoder.blocks.{i}.{name}.bias"] = shape[:1]
    attention = {"q_proj": (3072, 2048), "kv_a_proj_with_mqa": (576, 2048),
                 "kv_a_layernorm": (512,), "kv_b_proj": (4096, 512),
                 "o_proj": (2048, 2048)}  # fmt: skip
    for i in range(27):
        layer = f"language_model.model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (2048,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (2048,)
        for name, shape in attention.items():
            shapes[f"{layer}.self_attn.{name}.weight"] = shape
        feeds = (
            {"": 11264}
            if i == 0
            else {".shared_experts": 2816} | {f".experts.{j}": 1408 for j in range(64)}
        )
        for feed, inner in feeds.items():
            shapes[f"{layer}.mlp{feed}.gate_proj.weight"] = (inner, 2048)
            shapes[f"{layer}.mlp{feed}.up_proj.weight"] = (inner, 2048)
            shapes[f"{layer}.mlp{feed}.down_proj.weight"] = (2048, inner)
        if i > 0:
            shapes[f"{layer}.mlp.gate.weight"] = (64, 2048)
            shapes[f"{layer}.mlp.gate.e_score_correction_bias"] = (64,)
    return shapes


def small(**changes) -> KimiVL:
    model = KimiVL.from_config(
        "digits", generator=torch.Generator().manual_seed(5),
        vision_config={"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1,
                       "intermediate_size": 24},
        text_config={"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
                     "num_hidden_layers": 2, "intermediate_size": 24, "moe_intermediate_size": 8,
                     "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
                     "v_head_dim": 8, "first_k_dense_replace": 1, "n_routed_experts": 3,
                     **changes.pop("text_config", {})},
        **changes,
    )  # fmt: skip
    return model.eval()


PAGE = Document((np.arange(64, dtype=np.uint8).reshape(8, 8), "a zero"), (False, True))


def test_the_whole_model_has_the_published_names_and_shapes():
    model = KimiVL.from_config("kimi-vl-a3b", device="meta")
    found = {name: tuple(x.shape) for name, x in model.published().items()}
    assert found == published_shapes()
    assert len(found) == 5652
    assert sum(name.startswith(("vision_tower.", "multi_modal_")) for name in found) == 335
    vision = sum(x.numel() for x in model.vision_tower.parameters())
    assert round(vision / 1e6) == 417
    longer = KimiVL.from_config("kimi-vl-a3b-thinking-2506", device="meta")
    assert longer.processor.in_token_limit == 16384


@pytest.mark.filterwarnings("error")
def test_the_published_config_is_read_and_is_the_preset():
    config = KimiVLConfig.from_dict(PUBLISHED)
    assert config == KimiVLConfig()
    text = config.to_dict("bfloat16")
    for half in ("vision_config", "text_config"):
        for name, value in PUBLISHED[half].items():
            if name in text[half] and not name.endswith("dtype"):
                assert text[half][name] == value, name
    assert KimiVLConfig.from_dict(json.loads(json.dumps(text))) == config
    # Another base of angles and a router's loss survive.
    other = config.replace(text_config={"router_aux_loss_coef": 0.01, "rope_theta": 5e4})
    assert KimiVLConfig.from_dict(json.loads(json.dumps(other.to_dict()))) == other


@pytest.mark.parametrize("tied", [False, True])
def test_save_and_load_are_exact(tmp_path, tied):
    model = small(text_config={"tie_word_embeddings": tied})
    bias = model.language_model.model.layers[1].mlp.gate.e_score_correction_bias
    bias += torch.tensor([0.5, -0.25, 0.0])
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert "language_model.model.layers.1.mlp.experts.2.down_proj.weight" in names
    assert not any("gate_up_proj" in name for name in names)
    assert ("language_model.lm_head.weight" in names) is not tied
    again = open_model(tmp_path)
    assert isinstance(again, KimiVL)
    assert again.config == model.config
    assert again.processor == model.processor
    for name, x in model.state_dict().items():
        assert torch.equal(x, again.state_dict()[name]), name
    assert float(model.losses([PAGE]).text.detach()) == float(again.losses([PAGE]).text.detach())
    # The published limit of patches stands in the processor's file alone.
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "in_token_limit": 77}))
    assert KimiVL.from_pretrained(tmp_path).config.in_token_limit == 77
    narrow = KimiVL.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert narrow.language_model.lm_head.weight.dtype == torch.bfloat16
    kept = narrow.language_model.model.layers[1].mlp.gate.e_score_correction_bias
    assert torch.equal(kept, bias)
    narrow.save_pretrained(tmp_path / "narrow")
    assert json.loads((tmp_path / "narrow" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_plain_decoder_is_kept_as_our_own_kind(tmp_path):
    plain = {"kv_lora_rank": None, "mixer": "gqa", "num_key_value_heads": 1, "n_routed_experts": 0}
    model = small(text_config=plain)
    assert model.losses([PAGE]).text_count == 7
    assert model.train().after_step() == {}
    model.eval().save_pretrained(tmp_path)
    kind = json.loads((tmp_path / "config.json").read_text())["text_config"]["model_type"]
    again = KimiVL.from_pretrained(tmp_path)
    assert kind == "paragone"
    assert again.config == model.config
    assert float(model.losses([PAGE]).text.detach()) == float(again.losses([PAGE]).text.detach())


def test_shards_and_one_file_replace_each_other(tmp_path):
    model = small()
    model.save_pretrained(tmp_path, shard_bytes=20_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.published())
    assert len(set(index["weight_map"].values())) > 2
    assert index["metadata"]["total_size"] == sum(4 * x.numel() for x in model.published().values())
    again = KimiVL.from_pretrained(tmp_path)
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in model.state_dict().items())
    model.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    assert not list(tmp_path.glob(".*"))
    KimiVL.from_pretrained(tmp_path)


def test_what_does_not_fit_is_told_at_once(tmp_path):
    small().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    expert = "language_model.model.layers.1.mlp.experts.0.up_proj.weight"
    tensors["vision_tower.patch_embed.proj.bias"] = torch.zeros(7)
    tensors["multi_modal_projector.linear_3.weight"] = torch.zeros(2)
    del tensors["language_model.model.norm.weight"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match="3 tensors do not fit") as caught:
        KimiVL.from_pretrained(tmp_path)
    told = str(caught.value)
    assert "shape (7,), expected (16,)" in told
    assert "linear_3.weight: the model has no such" in told
    assert "model.norm.weight: missing" in told
    del tensors[expert]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.experts\.0\.up_proj"):
        KimiVL.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="neither"):
        KimiVL.from_pretrained(tmp_path)


def test_bad_configs_are_told(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        KimiVL.from_pretrained(tmp_path)
    file = tmp_path / "config.json"
    for text, told in [("{", "JSON"), ('{"model_type": "llava"}', "'llava'"), ("[]", "list")]:
        file.write_text(text)
        with pytest.raises(ValueError, match=told):
            KimiVL.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="none of kimi-vl-a3b"):
        KimiVL.from_config("kimi")
    with pytest.raises(ValueError, match="no field 'depth'"):
        KimiVL.from_config("digits", vision_config={"depth": 3})
    with pytest.raises(ValueError, match="no field 'layers'"):
        KimiVL.from_config("digits", layers=3)
    with pytest.raises(ValueError, match="tokens are 0 to 260"):
        KimiVL.from_config("digits", media_end_token_id=261)
    with pytest.raises(ValueError, match="must differ"):
        KimiVL.from_config("digits", media_end_token_id=260)
    with pytest.raises(ValueError, match="balance_rate"):
        KimiVL.from_config("digits", balance_rate=-1.0)
    with pytest.raises(ValueError, match="text_config has model_type='gpt2'"):
        KimiVLConfig.from_dict({"text_config": {"model_type": "gpt2"}})
    with pytest.raises(ValueError, match=re.escape("hidden_act='relu'")):
        KimiVLConfig.from_dict({"text_config": {"hidden_act": "relu"}})
