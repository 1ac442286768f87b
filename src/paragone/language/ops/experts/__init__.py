"""Experts: each token goes through the few that it chose; `routed_experts` and its reference."""

from paragone.language.ops.experts.registration import routed_experts

__all__ = ["routed_experts"]
