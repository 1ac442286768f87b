"""Chat templates by name: texts that a model is tuned on, and how its turns are marked.

`{% generation %}` stands around what the assistant writes, its end marker included.

References:
    Taori et al. (2023), Stanford Alpaca: the prompt of 52k rows ("alpaca").
    Touvron et al. (2023), Llama 2, arXiv:2307.09288, appendix A.3.3 ("llama2").
    Llama 3's model card ("llama3"); OpenAI (2023), Chat Markup Language ("chatml").
"""

from __future__ import annotations

__all__ = ["NAMED"]

_ALPACA = """\
{% set ns = namespace(system='') %}{% for m in messages %}\
{% if m.role == 'system' %}{% set ns.system = m.content %}\
{% elif m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}\
{% else %}{{ '\\n\\n' if not loop.first and loop.previtem.role == 'assistant' }}\
{% if ns.system %}{{ ns.system }}{% elif m.input %}\
Below is an instruction that describes a task, paired with an input that provides further \
context. Write a response that appropriately completes the request.\
{% else %}\
Below is an instruction that describes a task. Write a response that appropriately completes \
the request.{% endif %}{{ '\\n\\n### Instruction:\\n' + (m.instruction or m.content) }}\
{% if m.input %}{{ '\\n\\n### Input:\\n' + m.input }}{% endif %}{{ '\\n\\n### Response:' }}\
{% endif %}\
{% endfor %}"""

_CHATML = """\
{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}\
{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}\
{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

_LLAMA2 = """\
{% set ns = namespace(system='') %}{% for m in messages %}\
{% if m.role == 'system' %}{% set ns.system = '<<SYS>>\\n' + m.content + '\\n<</SYS>>\\n\\n' %}\
{% elif m.role == 'assistant' %}\
{% generation %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endgeneration %}\
{% else %}{{ bos_token + '[INST] ' + ns.system + m.content | trim + ' [/INST]' }}\
{% set ns.system = '' %}{% endif %}\
{% endfor %}"""

_LLAMA3 = """\
{{ bos_token }}{% for m in messages %}\
{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}\
{% if m.role == 'assistant' %}\
{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}\
{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}\
{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

_PLAIN = """\
{% for m in messages %}{% if m.role == 'assistant' %}{{ 'Assistant:' }}\
{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}{{ '\\n' }}\
{% elif m.role == 'system' %}{{ m.content + '\\n' }}\
{% else %}{{ 'User: ' + m.content + '\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""

NAMED = {
    "alpaca": _ALPACA, "chatml": _CHATML, "llama2": _LLAMA2, "llama3": _LLAMA3, "plain": _PLAIN,
}  # fmt: skip
"""Templates by name."""
