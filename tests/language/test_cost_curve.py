"""The cost curve, by a clock that counts what engines do; and loops that go on with a text."""

import numpy as np
import pytest

from paragone.language import Engine, Llama, LlamaConfig
from paragone.language.cost_curve import cost_curve
from paragone.language.sampling import Sampling

CONFIG = LlamaConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
)


class Counting:
    """An engine that takes 10 seconds a pass, and 1 for each token."""

    def __init__(self):
        self.config, self.now, self.calls = CONFIG, 0.0, []

    def new_pool(self, pages, page_size=16):
        return pages * page_size

    def forward(self, pool, tokens, counts, past, tables, logits="last"):
        assert np.asarray(tables).size * 16 >= np.add(counts, past).sum()
        self.calls.append((len(tokens), tuple(counts), tuple(past)))
        self.now += 10 + len(tokens)


def test_ratios_are_those_of_the_clock():
    engine = Counting()
    curve = cost_curve(engine, (1, 2, 8), rows=3, past=20, rounds=3, clock=lambda: engine.now)
    assert curve.seconds == (13, 16, 34)
    assert curve.ratios == pytest.approx((1, 16 / 13, 34 / 13))
    assert engine.calls[0] == (60, (20,) * 3, (0,) * 3)
    assert engine.calls[-1] == (24, (8,) * 3, (20,) * 3)
    assert len(engine.calls) == 1 + 3 + 9
    assert "T(8)" in str(curve)


def test_real_engines_and_an_empty_past():
    model = Llama(CONFIG)
    for backend in ("numba", "torch"):
        curve = cost_curve(Engine.make(model, backend), (1, 3), rows=2, past=0, rounds=1)
        assert curve.ratios[0] == 1
        assert min(curve.seconds) > 0


@pytest.mark.parametrize("bad", [{"tokens": ()}, {"tokens": (0,)}, {"rows": 0}, {"past": -1}])
def test_numbers_that_are_too_small(bad):
    with pytest.raises(ValueError, match="at least"):
        cost_curve(Counting(), **bad)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_loop_goes_on_where_another_one_stopped(temperature):
    engine = Engine.make(Llama(CONFIG), "numba")
    sampling = Sampling(temperature, seed=3, repetition_penalty=1.3, frequency_penalty=0.5)
    whole, log_probs, _ = engine.continued([1, 2, 3], sampling, 40, [], lambda token: False)
    pool, table = engine.new_pool(4), [3, 1, 0, 2]
    engine.forward(pool, [1, 2], [2], [0], [table], logits="none")
    known, scores = [1, 2, 3], []
    for at, count in enumerate((1, 5, 20, 14)):
        # The second time all that is held is one token: the others are read again.
        held = 1 if at == 1 else len(known) - 1
        new, some, ended = engine.continued(
            known, sampling, count, [], lambda token: False,
            pool=pool, table=table, held=held, drawn=len(known) - 3,
        )  # fmt: skip
        assert not ended
        known, scores = known + new, scores + some
    assert (known[3:], scores) == (whole, log_probs)
    last = engine.forward(pool, known[-1:], [1], [len(known) - 1], [table])
    fresh = engine.forward(engine.new_pool(4), known, [len(known)], [0], [range(4)])
    assert np.array_equal(last, fresh)


def test_a_loop_that_goes_on_ends_and_refuses():
    engine = Engine.make(Llama(CONFIG), "numba")
    greedy, pool = Sampling(0.0), engine.new_pool(2)
    whole, _, _ = engine.continued([1, 2], greedy, 12, [], lambda token: False)
    end = whole[5]
    new, scores, ended = engine.continued(
        [1, 2, *whole[:3]], greedy, 9, [end], lambda token: token == end, pool=pool, table=[0, 1],
        drawn=3,
    )  # fmt: skip
    assert new == whole[3 : whole.index(end, 3) + 1]
    assert ended
    assert len(scores) == len(new)
    for bad, match in (
        ({"table": [0]}, "pages"), ({"table": [0, 7]}, "pages"), ({"held": 2}, "held"),
        ({"drawn": 3}, "drawn"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            engine.continued([1, 2], greedy, 20, [], bool,
                             **{"pool": pool, "table": [0, 1], **bad})  # fmt: skip
