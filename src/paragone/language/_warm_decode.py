"""Small calls that lead through every compiled kernel of decoding, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CALLS"]


def _loops() -> None:
    from paragone.language.config import LlamaConfig
    from paragone.language.generate import generate
    from paragone.language.llama import Llama

    config = LlamaConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=32,
    )  # fmt: skip
    model = Llama(config)
    for weights in ("float32", "int8"):
        generate(model, None, [1, 2, 3], max_new_tokens=2, weights=weights)
    generate(model, None, [[1, 2], [3]], max_new_tokens=2, temperature=1.0)


def _walks() -> None:
    import numpy as np

    from paragone.language.drafting import Draft
    from paragone.language.sampling import Sampling
    from paragone.language.speculation import verify

    verify(np.zeros((2, 5), np.float32), Draft.chain([1]), Sampling(seed=0), [0])


def _skinny() -> None:
    import numpy as np

    from paragone.language.ops.skinny.call import SkinnyWeights, skinny_linear

    for weights in ("float32", "int8"):
        packed = SkinnyWeights.pack(np.eye(3, dtype=np.float32), weights=weights)
        skinny_linear(np.ones((1, 3), np.float32), packed)


CALLS: tuple[Callable[[], None], ...] = (_loops, _walks, _skinny)
