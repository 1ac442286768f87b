"""Folders of the Qwen2-VL family: both layouts of names, shards, tied heads, refusals; configs."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.multimodal import qwen2_vl_models as models

from paragone.multimodal._qwen2_vl_config import PRESETS, Qwen2VLConfig
from paragone.multimodal._qwen2_vl_files import is_published
from paragone.multimodal.qwen2_vl import Qwen2VL


def newer(name: str) -> str:
    """A name as newer programs write it."""
    if name.startswith("visual."):
        return "model." + name
    return name.replace("model.", "model.language_model.", 1)


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize("layout", ["published", "newer", "shards"])
def test_a_folder_gives_the_model_back(kind, layout, tmp_path):
    model = models.small(kind)
    model.save_pretrained(tmp_path, shard_bytes=60_000 if layout == "shards" else 5 << 30)
    names = {name for file in tmp_path.glob("*.safetensors") for name in load_file(file)}
    tied = model.config.text_config.tie_word_embeddings
    assert names == set(model.state_dict()) - ({"lm_head.weight"} if tied else set())
    assert {name.split(".")[0] for name in names} >= {"visual", "model"}
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or layout != "shards"
    if layout == "newer":
        file = tmp_path / "model.safetensors"
        save_file({newer(name): x for name, x in load_file(file).items()}, file)
    again = Qwen2VL.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.processor == model.processor
    assert not again.training
    for name, x in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], x), name
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    narrow = Qwen2VL.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
    assert (narrow.lm_head.weight is narrow.model.embed_tokens.weight) == tied
    assert is_published(tmp_path)


def test_what_does_not_fit_is_said(tmp_path):
    model = models.small("qwen2_vl")
    model.save_pretrained(tmp_path)
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole = load_file(file)
    broken = dict(whole)
    del broken["visual.merger.ln_q.bias"]
    broken["visual.blocks.9.norm1.weight"] = torch.zeros(24)
    broken["model.norm.weight"] = torch.zeros(47)
    save_file(broken, file)
    with pytest.raises(ValueError, match="3 tensors do not fit") as error:
        Qwen2VL.from_pretrained(tmp_path)
    for part in ("ln_q.bias: missing", "no such parameter", r"(47,), expected (48,)"):
        assert part in str(error.value)
    save_file({**whole, "model.visual.merger.ln_q.bias": torch.zeros(24)}, file)
    with pytest.raises(ValueError, match=r"visual\.merger\.ln_q\.bias is there under two names"):
        Qwen2VL.from_pretrained(tmp_path)
    # A tied head may be written, too, but not another one.
    save_file({**whole, "lm_head.weight": whole["model.embed_tokens.weight"].clone()}, file)
    Qwen2VL.from_pretrained(tmp_path)
    save_file({**whole, "lm_head.weight": whole["model.embed_tokens.weight"] + 1}, file)
    with pytest.raises(ValueError, match="tie_word_embeddings is true"):
        Qwen2VL.from_pretrained(tmp_path)
    config.write_text("{")
    assert not is_published(tmp_path)
    with pytest.raises(ValueError, match="expected a JSON object"):
        Qwen2VL.from_pretrained(tmp_path)
    config.write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="model_type='llama' is none of qwen2_vl, qwen2_5_vl"):
        Qwen2VL.from_pretrained(tmp_path)
    assert not is_published(tmp_path)
    config.unlink()
    with pytest.raises(ValueError, match="no such file; the folder of a Qwen2-VL"):
        Qwen2VL.from_pretrained(tmp_path)
    assert not is_published(tmp_path)


@pytest.mark.parametrize("name", list(PRESETS))
def test_configs_come_back(name):
    config = Qwen2VLConfig.from_dict(PRESETS[name])
    written = json.loads(json.dumps(config.to_dict("bfloat16")))
    assert Qwen2VLConfig.from_dict(written) == config
    nested = {"model_type": config.kind, "vision_config": written.pop("vision_config")}
    nested["text_config"] = {**written, "model_type": f"{config.kind}_text"}
    assert Qwen2VLConfig.from_dict(nested) == config
    assert config.text_config.tie_word_embeddings == (name == "ui-tars-2b")


def test_configs_are_checked():
    raw = models.raw("qwen2_vl")
    wrong = {
        "three numbers that add to half": {"rope_scaling": {"type": "mrope", "mrope_section": [1]}},
        "brought to a width of 40": {"vision_config": {**raw["vision_config"], "hidden_size": 40}},
        "image_token_id=96; tokens are 0 to 95": {"image_token_id": 96},
        "markers of pictures must differ": {"video_token_id": models.IMAGE},
        "'quick_gelu' is expected": {"vision_config": {"hidden_act": "silu", "hidden_size": 48}},
        "hidden_act='gelu'": {"hidden_act": "gelu"},
        "use_sliding_window=True": {"use_sliding_window": True},
        "must be a multiple of 4": {
            "vision_config": {"embed_dim": 18, "num_heads": 3, "hidden_size": 48}
        },
    }
    for message, changes in wrong.items():
        with pytest.raises(ValueError, match=message):
            Qwen2VLConfig.from_dict({**raw, **changes})
    with pytest.raises(ValueError, match="none of ui-tars-2b"):
        Qwen2VL.from_config("ui-tars-9b")
    with pytest.raises(ValueError, match="no field 'depths'"):
        Qwen2VL.from_config(raw, vision_config={"depths": 1})
    deeper = Qwen2VL.from_config(raw, vision_config={"depth": 1}, device="meta")
    assert len(deeper.visual.blocks) == 1
    scaled = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
              "mrope_section": [2, 3, 3]}  # fmt: skip
    longer = Qwen2VL.from_config({**raw, "rope_scaling": scaled}, device="meta")
    assert longer.model.rotary.amplitude > 1
    assert Qwen2VLConfig.from_dict(longer.config.to_dict()) == longer.config


def test_first_weights_come_from_the_generator():
    one, other = (
        Qwen2VL.from_config(
            models.raw("qwen2_5_vl"), generator=torch.Generator().manual_seed(seed)
        ).state_dict()
        for seed in (1, 1)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
