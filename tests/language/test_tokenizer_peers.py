"""Our SentencePiece against the library itself, on models of all kinds and nasty texts."""

import io
import random

import pytest

from paragone.language._tokenizer_files import _from_pieces
from paragone.language._tokenizer_proto import read_model, write_model
from paragone.language.tokenizer import Tokenizer

pytestmark = pytest.mark.peers

LINES = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "Reading, writing and counting: it is the king of things to bring along.",
    "日本語 テスト ㌀ ①", "été café ﬁn", "x = 12 + 345; return x",
] * 12  # fmt: skip
SIGNS = [*"abc  the  ▁\t\n01é日本語㌀①ﬁＡＢ🙂 ", "ing", "of the", "<u>", " king", "</s>", "が",
         "e\u0301", "\u3000", "\x00"]  # fmt: skip
MODELS = {
    "unigram": {"model_type": "unigram"},
    "unigram-bytes": {
        "model_type": "unigram", "normalization_rule_name": "identity", "byte_fallback": True,
        "remove_extra_whitespaces": False, "user_defined_symbols": ["<u>", "ing"],
    },
    "bpe-rules": {
        "model_type": "bpe", "normalization_rule_name": "nmt_nfkc_cf",
        "user_defined_symbols": ["<u>", "of the", "  ", "ab"],
    },
    "bpe-suffix": {"model_type": "bpe", "treat_whitespace_as_suffix": True, "byte_fallback": True},
    "bpe-bare": {
        "model_type": "bpe", "add_dummy_prefix": False, "remove_extra_whitespaces": False,
        "user_defined_symbols": ["\n", "▁▁▁▁"],
    },
}  # fmt: skip


def texts(rng, count):
    for at in range(count):
        if at % 3:
            yield "".join(rng.choice(SIGNS) for _ in range(rng.randrange(25)))
        else:
            yield rng.choice(LINES)


def compare(library, ours, rng, count):
    size = library.vocab_size()
    for text in texts(rng, count):
        raw = text.encode()
        theirs = library.encode(text, return_type="proto").pieces
        ids, places = ours.encode_with_offsets(text, bos=False, specials=False)
        assert ids == [piece.id for piece in theirs], text
        assert ours.encode(text, bos=False, specials=False) == ids
        for piece, place in zip(theirs, places, strict=True):
            if not library.is_byte(piece.id):
                where = len(raw[: piece.begin].decode()), len(raw[: piece.end].decode())
                assert place == where, text
        some = [rng.randrange(size) for _ in range(rng.randrange(9))]
        for tokens in (ids, some):
            assert ours.decode(tokens) == library.decode(tokens)
            stream = ours.stream()
            parts = [*(stream.push(id) for id in tokens), stream.flush()]
            assert "".join(parts) == library.decode(tokens)


@pytest.mark.parametrize("name", MODELS)
def test_our_tokens_are_those_of_sentencepiece(name):
    library = pytest.importorskip("sentencepiece")
    made = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=made, vocab_size=420, minloglevel=2,
        hard_vocab_limit=False, character_coverage=0.99, num_threads=1, **MODELS[name],
    )  # fmt: skip
    model = read_model(made.getvalue())
    again = library.SentencePieceProcessor(model_proto=write_model(model))
    compare(again, _from_pieces(model), random.Random(1), 150)


def test_tok512(data_folder):
    library = pytest.importorskip("sentencepiece")
    data = (data_folder / "language" / "tok512.model").read_bytes()
    peer = library.SentencePieceProcessor(model_proto=data)
    ours = Tokenizer.load(data_folder / "language" / "tok512.model")
    compare(peer, ours, random.Random(2), 200)


def test_a_model_of_our_trainer_is_read_by_the_library(tmp_path):
    library = pytest.importorskip("sentencepiece")
    ours = Tokenizer.train(LINES, 400, "sentencepiece")
    ours.save(tmp_path)
    peer = library.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    compare(peer, ours, random.Random(3), 100)
    assert (peer.bos_id(), peer.eos_id(), peer.pad_id()) == (1, 2, -1)


def test_our_trainer_finds_what_the_library_finds():
    library = pytest.importorskip("sentencepiece")
    lines = [line for line in LINES if line.isascii()]
    made = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=made, vocab_size=380, minloglevel=2,
        model_type="bpe", byte_fallback=True, split_digits=True, remove_extra_whitespaces=False,
        normalization_rule_name="identity", allow_whitespace_only_pieces=True, num_threads=1,
    )  # fmt: skip
    theirs = read_model(made.getvalue())
    ours = Tokenizer.train(lines, 380, "sentencepiece").encoder.model
    joined = [piece for piece in theirs.pieces[259:] if len(piece) > 1]
    # Joins are the same in the same order; rare characters are ordered by the library's own hash.
    assert ours.pieces[259 : 259 + len(joined)] == joined
    assert set(ours.pieces) == set(theirs.pieces)


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_transformers_reads_our_folders(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    from paragone.language.chat import ChatTemplate

    ours = Tokenizer.train(LINES, 400, kind, special=["<|im_start|>", "<|im_end|>"])
    ours.chat_template = ChatTemplate.named("chatml").for_tokenizer(ours)
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "hello  world"}, {"role": "assistant", "content": "日本"}]
    text = ours.chat_template.render(chat)
    for one in (LINES[0], LINES[3], "a  b", "<|im_start|>user\nhello<|im_end|>"):
        assert theirs(one).input_ids == ours.encode(one), one
    bare = ChatTemplate.named("chatml").template
    bare = bare.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    assert theirs.apply_chat_template(chat, chat_template=bare, tokenize=False) == text
    assert theirs.decode(ours.encode(text), skip_special_tokens=True) == ours.decode(
        ours.encode(text)
    )
