"""What the tests of the lab share."""

import gc
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fabricate() -> Callable[..., Path]:
    """The maker of study folders in `fabricate.py`: call it with a folder and its options."""
    return _load("fabricate").fabricate


@pytest.fixture(scope="session")
def summary_of() -> Callable[..., Any]:
    """The maker of `Summary` objects in `summaries.py`."""
    return _load("summaries").summary


@pytest.fixture(autouse=True)
def frozen() -> None:
    """Lets no phase collect what earlier tests have imported, as the server of runs does."""
    gc.freeze()


@pytest.fixture(scope="module")
def preloaded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Imports what the module's STUDY preloads.

    Runs set torch's threads, which are as before in the end.
    """
    for name in request.module.STUDY.preload:
        importlib.import_module(name)
    torch = importlib.import_module("torch")
    threads = torch.get_num_threads()
    gc.collect()
    yield
    torch.set_num_threads(threads)
