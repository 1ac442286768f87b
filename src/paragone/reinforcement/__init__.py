"""Reinforcement learning: grid worlds, dynamic programming, Monte Carlo, temporal difference."""

__all__: list[str] = []
