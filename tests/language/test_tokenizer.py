"""Tokenizers against golden tokens, brute force, `tokenizers`, and their own files."""

import itertools
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.language._tokenizer_bytes import ALPHABET
from paragone.language._tokenizer_files import _from_pieces
from paragone.language._tokenizer_normal import Normalizer
from paragone.language._tokenizer_proto import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER,
    Pieces,
    read_model,
    write_model,
)
from paragone.language._tokenizer_train import join_pairs
from paragone.language.tokenizer import Tokenizer

TEXTS = [
    "the cat sat on the mat, and the cats sat there too\n    return 42 + 42\n" * 5,
    "naïve café, 日本語 and 日本 🙂🙂\r\n\tdon't  stop; we'll see 2024-11-26\n" * 4,
]


@pytest.fixture(scope="module")
def tok512(data_folder):
    return Tokenizer.load(data_folder / "language" / "tok512.model")


@pytest.fixture(scope="module", params=["bpe", "sentencepiece"])
def trained(request):
    return Tokenizer.train(TEXTS, 330, request.param, special=["<|im_start|>"])


def pieces(words, kind="bpe", **flags):
    """A model of a few pieces with scores."""
    names = ["<unk>", "<s>", "</s>", *words]
    scores = [0.0, 0.0, 0.0, *(s if isinstance(s, float) else s[0] for s in words.values())]
    types = [UNKNOWN, CONTROL, CONTROL]
    types += [NORMAL if isinstance(s, float) else s[1] for s in words.values()]
    return Pieces(names, scores, types, kind, **flags)


def test_golden_tokens(tok512):
    # From the published run of stories260K in llama2.c, and sentencepiece 0.2.
    assert tok512.encode("Once upon a time") == [1, 403, 407, 261, 378]
    assert (tok512.vocab_size, tok512.bos_id, tok512.eos_id) == (512, 1, 2)
    # Padding is no token of this model, and is not taken to be the end (requirement 7).
    assert tok512.pad_id is None


def test_double_spaces_follow_the_models_flags(tok512, data_folder, monkeypatch):
    assert tok512.encode("  a  b  ", bos=False) == tok512.encode("a b", bos=False)
    other = Tokenizer.load(data_folder / "language" / "tok512.bin")
    assert other.encode("a  b") == [1, 261, 410, 268]
    assert other.encode("Once upon a time") == tok512.encode("Once upon a time")
    # The planted bug: flags that are not looked at.
    monkeypatch.setattr(tok512.encoder.model, "remove_extra_whitespaces", False)
    assert tok512.encode("a  b") != tok512.encode("a b")


def test_prefix_flag_and_user_symbols():
    words = {"▁": -9.0, "a": -8.0, "b": -7.0, "ab": -1.0, "a b": (0.0, USER), "ba": (0.0, USER)}
    plain = _from_pieces(pieces(words, add_dummy_prefix=False))
    assert [plain.piece(id) for id in plain.encode("ab", bos=False)] == ["ab"]
    fronted = _from_pieces(pieces(words))
    assert [fronted.piece(id) for id in fronted.encode("ab", bos=False)] == ["▁", "ab"]
    assert [plain.piece(id) for id in plain.encode("baab", bos=False)] == ["ba", "ab"]


def test_unused_pieces_fall_apart():
    words = {"a": -8.0, "b": -7.0, "c": -6.0, "ab": (-1.0, UNUSED), "abc": (-2.0, UNUSED)}
    tokenizer = _from_pieces(pieces(words, add_dummy_prefix=False))
    assert [tokenizer.piece(id) for id in tokenizer.encode("abc", bos=False)] == ["a", "b", "c"]


def test_unknown_runs_are_one_token_and_bytes_have_the_characters_place():
    tokenizer = _from_pieces(pieces({"a": -1.0}, add_dummy_prefix=False))
    assert tokenizer.encode_with_offsets("aééa", bos=False) == ([3, 0, 3], [(0, 1), (1, 3), (3, 4)])
    raw = {f"<0x{byte:02X}>": (0.0, BYTE) for byte in range(256)}
    model = pieces({"a": -1.0, **raw}, add_dummy_prefix=False, byte_fallback=True)
    ids, places = _from_pieces(model).encode_with_offsets("a日a")
    assert [model.pieces[id] for id in ids] == ["<s>", "a", "<0xE6>", "<0x97>", "<0xA5>", "a"]
    assert places == [(0, 0), (0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]


def best_cut(model, text):
    """The best of all cuts of a text, by trying each."""
    scores = dict(zip(model.pieces[3:], model.scores[3:], strict=True))
    found = []
    for count in range(len(text)):
        for cuts in itertools.combinations(range(1, len(text)), count):
            parts = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
            if all(part in scores for part in parts):
                found.append((sum(scores[part] for part in parts), parts))
    return max(found)


@pytest.mark.parametrize("text", ["abcabcab", "cbabca", "aaabbb"])
def test_unigram_takes_the_best_cut(text):
    words = {"a": -2.5, "b": -3.0, "c": -3.5, "ab": -4.0, "bc": -4.25, "abc": -5.5, "ca": -4.75}
    tokenizer = _from_pieces(pieces(words, "unigram", add_dummy_prefix=False))
    parts = [tokenizer.piece(id) for id in tokenizer.encode(text, bos=False)]
    score = sum(words[part] for part in parts)
    assert "".join(parts) == text
    assert score == best_cut(tokenizer.encoder.model, text)[0]


def naive_joins(words, joins):
    """Byte-pair encoding by counting all pairs anew at each step."""
    rows, merges = {word: list(word) for word in words}, []
    names = sorted({char for word in words for char in word})
    for _ in range(joins):
        found = Counter()
        for word, row in rows.items():
            for pair in itertools.pairwise(row):
                found[pair] += words[word]
        if not found or max(found.values()) < 2:
            break
        most = max(found.values())
        ties = [p for p in found if found[p] == most]
        pair = min(ties, key=lambda p: (names.index(p[0]), names.index(p[1])))
        merges.append(pair)
        names.append("".join(pair))
        for row in rows.values():
            at = 0
            while at < len(row) - 1:
                if (row[at], row[at + 1]) == pair:
                    row[at : at + 2] = ["".join(pair)]
                at += 1
    return merges


def test_joins_are_those_of_counting_anew():
    words = Counter(" ".join(TEXTS).replace("aaa", "a").split()) + Counter({"aaaa": 3, "ababab": 2})
    names = sorted({char for word in words for char in word})
    _, merges = join_pairs(words, names, 60, lambda text, pair: pair)
    assert merges == naive_joins(words, 60)


def test_byte_pairs_are_those_of_tokenizers():
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    ours = Tokenizer.train(TEXTS, 330)
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    theirs.train_from_iterator(TEXTS, trainer)
    assert theirs.get_vocab() == {**ours.encoder.vocab, **ours.added}
    for text in (*TEXTS, "\u00a0x \u2003y", "a" * 70, " '\t'll ½ ²³ \x1c"):
        assert theirs.encode(text).ids == ours.encode(text, bos=False)


def test_there_and_back_through_files(trained, tmp_path):
    trained.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.vocab_size == trained.vocab_size
    assert (again.bos_id, again.eos_id) == (trained.bos_id, trained.eos_id)
    for text in (*TEXTS, "", " ", "a", "<|im_start|>user\n", "x<s>y", "🙂", "e\u0301"):
        ids, places = trained.encode_with_offsets(text, eos=True)
        assert again.encode_with_offsets(text, eos=True) == (ids, places)
        assert trained.encode(text, eos=True) == ids
        if "<" not in text:
            assert again.decode(ids) == trained.decode(ids) == text
    other = Tokenizer.from_gguf(trained.to_gguf())
    assert other.encode(TEXTS[1]) == trained.encode(TEXTS[1])


def test_places_cover_the_text(trained):
    text = TEXTS[1]
    _, places = trained.encode_with_offsets(text)
    covered = {at for start, end in places for at in range(start, end)}
    assert covered == set(range(len(text)))
    assert places == sorted(places)


@settings(max_examples=25)
@given(st.text(max_size=40))
def test_bytes_lose_nothing(text):
    tokenizer = BYTES
    text = text.encode("utf-8", "replace").decode()
    ids = tokenizer.encode(text, specials=False)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.token_bytes(id) for id in ids[1:]) == text.encode()
    stream = tokenizer.stream()
    parts = [*(stream.push(id) for id in ids), stream.flush()]
    assert "".join(parts) == text


BYTES = Tokenizer.train(TEXTS, 300)


def test_a_stream_holds_back_half_characters(trained):
    text = "日🙂ж"
    stream = trained.stream()
    parts = [stream.push(id) for id in trained.encode(text)]
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)
    stream = trained.stream()
    cut = trained.encode(text)[:-1]
    assert "".join([stream.push(id) for id in cut]) == "日🙂"
    assert stream.flush() == "\ufffd"


def test_a_stream_goes_on_behind_a_prompt(tok512):
    ids = tok512.encode("Once upon a time")
    assert tok512.decode(ids) == "Once upon a time"
    assert tok512.decode(ids[3:], after=ids[:3]) == " a time"
    assert tok512.decode(ids[3:]) == "a time"


def test_special_words_in_a_text(tok512):
    assert tok512.encode("<s>a</s>") == [1, 261, 2]
    assert 2 not in tok512.encode("a</s>", specials=False)
    ids, places = tok512.encode_with_offsets("a</s>b")
    assert (ids[2], places[2]) == (2, (1, 5))


def test_added_tokens(trained, tmp_path):
    before = trained.vocab_size
    other = Tokenizer.train(TEXTS, 330, special=["<|im_start|>"])
    assert other.add_tokens(["<|im_start|>", "<|im_end|>"]) == 1
    assert other.vocab_size == before + 1
    assert other.encode("<|im_end|>", bos=False) == [before]
    assert other.decode([before]) == ""
    other.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.add_tokens(["<|im_end|>"]) == 0
    assert again.encode("a<|im_end|>") == other.encode("a<|im_end|>")
    with pytest.raises(ValueError, match="empty"):
        other.add_tokens([""])


def test_the_chat_template_travels(trained, tmp_path):
    from paragone.language.chat import ChatTemplate

    trained.chat_template = ChatTemplate.named("chatml").for_tokenizer(trained)
    trained.save(tmp_path)
    assert Tokenizer.load(tmp_path).chat_template.template == trained.chat_template.template
    fields = trained.to_gguf()
    assert Tokenizer.from_gguf(fields).chat_template.eos_token == "</s>"
    trained.chat_template = None


def test_a_model_file_is_read_and_written(tok512, data_folder):
    data = (data_folder / "language" / "tok512.model").read_bytes()
    assert read_model(write_model(read_model(data))) == read_model(data)
    with pytest.raises(ValueError, match=r"some\.model: .* piece 3"):
        read_model(data[:50], "some.model")
    with pytest.raises(ValueError, match="0 unknown pieces"):
        read_model(b"")


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json: expected JSON"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match='no "model"'):
        Tokenizer.load(tmp_path)
    (tmp_path / "t.bin").write_bytes(b"\x05\0\0\0\0\0\0\0\x09\0\0\0")
    with pytest.raises(ValueError, match="piece 0 is broken: a length of 9"):
        Tokenizer.load(tmp_path / "t.bin")
    with pytest.raises(FileNotFoundError):
        Tokenizer.load(tmp_path / "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="no tokenizer there"):
        Tokenizer.load(empty)
    with pytest.raises(ValueError, match="'wordpiece' is none of"):
        Tokenizer.train(["a"], 300, "wordpiece")
    with pytest.raises(ValueError, match="take 258"):
        Tokenizer.train(["a"], 200)
    with pytest.raises(ValueError, match=r"tokenizer\.ggml\.model is 'bert'"):
        Tokenizer.from_gguf({"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": []})
    with pytest.raises(ValueError, match="300 is no token"):
        BYTES.decode([300])


def test_a_folder_of_hugging_face(trained, tmp_path):
    trained.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["pad_token"] = {"content": "<|im_start|>", "special": True}
    config["chat_template"] = [{"name": "default", "template": "{{ eos_token }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    again = Tokenizer.load(tmp_path)
    assert again.piece(again.pad_id) == "<|im_start|>"
    assert again.chat_template.render([]) == "</s>"
    config["add_bos_token"] = False
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.load(tmp_path).encode("a")[0] != again.bos_id


def test_a_tokenizer_json_of_words(tmp_path):
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    made = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "hel": 1, "##lo": 2, "é": 3},
                                                 unk_token="[UNK]"))  # fmt: skip
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    ids = tokenizer.encode("hello é hello")
    assert ids == [1, 2, 3, 1, 2]
    stream = tokenizer.stream()
    assert "".join([*(stream.push(id) for id in ids * 9), stream.flush()]) == tokenizer.decode(
        ids * 9
    )
    with pytest.raises(ValueError, match="WordPiece"):
        tokenizer.to_gguf()


def test_normalised_places_are_those_of_the_text():
    model = pieces({"a": 0.0})
    assert Normalizer(model)("  a  b ") == ("▁a▁b", [2, 2, 3, 5, 6])
    assert Normalizer(model)("   ") == ("", [3])
    assert len(ALPHABET) == len(set(ALPHABET)) == 256


def test_metas_file_of_llama_3(tmp_path):
    import base64

    pairs = BYTES.encoder
    order = sorted(pairs.vocab, key=pairs.vocab.get)
    raw = [pairs.bytes_of(pairs.vocab[piece]) for piece in order]
    lines = [f"{base64.b64encode(piece).decode()} {at}" for at, piece in enumerate(raw)]
    (tmp_path / "tokenizer.model").write_text("\n".join(lines))
    found = Tokenizer.load(tmp_path)
    size = len(order)
    assert found.vocab_size == size + 256
    assert found.piece(size + 9) == "<|eot_id|>"
    model = found.encoder.data["model"]
    assert [tuple(pair) for pair in model["merges"]] == pairs.merges
    text = "the cats sat there\n<|eot_id|>"
    ids = [id - 2 for id in BYTES.encode(text[:-10], bos=False)]
    assert found.encode(text) == [size, *ids, size + 9]
    (tmp_path / "tokenizer.model").write_text("!? 0\n")
    with pytest.raises(ValueError, match="line 1: expected base64"):
        Tokenizer.load(tmp_path)
