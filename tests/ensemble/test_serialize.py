"""JSON models: an exact round trip for what fits, one clear error for all that does not."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier as PeerTree

from paragone.ensemble import AdaBoostClassifier, VotingClassifier, VotingRegressor, load_model
from paragone.ensemble._serialize import _decode, _encode, check_tree
from paragone.ensemble._tree import Tree


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    return X, np.where(X[:, 0] + X[:, 1] > 0, "pos", "neg")


@pytest.fixture(scope="module")
def saved(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "model.json"
    AdaBoostClassifier(n_estimators=4, random_state=0).fit(*data).save_model(path)
    return path


def through(value):
    """What comes back after a trip through text."""
    return _decode(json.loads(json.dumps(_encode(value, "value"), allow_nan=False)))


def same(a, b):
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if a.dtype.kind == "O":
            return all(same(x, y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
        return a.tobytes() == b.tobytes()
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float | np.floating) and math.isnan(a):
        return type(a) is type(b) and math.isnan(b)
    return type(a) is type(b) and a == b


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.floats(width=32).map(np.float32) | st.integers(0, 255).map(np.uint8)
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_any_plain_value_comes_back(value):
    assert same(value, through(value))


@pytest.mark.parametrize(
    "array",
    [
        np.array([0.1, -0.0, np.nan, np.inf, 5e-324]),
        np.arange(6, dtype=np.int32).reshape(2, 3)[:, ::-1],
        np.zeros((0, 4), np.float32),
        np.array(True),
        np.arange(4, dtype=">i8"),
        np.array(["a", "bcd", "ä"]),
        np.array(["a", None, 1.5, ("x", 2)], object),
        np.array(["2020-01-01"], "datetime64[D]"),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_come_back_bit_for_bit(array):
    back = through(array)
    assert back.dtype == array.dtype.newbyteorder("=")
    assert same(array.astype(back.dtype), back)
    assert back.flags.writeable


def test_predictions_are_the_same_to_the_bit(saved, data):
    model = AdaBoostClassifier(n_estimators=4, random_state=0).fit(*data)
    loaded = load_model(saved)
    assert loaded.predict_proba(data[0]).tobytes() == model.predict_proba(data[0]).tobytes()
    assert loaded.classes_.tolist() == ["neg", "pos"]
    # What was loaded is a full estimator: it can be saved and fitted again.
    loaded.save_model(saved)
    loaded.fit(*data)


def test_the_file_is_plain_and_versioned(saved):
    document = json.loads(saved.read_text())
    assert document["format"] == "paragone"
    assert document["version"] == 1
    assert document["model"]["class"] == "paragone.ensemble:AdaBoostClassifier"


def test_scikit_learn_members_of_plain_arrays(data, tmp_path):
    X, y = data
    members = [
        ("logistic", make_pipeline(StandardScaler(), LogisticRegression())),
        ("bayes", GaussianNB()),
        ("ours", AdaBoostClassifier(n_estimators=2, random_state=0)),
    ]
    model = VotingClassifier(members).fit(X, y)
    model.save_model(tmp_path / "v.json")
    again = load_model(tmp_path / "v.json")
    assert again.predict_proba(X).tobytes() == model.predict_proba(X).tobytes()
    number = VotingRegressor([("a", Ridge()), ("b", Ridge(2.0))]).fit(X, X[:, 0])
    number.save_model(tmp_path / "r.json")
    assert load_model(tmp_path / "r.json").predict(X).tobytes() == number.predict(X).tobytes()


class Own(LogisticRegression):
    """Not a public estimator of anybody."""


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (PeerTree(), r"estimators_\[0\].tree_: a sklearn.tree._tree.Tree is not plain data"),
        (KNeighborsClassifier(), r"_tree: a sklearn.neighbors._kd_tree.KDTree is not plain"),
        (Own(), "Own is not a public estimator of paragone.ensemble or scikit-learn"),
    ],
)
def test_what_cannot_be_saved_is_named_and_nothing_written(data, tmp_path, member, message):
    model = VotingClassifier([("m", member)]).fit(*data)
    with pytest.raises(ValueError, match=f"cannot save .*{message}"):
        model.save_model(tmp_path / "m.json")
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize("value", [len, lambda: 0, object(), np.zeros(2, "V4"), 1j])
def test_no_code_and_no_foreign_objects(value):
    with pytest.raises(ValueError, match=r"cannot save part\[0\]"):
        _encode([value], "part")


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_at_any_byte(saved, share, tmp_path_factory):
    raw = saved.read_bytes()
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(ValueError, match="is not a model that can be loaded"):
        load_model(path)


def altered(document, where, value):
    """The document with one place changed."""
    copy = json.loads(json.dumps(document))
    place = copy
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    return copy


HOSTILE = {
    "a list": ([1], r"list indices|TypeError"),
    "a number": (7, "TypeError"),
    "nothing known": ({}, "it has no 'format'"),
    "newer": ({"format": "paragone", "version": 2, "model": None}, "its version is 2"),
    "other": ({"format": "onnx", "version": 1, "model": None}, "its format is 'onnx'"),
    "xgboost": ({"learner": {}, "version": [3, 0, 0]}, "load_xgboost"),
    "no estimator": ({"format": "paragone", "version": 1, "model": 5}, "holds no estimator"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_other_documents(case, tmp_path):
    document, message = HOSTILE[case]
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"bad.json is not a model.*({message})"):
        load_model(path)


MODEL = ["model"]
ATTACKS = [
    (["model", "class"], "os:system", "not paragone.ensemble or a public part"),
    (["model", "class"], "sklearn.externals:joblib", "not a public name"),
    (["model", "class"], "sklearn._config:set_config", "public part"),
    (["model", "class"], "sklearn.utils:resample", "not an estimator"),
    (["model", "class"], "paragone.ensemble:load_model", "not an estimator"),
    (["model", "params", "colour"], 1, "no parameter 'colour'"),
    (["model", "state", "__class__"], 1, "no attribute '__class__'"),
    (["model", "state", "predict"], 1, "no attribute 'predict'"),
    (["model", "state", "x_"], {"$": "pickle"}, "unknown kind 'pickle'"),
    (["model", "state", "x_"], {"$": "record", "class": "os:system", "fields": {}}, "no.* record"),
    (
        ["model", "state", "x_"],
        {"$": "array", "dtype": "|O", "shape": [1], "data": "AAAAAAAAAAA="},
        r"dtype '\|O'",
    ),
    (["model", "state", "x_"], {"$": "array", "dtype": "<f8", "shape": [9], "data": ""}, "reshape"),
    (["model", "state", "x_"], {"$": "array", "dtype": "<f8", "shape": [-1], "data": ""}, "shape"),
    (["model", "state", "x_"], {"$": "array", "dtype": "<f8", "shape": [0], "data": "?"}, "base64"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "value", "message"), ATTACKS)
def test_hostile_parts(saved, tmp_path, where, value, message):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(altered(json.loads(saved.read_text()), where, value)))
    with pytest.raises(ValueError, match=message):
        load_model(path)


def test_deep_nesting_and_nan_literals(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not a model"):
        load_model(path)
    path.write_text('{"format": NaN}')
    with pytest.raises(ValueError, match="NaN is not JSON"):
        load_model(path)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "absent.json")


def small_tree():
    ints = np.zeros(3, np.int32)
    return Tree(
        feature=np.array([0, -1, -1], np.int32), threshold=np.zeros(3, np.float32),
        left=np.array([1, 0, 0], np.int32), missing_left=np.zeros(3, bool),
        value=np.zeros((3, 1)), gain=np.zeros(3), cover=np.ones(3), count=ints,
        category_start=ints - 1, category_size=ints,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("left", [0, 0, 0], "before their parent"),
        ("left", [2, 0, 0], "outside it"),
        ("left", [2**30, 0, 0], "outside it"),
        ("feature", [0, 0, -1], "outside it|before"),
        ("feature", [-2, -1, -1], "negative column"),
        ("feature", [-1, -1, -1], "no parent"),
        ("category_start", [0, -1, -1], "category sets|outside their bits"),
        ("category_size", [-1, 0, 0], "category sets"),
        ("threshold", [0.0, 0.0], "3 nodes but 2"),
    ],
)
def test_no_walk_leaves_a_tree(field, value, message):
    tree = small_tree()
    check_tree(tree)
    if field == "category_start":
        tree.category_size[0] = 1
    setattr(tree, field, np.array(value, getattr(tree, field).dtype))
    with pytest.raises(ValueError, match=message):
        check_tree(tree)


def test_a_column_beyond_the_table(saved, tmp_path):
    document = json.loads(saved.read_text())
    document["model"]["state"]["n_features_in_"] = 1
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="beyond the 1 known"):
        load_model(path)
