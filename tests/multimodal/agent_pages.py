"""What tests of the agent share: one browser a file, where Chromium is installed.

`conftest.py` hands the fixture `browser` to every test of this folder.
"""

from collections.abc import Iterator

import pytest

from paragone.multimodal.agent._chromium import why_no_browser
from paragone.multimodal.agent.browser import Browser

__all__ = ["browser", "needs_browser"]

WHY_NOT = why_no_browser()

needs_browser = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there is one")
"""For tests that start a browser of their own."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser of 400 x 300 CSS pixels; a test opens the page that it needs."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with Browser(width=400, height=300) as running:
        yield running
