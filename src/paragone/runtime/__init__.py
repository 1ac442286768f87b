"""Processes and threads: what runs in a program, and pools that share arrays."""

__all__: list[str] = []
