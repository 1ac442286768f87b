"""
One stage or three
==================

A small model of the standard library's sources is to write more returns. Which of two answers has
more of them is known, so that preferences are free; `dpo` learns from them directly, `reward_model`
and `ppo` by way of a reward. `paragone compare alignment` does the same at length, with intervals.
"""

import copy

from paragone.language import dpo, generate, ppo, reward_model, train
from paragone.language.corpus import library_texts
from paragone.language.rows import EncodedPair

sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
base = train(library_texts(200_000), model=sizes, tokenizer="bytes", length=64, batch=4,
             tokens=25_000, lr=8e-3, validation=0.02, compile=False, precision="fp32")  # fmt: skip
model, tokenizer = base.model, base.tokenizer
print(f"base: {base.metrics['bits_per_byte']:.2f} bits a byte")

# %%
# Answers to beginnings of lines; of two, the one with more letters of "return" is preferred.
prompts = [
    tokenizer.encode(text, bos=True) for text in ("    def ", "        if ", "class ", "    x")
]


def reward(asked, answers):
    """Share of a dozen such letters."""
    return [sum(text.count(letter) for letter in "return") / 12 for text in answers]


pairs = []
for seed in range(6):
    for prompt in prompts:
        two = [generate(model, tokenizer, [prompt], max_new_tokens=12, temperature=1.0,
                        seed=2 * seed + k, backend="torch")[0] for k in (0, 1)]  # fmt: skip
        scores = reward(two, two)
        if scores[0] != scores[1]:
            good, bad = (two[k].tokens for k in sorted((0, 1), key=lambda k: -scores[k]))
            marks = [True] * len(good), [True] * len(bad)
            pairs.append(EncodedPair(prompt, good, bad, *marks))
print(f"{len(pairs)} pairs")

# %%
# One stage. The divergence that it costs is measured on its own answers.
one = dpo(copy.deepcopy(model), tokenizer, pairs, beta=0.1, lr=3e-3, epochs=2, prompts=prompts,
          reward=reward, samples=16, max_new_tokens=12, cache=None)  # fmt: skip
print(f"DPO: reward {one.metrics['reward']:.2f} at {one.metrics['kl']:.1f} nats")

# %%
# Three stages: the second learns the reward from the same pairs, the third follows it.
judge = reward_model(model, tokenizer, pairs, epochs=2, lr=1e-3)
three = ppo(copy.deepcopy(model), tokenizer, prompts, judge, steps=4, batch=16, max_new_tokens=12,
            truncated="score", lr=3e-3, backend="torch")  # fmt: skip
print(f"PPO: learned reward {three.history[0]['reward']:+.2f} to {three.metrics['reward']:+.2f} "
      f"at {three.metrics['kl']:.1f} nats")  # fmt: skip
