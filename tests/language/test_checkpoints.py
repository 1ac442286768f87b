"""Checkpoints: every format both ways, what is wrong with a file, files made by hand."""

import json
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from paragone.language._format_gguf import quantized, read_fields, read_tensors, write_gguf
from paragone.language._format_hf import write_hf
from paragone.language._format_weights import in_layout, permuted
from paragone.language.checkpoints import FORMATS, load, save
from paragone.language.config import LlamaConfig
from paragone.language.llama import Llama

TINY = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
LATENT = {"kv_lora_rank": 12, "qk_nope_head_dim": 6, "qk_rope_head_dim": 8, "v_head_dim": 10}


def made(**changes):
    config = LlamaConfig(**TINY | changes)
    model = Llama(config, generator=torch.Generator().manual_seed(0)).eval()
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, x in model.named_parameters():
            spread = torch.randn(x.shape, generator=source) * (0.2 if x.ndim > 1 else 0.1)
            x.copy_(spread + (1 if "norm" in name else 0))
    return model


def logits(model, seed=0):
    ids = torch.randint(0, 40, (2, 12), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(ids).logits


def close(found, wanted, tolerance=2e-5):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["half", "interleaved", "tied"])
def test_every_format_keeps_the_model(tmp_path, format, kind):
    layout = "interleaved" if kind == "interleaved" else "half"
    model = made(rope_layout=layout, tie_word_embeddings=kind == "tied")
    path = save(model, None, tmp_path / "new", format)
    found, tokenizer = load(path)
    assert tokenizer is None
    assert not found.training
    assert found.config.rope_layout == ("half" if format == "hf" else "interleaved")
    assert found.config.tie_word_embeddings == (kind == "tied")
    assert (found.lm_head.weight is found.model.embed_tokens.weight) == (kind == "tied")
    close(logits(found), logits(model), 0.1 if format == "gguf-q8_0" else 2e-5)
    if format == "gguf-q8_0":
        assert not torch.equal(logits(found), logits(model))
    again, _ = load(save(found, None, tmp_path / "again", "hf"))
    close(logits(again), logits(found))


OTHERS = {
    "biases": ({"attention_bias": True, "mlp_bias": True}, ("hf", "gguf")),
    "qwen2": ({"attention_bias": "qkv", "head_dim": 10}, ("hf", "gguf")),
    "qwen3": ({"qk_norm": True, "head_dim": 16}, ("hf", "gguf")),
    "mixtral": ({"n_routed_experts": 4, "rope_layout": "interleaved"}, ("hf", "gguf")),
    "llama3": ({"rope_scaling": LLAMA3, "rope_theta": 5e5}, ("hf", "gguf", "meta")),
    "yarn": ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                               "original_max_position_embeddings": 16}}, ("hf", "gguf")),
    "linear": ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, ("hf", "gguf")),
    "deepseek": (LATENT | {"n_routed_experts": 4, "scoring_func": "sigmoid", "mixer": "mla",
                           "n_shared_experts": 1, "rope_layout": "interleaved",
                           "first_k_dense_replace": 1, "num_key_value_heads": 4}, ("hf",)),
    "mixed": ({"mixer": ("mamba", "gqa", "gla"), "rope_layout": "interleaved"}, ("hf",)),
    "s4d": ({"mixer": "s4d"}, ("hf",)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_models_of_other_kinds_survive_where_the_format_has_a_place(tmp_path, name):
    changes, formats = OTHERS[name]
    model = made(**changes)
    for format in FORMATS:
        if format in formats:
            close(logits(load(save(model, None, tmp_path / format, format))[0]), logits(model))
        elif format != "gguf-q8_0":
            with pytest.raises(ValueError, match="cannot hold this model"):
                save(model, None, tmp_path / format, format)


def test_a_permutation_there_and_back_is_none():
    x = torch.arange(2 * 8 * 3).view(16, 3)
    assert torch.equal(permuted(permuted(x, 8, "half"), 8, "interleaved"), x)
    assert permuted(x, 8, "half")[:4, 0].tolist() == [0, 6, 12, 18]
    model = made(qk_norm=True, attention_bias=True)
    turned, config = in_layout(model.state_dict(), model.config, "interleaved")
    other = Llama(config)
    other.load_state_dict(turned)
    close(logits(other.eval()), logits(model))
    other.load_state_dict(model.state_dict())
    assert (logits(other) - logits(model)).abs().max() > 0.05, "without it the result is another"


def test_shards_and_their_index(tmp_path):
    model = made()
    write_hf(model, tmp_path, shard_bytes=20_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 1
    assert set(index["weight_map"]) == set(model.state_dict())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in model.state_dict().values())
    assert torch.equal(logits(load(tmp_path)[0]), logits(model))
    write_hf(model, tmp_path)
    assert [file.name for file in tmp_path.glob("model*")] == ["model.safetensors"]
    write_hf(model, tmp_path, shard_bytes=20_000)
    files[-1].unlink()
    with pytest.raises(ValueError, match=f"names {files[-1].name}, which"):
        load(tmp_path)


def test_a_tied_head_is_written_once_and_never_contradicted(tmp_path):
    model = made(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, file)
    assert torch.equal(logits(Llama.from_pretrained(tmp_path)), logits(model))
    tensors["lm_head.weight"] += 1
    save_file(tensors, file)
    with pytest.raises(ValueError, match="set it to false to keep both"):
        load(tmp_path)


def test_all_that_does_not_fit_is_said_at_once(tmp_path):
    made().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 3)
    tensors["model.layers.0.self_attn.q_proj.weight"] = torch.zeros(32, 32, dtype=torch.int64)
    tensors["strange.weight"] = torch.zeros(1)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    save_file(tensors, file)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        load(tmp_path)
    text = str(error.value)
    assert "4 tensors do not fit" in text
    assert "model.norm.weight: missing" in text
    assert "up_proj.weight: shape (3, 3), expected (48, 32)" in text
    assert "q_proj.weight: torch.int64" in text
    assert "strange.weight: the model has no such parameter" in text


def test_experts_are_single_on_disk_and_missing_ones_are_named(tmp_path):
    model = made(n_routed_experts=4)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    one = tensors.pop("model.layers.1.block_sparse_moe.experts.3.w2.weight")
    assert torch.equal(one, model.model.layers[1].mlp.experts.down_proj[3])
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.experts\.3\.down_proj"):
        load(tmp_path)
    model.model.layers[0].mlp.gate.e_score_correction_bias[1] = 0.5
    with pytest.warns(UserWarning, match="only this library reads"):
        model.save_pretrained(tmp_path)
    found = Llama.from_pretrained(tmp_path)
    assert found.model.layers[0].mlp.gate.e_score_correction_bias[1] == 0.5
    close(logits(found), logits(model))


def test_modules_that_predict_further_tokens_are_left_out_and_said(tmp_path):
    made().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.2.eh_proj.weight"] = torch.zeros(2, 2)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match="1 tensors of layers from 2 on"):
        load(tmp_path)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="none of the known formats"):
        load(tmp_path / "model.bin")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="JSON is expected"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=r"neither model\.safetensors"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"format='onnx' is none of hf"):
        save(made(), None, tmp_path, "onnx")


class _Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_but_tensors_is_unpickled(tmp_path):
    save(made(), None, tmp_path, "meta")
    torch.save({"tok_embeddings.weight": _Touch(str(tmp_path / "touched"))},
               tmp_path / "consolidated.00.pth", pickle_module=pickle)  # fmt: skip
    with pytest.raises(ValueError, match="no file of tensors alone"):
        load(tmp_path)
    assert not (tmp_path / "touched").exists()


def test_parts_of_metas_models_are_joined(tmp_path):
    model = made()
    whole = tmp_path / "consolidated.00.pth"
    save(model, None, tmp_path, "meta")
    tensors = torch.load(whole, weights_only=True)
    parts = [{}, {}]
    for name, x in tensors.items():
        columns = any(part in name for part in ("wo", "w2", "tok_embeddings"))
        pieces = x.chunk(2, 1 if columns else 0) if x.ndim > 1 else (x, x)
        for part, piece in zip(parts, pieces, strict=True):
            part[name] = piece.clone()
    for at, part in enumerate(parts):
        torch.save(part | {"rope.freqs": torch.zeros(4)}, tmp_path / f"consolidated.0{at}.pth")
    assert torch.equal(logits(load(tmp_path)[0]), logits(load(tmp_path)[0]))
    close(logits(load(tmp_path)[0]), logits(model))
    params = json.loads((tmp_path / "params.json").read_text())
    hidden = int(params.get("ffn_dim_multiplier", 1) * (8 * 32 // 3))
    assert -(-hidden // params["multiple_of"]) * params["multiple_of"] == 48
    (tmp_path / "params.json").write_text(json.dumps(params | {"colour": 1}))
    with pytest.raises(ValueError, match="unknown colour"):
        load(tmp_path)


def by_hand(model, path, version):
    """llama2.c's newer files, written as its export script does."""
    config = model.config
    tensors = {name: x.float().numpy() for name, x in model.state_dict().items()}
    layers = range(config.num_hidden_layers)
    head = struct.pack(
        "<IiiiiiiiiB", 0x616B3432, version, 32, 48, 2, 4, 2, 40, 64, config.tie_word_embeddings
    )
    matrices = [
        tensors[f"model.layers.{at}.{part}.weight"]
        for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                     "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj")
        for at in layers
    ]  # fmt: skip
    norms = [tensors[f"model.layers.{at}.{part}_layernorm.weight"]
             for part in ("input", "post_attention") for at in layers]  # fmt: skip
    body = [*norms, tensors["model.norm.weight"]]
    big = [tensors["model.embed_tokens.weight"], *matrices]
    if not config.tie_word_embeddings:
        big.append(tensors["lm_head.weight"])
    if version == 2:
        head += struct.pack("<i", 16)
    with path.open("wb") as file:
        file.write(head.ljust(256, b"\0"))
        for x in body:
            file.write(x.tobytes())
        for x in big:
            if version == 1:
                file.write(x.tobytes())
                continue
            groups = x.reshape(-1, 16)
            scale = np.abs(groups).max(1) / 127
            file.write(np.round(groups / scale[:, None]).astype(np.int8).tobytes())
            file.write(scale.astype(np.float32).tobytes())


@pytest.mark.parametrize("version", [1, 2])
def test_newer_files_of_llama2c(tmp_path, version):
    model = made(rope_layout="interleaved", tie_word_embeddings=version == 1)
    path = tmp_path / "model.bin"
    by_hand(model, path, version)
    close(logits(load(path)[0]), logits(model), 2e-5 if version == 1 else 0.2)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="but the header promises"):
        load(path)
    path.write_bytes(data + b"\0\0")
    with pytest.raises(ValueError, match="2 bytes are left"):
        load(path)
    path.write_bytes(data[:4] + struct.pack("<i", 7) + data[8:])
    with pytest.raises(ValueError, match="version 7"):
        load(path)


def test_the_published_model_is_written_as_it_was_read(data_folder, tmp_path):
    source = data_folder / "language" / "stories260K.bin"
    model = Llama.from_pretrained(source)
    other = Llama.from_pretrained(data_folder / "language" / "stories260K")
    ids = torch.randint(0, 512, (2, 50), generator=torch.Generator().manual_seed(0))
    close(model(ids).logits, other(ids).logits)
    old = np.fromfile(source, np.float32)
    tables = 2 * 512 * 4
    for each in (model, other):
        new = np.fromfile(save(each, None, tmp_path, "llama2c"), np.float32)
        assert len(new) == len(old)
        assert np.array_equal(new[:-tables], old[:-tables])
        np.testing.assert_allclose(new[-tables:], old[-tables:], atol=1e-4)


def test_eight_bits_are_a_scale_and_whole_numbers():
    x = np.zeros((1, 64), np.float32)
    x[0, :4] = 127, -127, 0.5, -1.5
    blocks = quantized(x)
    assert blocks.shape == (2, 34)
    assert blocks[0, :2].view(np.float16)[0] == 1
    assert blocks[0, 2:6].view(np.int8).tolist() == [127, -127, 1, -2]
    assert not blocks[1].any()


def test_fields_and_tensors_of_gguf(tmp_path):
    path = tmp_path / "x.gguf"
    fields = {"a": 3, "b": -4, "c": 0.5, "d": True, "e": "word", "f": [1, -2], "g": ["x", "yé"],
              "h": [0.5, 1.5], "i": []}  # fmt: skip
    tensors = {
        "one": torch.arange(6).view(2, 3).float(), "two": torch.ones(4, 32) * 3,
        "three": torch.tensor([1.5, 2.5]).half(), "four": torch.tensor([1.5]).bfloat16(),
    }  # fmt: skip
    write_gguf(path, fields, tensors, {"two"})
    assert read_fields(path) == fields
    _, found = read_tensors(path)
    for name, x in tensors.items():
        assert found[name].dtype == (torch.float32 if name == "two" else x.dtype)
        assert torch.allclose(found[name].float(), x.float(), rtol=1e-3)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="amid its header"):
        read_fields(path)
    path.write_bytes(b"nothing of the kind, really")
    with pytest.raises(ValueError, match="no GGUF file"):
        read_fields(path)


def test_rows_that_are_no_multiples_of_32_are_kept_wider(tmp_path):
    model = made(intermediate_size=40)
    path = save(model, None, tmp_path, "gguf-q8_0")
    _, tensors = read_tensors(path)
    assert tensors["blk.0.ffn_down.weight"].dtype == torch.float16
    assert tensors["blk.0.ffn_up.weight"].dtype == torch.float32
    found = Llama.from_pretrained(path)
    assert {x.dtype for x in found.parameters()} == {torch.float32}


def test_scaled_angles_of_llama_3_are_recognised(tmp_path):
    model = made(rope_scaling=LLAMA3, rope_theta=5e5)
    path = save(model, None, tmp_path, "gguf")
    fields, tensors = read_tensors(path)
    del fields["paragone.rope_scaling"]
    write_gguf(path, fields, tensors, set())
    assert Llama.from_pretrained(path).config.rope_scaling == LLAMA3
    write_gguf(path, fields, tensors | {"rope_freqs.weight": torch.tensor([1.0, 1, 2, 3])}, set())
    with pytest.raises(ValueError, match="not that of a published"):
        load(path)
    write_gguf(path, fields | {"general.architecture": "bert"}, tensors, set())
    with pytest.raises(ValueError, match="architecture 'bert' is none of llama"):
        load(path)


def test_where_and_in_which_type_a_model_is_loaded(tmp_path):
    model = made(n_routed_experts=4)
    model.save_pretrained(tmp_path)
    found, _ = load(tmp_path, dtype=torch.bfloat16)
    assert {x.dtype for x in found.parameters()} == {torch.bfloat16}
    assert found.model.layers[0].mlp.gate.e_score_correction_bias.dtype == torch.float32
    found.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert Llama.from_pretrained(tmp_path).lm_head.weight.dtype == torch.bfloat16
    meta = Llama.from_pretrained(tmp_path, device="meta")
    assert all(x.is_meta for x in meta.parameters())
    assert all(x.requires_grad for x in found.parameters())


def test_a_tokenizer_goes_with_the_model(tmp_path, data_folder):
    folder = data_folder / "language"
    model, tokenizer = load(folder / "stories260K.bin", folder / "tok512.model")
    for format in FORMATS:
        _, found = load(save(model, tokenizer, tmp_path / format, format))
        assert found.encode("Once upon a time") == tokenizer.encode("Once upon a time")
