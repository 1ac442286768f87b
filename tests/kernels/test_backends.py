"""Back ends say why they are not there."""

import pytest

from paragone.kernels import BACKENDS, why_not
from paragone.kernels.backends import cache_folder


def test_every_back_end_answers():
    for name in BACKENDS:
        reason = why_not(name)
        assert reason is None or len(reason) > 10
    with pytest.raises(ValueError, match="'metal' is none of numba"):
        why_not("metal")


def test_triton_runs_in_the_interpreter_where_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert why_not("triton") is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install triton" in str(why_not("triton"))


def test_disabled_jit_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert "NUMBA_DISABLE_JIT" in str(why_not("numba"))


def test_cache_folder_follows_numba(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    source = tmp_path / "kernel.py"
    assert cache_folder(source) == tmp_path / "__pycache__"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "named"))
    assert cache_folder(source) == tmp_path / "named"
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(blocked))
    assert cache_folder(source) is None
