"""
One model, every format
=======================

A LLaMA is sizes and weights. Here a small one is built, written as four kinds of files and read
back; then its parts are exchanged: rotary pairs in the other order, packed rows, a mixture of
experts that learns to keep its experts busy.
"""

import sysconfig
import tempfile
from pathlib import Path

import torch

from paragone.language import Llama, LlamaConfig, MixtureOfExperts, load, save
from paragone.language.moe import balance_experts

config = LlamaConfig(
    vocab_size=256, hidden_size=64, num_hidden_layers=2, num_attention_heads=8,
    num_key_value_heads=4, max_position_embeddings=128,
)  # fmt: skip
torch.set_grad_enabled(False)
model = Llama(config, generator=torch.Generator().manual_seed(0)).eval()
source = Path(sysconfig.get_paths()["stdlib"], "this.py").read_bytes()
ids = torch.tensor([list(source[:96])])
print(f"{sum(x.numel() for x in model.parameters())} weights, logits {model(ids).logits.shape}")

# %%
# A Hugging Face folder has the pairs (i, i + D/2) of rotary positions, the other formats have
# (2i, 2i + 1). Saving permutes the rows of queries and keys; the model says which it has.
with tempfile.TemporaryDirectory() as folder:
    for format in ("hf", "meta", "llama2c", "gguf", "gguf-q8_0"):
        path = save(model, None, Path(folder, format), format)
        found, _ = load(path)
        size = sum(file.stat().st_size for file in Path(folder, format).iterdir())
        apart = float((found(ids).logits - model(ids).logits).abs().max())
        print(f"{format:9} {size:7} bytes, {found.config.rope_layout:11}, differs by {apart:.0e}")

# %%
# Documents may lie one behind the other in one row. They do not see each other, and no arithmetic
# is spent on padding.
lengths = torch.tensor([50, 30, 16])
packed = model(ids, lengths=lengths).logits[0]
alone = torch.cat([model(part[None]).logits[0] for part in ids[0].split(lengths.tolist())])
print(f"packed and alone differ by {float((packed - alone).abs().max()):.0e}")

# %%
# Experts that are seldom chosen get a bias for the choice, and no loss is needed for it: the
# busiest expert falls from several times the mean load to about the mean.
wide = config.replace(n_routed_experts=8, moe_intermediate_size=32, scoring_func="sigmoid")
mixture = MixtureOfExperts(wide).train()
mixture.gate.weight[0] += 0.05
for step in range(301):
    mixture(1 + torch.randn(1, 256, 64, generator=torch.Generator().manual_seed(step)))
    worst = balance_experts(mixture, rate=0.005 if step < 200 else 0.0005)
    if step in (0, 10, 100, 300):
        print(f"step {step:3}: the busiest of 8 experts has {worst:.2f} times the mean load")
