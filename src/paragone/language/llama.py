r"""LLaMA: a decoder of pre-normalised blocks with rotary attention and gated feed-forwards.

Each of L blocks adds what it reads from the normalised stream; the head scores the next token:

$$ h \leftarrow h + \mathrm{attn}(\mathrm{norm}(h)), \qquad
   h \leftarrow h + W_2\big(\mathrm{silu}(W_1 \mathrm{norm}(h)) \odot W_3 \mathrm{norm}(h)\big),
   \qquad p(x_{t+1}) = \mathrm{softmax}(W\, \mathrm{norm}(h_t)) , $$

$$ \mathrm{norm}(h) = g \odot h \,/\, \sqrt{\tfrac1M \textstyle\sum_i h_i^2 + \epsilon} . $$

Parameters have the names of Hugging Face's files, so that a published state dict loads as it is.
`attn` may be any causal mixer, the feed-forward a mixture of experts.

Cost: 6 N operations a token in training, 2 N in decoding, for N weights; the cache takes 2 L G D
numbers a token.

References:
    Touvron et al. (2023), LLaMA, arXiv:2302.13971, section 2.2.
    Zhang and Sennrich (2019), arXiv:1910.07467, eq. 4 (RMS norm).
    Shazeer (2020), arXiv:2002.05202, eq. 6 (SwiGLU).
    Su et al. (2021), arXiv:2104.09864, eq. 34 (rotary positions).

Shapes: B rows, T time, M model width, V vocabulary, L layers, G key heads, D head width.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paragone._core.lazy import resolve
from paragone.language._moe_feed import FeedForward
from paragone.language.config import ROTARY_MIXERS, LlamaConfig
from paragone.language.ops.stream import rms_norm
from paragone.mixers.registry import MIXERS, build
from paragone.mixers.rotary import Rotary

__all__ = ["Block", "Decoder", "FeedForward", "Llama", "LlamaOutput", "RMSNorm"]


@dataclasses.dataclass
class LlamaOutput:
    """What a forward pass gives.

    Attributes:
        logits: (B, T, V) scores of the next token, (B, 1, V) for `logits="last"`, None for False.
        hidden: (B, T, M) normalised stream that the head reads.
        state: What to go on from: one state a layer.
        balance_loss: What evens out the loads of experts, `router_aux_loss_coef` times its mean
            over the layers, to be added to the mean loss of a token; None where there is none.
    """

    logits: Tensor | None
    hidden: Tensor
    state: list[Any]
    balance_loss: Tensor | None = None


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis; statistics in float32, weight in the input's type.

    Args:
        width: Length M of the last axis.
        eps: What is added to the mean square.
        device: Device of the weight.
        dtype: Type of the weight.
    """

    def __init__(self, width: int, eps: float = 1e-5, *, device: Any = None, dtype: Any = None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=dtype))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Block(nn.Module):
    """One layer: a mixer and a feed-forward, each behind a norm and beside the stream.

    Mixers that do the feed-forward's work themselves (Mamba, gated attention units) have none;
    count two such layers for one.

    Args:
        config: Sizes and switches.
        layer: Number of the layer, from 0.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(self, config: LlamaConfig, layer: int, *, device: Any = None, dtype: Any = None):
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        width, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(width, eps, **where)
        self.self_attn = _mixer(config, layer, where)
        if MIXERS[config.mixer_of(layer)].alone:
            self.mlp = None
            return
        self.post_attention_layernorm = RMSNorm(width, eps, **where)
        if config.n_routed_experts and layer >= config.first_k_dense_replace:
            self.mlp = _moe()(config, **where)
        else:
            self.mlp = FeedForward(width, config.inner, bias=config.mlp_bias, **where)

    def forward(
        self, h: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Any]:
        more, state = self.self_attn(
            self.input_layernorm(h), state=state, positions=positions, lengths=lengths
        )
        h = h + more
        if self.mlp is None:
            return h, state
        inner = self.post_attention_layernorm(h)
        more = self.mlp(inner) if isinstance(self.mlp, FeedForward) else self.mlp(inner, lengths)
        return h + more, state


class Decoder(nn.Module):
    """Embedding, blocks and last norm: what the published files call `model`.

    Args:
        config: Sizes and switches.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(self, config: LlamaConfig, *, device: Any = None, dtype: Any = None):
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, **where)
        self.layers = nn.ModuleList(
            Block(config, layer, **where) for layer in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, **where)

    def forward(
        self,
        h: Tensor,
        state: list[Any] | None = None,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, list[Any]]:
        states: list[Any] = [None] * len(self.layers) if state is None else list(state)
        for at, block in enumerate(self.layers):
            h, states[at] = block(h, states[at], positions, lengths)
        return self.norm(h), states


class Llama(nn.Module):
    """A decoder language model; `from_pretrained` reads published weights.

    Prefer it to `paragone.mixers.SequenceModel` wherever a model is kept, tuned or served. For a
    model on the CPU `paragone.language.generate` decodes through its own engine, many times as
    fast as this module token by token.

    Args:
        config: Sizes and switches.
        generator: Source of the first weights (None: torch's own).
        device: Device of the parameters.
        dtype: Type of the parameters.

    Example:
        >>> model = Llama(LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2,
        ...                           num_attention_heads=4))
        >>> model(torch.zeros(1, 7, dtype=torch.int64)).logits.shape
        torch.Size([1, 7, 50])
    """

    def __init__(
        self,
        config: LlamaConfig,
        *,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.config = config
        self.model = Decoder(config, **where)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False, **where)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.reset_parameters(generator)

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Llama:
        """Reads a model in any format that `paragone.language.load` knows.

        Args:
            path: A folder or a file.
            device: Where to put the model (None: the CPU).
            dtype: Type of the weights (None: that of the file).

        Raises:
            ValueError: A file that is missing, unknown or does not fit.
        """
        return resolve("paragone.language.checkpoints:read_model")(path, device=device, dtype=dtype)

    def save_pretrained(self, folder: str | os.PathLike[str], format: str = "hf") -> Path:
        """Writes the model as `paragone.language.save` does.

        Args:
            folder: Where; made if it does not exist.
            format: "hf", "meta", "llama2c", "gguf" or "gguf-q8_0".

        Returns:
            What `from_pretrained` is to be given.
        """
        return resolve("paragone.language.checkpoints:save")(self, None, folder, format)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws matrices of standard deviation 0.02, those that write to the stream by depth less.

        What a mixer of another kind chose for itself (decays, steps of time) stays.
        """
        scale = (2 * self.config.num_hidden_layers) ** -0.5
        embeddings = self.model.embed_tokens
        for name, module in self.named_modules():
            draw: Any = module.reset_parameters if isinstance(module, _moe()) else None
            if draw is not None:
                draw(generator, scale)
            if not isinstance(module, nn.Linear | nn.Embedding) or module.weight.is_meta:
                continue
            if isinstance(module, nn.Embedding) and module is not embeddings:
                continue
            std = 0.02 * (scale if name.endswith(("o_proj", "down_proj")) else 1.0)
            nn.init.normal_(module.weight, std=std, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
        state: list[Any] | None = None,
        logits: bool | str = True,
    ) -> LlamaOutput:
        """Scores the next token after each prefix.

        Args:
            input_ids: (B, T) integers.
            attention_mask: (B, T), 1 for tokens and 0 for padding, on either side of a row; places
                are counted from the first token of the row. Padding gets finite, useless logits.
            positions: (T,) or (B, T) places (None: counted).
            lengths: (B,) tokens of each row that count, or with B = 1 the (N,) lengths of packed
                documents, which do not see each other.
            state: What an earlier call returned.
            logits: True, "last" (of each row's last token only) or False.

        Returns:
            Logits, the normalised stream and the state.

        Raises:
            ValueError: A shape, a mask or an id that does not fit.
        """
        _checked_ids(input_ids, self.config.vocab_size)
        shift = None
        if attention_mask is not None:
            input_ids, lengths, shift = _right_padded(input_ids, attention_mask, lengths)
            if positions is not None:
                positions = _rolled(positions.expand_as(input_ids), shift)
        h = self.model.embed_tokens(input_ids)
        h, states = self.model(h, state, positions, lengths)
        last = None
        if logits == "last":
            last = h[:, -1:] if lengths is None else _last(h, lengths)
        if shift is not None:
            h = _rolled(h, -shift)
        scores = self.lm_head(h if last is None else last) if logits else None
        return LlamaOutput(scores, h, states, self._balance_loss())

    def _balance_loss(self) -> Tensor | None:
        weight = self.config.router_aux_loss_coef
        if not (weight and self.training and self.config.n_routed_experts):
            return None
        found = [getattr(block.mlp, "balance_loss", None) for block in self.model.layers]
        losses = [one for one in found if one is not None]
        return weight * torch.stack(losses).mean() if losses else None


def _moe() -> Any:
    return resolve("paragone.language.moe:MixtureOfExperts")


def _mixer(config: LlamaConfig, layer: int, where: dict[str, Any]) -> nn.Module:
    name, options = config.mixer_of(layer), dict(config.mixer_options)
    if name not in MIXERS or not MIXERS[name].causal:
        known = ", ".join(n for n, entry in MIXERS.items() if entry.causal)
        raise ValueError(f"mixer={name!r} is none of the causal ones: {known}")
    if config.kv_lora_rank is not None:
        name = "mla"
        options |= {
            key: getattr(config, key)
            for key in ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
                        "v_head_dim")
        } | {"bias": bool(config.attention_bias)}  # fmt: skip
    if name in ROTARY_MIXERS:
        options["rotary"] = _rotary(config, config.head_size)
        options |= {"head_size": config.head_size, "bias": config.attention_bias}
        options["qk_norm"] = config.qk_norm
        if name == "gqa":
            options["kv_heads"] = config.kv_heads
    elif name == "mla" and config.qk_rope_head_dim:
        options["rotary"] = _rotary(config, config.qk_rope_head_dim)
    heads = config.num_attention_heads if MIXERS[name].heads else None
    mixer: Any = build(name, config.hidden_size, heads=heads, **where, **options)
    if config.qk_norm and name in ROTARY_MIXERS:
        mixer.q_norm.eps = mixer.k_norm.eps = config.rms_norm_eps
    return mixer


def _rotary(config: LlamaConfig, width: int) -> Rotary:
    return Rotary(
        width, base=config.rope_theta, layout=config.rope_layout, scaling=config.rope_scaling
    )


def _checked_ids(ids: Tensor, vocab: int) -> None:
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(
            f"input_ids is {ids.dtype} of shape {tuple(ids.shape)}; integers of shape (B, T) are "
            "expected"
        )
    unseen = torch.compiler.is_compiling() or type(ids).__name__ == "FakeTensor"
    if ids.device.type != "cpu" or unseen or not ids.numel():
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab:
        raise ValueError(f"input_ids has {low if low < 0 else high}; tokens are 0 to {vocab - 1}")


def _right_padded(
    ids: Tensor, mask: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rolls rows so that padding is at their end; returns ids, lengths and the roll of each row."""
    if lengths is not None:
        raise ValueError("give attention_mask or lengths, not both")
    if mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}; that of input_ids, "
            f"{tuple(ids.shape)}, is expected"
        )
    there = mask.bool()
    first = there.cumsum(1).eq(0).sum(1) % max(ids.shape[1], 1)
    lengths = there.sum(1)
    place = torch.arange(ids.shape[1], device=ids.device)
    if not bool(
        (there == ((place >= first[:, None]) & (place < (first + lengths)[:, None]))).all()
    ):
        raise ValueError("attention_mask has holes; padding stands before or behind a row's tokens")
    return _rolled(ids, first), lengths, first


def _rolled(x: Tensor, by: Tensor) -> Tensor:
    """Row b rolled to the left by by[b]."""
    time = max(x.shape[1], 1)
    at = (torch.arange(x.shape[1], device=x.device) + by[:, None]) % time
    return x.gather(1, at.view(*at.shape, *[1] * (x.ndim - 2)).expand_as(x))


def _last(h: Tensor, lengths: Tensor) -> Tensor:
    if len(lengths) != h.shape[0]:
        at = (lengths.cumsum(0) - 1).clamp(min=0)
        return h[0, at][:, None]
    at = (lengths - 1).clamp(min=0)
    return h[torch.arange(len(h), device=h.device), at][:, None]
