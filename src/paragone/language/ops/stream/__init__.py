"""What is done to the stream between matrix products: its norm, and the gate of a feed-forward."""

from paragone.language.ops.stream.interface import gated, rms_norm

__all__ = ["gated", "rms_norm"]
