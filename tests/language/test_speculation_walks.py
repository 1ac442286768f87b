"""The walk down a draft: its definition, what distribution comes out, and typical acceptance."""

import numpy as np
import pytest
from scipy import stats

from paragone.language import speculation
from paragone.language.drafting import Draft
from paragone.language.sampling import Drawing, Sampling
from paragone.language.speculation import Laid, Walker, verify

RULES = {
    "greedy": {"temperature": 0.0},
    "warm": {"temperature": 0.7},
    "thin": {"temperature": 1.2, "top_k": 6, "top_p": 0.9},
    "penalties": {"temperature": 1.0, "repetition_penalty": 1.5, "presence_penalty": 0.4,
                  "frequency_penalty": 0.3, "logit_bias": {3: 1.0}},
}  # fmt: skip


def random_draft(rng, vocabulary, nodes, drawn) -> Draft:
    parents = np.array([rng.integers(-1, node) for node in range(nodes)], np.int64)
    tokens = np.zeros(nodes, np.int64)
    shares = {}
    for parent in range(-1, nodes):
        children = np.flatnonzero(parents == parent)
        q = rng.dirichlet(np.full(vocabulary, 0.5))
        tokens[children] = rng.choice(vocabulary, len(children), replace=False, p=q)
        if drawn and parent % 3:
            shares[parent] = q
    return Draft(tokens, parents, shares)


@pytest.mark.parametrize("acceptance", ["exact", "typical"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_compiled_walk_is_its_definition(rule, acceptance, monkeypatch):
    rng, found = np.random.default_rng(0), []
    cases = []
    for case in range(40):
        draft = random_draft(rng, 12, int(rng.integers(0, 9)), drawn=case % 2 == 1)
        logits = (2 * rng.standard_normal((len(draft.tokens) + 1, 12))).astype(np.float32)
        history = rng.integers(0, 12, rng.integers(1, 6))
        ends = [5] if case % 5 == 0 else []
        cases.append((logits, draft, Sampling(seed=case, **rule), history, 1, case % 7, acceptance,
                      ends, 3 if case % 4 == 0 else None))  # fmt: skip
    found = [verify(*case) for case in cases]
    monkeypatch.setattr(speculation, "why_not", lambda name: "not here")
    monkeypatch.setattr("paragone.language.sampling.why_not", lambda name: "not here")
    agreed = 0
    for case, walk in zip(cases, found, strict=True):
        plain = verify(*case)
        assert (walk.path, walk.tokens, walk.tried) == (plain.path, plain.tokens, plain.tried)
        np.testing.assert_allclose(walk.log_probs, plain.log_probs, atol=1e-5)
        draft, tokens = case[1], walk.tokens
        assert draft.tokens[walk.path].tolist() == tokens[: len(walk.path)]
        assert draft.parents[walk.path].tolist() == [-1, *walk.path][: len(walk.path)]
        agreed += len(walk.path)
    assert agreed > 5


def test_chosen_drafts_give_the_draws_of_plain_decoding():
    rng, sampling = np.random.default_rng(1), Sampling(seed=4, **RULES["penalties"])
    logits = rng.standard_normal((5, 9)).astype(np.float32)
    history = [1, 2]
    truth = []
    for step in range(5):
        truth.append(sampling.pick(logits[step], [*history, *(t for t, _ in truth)], step, 2))
    tokens = [token for token, _ in truth]
    walk = verify(logits, Draft.chain(tokens[:4]), sampling, history, prompt=2)
    assert walk.tokens == tokens
    assert walk.log_probs == [log_prob for _, log_prob in truth]
    wrong = [*tokens[:2], (tokens[2] + 1) % 9, tokens[3]]
    assert verify(logits, Draft.chain(wrong), sampling, history, prompt=2).tokens == tokens[:3]


V, MANY = 6, 100_000


def _drawn(rng, q, count):
    """(MANY, count) tokens drawn from rows of q, one after the other, without replacement."""
    keys = np.log(np.maximum(q, 1e-300)) + rng.gumbel(size=q.shape)
    return np.argsort(-keys, axis=1, kind="stable")[:, :count]


def _texts(sampling, width, lie=False):
    """Two tokens of many texts by a Markov model, its drafts drawn from another; (V V,) counts."""
    rng = np.random.default_rng(7)
    scores = (1.5 * rng.standard_normal((V + 1, V))).astype(np.float32)
    others = (scores + rng.standard_normal((V + 1, V))).astype(np.float32)
    p, q = (np.stack([sampling.probabilities(row) for row in part]) for part in (scores, others))
    width = min(width, int((q > 0).sum(1).min()))
    first = _drawn(rng, np.tile(q[V], (MANY, 1)), width)
    second = np.stack([_drawn(rng, q[first[:, i]], width) for i in range(width)], 1)
    roots = np.full((MANY, 1), V)
    nodes = np.concatenate([roots, first, second.reshape(MANY, -1)], 1)
    size = nodes.shape[1]
    parents = np.array([-1, *[0] * width, *np.repeat(np.arange(width) + 1, width)])
    share_of = np.where(np.arange(size) <= width, nodes, -1)
    laid = Laid(
        np.arange(MANY + 1) * size, np.full(MANY, size), np.zeros(MANY, np.int64),
        np.minimum(nodes, V - 1).reshape(-1), np.tile(parents, MANY),
        np.zeros(MANY * size, np.int64), None, share_of.reshape(-1),
        np.full((V + 1, V), 1 / V) if lie else q.astype(np.float64),
    )  # fmt: skip
    drawing = Drawing([sampling], [[0]], 3, V)
    drawing.known, drawing.steps = np.ones(MANY, np.int64), np.zeros(MANY, np.int64)
    drawing.history = np.zeros((MANY, 4), np.int64)
    reals, wholes, _, *rest = drawing.numbers
    wholes = np.repeat(wholes, MANY, 0)
    wholes[:, 1] = np.arange(MANY)
    drawing.numbers = np.repeat(reals, MANY, 0), wholes, np.zeros(MANY + 1, np.int64), *rest
    walker = Walker(drawing, 3)
    walker._spare = np.empty((2, V))
    walker.walk(scores[nodes.reshape(-1)], laid, np.arange(MANY))
    x, y = drawing.history[:, 1], drawing.history[:, 2]
    # Whose second token was not drawn yet gets it in plain decoding.
    own = (np.cumsum(p[x], 1) > rng.random((MANY, 1))).argmax(1)
    y = np.where(drawing.steps > 1, y, own)
    counts = np.bincount(x * V + y, minlength=V * V)
    return counts, (p[V][:, None] * p[:V]).reshape(-1), (drawing.steps > 1).mean()


def _p_value(counts, p):
    assert counts[p < 1e-12].sum() == 0
    kept = p > 1e-12
    wanted = p[kept] / p[kept].sum() * counts.sum()
    rare = wanted < 5
    found = np.append(counts[kept][~rare], counts[kept][rare].sum())
    wanted = np.append(wanted[~rare], wanted[rare].sum())
    some = wanted > 0
    return stats.chisquare(found[some], wanted[some]).pvalue


@pytest.mark.parametrize(
    ("width", "rule"),
    [(1, {"temperature": 0.6}), (3, {"temperature": 1.0}), (1, {"temperature": 1.4, "top_k": 4}),
     (3, {"temperature": 0.8, "top_k": 4}), (1, {"temperature": 1.0, "top_p": 0.85}),
     (3, {"temperature": 1.3, "top_p": 0.85})],
    ids=["chain", "tree", "chain, top-k", "tree, top-k", "chain, top-p", "tree, top-p"],
)  # fmt: skip
def test_drawn_drafts_leave_the_distribution_as_it_is(width, rule):
    counts, p, agreed = _texts(Sampling(seed=0, **rule), width)
    assert agreed > 0.5
    assert _p_value(counts, p) > 1e-3


def test_a_drafter_that_lies_about_its_shares_is_caught():
    counts, p, _ = _texts(Sampling(temperature=1.0, seed=0), 1, lie=True)
    assert _p_value(counts, p) < 1e-6


def test_shares_of_one_token_and_equal_shares():
    logits = np.log(np.array([[0.25, 0.25, 0.5]] * 3, np.float32))
    sure = np.array([0.0, 0.0, 1.0])
    same = np.array([0.25, 0.25, 0.5])
    tokens = []
    for seed in range(400):
        sampling = Sampling(seed=seed)
        one = verify(logits, Draft.chain([2, 2], {-1: sure, 0: sure}), sampling, [0], 1)
        tokens.append(one.tokens[0])
        drawn = verify(logits[:2], Draft.chain([1], {-1: same}), sampling, [0], 1)
        assert drawn.path == [0]
        wide = Draft(np.array([2, 0]), np.array([-1, -1]), {-1: sure})
        assert verify(logits, wide, sampling, [0], 1).tokens[0] in (0, 1, 2)
    assert abs(np.bincount(tokens) / 400 - same).max() < 0.08


def test_typical_acceptance_is_another_distribution():
    logits = np.log(np.array([[0.6, 0.38, 0.02], [0.1, 0.8, 0.1]], np.float32))
    for seed in range(30):
        sampling = Sampling(seed=seed)
        for token, kept in ((0, True), (1, True), (2, False)):
            walk = verify(logits, Draft.chain([token]), sampling, [0], acceptance="typical")
            assert (walk.path == [0]) is kept
            assert not kept or walk.tokens[0] == token
    cold = Sampling(temperature=0.0)
    assert verify(logits, Draft.chain([1]), cold, [0], acceptance="typical").tokens == [0]
    longest = Draft(np.array([0, 1, 1, 1]), np.array([-1, -1, 1, 2]))
    scores = logits[[0, 1, 1, 1, 1]]
    walk = verify(scores, longest, Sampling(seed=1), [0], acceptance="typical")
    assert walk.path == [1, 2, 3]
    assert walk.log_probs[:3] == pytest.approx(np.log([0.38, 0.8, 0.8]), abs=1e-5)


def test_walks_stop_at_ends_and_lengths():
    scores = np.eye(6, dtype=np.float32)[[1, 2, 3, 4]]
    draft, cold = Draft.chain([1, 2, 3]), Sampling(temperature=0)
    assert verify(scores, draft, cold, [0]).tokens == [1, 2, 3, 4]
    assert verify(scores, draft, cold, [0], ends=[2]).tokens == [1, 2]
    assert verify(scores, draft, cold, [0], most=3).tokens == [1, 2, 3]
    assert verify(scores, draft, cold, [0], most=0).tokens == []
    assert verify(scores[:1], Draft.chain([]), cold, [0]).tokens == [1]
    assert verify(scores, draft, cold, [0], ends=[2]).tried == 2


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="fits the draft"):
        verify(np.zeros((2, 5)), Draft.chain([1, 2]), Sampling(seed=0), [0])
    with pytest.raises(ValueError, match="beyond 0 to 4"):
        verify(np.zeros((2, 5)), Draft.chain([5]), Sampling(seed=0), [0])
    with pytest.raises(ValueError, match="lossy"):
        verify(np.zeros((1, 5)), Draft.chain([]), Sampling(seed=0), [0], acceptance="loose")
