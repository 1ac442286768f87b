"""Models as plain JSON: nothing in the file is code, and nothing is lost.

Pickle runs what the file says; a model from a stranger should not. Here a file holds only
parameters, numbers and arrays (base64 of little-endian bytes, so that every float comes back
bit for bit), and a short list says what may be built from it: our estimators and records, and
those public scikit-learn estimators whose fitted state is made of plain arrays. What has no
place in such a file (a Python function as an objective, a compiled scikit-learn tree) is
refused when saving, by name. A file that is truncated, of another kind, or written by an
adversary gives one `ValueError`; trees are checked so that no walk leaves its arrays.

The layout: `{"format": "paragone", "version": 1, "model": ...}`, where an object that JSON
does not know is `{"$": kind, ...}`.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
import json
import math
import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from paragone.ensemble._tree import LEAF, Tree

__all__ = ["JsonModel", "check_tree", "load_model"]

_VERSION = 1
_ARRAY_KINDS = "biufmM"
_OURS = re.compile(r"paragone\.ensemble(\.[a-z_]+)*")
_PUBLIC_SKLEARN = re.compile(r"sklearn\.[a-z][a-z_]*")
_ATTRIBUTE = re.compile(r"_?[A-Za-z][A-Za-z0-9_]*")


class JsonModel:
    """Gives an estimator `save_model`; `paragone.ensemble.load_model` reads the file."""

    def save_model(self, path: str | PathLike[str]) -> None:
        """Writes the fitted estimator, with its parameters, to a JSON file.

        Raises:
            ValueError: The estimator holds something that plain data cannot express (a
                function, an estimator of another library); the message says where.
        """
        document = {"format": "paragone", "version": _VERSION, "model": _encode(self, "")}
        text = json.dumps(document, allow_nan=False, separators=(",", ":"))
        Path(path).write_text(text, encoding="utf-8")


def load_model(path: str | PathLike[str]) -> Any:
    """Reads an estimator that `save_model` wrote; its predictions are bit for bit the same.

    Raises:
        ValueError: The file is truncated, damaged, of another format or of a newer version.
    """
    try:
        document = json.loads(Path(path).read_bytes(), parse_constant=_no_constant)
        if "learner" in document:
            raise ValueError("it is XGBoost's own; use NewtonBoosting...load_xgboost(path)")
        if document["format"] != "paragone":
            raise ValueError(f"its format is {document['format']!r}")
        if document["version"] != _VERSION:
            raise ValueError(f"its version is {document['version']!r}, this reads {_VERSION}")
        model = _decode(document["model"])
        if not isinstance(model, JsonModel):
            raise ValueError("it holds no estimator")
    except OSError:
        raise
    except _DAMAGE as error:
        reason = str(error) if isinstance(error, ValueError) else repr(error)
        reason = f"it has no {error}" if isinstance(error, KeyError) else reason
        raise ValueError(f"{path} is not a model that can be loaded: {reason}") from error
    return model


# What a damaged or hostile document makes json, base64, NumPy and the decoder below raise.
_DAMAGE = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError,
    ImportError, MemoryError,
)  # fmt: skip


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _encode(value: Any, where: str) -> Any:
    """Turns a value into JSON data; `where` names it in errors."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$": "float", "value": repr(value)}
    if type(value) is list:
        return [_encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if type(value) in (tuple, set, frozenset):
        items = value if type(value) is tuple else sorted(value)
        encoded = [_encode(item, f"{where}[{i}]") for i, item in enumerate(items)]
        return {"$": type(value).__name__, "items": encoded}
    if isinstance(value, dict):
        pairs = [
            [_encode(k, f"key {k!r} of {where}"), _encode(v, f"{where}[{k!r}]")]
            for k, v in value.items()
        ]
        return {"$": "dict", "items": pairs}
    if isinstance(value, np.ndarray):
        return _encode_array(value, where)
    if isinstance(value, np.generic):
        return {"$": "scalar", "array": _encode_array(np.asarray(value), where)}
    return _encode_object(value, where)


def _encode_array(array: np.ndarray, where: str) -> dict[str, Any]:
    shape = list(array.shape)
    if array.dtype.kind in _ARRAY_KINDS:
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        data = base64.b64encode(plain.tobytes()).decode("ascii")
        return {"$": "array", "dtype": plain.dtype.str, "shape": shape, "data": data}
    if array.dtype.kind in "OU":
        kind = "object" if array.dtype.kind == "O" else array.dtype.str.lstrip("<>=")
        items = [_encode(item, f"{where}[{i}]") for i, item in enumerate(array.ravel().tolist())]
        return {"$": "array", "dtype": kind, "shape": shape, "items": items}
    raise ValueError(f"cannot save {where}: an array of dtype {array.dtype}")


def _encode_object(value: Any, where: str) -> dict[str, Any]:
    cls = type(value)
    dot = f"{where}." if where else ""
    if isinstance(value, BaseEstimator):
        home = _public_home(cls)
        if home is None:
            raise ValueError(
                f"cannot save {where or 'this estimator'}: {cls.__module__}.{cls.__qualname__} is "
                "not a public estimator of paragone.ensemble or scikit-learn; use pickle"
            )
        state: Any = value.__getstate__()
        params = value.get_params(deep=False)
        fitted = {k: v for k, v in state.items() if k not in params}
        return {
            "$": "estimator",
            "class": f"{home}:{cls.__name__}",
            "params": {k: _encode(v, dot + k) for k, v in params.items()},
            "state": {k: _encode(v, dot + k) for k, v in fitted.items()},
        }
    if _OURS.fullmatch(cls.__module__) and not isinstance(value, type) and not callable(value):
        return {
            "$": "record",
            "class": f"{cls.__module__}:{cls.__name__}",
            "fields": {k: _encode(v, dot + k) for k, v in _fields(value).items()},
        }
    what = "a Python function" if callable(value) else f"a {cls.__module__}.{cls.__qualname__}"
    raise ValueError(
        f"cannot save {where}: {what} is not plain data; replace it by a named option or an "
        "estimator of paragone.ensemble, or use pickle"
    )


def _fields(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return vars(value)


def _public_home(cls: type) -> str | None:
    """The module that exports this class, if it is ours or a public part of scikit-learn."""
    parts = cls.__module__.split(".")
    if parts[0] not in ("paragone", "sklearn") or len(parts) < 2:
        return None
    for home in (".".join(parts[:2]), cls.__module__):
        if _allowed(home) and cls.__name__ in _exported(home):
            return home if getattr(importlib.import_module(home), cls.__name__) is cls else None
    return None


def _allowed(home: str) -> bool:
    return bool(_OURS.fullmatch(home) or _PUBLIC_SKLEARN.fullmatch(home))


def _exported(home: str) -> list[str]:
    if not _allowed(home):
        raise ValueError(f"{home!r} is not paragone.ensemble or a public part of scikit-learn")
    return list(getattr(importlib.import_module(home), "__all__", ()))


def _decode(data: Any) -> Any:
    if isinstance(data, list):
        return [_decode(item) for item in data]
    if not isinstance(data, dict):
        return data
    kind = data["$"]
    if kind == "float":
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[data["value"]]
    if kind in ("tuple", "set", "frozenset"):
        make = {"tuple": tuple, "set": set, "frozenset": frozenset}[kind]
        return make(_decode(item) for item in data["items"])
    if kind == "dict":
        return {_decode(k): _decode(v) for k, v in data["items"]}
    if kind == "array":
        return _decode_array(data)
    if kind == "scalar":
        return _decode_array(data["array"])[()]
    if kind == "estimator":
        return _decode_estimator(data)
    if kind == "record":
        return _decode_record(data)
    raise ValueError(f"unknown kind {kind!r}")


def _decode_array(data: dict[str, Any]) -> np.ndarray:
    shape = tuple(data["shape"])
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    if "items" in data:
        dtype = data["dtype"]
        if not re.fullmatch(r"object|U\d{1,6}", dtype):
            raise ValueError(f"an array of dtype {dtype!r}")
        items = [_decode(item) for item in data["items"]]
        flat = np.empty(len(items), object)
        flat[:] = items
        return flat.reshape(shape).astype(dtype, copy=False)
    dtype = np.dtype(data["dtype"])
    if dtype.kind not in _ARRAY_KINDS:
        raise ValueError(f"an array of dtype {data['dtype']!r}")
    raw = base64.b64decode(data["data"], validate=True)
    # A copy: frombuffer is read-only, and a loaded model may be fitted further.
    return np.frombuffer(raw, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _decode_estimator(data: dict[str, Any]) -> Any:
    home, _, name = data["class"].partition(":")
    if name not in _exported(home):
        raise ValueError(f"{name!r} is not a public name of {home}")
    cls = getattr(importlib.import_module(home), name)
    if not (isinstance(cls, type) and issubclass(cls, BaseEstimator)):
        raise ValueError(f"{home}.{name} is not an estimator")
    known = set(cls._get_param_names())
    params = {k: _decode(v) for k, v in data["params"].items()}
    state = {k: _decode(v) for k, v in data["state"].items()}
    for key in params:
        if key not in known:
            raise ValueError(f"{name} has no parameter {key!r}")
    for key in state:
        if not _ATTRIBUTE.fullmatch(key) or callable(getattr(cls, key, None)):
            raise ValueError(f"{name} has no attribute {key!r}")
    estimator = cls(**params)
    estimator.__setstate__({**vars(estimator), **state})
    width = state.get("n_features_in_")
    for tree in _trees_in(list(state.values())):
        if not isinstance(width, int) or tree.feature.max() >= width:
            raise ValueError(f"a tree of {name} splits on a column beyond the {width} known")
    return estimator


def _decode_record(data: dict[str, Any]) -> Any:
    home, _, name = data["class"].partition(":")
    if not _OURS.fullmatch(home):
        raise ValueError(f"{data['class']!r} is not a record of paragone.ensemble")
    cls = getattr(importlib.import_module(home), name)
    if not isinstance(cls, type) or cls.__module__ != home or issubclass(cls, BaseEstimator):
        raise ValueError(f"{data['class']!r} is not a record of paragone.ensemble")
    fields = {k: _decode(v) for k, v in data["fields"].items()}
    record = object.__new__(cls)
    if dataclasses.is_dataclass(cls) and fields.keys() != {f.name for f in dataclasses.fields(cls)}:
        raise ValueError(f"the fields of a {name} are {sorted(fields)}")
    for key, value in fields.items():
        if not _ATTRIBUTE.fullmatch(key) or callable(getattr(cls, key, None)):
            raise ValueError(f"{name} has no field {key!r}")
        object.__setattr__(record, key, value)
    if isinstance(record, Tree):
        check_tree(record)
    return record


def _trees_in(value: Any) -> Iterator[Tree]:
    if isinstance(value, Tree):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _trees_in(item)


_TREE_DTYPES = {
    "feature": np.int32, "threshold": np.float32, "left": np.int32, "missing_left": np.bool_,
    "value": np.float64, "gain": np.float64, "cover": np.float64, "count": np.int32,
    "category_start": np.int32, "category_size": np.int32, "category_bits": np.uint32,
}  # fmt: skip


def check_tree(tree: Tree) -> None:
    """Makes sure that a walk from the root ends at a leaf and reads inside the arrays."""
    for name, dtype in _TREE_DTYPES.items():
        array = getattr(tree, name)
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            raise ValueError(f"a tree's {name} is not an array of {np.dtype(dtype).name}")
        if array.ndim != (2 if name == "value" else 1):
            raise ValueError(f"a tree's {name} has {array.ndim} dimensions")
        if name != "category_bits" and len(array) != len(tree.feature):
            raise ValueError(f"a tree has {len(tree.feature)} nodes but {len(array)} of {name}")
    nodes = np.arange(tree.num_nodes)
    inner = tree.feature != LEAF
    if not len(nodes) or tree.feature.min() < LEAF:
        raise ValueError("a tree without nodes, or with a negative column")
    # Children behind their parent: no cycles, so every walk ends.
    if np.any(tree.left[inner] <= nodes[inner]) or np.any(tree.left[inner] >= len(nodes) - 1):
        raise ValueError("a tree whose children lie outside it or before their parent")
    children = np.concatenate((tree.left[inner], tree.left[inner] + 1))
    if not np.array_equal(np.sort(children), nodes[1:]):
        raise ValueError("a tree with a node that has no parent, or two")
    sets = tree.category_start >= 0
    ends = tree.category_start.astype(np.int64) + tree.category_size
    if np.any(tree.category_size < 0) or np.any(ends[sets] > len(tree.category_bits)):
        raise ValueError("a tree whose category sets lie outside their bits")
