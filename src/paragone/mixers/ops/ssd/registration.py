"""x"""

from paragone.mixers.ops.ssd.reference import ssd_chunked as ssd

__all__ = ["CHUNK", "ssd"]
CHUNK = 64
