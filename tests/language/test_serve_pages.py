"""Pages and lanes: every book balances, and no text depends on who shares memory and steps."""

import importlib.util
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.language import _serve_pages
from paragone.language._serve_choice import Job, Wishes
from paragone.language._serve_lane import Lane
from paragone.language._serve_pages import Pages
from paragone.language.sampling import Sampling

_SPEC = importlib.util.spec_from_file_location(
    "fake_serving", Path(__file__).with_name("fake_serving.py")
)
fake = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake)


def check_books(book, tables):
    """What holds at every moment."""
    held = Counter(page for table in tables for page in table.pages)
    assert [held[page] for page in range(book.count)] == book.holders
    assert all(len(set(table.pages)) == len(table.pages) for table in tables)
    free, idle = set(book._free), set(book._idle)
    assert len(free) == len(book._free)
    assert not free & idle
    assert free | idle == {page for page in range(book.count) if not held[page]}
    assert all(book._name_of[page] is None for page in free)
    assert all(book._name_of[page] is not None for page in idle)
    assert {page for page, _ in book._named.values()} == {
        page for page in range(book.count) if book._name_of[page] is not None
    }
    for table in tables:
        # Pages that are still written have one holder.
        assert all(held[page] == 1 for page in table.pages[table.sealed :])


TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=9)


@settings(max_examples=100)
@given(
    st.integers(1, 7),
    st.lists(st.tuples(st.integers(0, 9), TOKENS, st.sampled_from(["", "x"])), max_size=40),
)
def test_books_balance_and_known_pages_hold_the_same_tokens(count, orders):
    book, content, tables = Pages(count, 2), {}, []
    for order, ids, namespace in orders:
        if order >= 4 or not tables:
            table, past = book.open(namespace, ids)
            assert past == 2 * len(table.pages) < len(ids)
            for at, page in enumerate(table.pages):
                # The page of a prefix was written behind the same tokens, under the same name.
                assert content[page] == (namespace, ids[: 2 * at + 2])
            fits = book.grow(table, len(ids))
            assert fits or book.pages_for(len(ids)) - len(table.pages) > book.available
            if fits:
                for at in range(past // 2, len(table.pages)):
                    content[table.pages[at]] = (namespace, ids[: 2 * at + 2])
                book.seal(table, ids, len(ids))
            tables.append(table)
        else:
            book.close(tables.pop(order % len(tables)))
        check_books(book, tables)
    for table in tables:
        book.close(table)
    check_books(book, [])
    assert book.available == count


def test_the_page_left_longest_ago_goes_first_and_the_last_of_a_text_before_its_first():
    book = Pages(4, 1)
    old, _ = book.open("", [1, 2, 9])
    book.grow(old, 2)
    book.seal(old, [1, 2], 2)
    new, _ = book.open("", [3, 9])
    book.grow(new, 1)
    book.seal(new, [3], 1)
    book.close(old)
    book.close(new)
    taken, _ = book.open("", [7, 7])
    assert book.grow(taken, 2)
    assert book.evicted == 1
    assert len(book.open("", [1, 2, 9])[0].pages) == 1
    assert len(book.open("", [3, 9])[0].pages) == 1
    assert not book.grow(taken, 9)
    with pytest.raises(ValueError, match="at least one"):
        Pages(0, 4)


def make_job(prompts, count=6, stream=False, ends=(), scores=None, echo=False, **sampling):
    texts = sampling.pop("texts", 1)
    namespace = sampling.pop("namespace", "")
    sampling = {"temperature": 0.0, **sampling}
    seed = sampling.pop("seed", 0)
    wishes = Wishes(
        count, [Sampling(**sampling, seed=seed + i) for i in range(texts)],
        greedy=sampling["temperature"] == 0, stop_ids=frozenset(ends), scores=scores, echo=echo,
    )  # fmt: skip
    return Job(fake.FakeTokenizer(), prompts, wishes, texts=[""] * len(prompts), stream=stream,
               namespace=namespace)  # fmt: skip


def finish(lane, news=None, check=None, steps=2000):
    news = [] if news is None else news
    for _ in range(steps):
        if not lane.busy:
            return news
        news += lane.step()
        check_books(lane.pages, [c.table for c in lane.running])
        assert all(c.table is None for c in lane.waiting)
        if check is not None:
            check(news)
    raise AssertionError("the lane does not end")


def drawn(job):
    return [choice.ids[choice.prompt_length :] for choice in job.choices]


def drawing(seed, temperature=1.0):
    sampling = Sampling(temperature=temperature, seed=seed)
    return lambda row, history, step: sampling.pick(row, history, step)[0]


LETTERS = st.lists(st.sampled_from(list(b"ab")), min_size=1, max_size=13)
ASKED = st.tuples(
    LETTERS, st.integers(1, 8), st.sampled_from([0.0, 1.0]), st.integers(1, 3),
    st.sampled_from(["", "adapter"]), st.integers(0, 4),
)  # fmt: skip


@settings(max_examples=80)
@given(st.integers(6, 20), st.integers(1, 9), st.integers(1, 5), st.lists(ASKED, max_size=7))
def test_texts_do_not_depend_on_neighbours_pages_and_preemption(pages, chunk, most, asked):
    lane = Lane(fake.FakeEngine(), pages, 4, most, chunk)
    jobs, news, cancelled = [], [], set()
    for at, (prompt, count, temperature, texts, namespace, wait) in enumerate(asked):
        job = make_job([prompt], count, temperature=temperature, seed=17 * at, texts=texts,
                       namespace=namespace)  # fmt: skip
        jobs.append((job, prompt, count, temperature))
        lane.submit(job)
        for _ in range(wait):
            news += lane.step()
        if wait == 4:
            lane.cancel(job)
            cancelled.add(at)
            check_books(lane.pages, [c.table for c in lane.running])
    finish(lane, news)
    assert lane.pages.available == pages
    for at, (job, prompt, count, temperature) in enumerate(jobs):
        if at in cancelled:
            continue
        for i, tokens in enumerate(drawn(job)):
            draw = drawing(17 * at + i) if temperature else lambda row, *_: int(row.argmax())
            assert tokens == fake.expected(prompt, count, draw)
    ended = Counter(id(update.job) for update in news if update.finish)
    for at, (job, *_) in enumerate(jobs):
        assert ended[id(job)] == len(job.choices) or at in cancelled


def test_the_oracle_catches_pages_that_are_known_by_their_own_tokens_alone(monkeypatch):
    class Careless(_serve_pages.Table):
        link = property(lambda self: "any", lambda self, value: None)

    monkeypatch.setattr(_serve_pages, "Table", Careless)
    lane = Lane(fake.FakeEngine(), 20, 4)
    for prompt, right in ((b"aaaabbbbaa", True), (b"bbbbaaaabb", False)):
        job = make_job([list(prompt)])
        lane.submit(job)
        finish(lane)
        assert (drawn(job)[0] == fake.expected(prompt, 6)) is right


def test_prompts_are_read_in_pieces_and_texts_go_on_meanwhile():
    engine = fake.FakeEngine()
    lane = Lane(engine, 40, 4, 8, 5)
    writing = make_job([list(b"ab")], 30, stream=True)
    lane.submit(writing)
    lane.step()
    long = make_job([list(b"abcdefgh" * 5)], 3)
    lane.submit(long)
    before = len(drawn(writing)[0])
    while long.choices[0].pending > 1 or not long.choices[0].drawn:
        lane.step()
    assert len(drawn(writing)[0]) - before == 40 / 4
    assert all(sum(counts) <= 5 for counts, _, _ in engine.calls)
    assert any(mode == "last" for _, _, mode in engine.calls)
    finish(lane)
    assert drawn(long)[0] == fake.expected(b"abcdefgh" * 5, 3)
    # A piece of a prompt alone needs no scores at all.
    lane.submit(make_job([list(b"h" * 20)], 1))
    finish(lane)
    assert [mode for _, _, mode in engine.calls[-4:]] == ["none", "none", "none", "last"]


def test_a_prefix_is_read_once_but_never_across_adapters():
    engine = fake.FakeEngine()
    lane = Lane(engine, 40, 4)
    for namespace, known in (("", 0), ("", 8), ("adapter", 0), ("adapter", 8)):
        job = make_job([list(b"aabbaabbaa")], 3, namespace=namespace)
        lane.submit(job)
        (update,) = finish(lane)
        assert update.cached == known
        assert drawn(job)[0] == fake.expected(b"aabbaabbaa", 3)
    # The next turn of a conversation meets what was written, too.
    job = make_job([[*b"aabbaabbaa", *fake.expected(b"aabbaabbaa", 3), *b"cd"]], 1)
    lane.submit(job)
    assert finish(lane)[0].cached == 12
    assert lane.counts["cached_tokens"] == 28


def test_who_comes_together_reads_what_is_common_once():
    engine = fake.FakeEngine()
    lane = Lane(engine, 60, 4, 8, 64)
    common = list(b"abcdefgh" * 3)
    jobs = [make_job([[*common, 97 + i]], 4) for i in range(5)]
    alone = make_job([list(b"ha")], 4)
    for job in (*jobs, alone):
        lane.submit(job)
    news = finish(lane)
    # 24 tokens once, then the last one of each; who has nothing in common does not wait.
    assert lane.counts["tokens"] == 24 + 5 + 2 + 6 * 3
    assert [update.job for update in news[:2]] == [jobs[0], alone]
    assert [update.cached for update in news if update.job is not alone] == [0, 24, 24, 24, 24]
    for i, job in enumerate(jobs):
        assert drawn(job)[0] == fake.expected([*common, 97 + i], 4)


def test_pages_run_out_and_everybody_ends():
    lane = Lane(fake.FakeEngine(), 8, 4, 8, 64)
    jobs = [make_job([[*b"abc", 97 + i]], 20) for i in range(4)]
    for job in jobs:
        lane.submit(job)
    finish(lane)
    assert lane.counts["preemptions"] > 0
    for i, job in enumerate(jobs):
        assert drawn(job)[0] == fake.expected([*b"abc", 97 + i], 20)


def test_cancelling_frees_at_once_and_the_rest_goes_on():
    lane = Lane(fake.FakeEngine(), 12, 4)
    stays, leaves = make_job([list(b"ab")], 9), make_job([list(b"ba"), list(b"bb")], 30, texts=2)
    lane.submit(stays)
    lane.submit(leaves)
    for _ in range(4):
        lane.step()
    lane.cancel(leaves)
    assert all(choice.table is None for choice in leaves.choices)
    assert lane.running == stays.choices
    assert not lane.waiting
    check_books(lane.pages, [stays.choices[0].table])
    lane.cancel(leaves)
    finish(lane)
    assert drawn(stays)[0] == fake.expected(b"ab", 9)
    assert lane.counts["cancelled"] == 1


@pytest.mark.parametrize("engine", [{"poison": 122}, {"void": 122}], ids=["raises", "nan"])
def test_a_bad_text_fails_alone(engine):
    lane = Lane(fake.FakeEngine(**engine), 30, 4)
    good, bad = make_job([list(b"ab"), list(b"ba")], 6), make_job([list(b"az")], 6)
    for job in (good, bad):
        lane.submit(job)
    news = finish(lane)
    failed = [update for update in news if update.failure is not None]
    assert [update.job for update in failed] == [bad]
    assert failed[0].failure.status == 500
    assert drawn(good) == [fake.expected(b"ab", 6), fake.expected(b"ba", 6)]
    assert lane.pages.available == 30


def test_scores_of_a_prompt_are_those_of_a_full_pass_whatever_the_pieces():
    prompt = list(b"abcabcab")
    for chunk, pages in itertools.product((1, 3, 64), (4, 30)):
        lane = Lane(fake.FakeEngine(), pages, 4, 8, chunk)
        other = make_job([list(b"aaa")], 9)
        job = make_job([prompt], 2, scores=2, echo=True)
        for one in (other, job):
            lane.submit(one)
        update = next(u for u in finish(lane) if u.job is job)
        ids = [*prompt, *fake.expected(prompt, 2)]
        assert update.text == bytes(ids).decode()
        assert [entry.id for entry in update.entries] == ids
        assert [entry.offset for entry in update.entries] == list(range(10))
        assert update.entries[0].log_prob is None
        for at in range(1, 10):
            row = fake.scores(ids[:at]).astype(np.float64)
            logs = row - np.log(np.exp(row).sum())
            entry = update.entries[at]
            assert entry.log_prob == pytest.approx(logs[ids[at]], abs=1e-6)
            best = np.lexsort((np.arange(len(row)), -row))[:2]
            assert [token for token, _ in entry.top] == best.tolist()
