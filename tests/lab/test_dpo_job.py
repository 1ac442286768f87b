"""`paragone dpo`: a folder in, a folder out, and one line for what the user can mend."""

import json

import pytest

from paragone._core.errors import UsageError
from paragone.lab.dpo_job import dpo
from paragone.language import Llama, LlamaConfig, Tokenizer, load, save

ROWS = [
    {"prompt": f"Say {word}.", "chosen": f"{word}, gladly.", "rejected": "No."}
    for word in ("one", "two", "three", "four")
]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    texts = [" ".join(row.values()) for row in ROWS] * 4
    tokenizer = Tokenizer.train(texts, 300)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        tokenizer.vocab_size, bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id, **sizes
    )
    save(Llama(config), tokenizer, folder)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def test_folder_to_folder(start, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    events = []
    done = dpo(
        start, pairs=str(start / "pairs.jsonl"), out=tmp_path / "run", epochs=3, batch=4, lr=1e-2,
        samples=2, validation_pairs=str(start / "pairs.jsonl"), progress=events.append,
    )  # fmt: skip
    told = json.loads(done.json())
    assert told["metrics"]["step"] == 3
    assert told["metrics"]["validation_accuracy"] == 1.0
    assert "next: paragone chat" in str(done)
    assert "validation  loss" in str(done)
    model, tokenizer = load(tmp_path / "run")
    assert model.config.hidden_size == 16
    assert "### Instruction" in tokenizer.chat_template.template
    assert list((tmp_path / "cache" / "paragone" / "reference").glob("*.npz"))
    assert events


def test_what_the_user_can_mend(start, tmp_path):
    with pytest.raises(UsageError, match="none of sigmoid"):
        dpo(start, pairs=str(start / "pairs.jsonl"), out=tmp_path, loss="dop")
    with pytest.raises(UsageError, match=r"none\.jsonl"):
        dpo(start, pairs=str(tmp_path / "none.jsonl"), out=tmp_path)
