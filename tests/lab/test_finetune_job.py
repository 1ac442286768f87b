"""`paragone finetune`: what the shell gives and prints, and how a run is told."""

import json

import pytest
import torch

from paragone._core.errors import UsageError
from paragone.lab.finetune_job import finetune
from paragone.lab.language_progress import described
from paragone.language import Llama, LlamaConfig, Tokenizer, save
from paragone.language.fitting import Progressed

ROWS = [{"prompt": f"Say {word}.", "completion": word} for word in ("ab", "cd", "ef", "gh")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train([row["prompt"] for row in ROWS], 270)
    config = LlamaConfig(tokenizer.vocab_size, 16, 32, 1, 2, max_position_embeddings=64)
    save(Llama(config, generator=torch.Generator().manual_seed(0)), tokenizer, made / "base")
    (made / "rows.json").write_text(json.dumps(ROWS))
    return made


def test_the_job_writes_a_folder_and_tells_what_is_next(folder):
    events = []
    done = finetune(
        folder / "base", rows=str(folder / "rows.json"), out=folder / "run", template="plain",
        lora_rank=2, lora_targets="q_proj, v_proj", validation=0.25, device="cpu",
        progress=events.append,
    )  # fmt: skip
    lines = str(done).splitlines()
    assert "4 conversations" in lines[0]
    assert "validation" in lines[1]
    assert lines[2].endswith("adapter")
    assert lines[3] == f"next: paragone chat {folder / 'run'}"
    told = json.loads(done.json())
    assert told["rows"] == 4
    assert told["merged"].startswith("2 maps merged")
    assert "tokens/s" in described(next(e for e in events if e.kind == "validated"))
    assert described(events[0]).startswith("4 conversations")
    assert described(Progressed("end", seconds=3.0)).startswith("done in 3")
    assert described(Progressed("end", 1, 32, seconds=3.0)).endswith(
        "after 1 of at most 32 steps: little was learned"
    )
    assert "little" not in described(Progressed("end", 2, 2, seconds=3.0))
    assert "ETA" in described(Progressed("step", 1, 4, 2.0, left=8.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": "/none.json"}, "no such file"),
        ({"template": "elf"}, "'elf' is none of"),
        ({"lora_rank": 2, "lora_targets": "w"}, "known: "),
    ],
)
def test_what_the_user_can_mend_is_one_line(folder, change, message):
    given = {"rows": str(folder / "rows.json"), "out": folder / "bad", "device": "cpu", **change}
    with pytest.raises(UsageError, match=message):
        finetune(folder / "base", **{"template": "plain", **given})
    with pytest.raises(UsageError, match="does not exist"):
        finetune(folder / "none", rows="a", out=folder / "bad")
