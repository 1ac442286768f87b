"""`paragone draft-heads`: from a model's folder to heads that every other command takes."""

import json

import pytest
import torch

from paragone._core.errors import UsageError
from paragone.cli import main
from paragone.lab.draft_heads_job import draft_heads
from paragone.language import Llama, LlamaConfig, Tokenizer, generate, load, save
from paragone.language._draft_files import drafter_of, kind_of, load_drafter
from paragone.language.prompt_lookup import PromptLookup

TEXT = ["low lower lowest new newer"] * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    words = Tokenizer.train(TEXT, 270)
    config = LlamaConfig(
        vocab_size=words.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=words.bos_id, eos_token_id=words.eos_id,
    )  # fmt: skip
    model = Llama(config, generator=torch.Generator().manual_seed(0))
    found = save(model, words, tmp_path_factory.mktemp("runs") / "tiny")
    (found / "texts.txt").write_text("\n\n".join(TEXT))
    return found


def shell(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    told = capsys.readouterr()
    return end.value.code, told.out, told.err


def heads_of(folder, tmp_path, kind, events):
    package = {"medusa": "medusa", "eagle": "eagle"}.get(kind, "multi_token_prediction")
    pytest.importorskip(f"paragone.language.{package}")
    return draft_heads(
        folder, out=tmp_path / kind, kind=kind, samples=300, data=str(folder / "texts.txt"),
        depth=2, progress=events.append,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["medusa", "eagle", "mtp", "mtp-parallel"])
def test_heads_of_each_kind_leave_texts_as_they_are(folder, tmp_path, kind):
    events = []
    done = heads_of(folder, tmp_path, kind, events)
    assert any(event.kind == "validated" for event in events)
    told = json.loads(done.json())
    assert told["kind"] == kind
    assert told["tokens_per_step"] >= 1
    assert all(0 <= share <= 1 for share in told["accepted_by_depth"])
    assert f"--speculate {tmp_path / kind}" in str(done)
    assert kind_of(tmp_path / kind) == kind.split("-")[0]
    model, words = load(folder)
    drafter = load_drafter(tmp_path / kind, model)
    plain = generate(model, words, "low", max_new_tokens=12)
    drafted = generate(model, words, "low", max_new_tokens=12, speculate=drafter, draft=2)
    assert drafted.tokens == plain.tokens


def test_the_same_call_goes_on_and_a_budget_bounds_the_samples(folder, tmp_path, capsys):
    words = ("draft-heads", folder, "--kind", "mtp", "--out", tmp_path / "mtp", "--budget", "1s")
    code, out, err = shell(capsys, *words)
    assert code == 0, err
    assert "accepted " in out
    assert f"next: paragone generate {folder} --speculate {tmp_path / 'mtp'} TEXT" in out
    drawn = json.loads((tmp_path / "mtp" / "samples.json").read_text())
    assert 0 < drawn["tokens"] < 300_000
    code, out, err = shell(capsys, *words, "--json")
    assert "goes on from step" in err
    assert json.loads(out)["kind"] == "mtp"
    code, _, err = shell(capsys, *words, "--seed", "3")
    assert (code, "holds another run" in err) == (2, True)


def test_medusa_2_leaves_the_model_that_it_trained(folder, tmp_path):
    done = heads_of(folder, tmp_path, "medusa-2", [])
    assert done.model == str(tmp_path / "medusa-2" / "model")
    model, _ = load(done.model)
    assert load_drafter(tmp_path / "medusa-2", model).name


def test_a_smaller_model_or_a_name_guesses_too(folder, tmp_path, capsys):
    model, words = load(folder)
    assert kind_of(folder) == "model"
    assert isinstance(drafter_of("prompt-lookup", model), PromptLookup)
    assert drafter_of(None, model) is None
    quick = ("--backend", "torch", "--max-tokens", "6", "--quiet", "--json")
    plain = json.loads(shell(capsys, "generate", folder, "new", *quick)[1])
    for name in (folder, "prompt-lookup"):
        words = ("--speculate", name, "--draft", "2")
        told = json.loads(shell(capsys, "generate", folder, "new", *quick, *words)[1])
        assert told["tokens"] == plain["tokens"]
    code, _, err = shell(capsys, "generate", folder, "new", *quick[:-2], "--speculate", folder,
                           "--draft", "2")  # fmt: skip
    assert code == 0
    assert "tokens a step, accepted by depth 1.00, 1.00" in err


def test_what_the_user_can_mend(folder, tmp_path, capsys):
    model, _ = load(folder)
    with pytest.raises(FileNotFoundError, match="prompt-lookup is expected"):
        drafter_of(tmp_path / "none", model)
    with pytest.raises(ValueError, match="neither heads nor a model; it has no weights"):
        kind_of(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="expected safetensors"):
        kind_of(tmp_path / "broken")
    other = Tokenizer.train(["something else"] * 6, 262)
    with pytest.raises(ValueError, match="the same tokenizer"):
        load_drafter(folder, model, other)
    with pytest.raises(UsageError, match="does not exist"):
        draft_heads(tmp_path / "none", out=tmp_path / "out")
    code, _, err = shell(capsys, "generate", folder, "new", "--draft", "few")
    assert (code, err.count("\n")) == (2, 1)
    assert "write auto, or a number" in err
    code, _, err = shell(capsys, "chat", folder, "--speculate", tmp_path / "none")
    assert (code, err.count("\n")) == (2, 1)
