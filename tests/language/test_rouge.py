"""ROUGE-L against its definition, and the filter against comparing all with all."""

import random

import numpy as np
import pytest

from paragone.language.ops.rouge.reference import common_words, f_measure
from paragone.language.rouge import Novelty, novel, rouge_l, words_of


def text_of(rng, size, known):
    return " ".join(f"w{rng.randrange(known)}" for _ in range(size))


def near_ones(rng, count, known=12, longest=30):
    """Texts of which many are near to each other: words are left out of earlier ones."""
    texts = [text_of(rng, rng.randrange(longest + 1), known) for _ in range(count)]
    texts += [" ".join(w for w in t.split() if rng.random() < 0.85) for t in texts]
    rng.shuffle(texts)
    return texts


@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 65, 127, 128, 131, 200])
def test_scores_are_those_of_the_definition(size):
    rng = random.Random(size)
    x = text_of(rng, size, 20)
    others = [text_of(rng, n, 20) for n in (0, 1, 7, 63, 64, 65, 150)] + [x]
    pool = Novelty(others)
    found = [common_words(x.split(), other.split()) for other in others]
    assert pool.common(x).tolist() == found
    scores = [f_measure(c, size, len(o.split())) for c, o in zip(found, others, strict=True)]
    assert pool.scores(x).tolist() == scores
    assert pool.nearest(x) == ((max(scores), scores.index(max(scores))) if size else (0.0, -1))
    score = rouge_l(others[5], x)
    assert score.fmeasure == scores[5]
    if size:
        assert (score.recall, score.precision) == (found[5] / 65, found[5] / size)


def test_carries_count():
    # The planted bug: a carry that is lost between machine words would find fewer.
    x = " ".join(f"w{i}" for i in range(130))
    assert common_words(x.split()[:64], x.split()) == 64
    assert rouge_l(x, x).fmeasure == 1.0
    assert rouge_l(x, "w128 w129").precision == 1.0


@pytest.mark.parametrize("threshold", [0.0, 0.35, 0.7, 0.9, 1.0])
def test_the_filter_decides_as_comparing_all_with_all(threshold):
    rng = random.Random(7)
    pool, texts = near_ones(rng, 5), near_ones(rng, 20, longest=70)
    kept, decisions = [t.split() for t in pool], []
    for text in texts:
        words = text.split()
        scores = [f_measure(common_words(words, k), len(words), len(k)) for k in kept]
        decisions.append(max(scores) <= threshold)
        if decisions[-1]:
            kept.append(words)
    assert novel(texts, pool=pool, threshold=threshold).tolist() == decisions
    one_by_one = Novelty(pool, threshold)
    assert [one_by_one.offer(text) for text in texts] == decisions
    assert len(one_by_one) == len(kept)


def test_a_score_of_the_threshold_is_new():
    # 7 of 10 words each: precision and recall are 0.7, and so is F, give or take its rounding.
    x = "a b c d e f g h i j"
    y = "a b c d e f g x y z"
    assert novel([x, y]).tolist() == [True, f_measure(7, 10, 10) <= 0.7]
    # 5 of 6 and 8 words: F = 5/7 > 0.7.
    assert novel(["a b c d e f", "a b c d e x y z"]).tolist() == [True, False]


def test_real_instructions(data_folder):
    import json

    path = data_folder / "language" / "self_instruct_seed_tasks.jsonl"
    texts = [json.loads(line)["instruction"] for line in path.read_text().splitlines()]
    texts += [text.replace("the", "a").replace("?", " now?") for text in texts]
    found = novel(texts)
    pool = Novelty()
    assert found.tolist() == [pool.offer(text) for text in texts]
    assert found[:175].sum() > 170
    assert 0 < found.sum() < len(texts)


def test_words_and_empty_texts():
    assert words_of("Don't STOP, été 4x!") == ["don", "t", "stop", "t", "4x"]
    assert rouge_l("", "a") == rouge_l("a", "?!") == rouge_l("", "")
    assert novel(["", "?!", "a"]).tolist() == [True, True, True]
    assert novel([]).tolist() == []
    assert Novelty().nearest("a") == (0.0, -1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        novel(["a"], threshold=1.5)


@pytest.mark.peers
def test_scores_and_decisions_are_those_of_rouge_score():
    scoring = pytest.importorskip("rouge_score.rouge_scorer")
    peer = scoring.RougeScorer(["rougeL"], use_stemmer=False)
    rng = random.Random(3)
    texts = [*near_ones(rng, 11, longest=80), "Don't, été!", "don t t", ""]
    kept: list[str] = []
    decisions = []
    for text in texts:
        theirs = [peer.score(k, text)["rougeL"] for k in kept]
        for k, score in zip(kept, theirs, strict=True):
            ours = rouge_l(k, text)
            assert (ours.precision, ours.recall, ours.fmeasure) == tuple(score)
        decisions.append(max((s.fmeasure for s in theirs), default=0.0) <= 0.7)
        if decisions[-1]:
            kept.append(text)
    assert novel(texts).tolist() == decisions
    assert not np.all(decisions)
