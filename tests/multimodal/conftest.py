"""Fixtures of this folder."""

from tests.multimodal.agent_pages import browser

__all__ = ["browser"]
