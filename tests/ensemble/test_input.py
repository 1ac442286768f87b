"""The door: one table in many dresses gives one matrix, and what cannot be read is named."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator

from paragone.ensemble._input import (
    read_features,
    read_target,
    read_target_classes,
    read_weights,
)

TABLE = {
    "number": [1, None, 3, 4],
    "text": ["x", "y", None, "x"],
    "flag": [True, False, None, True],
    "real": [1.5, 2.0, float("nan"), 4.0],
    "whole": [1, 2, 3, 16_777_217],
}
EXPECTED = np.array(
    [
        [1, 0, 1, 1.5, 1],
        [np.nan, 1, 0, 2, 2],
        [3, np.nan, np.nan, np.nan, 3],
        [4, 0, 1, 4, 16_777_216],
    ],
    np.float32,
)


class Reader(BaseEstimator):
    """An estimator that only reads."""


def dresses():
    frame = pd.DataFrame(TABLE)
    polars = pl.DataFrame(TABLE)
    nullable = {"number": "Int64", "text": "string", "flag": "boolean"}
    return {
        "pandas": frame,
        "pandas category": frame.astype({"text": "category"}),
        "pandas nullable": frame.astype(nullable),
        "pandas rows relabelled": frame.set_axis([9, 9, 5, 1]),
        "polars": polars,
        "polars categorical": polars.with_columns(pl.col("text").cast(pl.Categorical)),
        "polars enum": polars.with_columns(pl.col("text").cast(pl.Enum(["y", "x"]))),
        "arrow": pa.table(TABLE),
    }


@pytest.mark.parametrize("dress", dresses())
def test_a_table_reads_the_same_in_every_dress(dress):
    reader = Reader()
    features = read_features(reader, dresses()[dress], reset=True)
    np.testing.assert_array_equal(features.values, EXPECTED)
    assert features.values.dtype == np.float32
    assert features.values.flags.c_contiguous
    assert features.categorical.tolist() == [False, True, False, False, False]
    assert features.categories[1].tolist() == ["x", "y"]
    assert reader.n_features_in_ == 5
    assert reader.feature_names_in_.tolist() == list(TABLE)
    for other in dresses().values():
        again = read_features(reader, other, reset=False)
        np.testing.assert_array_equal(again.values, EXPECTED)


@pytest.mark.parametrize(
    "matrix",
    [
        np.asfortranarray(np.arange(12.0).reshape(4, 3)),
        np.arange(24).reshape(4, 6)[:, ::2],
        np.arange(12, dtype=np.float16).reshape(4, 3),
        np.arange(12).reshape(4, 3).tolist(),
        np.arange(12).reshape(4, 3).astype(object),
        sp.csr_matrix(np.arange(12).reshape(4, 3)),
        sp.coo_array(np.arange(12.0).reshape(4, 3)),
        sp.csc_array(np.arange(12.0).reshape(4, 3)),
    ],
    ids=["fortran", "strided", "half", "lists", "objects", "csr", "coo", "csc"],
)
def test_matrices_come_out_contiguous(matrix):
    values = read_features(Reader(), matrix, reset=True).values
    dense = matrix.toarray() if sp.issparse(matrix) else np.array(matrix, float)
    np.testing.assert_array_equal(values, dense)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "ä", "", None]), min_size=1, max_size=30),
    st.lists(st.sampled_from(["a", "b", "ä", "", "new", None]), min_size=1, max_size=30),
)
def test_codes_are_positions_in_the_sorted_categories(fit, later):
    frame, after = (pl.DataFrame({"c": column}, schema={"c": pl.String}) for column in (fit, later))
    reader = Reader()
    features = read_features(reader, frame, reset=True)
    known = sorted({value for value in fit if value is not None})
    assert features.categories[0].tolist() == known
    codes = read_features(reader, after, reset=False).values[:, 0]
    expected = [known.index(value) if value in known else np.nan for value in later]
    np.testing.assert_array_equal(codes, np.array(expected, np.float32))


def test_categorical_columns_of_an_array():
    X = np.array([[16_777_217, 0.5], [16_777_216, 1.5], [7, np.nan]])
    for chosen in ([0], [True, False], np.array([-2])):
        reader = Reader()
        features = read_features(reader, X, reset=True, categorical_features=chosen)
        # Ids that float32 would merge stay apart.
        assert features.values[:, 0].tolist() == [2, 1, 0]
        later = read_features(reader, [[7, 1], [8, 1], [np.nan, 1]], reset=False)
        np.testing.assert_array_equal(later.values[:, 0], np.float32([0, np.nan, np.nan]))


def test_text_columns_of_an_object_array():
    X = np.array([["b", 1.0], ["a", None], [None, 3.0]], object)
    reader = Reader()
    features = read_features(reader, X, reset=True, categorical_features=[0])
    expected = np.float32([[1, 1], [0, np.nan], [np.nan, 3]])
    np.testing.assert_array_equal(features.values, expected)
    with pytest.raises(ValueError, match="could not convert string"):
        read_features(Reader(), X, reset=True)


def test_categories_by_name_and_none():
    frame = pd.DataFrame({"id": [30, 10, 30], "z": [1.0, 2.0, 3.0]})
    features = read_features(Reader(), frame, reset=True, categorical_features=["id"])
    assert features.values[:, 0].tolist() == [1, 0, 1]
    assert read_features(Reader(), frame, reset=True).categories == [None, None]
    with pytest.raises(ValueError, match=r"names 'ID', which X has not; its columns are \['id'"):
        read_features(Reader(), frame, reset=True, categorical_features=["ID"])


BAD_TABLES = {
    "infinity": (np.array([[np.inf]]), "infinity or a value too large"),
    "beyond float32": (np.array([[1e39]]), "too large for dtype"),
    "infinity in a frame": (pd.DataFrame({"a": [np.inf]}), "infinity.*column 'a'"),
    "beyond float32 in a frame": (pl.DataFrame({"a": [1e39]}), "too large.*column 'a'"),
    "a lazy frame": (pl.DataFrame({"a": [1]}).lazy(), "collect"),
    "a date": (pd.DataFrame({"t": pd.to_datetime(["2020-01-01"])}), "'t' has dtype Datetime"),
    "a list column": (pl.DataFrame({"l": [[1, 2]]}), "'l' has dtype List"),
    "twice the name": (pd.DataFrame([[1, 2]], columns=["a", "a"]), "more than one column named a"),
    "no rows": (pd.DataFrame({"a": []}), "0 sample"),
    "no columns": (pd.DataFrame(index=[0, 1]), "0 feature"),
    "one dimension": (np.zeros(3), "Reshape your data"),
    "complex": (np.ones((2, 2), complex), "Complex data not supported"),
    "mixed objects": (pd.DataFrame({"o": pd.Series([1, (2,)], dtype=object)}), "'o' holds values"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_what_cannot_be_read_is_named(case):
    table, message = BAD_TABLES[case]
    with pytest.raises(ValueError, match=message):
        read_features(Reader(), table, reset=True)


def test_undeclared_text_is_refused():
    with pytest.raises(ValueError, match=r"'text' holds text.*categorical_features='from_dtype'"):
        read_features(Reader(), pl.DataFrame(TABLE), reset=True, categorical_features=None)


@pytest.mark.parametrize("chosen", [[2], [-3], [True], "text"])
def test_wrong_categorical_features(chosen):
    with pytest.raises(ValueError, match="categorical_features"):
        read_features(Reader(), np.zeros((3, 2)), reset=True, categorical_features=chosen)


def test_a_column_may_not_change_its_kind():
    numbers, text = pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": ["1", "2"]})
    reader = Reader()
    read_features(reader, text, reset=True)
    with pytest.raises(ValueError, match="'a' holds numbers now"):
        read_features(reader, numbers, reset=False)
    read_features(reader, numbers, reset=True, categorical_features=["a"])
    with pytest.raises(ValueError, match="'a' holds text now"):
        read_features(reader, text, reset=False)
    read_features(reader, numbers, reset=True)
    with pytest.raises(ValueError, match="'a' holds text"):
        read_features(reader, text, reset=False)


def test_names_are_checked_as_scikit_learn_does():
    frame = pd.DataFrame({"a": [1.0, 2], "b": [3.0, 4]})
    reader = Reader()
    read_features(reader, frame, reset=True)
    with pytest.raises(ValueError, match="same order"):
        read_features(reader, frame[["b", "a"]], reset=False)
    with pytest.raises(ValueError, match="unseen at fit time"):
        read_features(reader, frame.rename(columns={"b": "c"}), reset=False)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        read_features(reader, frame.to_numpy(), reset=False)
    with pytest.raises(ValueError, match="2 features"), pytest.warns(UserWarning, match="names"):
        read_features(reader, np.zeros((2, 3)), reset=False)


def test_imported_categories_need_not_be_sorted():
    reader = Reader()
    reader.n_features_in_ = 1
    reader._categories_ = [np.array([30.0, 10.0, 20.0])]
    values = read_features(reader, [[10], [20], [30], [25], [99]], reset=False).values[:, 0]
    np.testing.assert_array_equal(values, np.float32([1, 2, 0, np.nan, np.nan]))


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "a", "b"],
        np.array(["b", "a", "b"]),
        pd.Series(["b", "a", "b"], dtype="category"),
        pd.Series(["b", "a", "b"], dtype="string"),
        pl.Series(["b", "a", "b"]),
        pl.Series(["b", "a", "b"], dtype=pl.Categorical),
    ],
)
def test_classes_of_any_kind(labels):
    codes, classes = read_target_classes(labels)
    assert codes.tolist() == [1, 0, 1]
    assert classes.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", None], "NaN or None"),
        (pl.Series(["a", None]), "NaN or None"),
        (pd.Series(["a", pd.NA], dtype="string"), "NaN or None"),
        ([0.0, np.nan], "NaN"),
        ([0.5, 0.7], "Unknown label type"),
        (None, "requires y to be passed"),
        (sp.csr_array(np.eye(2)), "sparse"),
        (np.array([1, "a"], object), "label types that have no order|Unknown label type"),
    ],
)
def test_bad_classes(labels, message):
    with pytest.raises(ValueError, match=message):
        read_target_classes(labels)


def test_targets_and_weights():
    assert read_target(pl.Series([1, 2])).dtype == np.float64
    for bad in ([1, np.nan], [1, np.inf], ["a", "b"], None):
        with pytest.raises(ValueError, match=r"NaN|infinity|convert|requires y"):
            read_target(bad)
    assert read_weights(None, 2).tolist() == [1, 1]
    assert read_weights(3, 2).tolist() == [3, 3]
    assert read_weights(pd.Series([1, 0], index=[5, 6]), 2).tolist() == [1, 0]
    for bad, message in (
        ([1, -1], "[Nn]egative"),
        ([0, 0], "zero"),
        ([1], "expected"),
        ([[1], [2]], "1D"),
        ([1, np.nan], "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            read_weights(bad, 2)
