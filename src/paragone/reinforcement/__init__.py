"""Reinforcement learning: grid worlds, dynamic programming, Monte Carlo and temporal differences."""

__all__: list[str] = []
