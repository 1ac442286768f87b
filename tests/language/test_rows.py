"""Rows and pairs: every format, what is left out and told, and which tokens are learned."""

import gzip
import json
from types import SimpleNamespace

import pytest

from paragone.language.rows import Pair, encode_pair, encode_row, read_pairs, read_rows

ASKED, SAID = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


class Pieces:
    """The longest piece first, else a character: enough to make merges over a boundary."""

    bos_id, eos_id = 1, 2

    def __init__(self, *pieces: str):
        self.pieces = {piece: 1000 + at for at, piece in enumerate(pieces)}

    def encode_with_offsets(self, text, bos=True):
        ids, offsets, at = [1] if bos else [], [(0, 0)] if bos else [], 0
        while at < len(text):
            fits = [p for p in self.pieces if text.startswith(p, at)]
            piece = max(fits, key=len, default=text[at])
            ids.append(self.pieces.get(piece, ord(text[at])))
            offsets.append((at, at + len(piece)))
            at += len(piece)
        return ids, offsets


class Arrows:
    """`>prompt` and `:answer` with an optional mark at the end of an answer."""

    def __init__(self, mark=""):
        self.mark = mark

    def render_with_spans(self, messages):
        text, spans = "", []
        for turn in messages:
            text += ":" if turn["role"] == "assistant" else ">"
            if turn["role"] == "assistant":
                spans.append((len(text), len(text) + len(turn["content"] + self.mark)))
            text += turn["content"] + (self.mark if turn["role"] == "assistant" else "")
        return text, spans


def learned(encoded):
    return [i for i, t in zip(encoded.ids, encoded.targets, strict=True) if t]


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Hi", "input": "", "output": "Hello"},
        {"instruction": "Hi", "instances": [{"input": None, "output": "Hello"}]},
        {"messages": [ASKED, SAID]},
        {"messages": [ASKED, {**SAID, "content": [{"type": "text", "text": "Hello"}]}]},
        {"messages": json.dumps([ASKED, SAID])},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": [ASKED], "completion": [SAID]},
        {"question": "Hi", "answer": "Hello"},
        [ASKED, SAID],
    ],
    ids=lambda record: "-".join(record) if isinstance(record, dict) else "list",
)
def test_rows_of_every_format(record):
    assert read_rows([record]) == [[ASKED, SAID]]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},
        {"prompt": [ASKED], "chosen": [SAID], "rejected": [{**SAID, "content": "No"}]},
        {"chosen": [ASKED, SAID], "rejected": [ASKED, {**SAID, "content": "No"}]},
        {"prompt": "Hi", "chosen": [ASKED, SAID], "rejected": [ASKED, {**SAID, "content": "No"}]},
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "No"},
        },
        {"question": "Hi", "response_j": "Hello", "response_k": "No"},
        {"instruction": "Hi", "output": ["Hello", "No"]},
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello",
            "rejected": "\n\nHuman: Hi\n\nAssistant: No",
        },
    ],
    ids=["strings", "messages", "whole", "repeated", "sharegpt", "stack", "alpaca", "transcript"],
)
def test_pairs_of_every_format(record):
    assert read_pairs([record]) == [Pair([ASKED], [SAID], [{**SAID, "content": "No"}])]


def test_the_input_stands_apart_for_templates_that_want_it():
    asked = read_rows([{"instruction": "Add.", "input": "2", "output": "2", "system": "S"}])[0]
    assert asked[0] == {"role": "system", "content": "S"}
    assert asked[1]["content"] == "Add.\n\n2"
    assert (asked[1]["instruction"], asked[1]["input"]) == ("Add.", "2")


def test_files_of_every_kind(tmp_path):
    rows = [{"instruction": "Hi", "output": "Hello"}] * 2
    lines = "\n".join(json.dumps(row) for row in rows) + "\n"
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.jsonl").write_text(lines)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "d.csv").write_text("instruction,output\nHi,Hello\nHi,Hello\n")
    (tmp_path / "e.json").write_text(json.dumps({"data": rows}))
    for path in sorted(tmp_path.iterdir()):
        assert read_rows(path) == [[ASKED, SAID]] * 2, path
    assert len(read_rows(str(tmp_path))) == 10


def test_parquet_and_frames(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    frame = pytest.importorskip("polars").DataFrame({"prompt": ["Hi"], "completion": ["Hello"]})
    table = frame.to_arrow()
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == read_rows(table) == [[ASKED, SAID]]


def test_real_files(data_folder):
    folder = data_folder / "language"
    assert len(read_rows(folder / "self_instruct_seed_tasks.jsonl")) == 175
    assert len(read_rows(folder / "gsm8k_train.jsonl.gz")) == 7473
    pairs = read_pairs(folder / "dpo_en_demo_300.json")
    assert len(pairs) + sum(pairs.skipped.values()) == 300
    assert len(read_pairs(folder / "stack_exchange_paired_tiny.json")) == 25


def test_what_is_left_out_is_counted_and_told():
    found = read_rows(
        [
            {"prompt": "Hi", "completion": "Hello"},
            {"prompt": "Hi", "completion": ""},
            {"prompt": None, "completion": "a"},
            {"prompt": "Hi", "completion": [{"role": "elf", "content": "a"}]},
        ]
    )
    assert len(found) == 1
    assert found.told().startswith("left out: 1 without an answer, 1 with")
    assert found.problems[2] == "record 4: with a message of unknown role 'elf'"
    same = {"prompt": "a", "chosen": "b", "rejected": "b"}
    with pytest.raises(ValueError, match="1 records read, left out: 1 with equal answers"):
        read_pairs([same])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n', "record 1: has a; expected instruction"),
        ('{"a": 1}\n{', "line 2: expected JSON"),
        ("3\n", "record 1: found int"),
        ("", "0 records read, no record in it"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_rows(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="a path, a list of mappings"):
        read_rows(3)


def test_the_first_answer_token_and_the_end_are_learned():
    encoded = encode_row(Pieces(), [ASKED, SAID], Arrows())
    assert encoded.ids == [1, *map(ord, ">Hi:Hello"), 2]
    assert learned(encoded) == [*map(ord, "Hello"), 2]


def test_a_mark_of_the_template_ends_an_answer_and_a_second_bos_goes():
    encoded = encode_row(Pieces("<end>"), [ASKED, SAID], Arrows("<end>"))
    assert learned(encoded) == [*map(ord, "Hello"), 1000]

    class Twice(Pieces):
        def encode_with_offsets(self, text, bos=True):
            ids, offsets = super().encode_with_offsets(text)
            return [1, *ids], [(0, 0), *offsets]

    assert encode_row(Twice("<end>"), [ASKED, SAID], Arrows("<end>")) == encoded


def test_a_token_over_the_boundary_is_learned_and_counting_would_be_wrong():
    pieces = Pieces(":H")
    encoded = encode_row(pieces, [ASKED, SAID], Arrows())
    assert learned(encoded) == [1000, *map(ord, "ello"), 2]
    prompt = len(pieces.encode_with_offsets(">Hi:")[0])
    assert encoded.targets.index(True) == prompt - 1


def test_all_answers_or_the_last():
    turns = [ASKED, SAID, ASKED, {**SAID, "content": "Yes"}]
    every = encode_row(Pieces(), turns, Arrows())
    assert learned(every) == [*map(ord, "Hello"), 2, *map(ord, "Yes"), 2]
    last = encode_row(Pieces(), turns, Arrows(), learn="last")
    assert learned(last) == [*map(ord, "Yes"), 2]
    assert last.ids == every.ids
    with pytest.raises(ValueError, match="neither"):
        encode_row(Pieces(), turns, Arrows(), learn="first")


def test_what_is_cut_is_counted_and_nothing_to_learn_is_none():
    encoded = encode_row(Pieces(), [ASKED, SAID], Arrows(), 7)
    assert (encoded.ids, encoded.cut) == ([1, *map(ord, ">Hi:He")], 4)
    assert encode_row(Pieces(), [ASKED, SAID], Arrows(), 5) is None
    with pytest.raises(ValueError, match="no message of the assistant"):
        encode_row(Pieces(), [ASKED], Arrows())


def test_bytes_of_one_character_are_all_learned():
    halves = SimpleNamespace(
        bos_id=None,
        eos_id=None,
        encode_with_offsets=lambda text, bos: (
            [5, 6, 7, 8, 9],
            [(0, 0), (0, 1), (1, 2), (2, 2), (2, 3)],
        ),
    )
    spans = SimpleNamespace(render_with_spans=lambda messages: (">éa", [(1, 3)]))
    assert encode_row(halves, [{**SAID, "content": "éa"}], spans).targets == [0, 0, 1, 1, 1]


def test_a_pair_shares_its_prefix_before_the_answers():
    pair = Pair([ASKED], [SAID], [{**SAID, "content": "Hex"}])
    encoded = encode_pair(Pieces(), pair, Arrows())
    assert encoded.prompt == [1, *map(ord, ">Hi:")]
    assert encoded.chosen == [*map(ord, "Hello"), 2]
    assert all(encoded.chosen_targets)
    assert encoded.rejected == [*map(ord, "Hex"), 2]
    assert all(encoded.rejected_targets)


def test_a_merge_over_the_boundary_in_one_text_scores_no_prompt():
    pair = Pair([ASKED], [SAID], [{**SAID, "content": "No"}])
    encoded = encode_pair(Pieces(":H"), pair, Arrows())
    assert encoded.prompt == [1, *map(ord, ">Hi")]
    assert encoded.chosen[0] == 1000
    assert encoded.chosen_targets[0]
    assert encoded.rejected[:2] == [ord(":"), ord("N")]
    assert encoded.rejected_targets == [False, True, True, True]


def test_earlier_answers_of_a_prompt_are_not_scored_and_cuts_are_counted():
    pair = Pair([ASKED, SAID, ASKED], [SAID], [{**SAID, "content": "No"}])
    encoded = encode_pair(Pieces(), pair, Arrows(), 17)
    assert len(encoded.prompt) == 15
    assert encoded.prompt[10] == 2
    assert encoded.chosen == [*map(ord, "He")]
    assert encoded.cut == 4 + 1
    assert encode_pair(Pieces(), pair, Arrows(), 15) is None
