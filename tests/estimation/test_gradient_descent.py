"""Gradient descent against loops in plain NumPy, closed forms, and its own intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.estimation import RobbinsMonro, sgd
from paragone.estimation.robbins_monro import DivergenceError
from paragone.estimation.steps import Constant, Harmonic, Power

STEPS = Power(0.3, 1.0, 0.6)


def table(loss, n, d=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    x[:, 0] = 1.0
    fitted = x @ np.linspace(-0.5, 1.0, d)
    if loss == "logistic":
        return x, (rng.random(n) < 1 / (1 + np.exp(-fitted))).astype(float)
    return x, fitted + rng.standard_normal(n)


def gradient(loss, w, x, y, tau=0.3, delta=0.7):
    """Mean gradient over rows, as the losses are defined."""
    if loss == "mean":
        return w - x.mean(axis=0)
    gap = x @ w - y
    pull = {
        "linear": gap,
        "logistic": 1 / (1 + np.exp(-x @ w)) - y,
        "quantile": (gap >= 0) - tau,
        "huber": np.clip(gap, -delta, delta),
    }[loss]
    return x.T @ pull / len(x)


def plain(loss, x, y, batch, steps, epochs=1, keep=True, low=-np.inf, high=np.inf):
    """The definition: batches in order, iterates (updates, d)."""
    w, path = np.zeros(x.shape[1]), []
    for _ in range(epochs):
        for start in range(0, len(x), batch):
            rows = slice(start, start + batch)
            if len(x[rows]) < batch and not keep:
                break
            move = float(steps(len(path) + 1)) * gradient(loss, w, x[rows], y[rows])
            w = np.clip(w - move, low, high)
            path.append(w)
    return np.array(path)


@pytest.mark.parametrize("loss", ["mean", "linear", "logistic", "quantile", "huber"])
@pytest.mark.parametrize("batch", [1, 7, 64, 101])
def test_every_loss_and_batch_is_the_definition(loss, batch):
    x, y = table(loss, 101)
    data = x if loss == "mean" else (x, y)
    found = sgd(loss, data, batch=batch, steps=STEPS, epochs=2, order="sequential", tau=0.3,
                delta=0.7, burn_in=1)  # fmt: skip
    path = plain(loss, x, y, batch, STEPS, epochs=2)
    np.testing.assert_allclose(found.params, path[-1], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.average, path[1:].mean(axis=0), rtol=1e-10, atol=1e-12)
    at = found.path_steps[found.path_steps > 0]
    np.testing.assert_allclose(found.path[found.path_steps > 0], path[at - 1], atol=1e-12)
    assert (found.updates, found.rows) == (len(path), 202)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sampled_from([0.0, 1e6]))
def test_with_one_over_k_the_iterate_is_the_mean(seed, n, offset):
    values = np.random.default_rng(seed).standard_normal(n) + offset
    for order in ("sequential", "shuffle"):
        found = sgd("mean", values, order=order, random_state=seed)
        assert found.params[0] == pytest.approx(values.mean(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("loss", ["linear", "mean"])
def test_full_batch_is_one_step_a_pass(loss):
    x, y = table(loss, 97)
    data = x if loss == "mean" else (x, y)
    found = sgd(loss, data, batch="full", steps=Constant(0.5), epochs=4)
    path = plain(loss, x, y, 97, Constant(0.5), epochs=4)
    np.testing.assert_allclose(found.params, path[-1], rtol=1e-12)
    assert found.updates == 4
    # Drawing n rows with replacement is another thing: about a third of the rows is missing.
    drawn = sgd(loss, data, batch=97, replacement=True, steps=Constant(0.5), epochs=4)
    assert np.abs(drawn.params - found.params).max() > 1e-3
    assert drawn.order == "with replacement"


def test_order_replacement_and_the_last_batch_are_what_was_asked():
    values = np.arange(10.0)
    mean = dict(batch=4, steps=Constant(1.0))
    # With a step of 1 the iterate is the mean of the last batch.
    assert sgd("mean", values, order="sequential", **mean).params[0] == 8.5
    assert sgd("mean", values, order="sequential", last_partial="drop", **mean).params[0] == 5.5
    seen = []

    def spy(w, rows):
        seen.extend(rows[:, 0])
        return w * 0.0

    sgd(spy, values, batch=3, epochs=2)
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(values)
    assert seen[:10] != seen[10:]
    assert seen[:10] != list(values)
    seen.clear()
    sgd(spy, values, batch=3, replacement=True)
    assert len(seen) == 10
    assert len(set(seen)) < 10
    again = [sgd("linear", table("linear", 50), random_state=s).params for s in (1, 1, 2)]
    assert np.array_equal(again[0], again[1])
    assert not np.array_equal(again[0], again[2])


def test_batches_span_pieces_of_a_stream(tmp_path):
    x, y = table("linear", 1000)
    rows = np.column_stack([x, y])
    expected = sgd("linear", rows, batch=7, order="sequential", steps=STEPS)
    pieces = sgd("linear", iter(np.array_split(rows, 13)), batch=7, steps=STEPS)
    np.save(tmp_path / "rows.npy", rows)
    mapped = sgd("linear", tmp_path / "rows.npy", batch=7, order="sequential", steps=STEPS)
    lines = "\n".join(",".join(map(repr, [row[3], *row[:3]])) for row in rows.tolist())
    (tmp_path / "rows.csv").write_text(f"y,a,b,c\n{lines}\n")
    told = []
    csv = sgd("linear", tmp_path / "rows.csv", batch=7, target="y", steps=STEPS, epochs=1,
              progress=lambda *done: told.append(done))  # fmt: skip
    for found in (pieces, mapped, csv):
        np.testing.assert_allclose(found.params, expected.params, rtol=1e-12)
        np.testing.assert_allclose(found.average, expected.average, rtol=1e-12)
    assert (pieces.order, csv.order, told) == ("sequential", "sequential", [(1000, None)])
    shuffled = sgd("linear", tmp_path / "rows.csv", batch=7, target="y", steps=STEPS,
                   order="pieces", epochs=2)  # fmt: skip
    assert shuffled.rows == 2000
    assert sgd("mean", tmp_path / "rows.csv", target="b").params == pytest.approx([x[:, 1].mean()])
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow

    columns = dict(zip("abcy", rows.T, strict=True))
    parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet", row_group_size=99)
    found = sgd("linear", tmp_path / "rows.parquet", batch=7, steps=STEPS)
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-12)


@pytest.mark.parametrize(
    "projection",
    [(0.0, 0.4), (np.array([0.0, -1.0, -1.0]), 0.2), 0.3, lambda w: np.clip(w, -0.1, 0.1)],
)
def test_projections_hold_after_every_step(projection):
    data = table("linear", 200)
    found = sgd("linear", data, batch=5, projection=projection, order="sequential", steps=STEPS)
    path = found.path[1:]
    if isinstance(projection, tuple):
        assert (path >= projection[0]).all()
        assert (path <= projection[1]).all()
        if np.ndim(projection[0]) == 0:
            expected = plain("linear", *data, 5, STEPS, low=0.0, high=0.4)
            np.testing.assert_allclose(found.params, expected[-1], rtol=1e-12)
    elif callable(projection):
        assert np.abs(path).max() <= 0.1
    else:
        assert np.linalg.norm(path, axis=1).max() <= 0.3 + 1e-12


def test_a_gradient_of_ones_own_is_the_built_in_loss():
    x, y = table("linear", 200)
    rows = np.column_stack([x, y])

    def mine(w, part):
        return gradient("linear", w, part[:, :-1], part[:, -1])

    for bounds in (None, 0.3):
        own = sgd(mine, rows, np.zeros(3), batch=6, steps=STEPS, random_state=3, projection=bounds)
        built = sgd("linear", rows, batch=6, steps=STEPS, random_state=3, projection=bounds)
        np.testing.assert_allclose(own.params, built.params, rtol=1e-10)
        np.testing.assert_allclose(own.average, built.average, rtol=1e-10)
    assert own.loss == "custom"


@pytest.mark.parametrize(("loss", "a"), [("linear", 0.5), ("logistic", 2.0), ("quantile", 2.0)])
def test_intervals_cover(loss, a):
    # benchmarks/approximation.py asks the same of 2,000 replications, to [93, 97] %.
    truth, count, n = np.linspace(-0.5, 1.0, 3), 150, 4000
    hits = {"scaling": 0.0} if loss == "quantile" else {"scaling": 0.0, "plugin": 0.0}
    for seed in range(count):
        found = sgd(loss, table(loss, n, seed=seed), steps=Power(a, 0.0, 0.51), burn_in=200,
                    order="sequential", covariance=loss != "quantile")  # fmt: skip
        for kind in hits:
            low, high = found.interval(0.95, kind=kind)
            hits[kind] += np.mean((low <= truth) & (truth <= high)) / count
    for kind, share in hits.items():
        assert 0.90 <= share <= 0.99, kind


def test_plug_in_covariance_is_the_sandwich_of_least_squares():
    x, y = table("linear", 60_000)
    found = sgd("linear", (x, y), covariance=True, steps=Power(0.5, 0.0, 0.55), burn_in=2000)
    w = np.linalg.lstsq(x, y, rcond=None)[0]
    inverse = np.linalg.inv(x.T @ x)
    meat = (x * ((y - x @ w) ** 2)[:, None]).T @ x
    np.testing.assert_allclose(found.covariance, inverse @ meat @ inverse, rtol=0.15, atol=2e-6)
    np.testing.assert_allclose(found.average, w, atol=0.01)
    mean = sgd("mean", x[:, 1], covariance=True)
    assert mean.covariance[0, 0] == pytest.approx(1 / 60_000, rel=0.05)


def test_divergence_is_detected_and_said():
    x, y = table("linear", 500)
    with pytest.raises(DivergenceError, match="scale the columns"):
        sgd("linear", (100 * x, y), steps=Constant(1.0))
    with pytest.raises(DivergenceError, match="diverges"):
        sgd(lambda w, rows: w**3 - 5.0, np.zeros(100), [10.0], steps=Harmonic())


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_large_and_small_units_are_no_divergence(scale):
    values = scale * (1.0 + np.random.default_rng(0).random(500))
    assert sgd("mean", values).params[0] == pytest.approx(values.mean(), rel=1e-12)
    found = RobbinsMonro(lambda w, x: w - x, steps=Harmonic()).run(values)
    assert float(found.w) == pytest.approx(values.mean(), rel=1e-12)


def test_bad_arguments_say_what_to_do():
    x, y = table("linear", 20)
    hole = x.copy()
    hole[3, 1] = np.nan
    twice = sgd("linear", (x, y), epochs=2)
    for make, words in [
        (lambda: sgd("squared", x), "none of mean, linear"),
        (lambda: sgd("mean", x, batch=0), "1 or more, or 'full'"),
        (lambda: sgd("mean", x, batch="half"), "'full'"),
        (lambda: sgd("mean", x, epochs=0), "no number of passes"),
        (lambda: sgd("mean", x, last_partial="pad"), "'keep', 'drop'"),
        (lambda: sgd("mean", x, order="random"), "'shuffle', 'sequential'"),
        (lambda: sgd("quantile", y, tau=1.0), "no probability"),
        (lambda: sgd("huber", (x, y), delta=0.0), "no width"),
        (lambda: sgd("mean", []), "no rows"),
        (lambda: sgd("mean", hole), "NaN or infinite"),
        (lambda: sgd("logistic", (x, y)), "use 0 and 1"),
        (lambda: sgd("linear", (x, y[:5])), "one y for each"),
        (lambda: sgd("linear", (x, y), [1.0]), "one for each"),
        (lambda: sgd("linear", (x, y), [np.inf] * 3), "not finite"),
        (lambda: sgd("mean", iter([x]), epochs=2), "read once"),
        (lambda: sgd("mean", iter([x]), order="shuffle"), "cannot be reached"),
        (lambda: sgd("mean", x, target="a"), "names a column"),
        (lambda: sgd("quantile", y, covariance=True), "scaling"),
        (lambda: sgd(lambda w, r: [1.0, 2.0], y), "return one for each"),
        (lambda: twice.interval(), "epochs=1"),
        (lambda: sgd("linear", (x, y)).covariance, "covariance=True"),
        (lambda: sgd("linear", (x, y), averaging=False).average, "averaging=True"),
        (lambda: sgd("linear", (x, y)).interval(kind="exact"), "none of"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()


@pytest.mark.peers
def test_sklearn_takes_the_same_path():
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = table("linear", 400)
    peer = linear_model.SGDRegressor(
        penalty=None, fit_intercept=False, learning_rate="invscaling", eta0=0.3, power_t=0.6,
        shuffle=False, max_iter=1, tol=None, average=True,
    )  # fmt: skip
    peer.fit(x, y)
    ours = sgd("linear", (x, y), steps=Power(0.3, 0.0, 0.6), order="sequential")
    np.testing.assert_allclose(ours.average, peer.coef_, rtol=1e-9)


def test_the_oracle_catches_a_batch_that_sums(monkeypatch):
    # A planted bug: the gradient of a batch is summed in place of averaged.
    from paragone.estimation import _descent

    x, y = table("linear", 101)
    path = plain("linear", x, y, 7, STEPS)
    plain_kernel = _descent.descend

    def summing(*arguments):
        kind, extra, rows, target, order, batch, sizes, *rest = arguments
        return plain_kernel(kind, extra, rows, target, order, batch, sizes * batch, *rest)

    monkeypatch.setattr(_descent, "descend", summing)
    found = sgd("linear", (x, y), batch=7, steps=STEPS, order="sequential")
    assert np.abs(found.params - path[-1]).max() > 0.01
