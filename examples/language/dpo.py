"""
Preferences, with and without reinforcement
===========================================

A small model that knows the Zen of Python shall do without the letter e. Two ways lead there from
the same judge of answers: DPO, on pairs of answers that were judged once, and the three stages
that it replaces, a learned reward and PPO. What a policy gains is weighed against how far it went.
"""

import contextlib
import copy
import io

import torch

from paragone.language import Tokenizer, dpo, generate, ppo, reward_model, train

torch.set_num_threads(1)
with contextlib.redirect_stdout(io.StringIO()):
    import this
zen = "".join(this.d.get(letter, letter) for letter in this.s).splitlines()[2:]
tokenizer = Tokenizer.train(zen * 4, 320)
sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
start = train(
    zen * 20, tokenizer=tokenizer, model={**sizes, "max_position_embeddings": 48}, length=48,
    tokens=16_000, lr=1e-2, batch=4, precision="fp32", compile=False,
).model  # fmt: skip
print(f"{len(zen)} lines, {sum(p.numel() for p in start.parameters())} weights")

# %%
# Each line is begun and continued twice; the judge counts letters. The pairs are all that DPO
# and the learned reward will ever see of its taste.
lines = [" ".join(line.split()[:2]) for line in zen]


def judge(prompts, answers):
    """One without the letter e, zero if every fifth letter is one."""
    return [1 - min(5 * answer.count("e") / max(len(answer), 1), 1) for answer in answers]


draws = [
    generate(start, tokenizer, lines * 8, max_new_tokens=24, temperature=1.0, seed=seed)
    for seed in (0, 10_000)
]
judged = [judge(None, answers) for answers in draws]
pairs = [
    {"prompt": line, "chosen": str(a if x > y else b), "rejected": str(b if x > y else a)}
    for line, a, b, x, y in zip(lines * 8, *draws, *judged, strict=True)
    if x != y and min(len(a), len(b))
]
print(f"{len(pairs)} pairs, e.g. {pairs[0]}")

# %%
# A template that adds nothing but the end: what is learned is a continuation.
template = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content + "
    "eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
policy = copy.deepcopy(start)
found = dpo(
    policy, tokenizer, pairs, beta=0.1, epochs=2, batch=16, lr=2e-3, template=template,
    prompts=lines, reward=judge, samples=76, max_new_tokens=24, cache=None,
).metrics  # fmt: skip
before = sum(judged[0]) / len(judged[0])
print(f"DPO: {found['margin']:.1f} nats of margin, reward {before:.2f} to {found['reward']:.2f}, "
      f"{found['kl']:.1f} nats from the start")  # fmt: skip

# %%
# With a reward in between: it is learned from the same pairs, and PPO asks it about answers that
# the policy gives as it changes. The true judge is asked at the end only.
learned = reward_model(start, tokenizer, pairs, epochs=2, batch=16, lr=2e-3, template=template)
print(f"reward model: {learned.run.metrics['final_accuracy']:.0%} of pairs right")
policy = copy.deepcopy(start)
run = ppo(
    policy, tokenizer, lines, learned, steps=6, batch=19, epochs=2, max_new_tokens=24, lr=1e-3,
    kl=0.02, truncated="score", backend="torch",
)  # fmt: skip
answers = generate(policy, tokenizer, lines * 8, max_new_tokens=24, temperature=1.0, seed=5)
scores = judge(None, answers)
print(f"PPO: learned reward {run.history[0]['reward']:.2f} to {run.history[-1]['reward']:.2f}, "
      f"true reward {before:.2f} to {sum(scores) / len(scores):.2f}, "
      f"{run.history[-1]['kl']:.1f} nats from the start")  # fmt: skip
