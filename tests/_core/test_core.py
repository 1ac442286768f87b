"""Lazy names, random state, errors."""

import numpy as np
import pytest

import paragone
from paragone._core.lazy import lazy_exports, resolve
from paragone._core.random import as_generator, spawn_seeds


def test_resolve_walks_attributes():
    assert resolve("collections:OrderedDict.fromkeys")("a") == {"a": None}
    assert resolve("math").pi > 3
    with pytest.raises(AttributeError):
        resolve("math:no_such_name")


def test_lazy_names_are_kept_after_first_use(monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr("paragone._core.lazy.resolve", lambda target: calls.append(target) or 7)
    getter, names = lazy_exports("paragone", {"seven": "somewhere:seven"})
    assert getter("seven") == 7
    assert vars(paragone)["seven"] == 7
    assert "seven" in names()
    with pytest.raises(AttributeError, match="no attribute 'eight'"):
        getter("eight")
    del paragone.seven


def test_a_name_wins_over_the_module_that_defines_it(tmp_path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "lazy_house"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from paragone._core.lazy import lazy_exports\n"
        "__getattr__, __dir__ = lazy_exports(__name__, {n: f'lazy_house.{n}:{n}' for n in 'ab'})\n"
    )
    (folder / "a.py").write_text("def a(): return 'a'\n")
    (folder / "b.py").write_text("from lazy_house.a import a\ndef b(): return a() + 'b'\n")
    monkeypatch.syspath_prepend(tmp_path)
    import lazy_house.b

    assert lazy_house.a() == "a"
    assert lazy_house.b() == "ab"
    assert resolve("lazy_house.a").a is lazy_house.a


def test_public_names_resolve():
    for name in paragone.__all__:
        assert getattr(paragone, name) is not None


def test_generators():
    generator = np.random.default_rng(3)
    assert as_generator(generator) is generator
    assert as_generator(3).random() == np.random.default_rng(3).random()
    legacy = np.random.RandomState(0)
    assert as_generator(legacy).random() != as_generator(legacy).random()
    with pytest.raises(ValueError, match="random_state='x'"):
        as_generator("x")  # pyright: ignore[reportArgumentType]
    seeds = spawn_seeds(as_generator(0), 1000)
    assert len(set(seeds.tolist())) == 1000
    assert seeds.min() >= 0
