"""What the tests of language models share."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The engine and the tokenizer of `fake_serving.py`."""
    path = Path(__file__).with_name("fake_serving.py")
    spec = importlib.util.spec_from_file_location("fake_serving", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
