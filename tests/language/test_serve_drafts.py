"""Lanes with drafts: texts are those without, whoever guesses what, and in whatever company."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.language import Llama, LlamaConfig, Tokenizer
from paragone.language._serve_choice import Job, Wishes
from paragone.language._serve_drafts import Part, cut, layout
from paragone.language._serve_lane import Lane
from paragone.language._serve_loading import served_models
from paragone.language._serve_pages import Pages
from paragone.language.drafting import Draft, Drafter, Drafting, Plan
from paragone.language.sampling import Sampling

_SPEC = importlib.util.spec_from_file_location(
    "fake_serving", Path(__file__).with_name("fake_serving.py")
)
fake = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake)


class FakePool:
    """Pages of tokens and keys, whose tokens can move."""

    def __init__(self, pages, size):
        self.rows = np.full((pages, size, 2), -1, np.int64)

    def move(self, table, sources, targets):
        size = self.rows.shape[1]
        kept = self.rows[table[sources // size], sources % size].copy()
        self.rows[table[targets // size], targets % size] = kept


class TreeEngine(fake.FakeEngine):
    """`FakeEngine` for trees: a token's key depends on those that it sees, and on its place."""

    trees = True

    class config:  # noqa: N801
        vocab_size, hidden_size = fake.VOCABULARY, 2

    def new_pool(self, pages, page_size=16):
        return FakePool(pages, page_size)

    def forward(self, pool, tokens, counts, past, tables, logits="last", hidden=False,
                positions=None, seen=None):  # fmt: skip
        self.calls.append((counts.tolist(), past.tolist(), logits))
        if self.poison is not None and self.poison in tokens:
            raise RuntimeError("a token of poison")
        size, rows, streams, at = pool.rows.shape[1], [], [], 0
        for count, start, table in zip(counts, past, tables, strict=True):
            for i in range(count):
                new = np.arange(i + 1) if seen is None else np.flatnonzero(seen[at + i])
                assert new[-1] == i, "nobody sees who stands behind"
                if positions is not None:
                    assert positions[at + i] == start + len(new) - 1
                places = np.concatenate([np.arange(start), start + new])
                known = pool.rows[table[places // size], places % size]
                before = known[-2, 1] if len(known) > 1 else 0
                known[-1] = tokens[at + i], fake.written(before, tokens[at + i])
                pool.rows[table[places[-1] // size], places[-1] % size] = known[-1]
                assert (known >= 0).all(), "a page was read that nobody has written"
                streams.append(stream(known[:, 0]))
                if logits == "all" or (logits == "last" and i == count - 1):
                    rows.append(self.row(known[:, 0], known[:, 1]))
            at += count
        out = None if logits == "none" else np.stack(rows)
        return (out, np.stack(streams)) if hidden else out


def stream(ids):
    """What tells a token's place and all before it."""
    return np.array([len(ids), fake.written(0, tuple(int(i) for i in ids)) % 65521], np.float32)


class Guesser(Drafter):
    """Trees of letters: right ones, wrong ones, at any depth; holds the lane to the contract."""

    def __init__(self, right=0.6, hidden=True, seed=0, drawn=False, width=2, broken=None):
        self.right, self.hidden, self.drawn, self.width = right, hidden, drawn, width
        self.rng, self.broken, self.texts = np.random.default_rng(seed), broken, {}

    def plans(self):
        return [Plan(6, 3, self.width)]

    def chances(self, plan):
        return np.full(plan.depth, self.right)

    def open(self, engine):
        return Guessing(self)


class Guessing(Drafting):
    def __init__(self, drafter):
        self.of, self.hidden, self.texts, self.dropped = drafter, drafter.hidden, {}, 0

    def add(self, key, tokens, sampling):
        assert key not in self.texts
        self.texts[key] = list(tokens)

    def observe(self, keys, tokens, hidden):
        assert len(set(keys)) == len(keys)
        for key, new, rows in zip(keys, tokens, hidden, strict=True):
            known = self.texts[key]
            assert len(new)
            if self.hidden:
                assert rows.shape == (len(new), 2)
                for i, row in enumerate(rows):
                    before = [*known, *new[:i].tolist()]
                    assert row.tolist() == (stream(before).tolist() if before else [0, 0])
            known.extend(new.tolist())
            if self.of.broken == "observe" and len(known) % 5 == 0:
                raise RuntimeError("no idea")

    def draft(self, keys, plan):
        found = []
        for key in keys:
            ids, parents, tokens = self.texts[key], [], []
            shares = {}
            for node in range(-1, 9):
                if node >= len(tokens):
                    break
                path, up = [], node
                while up >= 0:
                    path.insert(0, tokens[up])
                    up = parents[up]
                if len(path) == plan.depth:
                    continue
                row = fake.scores([*ids, *path])
                order = np.argsort(-row)[: plan.width]
                if self.of.drawn:
                    q = np.exp(row / 2) / np.exp(row / 2).sum()
                    shares[node] = q.astype(np.float64)
                    order = self.of.rng.choice(len(q), plan.width, False, q)
                elif self.of.rng.random() > self.of.right:
                    order = order[::-1] % 255 + 1
                for token in order[: self.of.rng.integers(1, plan.width + 1)]:
                    if len(tokens) < plan.nodes and self.of.rng.random() < 0.9:
                        tokens.append(int(token))
                        parents.append(node)
            found.append(Draft(np.array(tokens, np.int64), np.array(parents, np.int64), shares))
        return found

    def drop(self, key):
        del self.texts[key]


def make_job(prompts, count=6, ends=(), scores=None, stops=(), texts=1, namespace="", seed=0,
             stream=False, **sampling):  # fmt: skip
    sampling = {"temperature": 0.0, **sampling}
    plain = sampling == {"temperature": 0.0}
    wishes = Wishes(
        count, [Sampling(**sampling, seed=seed + i) for i in range(texts)], greedy=plain,
        remembers=True, stop_ids=frozenset(ends), scores=scores, stops=stops,
    )  # fmt: skip
    return Job(fake.FakeTokenizer(), prompts, wishes, texts=[""] * len(prompts), stream=stream,
               context=40, namespace=namespace)  # fmt: skip


def finish(lane, steps=3000):
    news = []
    for _ in range(steps):
        if not lane.busy:
            return news
        news += lane.step()
        held = [page for c in lane.running for page in c.table.pages[c.table.sealed :]]
        assert len(held) == len(set(held))
        # Pages of drafts are given back: what is held is what plain decoding holds.
        assert all(len(c.table.pages) <= lane.pages.pages_for(c.past + 1) for c in lane.running)
    raise AssertionError("the lane does not end")


def drawn(job):
    return [choice.ids[choice.prompt_length :] for choice in job.choices]


def lane_of(drafter=None, pages=40, most=8, chunk=64, draft="plan", **engine):
    plan = drafter.plans()[0] if drafter is not None and draft == "plan" else draft
    return Lane(TreeEngine(**engine), pages, 4, most, chunk, drafter=drafter, draft=plan)


LETTERS = st.lists(st.sampled_from(list(b"ab")), min_size=1, max_size=13)
ASKED = st.tuples(
    LETTERS, st.integers(1, 9), st.sampled_from([{}, {"temperature": 1.0}, {
        "temperature": 0.8, "repetition_penalty": 1.3, "top_k": 4}]),
    st.integers(1, 2), st.integers(0, 3),
)  # fmt: skip


@settings(max_examples=20)
@given(
    st.integers(8, 20), st.integers(2, 40), st.integers(1, 5),
    st.lists(ASKED, min_size=1, max_size=5), st.booleans(), st.sampled_from([0.3, 0.9]),
)  # fmt: skip
def test_texts_are_those_without_drafts(pages, chunk, most, asked, hidden, right):
    told = []
    for drafter in (None, Guesser(right, hidden)):
        lane, jobs = lane_of(drafter, pages, most, chunk), []
        for at, (prompt, count, sampling, texts, wait) in enumerate(asked):
            jobs.append(make_job([prompt], count, seed=17 * at, texts=texts, scores=2, **sampling))
            lane.submit(jobs[-1])
            for _ in range(wait):
                lane.step()
        news = finish(lane)
        assert not any(update.failure for update in news)
        told.append([drawn(job) for job in jobs])
        if drafter is not None:
            assert not lane.drafts.drafting.texts
            assert lane.drafts.counts["draft_failures"] == 0
        assert lane.pages.available == pages
    assert told[0] == told[1]


def test_a_good_guesser_saves_steps_and_counts_say_so():
    plain, lane = lane_of(), lane_of(Guesser(1.0, width=1))
    for one in (plain, lane):
        one.submit(make_job([list(b"ab"), list(b"b")], 24))
        finish(one)
    assert lane.counts["drawn_tokens"] == plain.counts["drawn_tokens"] == 48
    assert lane.counts["steps"] < plain.counts["steps"] / 2
    counts = lane.counts
    assert 0 < counts["agreed_tokens"] <= counts["drafted_tokens"]
    assert (
        counts["tokens"]
        == plain.counts["tokens"] + counts["drafted_tokens"] - counts["agreed_tokens"]
    )


def test_texts_end_inside_a_draft():
    whole = fake.expected([97, 98], 30)
    text = bytes(whole).decode()
    for options, wanted in (
        ({"stops": (text[9:12],)}, text[: text.index(text[9:12])]),
        ({"ends": [whole[7]]}, text[: text.index(text[7])]),
        ({"count": 11}, text[:11]),
    ):
        lane = lane_of(Guesser(1.0, width=1))
        lane.submit(make_job([[97, 98]], **{"count": 30, **options}))
        assert "".join(update.text for update in finish(lane)) == wanted
    lane = lane_of(Guesser(1.0, width=1))
    lane.submit(job := make_job([[97, 98]], None))
    (update,) = finish(lane)
    assert (update.finish, len(job.choices[0].ids)) == ("length", 40)


def test_streamed_pieces_and_scores_are_those_without_drafts():
    told = []
    for drafter in (None, Guesser(0.8)):
        lane = lane_of(drafter)
        lane.submit(make_job([[97] * 9], 20, scores=2, stream=True, temperature=1.0, seed=3))
        news = finish(lane)
        entries = [(e.id, e.offset, e.log_prob, e.top) for u in news for e in u.entries]
        told.append(("".join(u.text for u in news), entries, news[-1].finish))
    assert told[0] == told[1]
    assert len(told[0][1]) == 20


def test_prefixes_are_met_with_their_streams():
    lane = lane_of(Guesser(0.9))
    system = list(b"abababababab")
    for tail in (b"a", b"bb", b"ba"):
        lane.submit(job := make_job([[*system, *tail]], 9))
        finish(lane)
        assert drawn(job) == [fake.expected([*system, *tail], 9)]
    assert lane.counts["cached_tokens"] >= 24


def test_drawn_drafts_leave_the_distribution():
    counts, plain = np.zeros(256), np.zeros(256)
    for seed in range(50):
        for total, drafter in ((counts, Guesser(drawn=True, seed=seed)), (plain, None)):
            lane = lane_of(drafter)
            lane.submit(job := make_job([[97, 98]], 3, temperature=1.0, texts=4, seed=9 * seed))
            finish(lane)
            np.add.at(total, [ids[2] for ids in drawn(job)], 1)
    both = counts + plain > 0
    statistic = ((counts - plain) ** 2 / (counts + plain + 1e-9))[both].sum()
    assert statistic < 26.1  # the 0.1 % quantile of chi-square with 8 degrees of freedom


@pytest.mark.parametrize("why", ["observe", "unknown"])
def test_a_drafter_that_fails_takes_no_text_along(why):
    class Wild(Guesser):
        def open(self, engine):
            found = super().open(engine)
            if why == "unknown":
                found.draft = lambda keys, plan: [Draft.chain([9999]) for _ in keys]
            return found

    lane = lane_of(Wild(broken=why))
    lane.submit(job := make_job([[97], [98, 97]], 9))
    with pytest.warns(UserWarning, match="the drafter failed for . texts, which go on without it"):
        news = finish(lane)
    assert not any(update.failure for update in news)
    assert drawn(job) == [fake.expected(ids, 9) for ids in ([97], [98, 97])]
    assert lane.counts["draft_failures"] >= 1


def test_a_guess_that_cannot_be_read_is_no_failure_of_the_text():
    class Poisoner(Guesser):
        def open(self, engine):
            found = super().open(engine)
            found.draft = lambda keys, plan: [Draft.chain([122]) for _ in keys]
            return found

    lane = lane_of(Poisoner(), poison=122)
    lane.submit(job := make_job([[97], [98, 97]], 5))
    assert not any(update.failure for update in finish(lane))
    assert drawn(job) == [fake.expected(ids, 5) for ids in ([97], [98, 97])]


def test_cancelling_forgets_the_drafts_of_a_text():
    lane = lane_of(Guesser())
    lane.submit(job := make_job([[97] * 5], 30))
    for _ in range(4):
        lane.step()
    assert lane.drafts.drafting.texts
    lane.cancel(job)
    assert not lane.drafts.drafting.texts
    assert lane.pages.available == 40


def test_nobody_guesses_beside_a_long_prompt():
    lane = lane_of(Guesser(1.0), chunk=20)
    lane.submit(make_job([[97, 98]], 30))
    for _ in range(3):
        lane.step()
    lane.submit(make_job([[98] * 38], 1))
    lane.step()
    assert sorted(lane.engine.calls[-1][0]) == [1, 19]
    assert lane.engine.calls[-1][2] == "last"


def test_the_pace_may_leave_drafting_out():
    lane = lane_of(Guesser(0.0), draft="auto")
    lane.submit(job := make_job([[97, 98]], 30))
    finish(lane)
    assert drawn(job) == [fake.expected([97, 98], 30)]


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_a_real_engine_says_what_it_says_without_drafts(backend):
    words = Tokenizer.train(["low lower lowest new newer"] * 6, 270)
    config = LlamaConfig(
        vocab_size=words.vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    model, small = (Llama(config, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    prompts, texts = ["low lower lowest", "low lower", "new low new low new"], []
    for speculate in (None, model, small, "prompt-lookup"):
        (served,) = served_models(
            model, words, name="tiny", adapters=None, chat_template=None, most=9, batch=4,
            backend=backend, threads=1, speculate=speculate, draft=8,
        ).values()  # fmt: skip
        jobs = [
            Job(words, [words.encode(prompt)], Wishes(14, [Sampling(t, seed=3)]), context=64)
            for prompt in prompts for t in (0.0, 1.0)
        ]  # fmt: skip
        for job in jobs:
            served.lane.submit(job)
        finish(served.lane)
        texts.append([drawn(job) for job in jobs])
        if speculate is model:
            assert served.lane.counts["agreed_tokens"] >= 20
    assert texts[1] == texts[2] == texts[3] == texts[0]


def test_cutting_keeps_parents_and_what_hangs_on_them():
    draft = Draft(
        np.arange(10, 16), np.array([-1, -1, 0, 0, 1, 2]), {0: np.ones(3), 2: np.zeros(3)}
    )
    assert cut(draft, 9, 9) is draft
    flat = cut(draft, 9, 1)
    assert (flat.tokens.tolist(), flat.parents.tolist()) == ([10, 11], [-1, -1])
    few = cut(draft, 3, 9)
    assert (few.tokens.tolist(), few.parents.tolist()) == ([10, 11, 12], [-1, -1, 0])
    assert list(few.shares) == [0, 2]
    assert cut(draft, 4, 9).tokens.tolist() == [10, 11, 12, 13]
    assert len(cut(draft, 0, 9).tokens) == len(cut(draft, 9, 0).tokens) == 0


def test_layout_of_mixed_parts():
    job = make_job([[1, 2, 3], [4]])
    parts = [Part(job.choices[0], 3), Part(job.choices[1], 1, Draft.chain([7]))]
    assert layout(parts) == (None, None)
    parts[1].draft = Draft(np.array([7, 8]), np.array([-1, -1]))
    places, seen = layout(parts)
    assert places.tolist() == [0, 1, 2, 0, 1, 1]
    assert seen.tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 1]]


def test_pages_shrink():
    book = Pages(6, 2)
    table, _ = book.open("", [1, 2, 3])
    book.grow(table, 9)
    book.seal(table, [1, 2, 3], 3)
    book.shrink(table, 3)
    assert (len(table.pages), book.available) == (2, 4)
    book.shrink(table, 0)
    assert len(table.pages) == 1
    book.close(table)
    assert book.available == 6
