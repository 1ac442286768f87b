"""A small Llama with large weights, and ways of drawing from it, for the tests of loops."""

import torch

from paragone.language.config import LlamaConfig
from paragone.language.llama import Llama

OPTIONS = {
    "greedy": {},
    "hot": {"temperature": 1.3, "seed": 3},
    "thin": {"temperature": 0.9, "top_k": 12, "top_p": 0.9, "min_p": 0.02, "seed": 4},
    "typical": {"temperature": 1.0, "typical_p": 0.7, "seed": 5},
    "penalties": {"temperature": 0.8, "repetition_penalty": 1.2, "presence_penalty": 0.3,
                  "frequency_penalty": 0.2, "logit_bias": {4: 2.0}, "seed": 6},
}  # fmt: skip


def made(**changes) -> Llama:
    generator = torch.Generator().manual_seed(1)
    sizes = {
        "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 64, "eos_token_id": 39,
    }  # fmt: skip
    model = Llama(LlamaConfig(**{**sizes, **changes}), generator=generator).requires_grad_(False)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(0.3 * drawn if drawn.ndim > 1 else 1 + 0.1 * drawn)
    return model
