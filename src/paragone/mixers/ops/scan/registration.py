"""x"""

from paragone.mixers.ops.scan.reference import selective_scan

__all__ = ["selective_scan"]
