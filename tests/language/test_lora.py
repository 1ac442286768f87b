"""LoRA and NF4: products, gradients, merging, folders, tied embeddings."""

import copy
import json

import pytest
import torch
from torch import nn

from paragone.language._tune_layers import AdaptedLinear, Nf4Linear
from paragone.language._tune_tokens import resize_embeddings
from paragone.language.checkpoints import save
from paragone.language.config import LlamaConfig
from paragone.language.llama import Llama
from paragone.language.lora import (
    adapted,
    add_lora,
    load_adapter,
    merge_lora,
    merged_state,
    save_adapter,
    without_adapter,
)
from paragone.language.ops.nf4.call import dequantize
from paragone.language.ops.nf4.reference import LEVELS, dequantize_reference, quantize, scales

IDS = torch.tensor([[1, 5, 9, 3, 7, 2, 11, 8]])


@torch.no_grad()
def scores(model):
    return model.eval()(IDS).logits


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def llama(tied=False, **changes):
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48,
             "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    config = LlamaConfig(**sizes, tie_word_embeddings=tied, **changes)
    return Llama(config, generator=source())


def trained(model, seed=1):
    """As if it had learned: no matrix is zero."""
    generator = source(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def tuned():
    return trained(add_lora(llama(), rank=4, generator=source())).eval()


def sum_of_both(layer, x):
    """The definition, left to autograd."""
    base = layer.base_layer
    y = nn.functional.linear(x, base.weight, base.bias)
    return y + layer.scale * ((x @ layer.lora_A.weight.T) @ layer.lora_B.weight.T)


@pytest.mark.parametrize("shape", [(0, 7), (1, 7), (3, 5, 7)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_is_its_definition(shape, bias):
    layer = trained(AdaptedLinear(nn.Linear(7, 5, bias=bias).requires_grad_(False), 3, 0.7))
    x = torch.randn(shape, generator=source()).requires_grad_()
    both = [layer(x), sum_of_both(layer, x)]
    torch.testing.assert_close(*both)
    inputs = [x, layer.lora_A.weight, layer.lora_B.weight]
    slope = torch.randn(both[0].shape, generator=source(2))
    grads = [torch.autograd.grad(y, inputs, slope) for y in both]
    torch.testing.assert_close(*grads)


def test_gradcheck_and_a_planted_bug():
    layer = trained(AdaptedLinear(nn.Linear(4, 3).double().requires_grad_(False), 2, 1.5))
    x = torch.randn(6, 4, dtype=torch.float64, generator=source()).requires_grad_()
    # Not contiguous, and expanded.
    wide = x[::2].T.contiguous().T
    assert torch.autograd.gradcheck(layer, (wide,))
    assert torch.autograd.gradcheck(lambda a: _with_a(layer, a, x), layer.lora_A.weight)
    right = sum_of_both(layer, x)
    layer.scale *= 1.01
    assert not torch.allclose(layer(x), right, rtol=1e-6)


def _with_a(layer, a, x):
    from paragone.language._tune_layers import _Sum

    return _Sum.apply(x, a, layer.lora_B.weight, layer.scale, layer.base_layer)


def test_it_starts_at_zero_and_trains_the_small_matrices_alone():
    model = llama()
    before = scores(model)
    add_lora(model, rank=4, generator=source())
    assert torch.equal(scores(model), before)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 7
    assert all(".lora_" in name for name in names)
    model(IDS).logits.square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_scales():
    alphas = {rslora: add_lora(llama(), rank=4, alpha=12.0, rslora=rslora) for rslora in (0, 1)}
    scale = {rslora: adapted(m)["model.layers.0.mlp.up_proj"].scale for rslora, m in alphas.items()}
    assert scale == {0: 3.0, 1: 6.0}


def test_dropout_acts_in_training_on_the_small_matrices_alone():
    layer = trained(AdaptedLinear(nn.Linear(64, 5), 3, 0.7, dropout=0.5))
    x = torch.ones(2, 64)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))
    torch.testing.assert_close(layer(x), sum_of_both(layer, x))
    layer.active = False
    assert torch.equal(layer.train()(x), layer.base_layer(x))


def test_autocast_and_narrow_weights():
    layer = trained(AdaptedLinear(nn.Linear(64, 5).requires_grad_(False), 3, 0.7))
    x = torch.randn(2, 64, generator=source())
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)
    y.sum().backward()
    assert layer.lora_A.weight.grad.dtype == torch.float32
    narrow = AdaptedLinear(nn.Linear(64, 5).bfloat16(), 3, 0.7)
    assert narrow.lora_A.weight.dtype == torch.float32
    assert narrow(x.bfloat16()).dtype == torch.bfloat16


def test_merging_is_exact_in_float32_and_undone_bit_for_bit(tuned):
    model = copy.deepcopy(tuned)
    want = scores(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    name = "model.layers.1.self_attn.k_proj"
    each = model.get_submodule(name)
    exact = each.base_layer.weight + each.scale * (each.lora_B.weight @ each.lora_A.weight)
    state = merged_state(model)
    merged = merge_lora(model)
    assert merged.modules == 14
    assert merged.error == 0
    assert merged.change > 0
    assert torch.equal(model.get_submodule(name).weight, exact)
    torch.testing.assert_close(scores(model), want)
    assert state.keys() == llama().state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    merged.undo()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert sum(p.requires_grad for p in model.parameters()) == 28


def test_merging_into_a_narrow_type_tells_the_rounding(tuned):
    merged = merge_lora(copy.deepcopy(tuned), dtype=torch.bfloat16)
    assert 1e-4 < merged.error < 4e-3
    assert "into bfloat16" in str(merged)


def test_the_model_without_its_adapter(tuned):
    model = add_lora(llama(), rank=2, saved=["lm_head"], generator=source())
    before = scores(model)
    trained(model)
    with without_adapter(model):
        assert torch.equal(scores(model), before)
    assert not torch.allclose(scores(model), before)
    plain = llama()
    with pytest.raises(ValueError, match="no adapter"):
        merge_lora(plain)


def test_folders_keep_every_bit(tuned, tmp_path):
    save_adapter(tuned, tmp_path, "base")
    again = load_adapter(llama(), tmp_path)
    assert torch.equal(scores(again), scores(tuned))
    assert not any(p.requires_grad for p in again.parameters())
    assert any(
        p.requires_grad for p in load_adapter(llama(), tmp_path, trainable=True).parameters()
    )


def test_a_model_with_an_adapter_is_not_written_as_if_it_had_none(tuned, tmp_path):
    with pytest.raises(ValueError, match="merge_lora"):
        save(tuned, None, tmp_path)
    with pytest.raises(ValueError, match="merge_lora"):
        tuned.save_pretrained(tmp_path)


def test_interleaved_models_take_the_same_folder(tuned, tmp_path):
    """Without the permutation of B's rows the logits are others."""
    save_adapter(tuned, tmp_path / "half")
    turned = llama(rope_layout="interleaved")
    state = {}
    for name, weight in llama().state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = weight.unflatten(0, (-1, 2, 4)).transpose(1, 2).reshape(weight.shape)
        state[name] = weight
    turned.load_state_dict(state)
    load_adapter(turned, tmp_path / "half")
    torch.testing.assert_close(scores(turned), scores(tuned))
    save_adapter(turned, tmp_path / "again")
    files = [(tmp_path / n / "adapter_model.safetensors").read_bytes() for n in ("half", "again")]
    assert files[0] == files[1]


def test_a_folder_that_does_not_fit_tells_all(tuned, tmp_path):
    save_adapter(tuned, tmp_path)
    other = llama().requires_grad_(False)
    other.model.layers[0].mlp.up_proj = nn.Linear(32, 47)
    other.model.layers[1].mlp.up_proj = nn.Identity()
    with pytest.raises(ValueError, match=r"layers.0.mlp.up_proj.lora_B.*layers.1.mlp.up_proj: no"):
        load_adapter(other, tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "use_dora": True, "bias": "all"}))
    with pytest.raises(ValueError, match="use_dora, bias='all' are not known here"):
        load_adapter(llama(), tmp_path)
    with pytest.raises(ValueError, match="expected PEFT's folder"):
        load_adapter(llama(), tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"targets": ["w"]}, "known: down_proj, gate_proj"),
        ({"saved": ["w"]}, "saved='w'"),
        ({"quantize": "int8"}, "quantize='int8'"),
        ({"targets": ["lm_head"], "saved": ["lm_head"]}, "cannot be both"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        add_lora(llama(), **arguments)
    with pytest.raises(ValueError, match="has an adapter"):
        add_lora(add_lora(llama()))


def test_tied_models_with_new_tokens_are_untied():
    model = llama(tied=True)
    assert resize_embeddings(model, 43) == 3
    assert model.lm_head.weight is model.model.embed_tokens.weight
    mean = model.lm_head.weight[:40].mean(0)
    torch.testing.assert_close(model.lm_head.weight[40:], mean.expand(3, -1))
    before = scores(model)
    add_lora(model, rank=2, saved=["embed_tokens", "lm_head"], generator=source())
    assert torch.equal(scores(model), before)
    assert model.config.tie_word_embeddings is False
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    trained(model).eval()
    want = scores(model)
    merge_lora(model)
    torch.testing.assert_close(scores(model), want)
    with pytest.raises(ValueError, match="never taken away"):
        resize_embeddings(model, 3)


def test_a_folder_of_new_tokens_goes_back_into_a_grown_model(tmp_path):
    model = llama(tied=True)
    resize_embeddings(model, 43)
    trained(add_lora(model, rank=2, saved=["embed_tokens", "lm_head"], generator=source())).eval()
    save_adapter(model, tmp_path)
    with pytest.raises(ValueError, match="resize_embeddings first"):
        load_adapter(llama(tied=True), tmp_path)
    other = llama(tied=True)
    resize_embeddings(other, 43)
    assert torch.equal(scores(load_adapter(other, tmp_path)), scores(model))


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 40_009])
def test_four_bits_are_the_nearest_levels(size):
    weight = torch.randn(size, generator=source())
    packed = quantize(weight)
    found = dequantize(packed, size)
    assert torch.equal(found, dequantize_reference(packed, size))
    blocks = scales(packed).repeat_interleave(64)[:size]
    best = (weight[:, None] / blocks[:, None] - torch.tensor(LEVELS)).abs().amin(1) * blocks
    torch.testing.assert_close((found - weight).abs(), best, rtol=1e-3, atol=1e-6)


def test_four_bits_refuse_what_is_not_finite_and_a_back_end_that_is_not_there():
    with pytest.raises(ValueError, match="not finite"):
        quantize(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="none of auto"):
        dequantize(quantize(torch.ones(3)), 3, backend="cuda")


def test_four_bits_under_an_adapter():
    plain = llama()
    model = trained(add_lora(llama(), rank=4, quantize="nf4", generator=source())).eval()
    layer = model.model.layers[0].mlp.up_proj
    assert isinstance(layer.base_layer, Nf4Linear)
    assert 0.05 < float(layer.base_layer.error) < 0.13
    assert layer.base_layer.codes.numel() * 2 == layer.in_features * layer.out_features
    x = torch.randn(3, 32, generator=source()).requires_grad_()
    both = [layer(x), sum_of_both(layer, x)]
    torch.testing.assert_close(*both)
    torch.testing.assert_close(*[torch.autograd.grad(y.square().sum(), x) for y in both])
    want = scores(model)
    clone = llama()
    add_lora(clone, rank=4, quantize="nf4")
    clone.load_state_dict(model.state_dict())
    assert torch.equal(scores(clone), want)
    merged = merge_lora(model)
    torch.testing.assert_close(scores(model), want)
    assert merged.dtype == torch.float32
    assert "four bits stand 0.0" in str(merged)
    assert plain.state_dict().keys() == model.state_dict().keys()
