"""Checkpoints and logits against transformers and gguf, the libraries that own the formats."""

import json

import numpy as np
import pytest
import torch

from paragone.language import _format_gguf
from paragone.language.checkpoints import save
from paragone.language.config import LlamaConfig
from paragone.language.llama import Llama

pytestmark = pytest.mark.peers

TINY = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
        "mscale": 1.0, "mscale_all_dim": 0.7, "rope_theta": 1e4}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32, "rope_theta": 5e5}  # fmt: skip
DEEP = {
    "num_key_value_heads": 4, "moe_intermediate_size": 24, "n_routed_experts": 8,
    "num_experts_per_tok": 3, "n_shared_experts": 2, "kv_lora_rank": 12, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 6, "v_head_dim": 10, "first_k_dense_replace": 1,
}  # fmt: skip
CASES = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama_biased": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 10}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0,
                                             "rope_theta": 1e4}}),
    "yarn": ("Llama", {"rope_parameters": YARN}),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": ("Qwen3Moe", {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2,
                               "moe_intermediate_size": 24}),
    "deepseek": ("DeepseekV3", DEEP | {"q_lora_rank": 16, "n_group": 4, "topk_group": 2,
                                       "rope_parameters": YARN}),
    "moonlight": ("DeepseekV3", DEEP | {"q_lora_rank": None, "n_group": 1, "topk_group": 1}),
}  # fmt: skip


@pytest.fixture(scope="module")
def transformers():
    found = pytest.importorskip("transformers", reason="transformers is not installed")
    found.utils.logging.disable_progress_bar()
    return found


def drawn(model):
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if "inv_freq" not in name:
                spread = torch.randn(x.shape, generator=source) * (0.15 if x.ndim > 1 else 0.05)
                x.copy_(spread + (1 if "norm" in name else 0))
    return model.eval()


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers_both_ways(transformers, tmp_path, name):
    family, changes = CASES[name]
    config = getattr(transformers, f"{family}Config")(**TINY | changes)
    config._attn_implementation = "eager"
    theirs = drawn(getattr(transformers, f"{family}ForCausalLM")(config))
    ids = torch.randint(0, 60, (2, 33), generator=torch.Generator().manual_seed(1))
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    ours = Llama.from_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        wanted = theirs(ids).logits
        torch.testing.assert_close(ours(ids).logits, wanted, rtol=2e-5, atol=2e-5)
    ours.save_pretrained(tmp_path / "ours")
    kind = json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"]
    assert kind == theirs.config.model_type
    loaded = type(theirs).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, wanted, rtol=1e-6, atol=1e-6)


def test_the_published_model_is_that_of_transformers(transformers, data_folder):
    folder = data_folder / "language"
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder / "stories260K").eval()
    ids = torch.randint(0, 512, (2, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = theirs(ids).logits
        for file in ("stories260K", "stories260K.bin"):
            found = Llama.from_pretrained(folder / file)(ids).logits
            torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-5)


def test_balance_loss_is_that_of_mixtral(transformers):
    modeling = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    config = LlamaConfig(**TINY | {"num_hidden_layers": 1, "n_routed_experts": 8,
                                   "router_aux_loss_coef": 1.0})  # fmt: skip
    model = Llama(config, generator=torch.Generator().manual_seed(0)).train()
    mixture: torch.nn.Module = model.model.layers[0].mlp
    x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(1))
    mixture.gate.weight.data.mul_(30)
    lengths = torch.tensor([16, 9])
    mixture(x, lengths)
    mask = (torch.arange(16) < lengths[:, None]).long()
    wanted = modeling.load_balancing_loss_func(
        (x.flatten(0, 1) @ mixture.gate.weight.T,), 8, 2, mask
    )
    torch.testing.assert_close(2 * mixture.balance_loss, wanted, rtol=1e-5, atol=1e-5)


def test_gguf_files_are_those_of_its_own_library(tmp_path):
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    config = LlamaConfig(**TINY | {"rope_layout": "interleaved"})
    model = Llama(config, generator=torch.Generator().manual_seed(0))
    path = save(model, None, tmp_path, "gguf-q8_0")
    reader = gguf.GGUFReader(path)
    assert reader.fields["llama.embedding_length"].contents() == 32
    _, own = _format_gguf.read_tensors(path)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(values, own[tensor.name].numpy())
    x = np.random.default_rng(0).normal(size=(7, 96)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    assert np.array_equal(gguf.quants.quantize(x, kind).reshape(-1, 34), _format_gguf.quantized(x))
    names = gguf.TensorNameMap(gguf.MODEL_ARCH.LLAMA, 2)
    for name in model.state_dict():
        there = names.get_name(name, try_suffixes=(".weight",))
        assert there in own
    assert not set(own) - {names.get_name(name, (".weight",)) for name in model.state_dict()}
