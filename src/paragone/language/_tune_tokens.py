"""New tokens in a trained model: rows of the embedding and of the head that start at the mean.

A new row of zeros or of noise would make its token likely everywhere at first; the mean of the
rows scores as an average token does.

References:
    Hewitt (2021), "Initializing new word embeddings for pretrained language models".

Shapes: V vocabulary, M model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["resize_embeddings", "untie"]


def resize_embeddings(model: Any, size: int) -> int:
    """Adds rows for tokens up to `size`, or leaves the model as it is.

    Args:
        model: A `Llama`; tied ones stay tied.
        size: Tokens V of the tokenizer.

    Returns:
        How many rows were added.

    Raises:
        ValueError: The model has an adapter, or would lose rows.
    """
    embedding, head = model.model.embed_tokens, model.lm_head
    old = embedding.weight.shape[0]
    if size < old:
        raise ValueError(f"{size} tokens, but the model has {old}: rows are never taken away")
    if size == old:
        return 0
    if getattr(model, "adapter", None) is not None:
        raise ValueError("the model has an adapter; add tokens before add_lora")
    tied = head.weight is embedding.weight
    embedding.weight = _grown(embedding.weight, size)
    embedding.num_embeddings = size
    head.weight = embedding.weight if tied else _grown(head.weight, size)
    head.out_features = size
    model.config = model.config.replace(vocab_size=size)
    return size - old


def untie(model: Any) -> bool:
    """Gives the head weights of its own if it shares the embedding's; the configuration says so.

    Args:
        model: A `Llama`, or a module without a head.

    Returns:
        Whether they were tied.
    """
    decoder, head = getattr(model, "model", None), getattr(model, "lm_head", None)
    if decoder is None or head is None or head.weight is not decoder.embed_tokens.weight:
        return False
    head.weight = nn.Parameter(head.weight.detach().clone(), head.weight.requires_grad)
    model.config = model.config.replace(tie_word_embeddings=False)
    return True


def _grown(weight: Tensor, size: int) -> nn.Parameter:
    with torch.no_grad():
        mean = weight.float().mean(0, keepdim=True).to(weight.dtype)
        rows = torch.cat([weight, mean.expand(size - len(weight), -1)])
    return nn.Parameter(rows, weight.requires_grad)
