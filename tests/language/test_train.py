"""Pre-training end to end: text in, a folder out that opens, goes on, and refuses what is wrong."""

import gzip
import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch
from tests.training.ranks import run_ranks

from paragone.language import Llama, LlamaConfig, load, train
from paragone.language import _train_setup as setup
from paragone.language._train_data import split
from paragone.language.corpus import Corpus, library_texts, read_texts

TEXT = [f"line {i}: to be or not to be, that is the question number {i % 7}. " * 3
        for i in range(40)]  # fmt: skip
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 1}  # fmt: skip
GIVEN = {"model": SMALL, "vocab_size": 300, "length": 32, "batch": 4, "tokens": 5000,
         "precision": "fp32", "validation": 0.1}  # fmt: skip


def test_the_folder_is_a_model_that_opens(tmp_path):
    events = []
    done = train(TEXT, tmp_path / "run", progress=events.append, **GIVEN)
    model, tokenizer = load(tmp_path / "run")
    ids = torch.tensor([tokenizer.encode("to be or not")])
    torch.testing.assert_close(model(ids).logits, done.model(ids).logits)
    assert tokenizer.encode("to be") == done.tokenizer.encode("to be")
    assert done.metrics["bits_per_byte"] < 5
    assert done.tokens == pytest.approx(5000, rel=0.05)
    notes = "\n".join(event.text for event in events if event.kind == "note")
    assert "40 documents" in notes
    assert "memory: " in notes
    last = [event for event in events if event.kind == "validated"][-1]
    assert last.metrics["validation_loss"] == done.metrics["validation_loss"]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "model.safetensors", "run.json", "last.pt", "metrics.jsonl"} <= names
    assert not any(name.startswith(".") for name in names)


def test_bits_per_byte_is_the_loss_of_the_text_held_back():
    done = train(TEXT, **GIVEN)
    held = split(Corpus(tuple(TEXT)), 0.1)[1].texts
    assert len(held) == 4
    nats = size = 0
    for text in held:
        ids = done.tokenizer.encode(text, bos=True, eos=True)
        size += len(text.encode())
        for start in range(0, len(ids), 32):
            piece = torch.tensor([ids[start : start + 33]])
            if piece.shape[1] > 1:
                with torch.no_grad():
                    logits = done.model(piece[:, :-1] if piece.shape[1] == 33 else piece).logits
                found = logits[0].log_softmax(-1)[: piece.shape[1] - 1]
                nats -= float(found.gather(1, piece[0, 1:, None]).sum())
    assert done.metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=0.02)


def test_a_killed_command_goes_on_bit_for_bit(tmp_path):
    """The acceptance of a run: kill -9 at any moment, the same call, the same weights."""
    code = (
        "import sys; import os, signal; from paragone.language import fitting, train\n"
        "fitting._SAVE_EVERY = 0\n"
        "def tell(e):\n"
        "    if e.kind == 'validated' and e.step >= 12: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"train({TEXT!r}, sys.argv[1], progress=tell, threads=1, **{GIVEN!r})"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False, env=env)
    assert killed.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1]) is not None
    went_on = train(TEXT, tmp_path / "a", **GIVEN)
    whole = train(TEXT, tmp_path / "b", **GIVEN)
    torch.set_num_threads(before)
    for a, b in zip(went_on.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert went_on.metrics == whole.metrics


def test_a_folder_of_another_run_is_refused_and_can_be_started_anew(tmp_path):
    train(TEXT, tmp_path, **GIVEN)
    with pytest.raises(ValueError, match="another run"):
        train(TEXT, tmp_path, **{**GIVEN, "batch": 2})
    done = train(TEXT, tmp_path, resume=False, **{**GIVEN, "batch": 2, "tokens": 200})
    assert done.tokens < 300


def test_it_goes_on_from_a_model_of_ones_own(tmp_path):
    first = train(TEXT, tmp_path / "a", **GIVEN)
    more = train(TEXT, tmp_path / "b", model=tmp_path / "a", tokens=2000, batch=4, length=32,
                 lr=1e-3, precision="fp32", validation=0.1)  # fmt: skip
    assert more.metrics["validation_loss"] < first.metrics["validation_loss"] + 0.05
    assert more.tokenizer.vocab_size == first.tokenizer.vocab_size


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "muon"}, {"mixer": "gqa,linear"}, {"tokenizer": "bytes"},
        {"seconds": 0.5, "tokens": None}, {"accumulate": 2}, {"precision": "bf16"},
        {"model": {**SMALL, "n_routed_experts": 4, "scoring_func": "sigmoid"}},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_everything_by_name(change):
    done = train(TEXT, **{**GIVEN, "tokens": 1000, **change})
    assert math.isfinite(done.metrics["bits_per_byte"])
    assert done.tokens > 0


def rank_job(rank, world, folder, zero):
    done = train(TEXT, folder, zero=zero, **{**GIVEN, "batch": 4 // world, "tokens": 1000})
    return done.metrics["validation_loss"]


def test_ranks_learn_what_one_process_learns(tmp_path):
    alone = rank_job(0, 1, tmp_path / "one", 0)
    found = run_ranks(2, rank_job, str(tmp_path / "two"), 3, timeout=120)
    assert found == [pytest.approx(alone, rel=1e-3)] * 2
    one, two = (load(tmp_path / name)[0] for name in ("one", "two"))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-3)


def test_what_does_not_fit_is_refused_before_it_starts(tmp_path):
    with pytest.raises(ValueError, match=r"training needs .* take fewer rows \(batch=4\)"):
        train(TEXT, tmp_path / "run", memory=1e6, **GIVEN)
    assert not (tmp_path / "run" / "last.pt").exists()


def test_memory_grows_with_rows_and_length():
    config = LlamaConfig(vocab_size=300, **SMALL)
    options = {"optimizer": "adamw", "precision": "fp32", "accumulate": 1, "ranks": 1, "zero": 0,
               "device": "cpu"}  # fmt: skip
    one, words = setup.needed_memory(config, Llama, 1, 32, **options)
    two, _ = setup.needed_memory(config, Llama, 2, 32, **options)
    assert 0 < one < two
    assert "activations" in words
    assert (setup.free_memory("cpu") or 1) > 0
    assert setup.free_memory("meta") is None


def test_a_narrow_type_and_a_compiler_are_measured(monkeypatch):
    model = Llama(LlamaConfig(vocab_size=50, **SMALL))
    step = lambda m: m(torch.zeros(1, 8, dtype=torch.int64)).logits.mean()  # noqa: E731
    assert setup.probed_precision(model, step, "cpu") in ("fp32", "bf16")
    pays, why = setup.pays_to_compile(model, step, 3, "cpu")
    assert not pays
    assert "the run takes about" in why


def test_texts_are_read_and_what_is_left_out_is_counted(tmp_path):
    (tmp_path / "a.txt").write_text("one", "utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"x": 1}\nnot json\n{"text": " "}\n')
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"content": "three"}\n'))
    (tmp_path / "d.json").write_text('[{"text": "four"}, "five"]')
    (tmp_path / "e.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "f.png").write_bytes(b"x")
    (tmp_path / "g.txt.gz").write_bytes(b"no gzip")
    found = read_texts(tmp_path)
    assert found.texts == ("one", "two", "three", "four", "five")
    assert sum(found.skipped.values()) == 6
    assert f"{tmp_path / 'b.jsonl'}, line 3: not JSON" in found.problems
    assert found.notes()[0].startswith("left out: ")
    assert read_texts([{"body": "x"}], key="body").texts == ("x",)
    assert found.fingerprint() != Corpus(found.texts[::-1]).fingerprint()


@pytest.mark.parametrize(
    ("source", "words"),
    [("/nowhere/x", "does not exist"), ([], "nothing to train on"), (5, "data is a int"),
     ([" "], "empty")],
    ids=["missing", "none", "number", "blank"],
)  # fmt: skip
def test_no_text_is_refused(source, words):
    with pytest.raises(ValueError, match=words):
        read_texts(source)


def test_the_standard_library_is_there():
    texts = library_texts(200_000)
    assert texts.bytes >= 200_000
    assert texts.fingerprint() == library_texts(200_000).fingerprint()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 0}, "batch=0"), ({"validation": 1.0}, "validation=1.0"),
        ({"model": None, "preset": "huge"}, "preset='huge'"),
        ({"optimizer": "best"}, "best"), ({"threads": 0}, "threads=0"),
        ({"mixer": "best"}, "mixer='best'"),
    ],
    ids=lambda change: next(iter(change)) if isinstance(change, dict) else "",
)  # fmt: skip
def test_what_is_out_of_range_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        train(TEXT, **{**GIVEN, **change})
