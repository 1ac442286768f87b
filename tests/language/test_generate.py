"""Generation: loops against single steps, lists against single calls, texts, stops, beams."""

import itertools

import numpy as np
import pytest
import torch
from tests.language.small_llamas import OPTIONS, made

from paragone.language import _engine_numba
from paragone.language._generate_beams import beam_search
from paragone.language._generate_text import StopText
from paragone.language.engine import Engine
from paragone.language.generate import generate, sample_batch
from paragone.language.llama import Llama
from paragone.language.sampling import Sampling

PROMPTS = [[1, 2, 3], [7], list(range(20)), [5, 5]]


@pytest.fixture(scope="module")
def model() -> Llama:
    return made()


class Letters:
    """A tokenizer whose tokens are letters; 39 ends a text."""

    eos_id, bos_id = 39, None

    def encode(self, text, bos=True, eos=False):
        return [ord(letter) - 65 for letter in text]

    def decode(self, ids):
        return "".join(chr(65 + token) for token in ids)

    def stream(self):
        return self

    def push(self, token):
        return chr(65 + token)

    def flush(self):
        return ""


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_list_gives_the_bits_of_single_calls(model, options):
    every = generate(model, None, PROMPTS, max_new_tokens=17, **options)
    for prompt, found in zip(PROMPTS, every, strict=True):
        alone = generate(model, None, prompt, max_new_tokens=17, **options)
        assert found.tokens == alone.tokens
        assert found.log_probs == alone.log_probs
        assert found.finish_reason == alone.finish_reason


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_both_back_ends_and_the_bare_model_agree(model, options):
    ours = generate(model, None, PROMPTS[0], max_new_tokens=12, **options)
    slow = generate(model, None, PROMPTS[0], max_new_tokens=12, backend="torch", **options)
    assert ours.tokens == slow.tokens
    np.testing.assert_allclose(ours.log_probs, slow.log_probs, atol=1e-4)
    sampling = Sampling(**{"temperature": 0.0, **options})
    ids = list(PROMPTS[0])
    for step, (token, log_prob) in enumerate(zip(ours.tokens, ours.log_probs, strict=True)):
        scores = model(torch.tensor([ids])).logits[0, -1].numpy()
        drawn = sampling.pick(scores, ids, step, prompt=3)
        assert drawn[0] == token
        assert drawn[1] == pytest.approx(log_prob, abs=1e-4)
        ids.append(token)


def test_the_loop_is_cut_without_a_trace(model, monkeypatch):
    whole = generate(model, None, [1, 2], max_new_tokens=40, temperature=1.0, seed=1)
    monkeypatch.setattr(_engine_numba, "_STEPS", 3)
    cut = generate(model, None, [1, 2], max_new_tokens=40, temperature=1.0, seed=1)
    monkeypatch.setattr(_engine_numba, "_WORTH_A_TEAM", 0)
    team = generate(model, None, [1, 2], max_new_tokens=40, temperature=1.0, seed=1, threads=2)
    assert whole.tokens == cut.tokens == team.tokens
    assert whole.log_probs == cut.log_probs == team.log_probs


def test_eight_bits_generate_alone_what_they_do_together(model):
    options = {"max_new_tokens": 10, "weights": "int8", "temperature": 1.0, "seed": 2}
    every = generate(model, None, PROMPTS, **options)
    alone = [generate(model, None, prompt, **options) for prompt in PROMPTS]
    assert [one.tokens for one in every] == [one.tokens for one in alone]


def test_texts_stop_at_strings_tokens_and_lengths(model):
    letters = Letters()
    whole = generate(model, letters, "BCD", max_new_tokens=30, temperature=1.5, seed=8)
    assert whole == letters.decode(whole.tokens)
    assert len(whole.tokens) == len(whole.log_probs) == 30
    assert whole.finish_reason == "length"
    pieces = []
    stop = whole[10:13]
    found = generate(model, letters, "BCD", max_new_tokens=30, temperature=1.5, seed=8,
                     stop=[stop, "\x00"], stream=pieces.append)  # fmt: skip
    assert found == whole[: whole.index(stop)] == "".join(pieces)
    assert found.finish_reason == "stop"
    token = whole.tokens[6]
    cut = generate(model, letters, "BCD", max_new_tokens=30, temperature=1.5, seed=8, stop=token)
    assert cut.tokens == whole.tokens[: whole.tokens.index(token)]
    assert cut.finish_reason == "stop"
    assert cut.tokens_per_second > 0


def test_stop_strings_that_only_begin_are_given_back():
    text = StopText(Letters(), ["CDE"])
    told = [text.push(ord(letter) - 65) for letter in "ACDCDF"]
    assert "".join(told) + text.flush() == "ACDCDF" == text.text
    assert told == ["A", "", "", "CD", "", "CDF"]
    text = StopText(Letters(), ["CDE", "D"])
    assert "".join(text.push(ord(letter) - 65) for letter in "ACDEF") == "AC"
    assert text.stopped
    assert text.flush() == ""
    with pytest.raises(ValueError, match="empty"):
        StopText(Letters(), [""])
    with pytest.raises(ValueError, match="tokenizer"):
        StopText(None, ["a"])


def test_no_token_after_the_end(model):
    found = sample_batch(Engine.make(model), [[1]] * 30, Sampling(2.0, seed=0), 60, [39, 3])
    assert found.finished.any()
    assert len({tuple(ids) for ids in found.ids}) > 20
    for ids, log_probs, finished in zip(*found, strict=True):
        assert len(ids) == len(log_probs) <= 60
        ends = np.isin(ids, [39, 3])
        assert not ends[:-1].any()
        assert finished == ends[-1]
    again = sample_batch(Engine.make(model), [[1]] * 3, Sampling(2.0, seed=0), 60, [39, 3])
    assert all(np.array_equal(a, b) for a, b in zip(again.ids, found.ids[:3], strict=True))


def test_log_probabilities_are_those_of_the_policy(model):
    found = sample_batch(Engine.make(model), [[1, 2]], Sampling(0.7, top_k=3, seed=1), 8)
    ids = torch.tensor([[1, 2, *found.ids[0].tolist()]])
    wanted = (model(ids).logits[0, 1:-1] / 0.7).log_softmax(-1)
    wanted = wanted.gather(1, ids[0, 2:, None])[:, 0]
    np.testing.assert_allclose(found.log_probs[0], wanted.numpy(), atol=1e-4)


def _best(model, prompt, length, ends, power):
    """All texts of up to `length` tokens, scored by the model."""
    found = []
    for size in range(1, length + 1):
        for ids in itertools.product(range(model.config.vocab_size), repeat=size):
            if any(token in ends for token in ids[:-1]) or (size < length and ids[-1] not in ends):
                continue
            both = torch.tensor([[*prompt, *ids]])
            p = model(both).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
            score = float(p.gather(1, both[0, len(prompt) :, None]).sum())
            found.append((score / size**power, list(ids)))
    return max(found)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_enough_beams_find_the_best_of_all(power):
    tiny = made(vocab_size=5, eos_token_id=4)
    engine = Engine.make(tiny)
    score, ids = _best(tiny, [1, 2], 3, [4], power)
    found, reached = beam_search(engine, [1, 2], 25, 3, [4], power)
    assert found == ids
    assert reached == pytest.approx(score, abs=1e-4)


def test_beams_share_pages_rightly(model):
    ours = generate(model, None, list(range(15)), max_new_tokens=40, beams=3)
    slow = generate(model, None, list(range(15)), max_new_tokens=40, beams=3, backend="torch")
    assert ours.tokens == slow.tokens
    ids = torch.tensor([[*range(15), *ours.tokens]])
    p = model(ids).logits[0, 14:-1].log_softmax(-1).gather(1, ids[0, 15:, None])[:, 0]
    np.testing.assert_allclose(ours.log_probs, p.numpy(), atol=1e-4)
    greedy = generate(model, None, list(range(15)), max_new_tokens=40)
    if len(greedy.tokens) == len(ours.tokens) == 40:
        assert sum(ours.log_probs) >= sum(greedy.log_probs) - 1e-4
    assert generate(model, None, [1], max_new_tokens=5, beams=1).tokens == (
        generate(model, None, [1], max_new_tokens=5).tokens
    )


def test_what_is_refused(model):
    with pytest.raises(ValueError, match="prompt 0 has no token"):
        generate(model, None, [])
    with pytest.raises(ValueError, match="prompt 1 has no token"):
        generate(model, None, [[1], []], beams=2)
    with pytest.raises(ValueError, match="a tokenizer is needed"):
        generate(model, None, "text")
    with pytest.raises(ValueError, match="it takes one"):
        generate(model, None, [[1], [2]], stream=print)
    with pytest.raises(ValueError, match="draws nothing"):
        generate(model, None, [1], beams=2, temperature=1.0)
    with pytest.raises(ValueError, match="at least 1"):
        generate(model, None, [1], beams=0)
    with pytest.raises(ValueError, match="knows 0 to 39"):
        generate(model, None, [1, 40])
    with pytest.raises(ValueError, match="knows 0 to 39"):
        generate(model, None, [1], logit_bias={40: 1.0})
    assert generate(model, None, [1], max_new_tokens=0).tokens == []


def test_texts_longer_than_the_model_was_made_for_are_told():
    short = made(max_position_embeddings=8)
    with pytest.warns(UserWarning, match="max_position_embeddings=8"):
        generate(short, None, [1, 2], max_new_tokens=7)


STORY = (
    ", there was a little girl named Lily. She loved to play outside in the park. One day, she "
    "saw a big, red ball. She wanted to play with it, but it was too high.\nLily's mom said, "
    '"Lily, let\'s go to the park." Lily was sad and didn\'t know what to do. She said, "I want '
    "to play with your ball, but I can't find it.\"\nLily was sad and didn't know what to do. "
    "She said, \"I'm sorry, Lily. I didn't know what to do.\"\nLily didn't want to help her "
    'mom, so she said, "I'
)
"""What llama2.c (`./run stories260K.bin -z tok512.bin -t 0.0 -n 200`) tells, MIT licence."""


def test_the_published_text_of_the_smallest_story_model(data_folder):
    from paragone.language.checkpoints import load

    folder = data_folder / "language"
    if not (folder / "stories260K.bin").exists():
        pytest.skip("stories260K.bin is not among the data")
    tellings = []
    for name in ("stories260K.bin", "stories260K"):
        story, tokenizer = load(folder / name, tokenizer=folder / "tok512.model")
        tellings.append(generate(story, tokenizer, "Once upon a time", max_new_tokens=200))
    assert tellings[0] == tellings[1] == STORY
    assert tellings[0].finish_reason == "length"
    ids = [*tokenizer.encode("Once upon a time"), *tellings[0].tokens]
    losses = []
    for weights in ("float32", "int8"):
        engine = Engine.make(story, "numba", weights)
        pool = engine.new_pool(16)
        scores = engine.forward(pool, ids[:-1], [len(ids) - 1], [0], [range(16)], logits="all")
        p = torch.from_numpy(scores).log_softmax(-1)
        losses.append(-float(p.gather(1, torch.tensor(ids[1:])[:, None]).mean()))
    assert abs(np.exp(losses[1] - losses[0]) - 1) < 0.005
