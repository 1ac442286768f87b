"""Which back end serves a call, and the reasons of those that do not."""

import pytest

from paragone.kernels import choice


@pytest.fixture(autouse=True)
def _op(monkeypatch):
    monkeypatch.setattr(choice, "_OPS", {})
    choice.register("halve", {
        "numba": lambda size: None if size > 9 else f"{size} is too small",
        "torch": lambda size: None if size else "nothing to do",
    })  # fmt: skip


def test_auto_takes_the_first_that_can():
    assert choice.choose("halve", size=10) == "numba"
    assert choice.choose("halve", size=9) == "torch"
    assert choice.backends("halve") == ["numba", "torch"]


def test_a_named_one_serves_or_says_why_not():
    assert choice.choose("halve", "torch", size=10) == "torch"
    with pytest.raises(ValueError, match="numba: 3 is too small"):
        choice.choose("halve", "numba", size=3)
    with pytest.raises(ValueError, match="numba: 0 is too small; torch: nothing to do"):
        choice.choose("halve", size=0)
    with pytest.raises(ValueError, match="'jax' is none of auto, numba, torch"):
        choice.choose("halve", "jax", size=3)


def test_what_the_machine_lacks_is_a_reason(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert choice.choose("halve", size=10) == "torch"
    assert "no, NUMBA_DISABLE_JIT is set" in choice.explain("halve", size=10)


def test_unknown_names():
    with pytest.raises(ValueError, match="no operation is called 'double'; known: halve"):
        choice.explain("double")
    with pytest.raises(ValueError, match="'jax' is none of"):
        choice.register("x", {"jax": lambda: None})
