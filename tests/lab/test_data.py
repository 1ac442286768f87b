"""Reading tables: what comes out is compared with polars' and NumPy's own words."""

import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone._core.errors import UsageError
from paragone.lab import data

ROWS = "".join(f"{i},{i % 3},{'ab'[i % 2]}\n" for i in range(30))


@pytest.fixture
def write(tmp_path):
    def make(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
        return path

    return make


def mixed(rows=60):
    generator = np.random.default_rng(0)
    return pl.DataFrame({
        "size": generator.normal(size=rows),
        "color": generator.choice(["red", "green", "blue, dark", 'a "quote"'], rows),
        "day": [datetime.date(2020, 1, 1) + datetime.timedelta(days=i) for i in range(rows)],
        "flag": generator.random(rows) < 0.5,
        "answer": generator.choice(["yes", "no", "maybe"], rows),
    }).with_columns(
        size=pl.when(pl.int_range(rows) % 7 == 0).then(None).otherwise(pl.col("size")),
        color=pl.when(pl.int_range(rows) % 11 == 0).then(None).otherwise(pl.col("color")),
    )  # fmt: skip


@pytest.mark.parametrize("form", ["csv", "tsv", "semicolon", "parquet", "frame", "pandas", "crlf"])
def test_every_form_of_a_mixed_table_gives_the_same_arrays(tmp_path, form):
    frame = mixed()
    if form == "parquet":
        frame.write_parquet(tmp_path / "t.parquet")
        source = tmp_path / "t.parquet"
    elif form == "frame":
        source = frame
    elif form == "pandas":
        source = frame.to_pandas()
    else:
        source = tmp_path / ("t.tsv" if form == "tsv" else "t.csv")
        separator = {"tsv": "\t", "semicolon": ";"}.get(form, ",")
        end = "\r\n" if form == "crlf" else "\n"
        frame.write_csv(source, separator=separator, line_terminator=end)
    table = data.read(source, "answer")
    assert table.names == ["size", "color", "day", "flag"]
    assert table.kinds == ["number", "category", "date", "boolean"]
    assert table.categorical.tolist() == [False, True, False, False]
    expected = frame["size"].cast(pl.Float32).to_numpy()
    np.testing.assert_array_equal(table.values[:, 0], expected)
    texts = [None if np.isnan(c) else table.categories[1][int(c)] for c in table.values[:, 1]]
    assert texts == frame["color"].to_list()
    np.testing.assert_array_equal(table.values[:, 2], np.arange(60))
    np.testing.assert_array_equal(table.values[:, 3], frame["flag"].cast(pl.Float32).to_numpy())
    assert [table.classes[c] for c in table.target] == frame["answer"].to_list()
    assert table.kind == "Classifier"


@pytest.mark.parametrize(
    ("content", "target", "words"),
    [
        ("x,z,y\n" + ROWS + "1,2\n", "y", "line 32 has 2 fields, but the header has 3"),
        ("x,z,y\n1,2,a,9\n" + ROWS, "y", "line 2 has 4 fields, but the header has 3"),
        ('x,z,y\n"1",2,a\n3,4\n' + ROWS, "y", "line 3 has 2 fields, but the header has 3"),
        ("x,z,y\n" + ROWS + "1,2", "y", "line 32 has 2 fields"),
        ("", "y", "the file is empty"),
        ("\n\n", "y", "line 1 is empty"),
        ("x,z,y\n", "y", "no rows"),
        ("x,y\n" + "1,a\n" * 20, "y", "only one value ('a')"),
        ("x,y\n" + "1,\n" * 20, "y", "missing in every row"),
        ("x,Target\n" + "1,a\n2,b\n" * 20, "target", "did you mean 'Target'"),
        ("x,price\n" + "1,a\n2,b\n" * 20, "prise", "did you mean 'price'"),
        ("x,y\n" + "1,a\n2,b\n" * 20, None, "--target; columns: x, y"),
        (bytes(range(256)) * 10, "y", "binary data"),
        (b"x,y\n" + b"1,a\n" * 20 + b"caf\xe9,b\n", "y", "line 22 is not UTF-8"),
        ("x,x,y\n" + ROWS, "y", "'x' stands 2 times"),
        ("x,y\n1,a\n2,b\n", "y", "2 usable rows"),
        ("x,y\n" + "1,2.5\n2,3.5\n" * 20 + "inf,1.5\n", "y", "data row 41: inf does not fit"),
        ("x,y\n" + "1,2.5\n2,3.5\n" * 20 + "1e39,1.5\n", "y", "does not fit float32"),
        ("x,y\n" + "".join(f"1,t{i}\n" for i in range(300)), "y", "at most 100 classes"),
        ("x,y\n" + "1,2020-01-01\n2,2020-01-02\n" * 20, "y", "holds dates"),
        ("y\n" + "1\n2\n" * 20, "y", "no column besides"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(write, content, target, words):
    with pytest.raises(UsageError) as caught:
        data.read(write(content), target)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["t.parquet", "t.npz"])
def test_garbage_behind_a_known_suffix(write, name):
    with pytest.raises(UsageError, match=f"{name}: not a"):
        data.read(write("no such thing", name), "y")


def test_no_such_file_and_a_folder(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        data.read(tmp_path / "none.csv", "y")
    with pytest.raises(UsageError, match="a folder"):
        data.read(tmp_path, "y")


@pytest.mark.parametrize("ending", ["", "\n", "\n\n", "\r\n"])
def test_blank_lines_at_the_end_are_not_ragged(write, ending):
    table = data.read(write("x,z,y\n" + ROWS.rstrip("\n") + ending), "y")
    assert table.values.shape == (30, 2)


def test_a_field_may_hold_line_breaks_and_separators(write):
    body = "".join(f'{i},"two\nlines, {i % 2}",{"ab"[i % 2]}\n' for i in range(30))
    table = data.read(write("x,z,y\n" + body), "y")
    assert table.categories[1] == ["two\nlines, 0", "two\nlines, 1"]


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(2, 5),
    st.sampled_from([7, 1 << 24]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_widths_are_counted_as_csv_counts_them(tmp_path_factory, sizes, width, step):
    import csv

    from paragone.lab import _read

    path = tmp_path_factory.mktemp("w") / "t.csv"
    lines = [",".join("h" * width)] + [",".join("1" * size) for size in sizes]
    path.write_text("\n".join(lines))
    with path.open(newline="") as file:
        rows = list(enumerate(csv.reader(file), 1))
    bad = [(n, len(row)) for n, row in rows if row and len(row) != width]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_read, "CHUNK", step)
        if not bad:
            _read._check_widths(path, ",", width)
            return
        with pytest.raises(UsageError, match=f"line {bad[0][0]} has {bad[0][1]} fields"):
            _read._check_widths(path, ",", width)


def test_the_task_is_inferred_told_and_can_be_set(write):
    path = write("x,y\n" + "".join(f"{i * 0.5},{i % 4}\n" for i in range(80)))
    table = data.read(path, "y")
    assert table.classes == [0, 1, 2, 3]
    assert any("taken as classes" in note for note in table.notes)
    assert data.read(path, "y", task="regression").classes is None
    floats = write("x,y\n" + "".join(f"{i},{i * 0.37}\n" for i in range(80)), "f.csv")
    assert data.read(floats, "y").kind == "Regressor"
    with pytest.raises(UsageError, match="is text; regression needs numbers"):
        data.read(write("x,y\n" + "1,a\n2,b\n" * 20, "g.csv"), "y", task="regression")


def test_what_a_reader_must_know_is_told(write):
    head = "id,const,junk,name,y\n"
    body = "".join(
        f"{i},7,{'oops' if i == 5 else i * 0.5},n{i},{i * 1.5 if i else ''}\n" for i in range(300)
    )
    notes = " | ".join(data.read(write(head + body), "y").notes)
    for words in (
        "1 rows without a target", "'id' counts the rows", "'const' is constant",
        "'oops' in data row", "'name' differs in almost every row", "249 most frequent",
    ):  # fmt: skip
        assert words in notes


def test_a_file_without_a_header_has_numbered_columns(write):
    table = data.read(write("".join(f"{i % 2},{i},{i * 2}\n" for i in range(40))), "0")
    assert table.names == ["c1", "c2"]
    assert table.target_name == "c0"


def test_libsvm_and_npz(write, tmp_path):
    generator = np.random.default_rng(1)
    values = np.round(generator.normal(size=(40, 5)), 3) * (generator.random((40, 5)) < 0.5)
    values += 0.0  # no negative zeros, which LibSVM text does not keep
    target = generator.integers(0, 2, 40)
    from sklearn.datasets import dump_svmlight_file

    dump_svmlight_file(values, target, str(tmp_path / "t.svm"), zero_based=False)
    np.savez(tmp_path / "t.npz", X=values, y=target)
    sparse, dense = data.read(tmp_path / "t.svm"), data.read(tmp_path / "t.npz")
    np.testing.assert_array_equal(sparse.values, values.astype(np.float32))
    assert data.digest(sparse) == data.digest(dense)
    with pytest.raises(UsageError, match="no array 'label'"):
        data.read(tmp_path / "t.npz", "label")


def test_stored_tables_come_back_and_their_digest_sees_every_bit(tmp_path):
    table = data.read(mixed(), "answer")
    data.save(table, tmp_path / "t")
    again = data.load(tmp_path / "t")
    np.testing.assert_array_equal(again.values, table.values)
    assert data.digest(again) == data.digest(table)
    assert (again.categories, again.classes, again.kinds) == (
        table.categories, table.classes, table.kinds,
    )  # fmt: skip
    again.values[3, 0] = np.nextafter(again.values[3, 0], np.float32(9))
    assert data.digest(again) != data.digest(table)


def test_a_prepared_file_is_read_once_until_it_changes(write, tmp_path, monkeypatch):
    path = write("x,z,y\n" + ROWS)
    first = data.prepare(str(path), "y", tmp_path / "s")
    with monkeypatch.context() as patch:
        patch.setattr(data, "read", lambda *a, **k: pytest.fail("read again"))
        assert data.prepare(str(path), "y", tmp_path / "s") == first
    path.write_text("x,z,y\n" + ROWS.replace("5", "6"))
    assert data.prepare(str(path), "y", tmp_path / "s")["digest"] != first["digest"]


def test_a_limit_takes_a_sample_and_says_so(write):
    table = data.read(write("x,z,y\n" + ROWS), "y", limit=12)
    assert len(table.values) == 12
    assert "a sample of 12 of 30 rows" in table.notes[0]


def test_a_pair_of_arrays():
    values = np.random.default_rng(0).normal(size=(30, 3))
    table = data.read((values, ["a", "b", "c"] * 10))
    assert table.classes == ["a", "b", "c"]
    np.testing.assert_array_equal(table.values, values.astype(np.float32))
    with pytest.raises(UsageError, match="needs X"):
        data.read((values, [1, 2]))
    with pytest.raises(UsageError, match="neither a file"):
        data.read(42)
