"""
Which drafter pays here?
========================

A guess costs a pass over one more token, and gains a token if it is right. Whether that pays is a
question to the machine, so it is asked: what do passes of this engine cost, and how many guesses
of prompt look-up are right on texts that repeat themselves? The study that compares all drafters
on a checkpoint of yours is `paragone compare decoding --data FOLDER --prompts FILE`.
"""

# %%
# A small model of the standard library's sources; a minute of training writes better ones.
import time

from paragone.language import generate, train
from paragone.language.corpus import library_texts
from paragone.language.cost_curve import cost_curve
from paragone.language.engine import Engine

corpus = library_texts(200_000)
sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 64, "max_position_embeddings": 256}  # fmt: skip
trained = train(corpus, None, model=sizes, vocab_size=300, length=64, tokens=30_000, lr=1e-2,
                compile=False, precision="fp32", threads=1, device="cpu")  # fmt: skip
model, tokenizer = trained.model.eval(), trained.tokenizer

# %%
# What a pass over n tokens costs, as a multiple of one: flat is where guesses are free.
engine = Engine.make(model, threads=1)
curve = cost_curve(engine, (1, 2, 4, 8), rounds=5, clock=time.process_time)
print(curve)

# %%
# Prompt look-up guesses that what followed the same words before follows again.
prompt = tokenizer.encode(corpus.texts[0][:400], bos=True)[:128]
plain = generate(engine, None, prompt, max_new_tokens=64)
guessed = generate(engine, None, prompt, max_new_tokens=64, speculate="prompt-lookup", draft=4)
assert guessed.tokens == plain.tokens
print(f"{guessed.tokens_per_step:.2f} tokens a step; agreed to, by depth: "
      f"{[round(share, 2) for share in guessed.accepted_by_depth]}")  # fmt: skip

# %%
# A step with four guesses is a pass over five tokens: it pays if it makes more tokens than that
# costs passes of one. Left to itself (`draft="auto"`), the controller weighs the same two numbers.
cost = curve.ratios[2] + (curve.ratios[3] - curve.ratios[2]) / 4
verdict = "pays" if guessed.tokens_per_step > cost else "does not pay"
print(f"{guessed.tokens_per_step:.2f} tokens for {cost:.2f} passes: it {verdict} here")
free = generate(engine, None, prompt, max_new_tokens=64, speculate="prompt-lookup")
assert free.tokens == plain.tokens
