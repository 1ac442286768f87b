"""The study of decoding speed: shapes, contestants on a small checkpoint, what it says."""

import numpy as np
import pytest

from paragone._core.errors import UsageError
from paragone.lab import studies
from paragone.lab._ranking import applies
from paragone.lab.contestants import llama_calls
from paragone.lab.outcome import Cell, Row, Summary
from paragone.lab.spec import Request
from paragone.lab.studies import llama_speed

STUDY = studies.load("llama_speed")


@pytest.mark.parametrize("quick", [True, False])
def test_inputs_and_contestants_are_well_formed(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("PARAGONE_DATA", str(tmp_path))
    found = STUDY.workloads(Request(quick=quick))
    assert [w.id for w in found] == [s[0] for s in llama_speed.SHAPES if not quick or s[0] in
                                     llama_speed.QUICK]  # fmt: skip
    entered = STUDY.contestants(Request())
    reference = next(c for c in entered if c.id == STUDY.reference)
    assert all(applies(reference, w) for w in found)
    assert not any(w.params["path"] for w in found)
    with pytest.raises(UsageError, match="--target"):
        STUDY.workloads(Request(target="x"))


def test_a_checkpoint_of_your_own_and_the_trained_one(tmp_path, monkeypatch):
    (tmp_path / "language").mkdir()
    (tmp_path / "language" / "stories260K.bin").touch()
    monkeypatch.setenv("PARAGONE_DATA", str(tmp_path))
    assert STUDY.workloads(Request())[0].params["path"].endswith("stories260K.bin")
    own = STUDY.workloads(Request(data=str(tmp_path)))
    assert [w.params["weights"] for w in own] == ["float32", "int8"]
    assert all(w.params["shape"] == "given" for w in own)


def test_contestants_make_the_true_tokens(tmp_path, monkeypatch):
    small = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2, "intermediate_size": 64}  # fmt: skip
    monkeypatch.setitem(llama_calls.SHAPES, "260k", small)
    monkeypatch.setattr(llama_calls, "PROMPT", (1, 260, 270))
    given = llama_calls.checkpoint("260k", "float32", 6, cache=str(tmp_path))
    assert llama_calls.checkpoint("260k", "float32", 6, cache=str(tmp_path)) == given
    tokens = llama_calls.truth(*given)
    assert len(tokens) == 6
    assert np.array_equal(llama_calls.Ours()(*given), tokens)
    assert np.array_equal(llama_calls.Reading()(*given), tokens)
    narrow = (given[0], "int8", 6)
    assert llama_calls.Ours()(*narrow).tolist() == llama_calls.truth(*narrow).tolist() == [6]


def test_what_it_says(monkeypatch, tmp_path):
    monkeypatch.setenv("PARAGONE_DATA", str(tmp_path))
    entered, places = STUDY.contestants(Request()), STUDY.workloads(Request())
    times = {"llama": 1.0, "llama_cpp": 1.45, "transformers": 41.0, "reading": 0.9}
    summary = Summary.__new__(Summary)
    object.__setattr__(summary, "workloads", places)
    object.__setattr__(summary, "contestants", entered)
    object.__setattr__(summary, "tables", {
        w.id: [
            Row(contestant=c.id, title=c.title, origin=c.origin,
                cells={"call_s": Cell(value=times[c.id])})
            for c in entered if applies(c, w)
        ]
        for w in places
    })  # fmt: skip
    told = llama_speed.findings(summary)
    assert "paragone 200" in told[0]
    assert "ours reads at 90 %" in told[2]
    words = {claim.text: claim.check(summary).verdict for claim in STUDY.claims}
    assert list(words.values()) == ["holds", "does not hold", "holds", "holds"]
