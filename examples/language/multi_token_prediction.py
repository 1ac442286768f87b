"""
A model that looks further than the next token
==============================================

A small model learns to write Python from the standard library, together with a module that
predicts the token behind the next one. Afterwards the module drafts for it: the text is the same,
the passes are fewer.
"""

# %%
# Some sources of the standard library; the module is trained with the model and kept beside it.
# The loss that is shown stays that of the next token.
import json
import tempfile
from pathlib import Path

from paragone.language import generate, load, train
from paragone.language.multi_token_prediction import MultiTokenPrediction

text = Path(json.__file__).parent.joinpath("decoder.py").read_text(encoding="utf-8")
folder = tempfile.mkdtemp()
sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
done = train(
    [text[at : at + 600] for at in range(0, len(text), 600)], folder, model=sizes, vocab_size=400,
    length=64, tokens=12_000, ahead=1, lr=6e-3, precision="fp32",
)  # fmt: skip
for name, value in done.metrics.items():
    print(f"{name:22} {value:.3f}")

# %%
# The same text with drafts and without, and how many tokens a pass of the model gave.
model, tokenizer = load(folder)
module = MultiTokenPrediction.load(folder, model)
plain = generate(model, tokenizer, "def ", max_new_tokens=60, temperature=0.0)
quick = generate(
    model, tokenizer, "def ", max_new_tokens=60, temperature=0.0, speculate=module, draft=2
)
assert quick.tokens == plain.tokens
print(f"{quick.tokens_per_step:.2f} tokens a pass; agreed to by depth: {quick.accepted_by_depth}")

# %%
# A model that is there already gets modules, too: they learn from what it says itself. These look
# at all depths at once, and do not know the tokens between.
heads = MultiTokenPrediction.train(
    model, tokenizer, [text], 2, "parallel", tokens=2000, length=48, steps=12
)
print("parallel heads agreed to:", [round(share, 2) for share in heads.accuracies])
