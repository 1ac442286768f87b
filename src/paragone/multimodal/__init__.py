"""Multimodal models and agents."""

__all__: list[str] = []
