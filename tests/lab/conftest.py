"""What the tests of the lab share."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fabricate() -> Callable[..., Path]:
    """The maker of study folders in `fabricate.py`: call it with a folder and its options."""
    spec = importlib.util.spec_from_file_location(
        "fabricate", Path(__file__).with_name("fabricate.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fabricate
