"""Tuning against PEFT, transformers and bitsandbytes: folders, merges, losses, four bits."""

import pytest
import torch

from paragone.language.config import LlamaConfig
from paragone.language.finetune import answer_loss
from paragone.language.llama import Llama
from paragone.language.lora import load_adapter, merge_lora, save_adapter
from paragone.language.ops.nf4.reference import quantize
from paragone.language.packing import pack

IDS = torch.tensor([[1, 5, 9, 3, 7, 2, 11, 8]])
SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48,
         "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}  # fmt: skip


@torch.no_grad()
def scores(model):
    return model.eval()(IDS).logits


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def llama():
    return Llama(LlamaConfig(**SIZES), generator=source())


def trained(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=source()))
    return model


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_peft_reads_and_writes_the_same_folders(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    ours = llama()
    config = transformers.LlamaConfig(**SIZES)
    theirs = transformers.LlamaForCausalLM(config)
    theirs.load_state_dict(ours.state_dict())
    wrapped = peft.get_peft_model(
        theirs,
        peft.LoraConfig(r=3, lora_alpha=7, use_rslora=True, task_type="CAUSAL_LM",
                        target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 2}),
    ).eval()  # fmt: skip
    trained(wrapped)
    wrapped.save_pretrained(tmp_path / "peft")
    load_adapter(ours, tmp_path / "peft")
    torch.testing.assert_close(scores(ours), scores(wrapped), rtol=1e-4, atol=2e-5)
    save_adapter(ours, tmp_path / "ours")
    files = [tmp_path / n / "adapter_model.safetensors" for n in ("peft", "ours")]
    assert files[0].read_bytes() == files[1].read_bytes()
    base = transformers.LlamaForCausalLM(config)
    base.load_state_dict(llama().state_dict())
    again = peft.PeftModel.from_pretrained(base, str(tmp_path / "ours")).eval()
    assert torch.equal(scores(again), scores(wrapped))
    merge_lora(ours)
    whole = again.merge_and_unload().state_dict()
    assert all(torch.equal(whole[k], v) for k, v in ours.state_dict().items())


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_losses_of_packed_rows_are_those_of_transformers():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    ours = llama()
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    theirs.load_state_dict(ours.state_dict())
    rows = [([1, 5, 9, 3, 7, 2], [0, 0, 0, 1, 1, 1]), ([1, 4, 8, 2], [0, 0, 1, 1])]
    total = 0.0
    for ids, targets in rows:
        labels = torch.tensor(ids).where(torch.tensor(targets) == 1, -100)
        total += float(theirs(torch.tensor([ids]), labels=labels[None]).loss) * sum(targets)
    packed = pack([ids for ids, _ in rows], 16, [targets for _, targets in rows])
    loss = answer_loss(ours, packed[0])
    assert int(loss.count) == 5
    assert float(loss.total) == pytest.approx(total, rel=1e-5)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_codes_of_four_bits_are_those_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional", reason="no bitsandbytes")
    weight = torch.randn(65, 64, generator=source())
    theirs, _ = functional.quantize_4bit(weight, quant_type="nf4", blocksize=64)
    ours = quantize(weight).codes
    # Ours divide by the scale that is kept, theirs by the exact one: a weight may be at the border.
    assert (ours != theirs.view(-1)).float().mean() < 0.02


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", ["sft", "lora", "dpo"])
def test_a_step_of_trl_is_the_same_work(op):
    pytest.importorskip("trl", reason="trl is not installed")
    from paragone.lab.contestants import tuning_calls

    given = tuning_calls.inputs(op, 64, 3, width=48)
    truth = tuning_calls.truth(*given)
    assert tuning_calls.Trl()(*given) == pytest.approx(truth, rel=1e-4)
