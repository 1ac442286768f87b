"""Tuning: what is learned, packed as unpacked, runs that go on, tokens that are added."""

import importlib
import json
import signal

import numpy as np
import pytest
import torch

from paragone.language import Tokenizer, load
from paragone.language._tune_data import Stream, encoded, row_batches
from paragone.language.chat import ChatTemplate
from paragone.language.config import LlamaConfig
from paragone.language.finetune import answer_loss, finetune
from paragone.language.llama import Llama
from paragone.language.lora import adapted, load_adapter
from paragone.language.packing import Row
from paragone.training.run_folder import Folder

finetuning = importlib.import_module("paragone.language.finetune")

WORDS = ("ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st", "uv")
ROWS = [{"prompt": f"Say {w}.", "completion": w * (1 + at % 5)} for at, w in enumerate(WORDS)]
PLAIN = ChatTemplate.named("plain")
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "tie_word_embeddings": True}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def words():
    return Tokenizer.train([row["prompt"] + row["completion"] for row in ROWS], 280)


def llama(tokenizer, seed=0):
    config = LlamaConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=128, **SHAPE)
    return Llama(config, generator=torch.Generator().manual_seed(seed))


def state(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def taught():
    return encoded(ROWS, words(), PLAIN, 64, "all")


def test_packed_loss_is_unpacked_loss_with_all_gradients(taught):
    found = []
    for packed in (True, False):
        model = llama(words())
        losses = [answer_loss(model, row) for row in row_batches(taught.rows, 200, packed)]
        sum(loss.total for loss in losses).backward()
        total, count = (
            sum(float(x.total.detach()) for x in losses),
            sum(int(x.count) for x in losses),
        )
        found.append((total, count, [p.grad for p in model.parameters()]))
        assert len(losses) == (len(ROWS) if not packed else 2)
    (a, n, grads), (b, m, others) = found
    assert n == m == taught.targets
    assert a == pytest.approx(b, rel=1e-5)
    torch.testing.assert_close(grads, others, rtol=1e-4, atol=1e-4)


def test_a_planted_bug_documents_that_see_each_other(taught):
    model = llama(words())
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 5
        row = row_batches(taught.rows, 200)[0]
        one = Row(row.input_ids, row.labels, torch.tensor([row.input_ids.shape[1]]), ())
        right, wrong = (float(answer_loss(model, r).total) for r in (row, one))
    assert abs(right - wrong) > 1e-4 * right


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_accumulated_parts_are_the_full_batch_in_the_last_step_too(lora_rank):
    ends = []
    for pack_length in (64, 1000):
        tokenizer = words()
        model = llama(tokenizer)
        tuned = finetune(model, tokenizer, ROWS, batch=4, max_length=64, pack_length=pack_length,
                         lora_rank=lora_rank, template="plain", lr=1e-3)  # fmt: skip
        assert tuned.history[-1]["step"] == 3
        ends.append(state(model))
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], rtol=1e-3, atol=2e-5)


def test_it_learns_the_answers_and_to_stop():
    tokenizer = words()
    model = llama(tokenizer)
    tuned = finetune(model, tokenizer, ROWS[:2], epochs=60, batch=2, lr=1e-2, template="plain")
    assert tuned.loss < 0.05
    for row in ROWS[:2]:
        chat = [{"role": "user", "content": row["prompt"]}]
        ids = tokenizer.encode(tokenizer.chat_template.render(chat, True))
        while ids[-1] != tokenizer.eos_id and len(ids) < 60:
            ids.append(int(model(torch.tensor([ids]), logits="last").logits.argmax()))
        assert tokenizer.decode(ids).endswith(f"Assistant: {row['completion']}")
        assert ids[-1] == tokenizer.eos_id


def test_the_prompt_is_not_learned_and_the_end_is(taught):
    tokenizer = words()
    for row, source in zip(taught.rows, ROWS, strict=True):
        learned = [i for i, t in zip(row.ids, row.targets, strict=True) if t]
        assert tokenizer.decode(learned[:-1]).strip() == source["completion"]
        assert learned[-1] == tokenizer.eos_id
    assert taught.ends == {tokenizer.eos_id: len(ROWS)}


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_a_run_goes_on_bit_for_bit(tmp_path, lora_rank):
    def run(out, progress=None):
        tokenizer = words()
        model = llama(tokenizer)
        finetune(model, tokenizer, ROWS, epochs=3, batch=3, validation=0.2, lora_rank=lora_rank,
                 lora_dropout=0.1, template="chatml", out=out, progress=progress)  # fmt: skip
        return state(model)

    whole = run(tmp_path / "whole")

    def stop(event):
        if event.kind == "validated" and event.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop)
    notes = []
    assert equal(run(tmp_path / "parts", lambda event: notes.append(event.text)), whole)
    assert "goes on from step 3" in notes
    assert equal(run(tmp_path / "parts"), whole)
    model, tokenizer = load(tmp_path / "parts")
    assert equal(state(model), whole)
    assert tokenizer.chat_template.template == ChatTemplate.named("chatml").template
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert "validation_loss" in json.loads(lines[-1])
    with pytest.raises(ValueError, match="holds another run"):
        finetune(llama(words()), words(), ROWS, template="plain", out=tmp_path / "parts")


def test_new_tokens_of_a_template_are_trained_and_the_tied_head_is_untied(tmp_path):
    tokenizer = words()
    model = llama(tokenizer)
    old = tokenizer.vocab_size
    tuned = finetune(model, tokenizer, ROWS, lora_rank=2, merge=False, template="chatml",
                     out=tmp_path)  # fmt: skip
    assert tuned.new_tokens == ("<|im_end|>", "<|im_start|>")
    assert model.config.vocab_size == tokenizer.vocab_size == old + 2
    assert model.config.tie_word_embeddings is False
    assert tokenizer.id_of("<|im_end|>") in model.config.eos
    assert len(adapted(model)) == 14
    assert model.lm_head.weight.requires_grad
    assert not (tmp_path / "config.json").exists()
    other = llama(words())
    from paragone.language._tune_tokens import resize_embeddings

    resize_embeddings(other, old + 2)
    load_adapter(other, tmp_path / "adapter")
    ids = torch.tensor([tokenizer.encode("Say ab.")])
    with torch.no_grad():
        assert torch.equal(other.eval()(ids).logits, model.eval()(ids).logits)


def test_all_weights_with_new_tokens_stay_tied():
    tokenizer = words()
    model = llama(tokenizer)
    tuned = finetune(model, tokenizer, ROWS, template="chatml", epochs=0.5)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(model.lm_head.weight) == tokenizer.vocab_size
    assert tuned.merged is None


def test_four_bits_and_the_report_of_merging():
    tokenizer = words()
    notes = []
    tuned = finetune(llama(tokenizer), tokenizer, ROWS, lora_rank=2, quantize="nf4",
                     template="plain", progress=lambda e: notes.append(e.text))  # fmt: skip
    assert tuned.merged is not None
    assert tuned.merged.base_error > 0.01
    assert "four bits" in "".join(notes)


def test_what_is_cut_and_left_out_is_told(tmp_path):
    tokenizer = words()
    notes = []
    rows = [*ROWS, {"prompt": "x" * 90, "completion": "a"}, {"prompt": "a", "completion": ""},
            {"prompt": "Hi", "completion": "ab" * 40}]  # fmt: skip
    tuned = finetune(llama(tokenizer), tokenizer, rows, max_length=60, template="plain",
                     out=tmp_path, progress=lambda event: notes.append(event.text))  # fmt: skip
    report = tuned.rows
    assert (report.truncated, report.dropped) == (1, 1)
    assert report.cut > 0
    assert report.skipped == {"without an answer": 1}
    text = "\n".join(notes)
    assert "1 left out without an answer, 1 truncated" in text
    assert "conversation 12: no answer within 60 tokens" in text
    assert len((tmp_path / "left-out.txt").read_text().splitlines()) == 2


def test_every_epoch_sees_each_conversation_once_on_any_number_of_ranks(taught):
    stream = Stream(taught.rows, 4, 2.5, 64, seed=3)
    seen = [stream.chosen(step) for step in range(stream.steps)]
    flat = [at for each in seen for at in each]
    assert len(flat) == round(2.5 * len(ROWS))
    assert sorted(flat[: len(ROWS)]) == sorted(flat[len(ROWS) : 2 * len(ROWS)]) == [*range(11)]
    assert flat[: len(ROWS)] != flat[len(ROWS) : 2 * len(ROWS)]
    parts = [Stream(taught.rows, 4, 2.5, 64, 3, True, "cpu", rank, 3) for rank in range(3)]
    for step in range(stream.steps):
        rows = [row for part in parts for row in part(step)]
        assert sum(r.targets for r in rows) == sum(r.targets for r in stream(step))
        assert all(part(step) for part in parts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "nf4"}, "needs lora_rank"),
        ({"batch": 0}, "batch=0"),
        ({"validation": 0.01}, "leaves none on one side"),
        ({"validation": 2}, "a share from 0"),
        ({"max_length": 3}, "none of 11 conversations has an answer within max_length=3"),
        ({"template": "elf"}, "'elf' is none of"),
        ({"learn": "first"}, "neither 'all' nor 'last'"),
        ({"lr": -1.0}, "lr=-1.0"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    tokenizer = words()
    with pytest.raises(ValueError, match=message):
        finetune(llama(tokenizer), tokenizer, ROWS, **{"template": "plain", **arguments})


def test_the_type_is_measured_on_long_runs_and_kept(tmp_path, monkeypatch, taught):
    model, asked = llama(words()), []
    monkeypatch.setattr(
        finetuning, "probed_precision", lambda m, step, kind: asked.append(float(step(m))) or "bf16"
    )
    short, long = (Stream(taught.rows, 4, epochs, 64, 0) for epochs in (1, 100))
    assert finetuning._precision("auto", model, short, None) == "fp32"
    assert finetuning._precision("fp16", model, long, None) == "fp16"
    assert asked == []
    folder = Folder(tmp_path)
    with torch.no_grad():
        assert finetuning._precision("auto", model, long, folder) == "bf16"
    assert asked[0] > 0
    (tmp_path / "run.json").write_text('{"precision": "fp32"}')
    assert finetuning._precision("auto", model, long, folder) == "fp32"


def test_a_tokenizer_of_another_model_is_refused():
    tokenizer = words()
    model = Llama(LlamaConfig(vocab_size=60, **SHAPE))
    with pytest.raises(ValueError, match="another model's"):
        finetune(model, tokenizer, ROWS, template="plain")


def test_a_real_model_learns_real_rows(data_folder):
    folder = data_folder / "language"
    model, tokenizer = load(folder / "stories260K.bin", tokenizer=folder / "tok512.model")
    tuned = finetune(model, tokenizer, folder / "self_instruct_seed_tasks.jsonl", batch=8,
                     epochs=0.2, max_length=160)  # fmt: skip
    losses = [line["loss"] for line in tuned.history]
    assert np.mean(losses[-2:]) < losses[0]
    assert tuned.rows.read == 175
