"""Configurations: sizes that follow from others, files of every kind, what is refused."""

import dataclasses
import json

import pytest

from paragone.language._format_config import kind_of, read_config, write_config
from paragone.language.config import PRESETS, LlamaConfig

TINY = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LATENT = {"kv_lora_rank": 12, "qk_nope_head_dim": 6, "qk_rope_head_dim": 8, "v_head_dim": 10}
ROUTED = {"n_routed_experts": 8, "moe_intermediate_size": 24}
DEEP = LATENT | ROUTED | {"scoring_func": "sigmoid", "n_shared_experts": 1, "mixer": "mla"}

WRITTEN = {
    "llama": {}, "mistral": {"mixer_options": {"window": 8}}, "qwen2": {"attention_bias": "qkv"},
    "qwen3": {"qk_norm": True, "head_dim": 16}, "mixtral": {"n_routed_experts": 4},
    "qwen3_moe": ROUTED | {"qk_norm": True},
    "deepseek_v3": DEEP | {"rope_layout": "interleaved"},
    "paragone": {"mixer": ("mamba", "gqa")},
}  # fmt: skip


def test_sizes_follow_from_others():
    config = LlamaConfig(**TINY)
    assert (config.kv_heads, config.head_size, config.inner) == (4, 8, 96)
    assert LlamaConfig(**TINY, head_dim=6).head_size == 6
    assert LlamaConfig(**TINY, eos_token_id=(1, 2)).eos == (1, 2)
    assert LlamaConfig(**TINY, eos_token_id=None).eos == ()
    assert config.replace(mixer=("gqa", "mamba")).mixer_of(3) == "mamba"
    for sizes in PRESETS.values():
        assert LlamaConfig(**sizes).head_size * sizes["num_attention_heads"] == sizes["hidden_size"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"vocab_size": 0}, "vocab_size=0"), ({"num_key_value_heads": 3}, "divisor"),
        ({"hidden_size": 30}, "head_dim"),
        ({"n_routed_experts": 1, "num_experts_per_tok": 2}, "num_experts_per_tok=2"),
        ({"n_routed_experts": 8, "n_group": 3}, "n_group=3"),
        ({"n_routed_experts": 8, "n_group": 4, "topk_group": 5}, "topk_group=5"),
        ({"n_routed_experts": 8, "scoring_func": "relu"}, "scoring_func='relu'"),
        ({"rope_layout": "whole"}, "rope_layout='whole'"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        LlamaConfig(**TINY | changes)


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_written_configuration_is_read_back(kind):
    config = LlamaConfig(**TINY | {"intermediate_size": 48} | WRITTEN[kind])
    assert kind_of(config) == kind
    text = json.dumps(write_config(config, "float32"))
    found = read_config(json.loads(text), "config.json")
    for field in dataclasses.fields(LlamaConfig):
        if field.name == "moe_intermediate_size":
            assert found.expert_inner == config.expert_inner
        elif field.name == "num_key_value_heads":
            assert found.kv_heads == config.kv_heads
        elif field.name == "intermediate_size" and kind == "mixtral":
            assert found.inner == config.expert_inner
        elif field.name != "head_dim":
            assert getattr(found, field.name) == getattr(config, field.name), field.name
    assert kind == "deepseek_v3" or found.head_size == config.head_size


@pytest.mark.parametrize(
    "changes",
    [
        {"mlp_bias": True, "qk_norm": True}, ROUTED | {"attention_bias": True},
        DEEP | {"n_shared_experts": 0}, DEEP | {"scoring_func": "softmax"},
        {"mixer_options": {"softcap": 5.0}}, {"mixer": "mqa"},
    ],
)  # fmt: skip
def test_what_no_published_kind_has_is_written_as_our_own(changes):
    assert kind_of(LlamaConfig(**TINY | changes)) == "paragone"


def test_both_generations_of_angles_are_read():
    old = {"model_type": "llama", "rope_theta": 5e5,
           "rope_scaling": {"type": "linear", "factor": 2.0}}  # fmt: skip
    scaling = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    new = {"model_type": "llama", "rope_parameters": scaling}
    for raw in (old, new):
        config = read_config(raw, "config.json")
        assert config.rope_theta == 5e5
        assert config.rope_scaling == {"rope_type": "linear", "factor": 2.0}
    assert read_config({"model_type": "llama"}, "").rms_norm_eps == 1e-6


def test_unknown_fields_warn_and_what_cannot_be_honoured_is_refused_at_once():
    with pytest.warns(UserWarning, match="mystery, secret"):
        read_config({"model_type": "llama", "secret": 1, "mystery": 2}, "config.json")
    with pytest.raises(ValueError, match=r"model_type='bert' is none of llama"):
        read_config({"model_type": "bert"}, "config.json")
    raw = {"model_type": "llama", "hidden_act": "gelu", "partial_rotary_factor": 0.5,
           "quantization_config": {"bits": 4}}  # fmt: skip
    with pytest.raises(ValueError, match=r"gelu.*quantization_config.*partial_rotary_factor"):
        read_config(raw, "config.json")
    with pytest.raises(ValueError, match="unknown fields colour"):
        read_config({"model_type": "paragone", "colour": "red"}, "config.json")
