"""`paragone generate` in the shell: what it prints, and what it says to wrong words."""

import io
import json
import sys

import pytest
import torch

from paragone.cli import main
from paragone.language import Llama, LlamaConfig, Tokenizer, generate, load, save


def shell(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    told = capsys.readouterr()
    return end.value.code, told.out, told.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    words = Tokenizer.train(["low lower lowest new newer"] * 4, 270)
    config = LlamaConfig(
        vocab_size=words.vocab_size, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=256, bos_token_id=words.bos_id, eos_token_id=words.eos_id,
    )  # fmt: skip
    model = Llama(config, generator=torch.Generator().manual_seed(0))
    return save(model, words, tmp_path_factory.mktemp("runs") / "tiny")


QUICK = ("--backend", "torch", "--max-tokens", "6")


def test_the_text_is_that_of_the_function_streamed_or_not(folder, capsys, monkeypatch):
    wanted = generate(*load(folder), "new", max_new_tokens=6, backend="torch")
    code, out, err = shell(capsys, "generate", folder, "new", *QUICK)
    assert (code, out) == (0, str(wanted) + "\n")
    assert err.startswith(f"{len(wanted.tokens)} tokens, ")
    monkeypatch.setattr(sys, "stdin", io.StringIO("new"))
    assert shell(capsys, "generate", folder, *QUICK, "--quiet")[1] == out


def test_data_for_programs(folder, capsys):
    _, out, _ = shell(capsys, "generate", folder, "new", *QUICK, "--quiet", "--json")
    found = json.loads(out)
    assert len(found["tokens"]) <= 6
    assert found["finish_reason"] in ("stop", "length")


def test_wrong_words_are_one_line(folder, tmp_path, capsys):
    code, _, err = shell(capsys, "generate", tmp_path / "none", "new")
    assert (code, err.count("\n")) == (2, 1)
    assert "does not exist" in err
    code, _, err = shell(capsys, "generate", folder, "new", "--temperature", "-1")
    assert (code, err.count("\n")) == (2, 1)
    assert "temperature=-1" in err
