r"""What the backward pass of a decoder reads again, in bytes, layer by layer.

A layer keeps the inputs of its products and of its nonlinear functions. With $h$ the hidden
width, $f$ the MLP's, $k$ the keys', $a$ heads, $c$ bytes a number, one token costs a gated block

$$ c\,(6h + 2k + 4f) + 4a + 8 , $$

(input, norm, queries, attention, second input, norm: $6h$; keys and values; gate, up, activation
and product: $4f$; the attention's log-sums and two norms in fp32). A block with GELU and dropout
in 16 bits and attention written out keeps Korthikanti's $h\,(34 + 5as/h)$.

Checkpointing keeps less and computes the rest again: "attention" drops the $a s$ scores,
"selective" keeps the attention's output and every second product (what torchtitan calls
selective, by operation), "full" keeps the layer's input.

References:
    Korthikanti et al. (2022), "Reducing activation recomputation in large transformer models",
    arXiv:2205.05198, eq. 1-6.
"""

from __future__ import annotations

from dataclasses import dataclass

from paragone.training._model_shapes import Decoder

__all__ = ["Layers", "korthikanti", "layers"]


@dataclass(frozen=True)
class Layers:
    """Bytes on one rank, for all its tokens.

    Attributes:
        layer: Kept by one layer until its backward pass.
        root: Kept outside the layers.
        workspace: What one layer's backward pass needs besides: what it computes again, and the
            gradients of activations that are alive at once.
        logits: Logits, their fp32 copy, the loss and its gradients, at the loss.
    """

    layer: int
    root: int
    workspace: int
    logits: int


def korthikanti(
    sequence: int, batch: int, hidden: int, heads: int, *, recompute: str | None = None,
    tensor_parallel: int = 1, sequence_parallel: bool = False,
) -> float:  # fmt: skip
    """Bytes of activations of one GPT layer in 16 bits with dropout: eq. 1, 2, 4, 6 of the paper.

    Args:
        sequence: Tokens s of a sequence.
        batch: Sequences b.
        hidden: Width h.
        heads: Heads a.
        recompute: None, "attention" (scores only) or "full".
        tensor_parallel: Ranks t of tensor parallelism.
        sequence_parallel: Whether norms and dropouts are shared too.

    Example:
        >>> korthikanti(1024, 1, 1024, 16) == 1024 * 1024 * (34 + 5 * 16)
        True
    """
    tokens, t = sequence * batch * hidden, tensor_parallel
    if recompute == "full":
        return 2.0 * tokens
    scores = 0.0 if recompute == "attention" else 5 * heads * sequence / hidden
    if sequence_parallel:
        return tokens * (34 + scores) / t
    return tokens * (10 + 24 / t + scores / t)


def _attention(model: Decoder) -> int:
    """Numbers that a token leaves in attention: queries, keys, values, and latents."""
    values = model.mixed_width if model.latent else model.key_width
    latents = 2 * (model.query_rank + model.latent) + model.rope_width if model.latent else 0
    return model.query_width + model.key_width + values + latents


def _products(model: Decoder) -> list[int]:
    """Widths of the products of a layer, in their order."""
    f = model.active_inner
    heads = [model.query_width, model.key_width, model.key_width, model.hidden]
    return [*heads, *([f, f] if model.gated else [f]), model.hidden]


def layers(
    model: Decoder, batch: int, sequence: int, width: int, *, attention: str = "flash",
    checkpointing: str | None = None, compiled: str | None = None, split: int = 1, cut: int = 1,
) -> Layers:  # fmt: skip
    """Counts the activations of a decoder.

    Args:
        model: The decoder.
        batch: Sequences on this rank.
        sequence: Tokens of each.
        width: Bytes c of a number in a product.
        attention: "flash" (scores are never stored) or "math".
        checkpointing: None, "attention", "selective" or "full".
        compiled: "layers": `torch.compile` drops the outputs that no backward pass reads; "all":
            it fuses the loss too (no fp32 logits).
        split: Ranks of tensor (with sequence) parallelism.
        cut: Ranks of context parallelism.
    """
    tokens = batch * -(-sequence // cut)
    h, f, a = model.hidden, model.active_inner, model.heads
    drops = model.dropout > 0
    inner = (4 if model.gated else 2) * f
    routed = 2 * model.chosen * h if model.experts else 0
    numbers = 4 * h + _attention(model) + model.mixed_width + inner + routed
    exact = (8 if model.norm_bias else 4) * 2 + 8 * model.experts + 2 * h * drops
    scores = a * sequence * (width + drops * (1 + width))
    lean = numbers * width + exact
    whole = lean + (4 * a if attention == "flash" else scores)
    selective = h + model.mixed_width + sum(_products(model)[: -1 if compiled else None : 2])
    kept = {
        None: whole,
        "attention": lean + (4 * a if attention == "flash" else 0),
        "selective": selective * width + 4 * a,
        "full": h * width,
    }[checkpointing]
    again = 0 if checkpointing is None else whole - kept
    gradients = (2 * f + 2 * h) * width + (0 if attention == "flash" else scores)
    gathered = 2 * h * width * tokens if split > 1 else 0
    root = 2 * h * width + h * drops + 16 + (8 if model.norm_bias else 4)
    head = h * width * tokens if split > 1 else 0
    upcast = (0 if width == 4 else width) + (12 if split == 1 else 16)
    logit = 2 * width if compiled == "all" else upcast
    return Layers(
        layer=tokens * kept // split, root=tokens * root // split + head,
        workspace=tokens * (again + gradients) // split + gathered,
        logits=tokens * model.vocab * logit // split,
    )  # fmt: skip
