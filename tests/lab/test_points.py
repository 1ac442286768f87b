"""Points to search among: what they are, what cannot be read, and the truth about them."""

import numpy as np
import pytest

from paragone._core.errors import UsageError
from paragone.lab import points


@pytest.mark.parametrize(
    ("kind", "rows", "columns", "shape"),
    [
        ("uniform", 65, 3, (65, 3)), ("clustered", 63, 7, (63, 7)), ("colours", 101, 0, (101, 3)),
        ("patches", 64, 0, (64, 64)), ("digits", 0, 0, (1618, 64)),
    ],
)  # fmt: skip
def test_every_kind_is_the_same_each_time_and_finite(kind, rows, columns, shape, tmp_path):
    first, asked = points.load(kind, rows, columns, 31, seed=3, cache=str(tmp_path))
    again, asked_again = points.load(kind, rows, columns, 31, seed=3, cache=str(tmp_path))
    assert first.shape == shape
    assert asked.shape == (31, shape[1])
    assert first.dtype == asked.dtype == np.float64
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(asked, asked_again)
    plain = points.load(kind, rows, columns, 31, seed=3)
    np.testing.assert_array_equal(first, plain[0])


def test_clusters_are_nearer_than_chance():
    spread = points.load("clustered", 2000, 8, 50)[0]
    even = points.load("uniform", 2000, 8, 50)[0]
    assert points.truth(spread, spread[:50] + 1e-9, 2)[0][:, 1].mean() < 0.5 * (
        points.truth(even, even[:50] + 1e-9, 2)[0][:, 1].mean()
    )


def test_the_truth_is_brute_force_and_is_kept(tmp_path):
    generator = np.random.default_rng(0)
    cloud = generator.integers(0, 4, (97, 3)).astype(float)
    asked = generator.normal(size=(13, 3))
    nearest, contrast = points.truth(cloud, asked, 5, str(tmp_path))
    gaps = np.sort([[np.sqrt(((p - q) ** 2).sum()) for p in cloud] for q in asked], axis=1)
    np.testing.assert_allclose(nearest, gaps[:, :5], rtol=1e-12)
    assert contrast == pytest.approx(np.median(gaps[:, -1] / gaps[:, 0]))
    assert len(list(tmp_path.iterdir())) == 1
    again, _ = points.truth(cloud, asked, 5, str(tmp_path))
    np.testing.assert_array_equal(nearest, again)
    assert points.truth(np.zeros((30, 2)), np.zeros((2, 2)), 3)[1] == 0.0


def table(folder, text, name="t.csv"):
    path = folder / name
    path.write_text(text)
    return path


ROWS = "".join(f"{i},{i * 7 % 13}\n" for i in range(40))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ("a,b\n1,2\n", "1 rows; at least 20 points"),
        ("a,b\n" + ROWS + "5,\n", "column 'b' is missing in data row 41"),
        ("a,b\n" + ROWS + "5,inf\n", "column 'b' is infinite in data row 41"),
        ("a,b\n" + ROWS + "5,word\n", "column 'b' holds text"),
        ("a,b\n" + ROWS + "5\n", "line 42 has 1 fields"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_one_line(tmp_path, text, told):
    with pytest.raises(UsageError, match=told) as caught:
        points.read(table(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_every_form_of_a_table_gives_the_same_points(tmp_path):
    pl = pytest.importorskip("polars")
    values = np.array([[float(i), i * 7 % 13] for i in range(40)])
    np.testing.assert_array_equal(points.read(table(tmp_path, "a,b\n" + ROWS)), values)
    np.testing.assert_array_equal(points.read(table(tmp_path, ROWS, "bare.csv")), values)
    pl.DataFrame(values, schema=["a", "b"]).write_parquet(tmp_path / "t.parquet")
    np.testing.assert_array_equal(points.read(tmp_path / "t.parquet"), values)
    np.savez(tmp_path / "t.npz", X=values)
    np.testing.assert_array_equal(points.read(tmp_path / "t.npz"), values)
    np.savez(tmp_path / "flat.npz", X=values[:, 0])
    with pytest.raises(UsageError, match="a 2-D array of points"):
        points.read(tmp_path / "flat.npz")
    with pytest.raises(UsageError, match="no such file"):
        points.read(tmp_path / "none.csv")


def test_a_table_is_stored_with_its_digest_and_queries_are_held_out(tmp_path):
    facts = points.prepare(table(tmp_path, "a,b\n" + ROWS), tmp_path / "kept", limit=30, seed=1)
    found, asked = points.load("table", path=str(tmp_path / "kept"), seed=1)
    assert (facts["rows"], facts["queries"], facts["columns"]) == (27, 3, 2)
    assert found.shape == (27, 2)
    assert not {tuple(q) for q in asked} & {tuple(p) for p in found}
    assert facts["notes"] == ["a sample of 30 of 40 rows"]
