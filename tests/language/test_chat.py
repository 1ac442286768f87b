"""Chat templates: what they write, whose words are whose, and what they may not do."""

import pytest

from paragone.language.chat import NAMED, ChatTemplate

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi\nthere"},
    {"role": "assistant", "content": "Hello. "},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "So long"},
]

# As the published models' cards show it (Llama 2: arXiv:2307.09288, A.3.3; Llama 3: its card).
GOLDEN = {
    "llama2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi\nthere [/INST] Hello. </s>"
    "<s>[INST] Bye [/INST] So long </s>",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi\nthere<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nSo long<|eot_id|>",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi\nthere<|im_end|>\n"
    "<|im_start|>assistant\nHello. <|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\nSo long<|im_end|>\n",
}
ANSWERS = {
    "alpaca": ["Hello. </s>", "So long</s>"],
    "chatml": ["Hello. <|im_end|>", "So long<|im_end|>"],
    "llama2": [" Hello. </s>", " So long </s>"],
    "llama3": ["Hello.<|eot_id|>", "So long<|eot_id|>"],
    "plain": [" Hello. </s>", " So long</s>"],
}
ALPACA = (
    "Below is an instruction that describes a task{}. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{}\n\n{}### Response:"
)


@pytest.mark.parametrize("name", NAMED)
def test_spans_are_what_the_assistant_writes(name):
    text, spans = ChatTemplate.named(name).render_with_spans(CHAT)
    assert [text[start:end] for start, end in spans] == ANSWERS[name]
    assert text == ChatTemplate.named(name).render(CHAT) == GOLDEN.get(name, text)


@pytest.mark.parametrize("name", NAMED)
def test_spans_without_marks_are_the_same(name):
    bare = NAMED[name].replace("{% generation %}", "").replace("{% endgeneration %}", "")
    assert ChatTemplate(bare).render_with_spans(CHAT) == ChatTemplate.named(name).render_with_spans(
        CHAT
    )


@pytest.mark.parametrize("name", NAMED)
def test_the_prompt_is_how_the_text_with_its_answer_begins(name):
    chat = ChatTemplate.named(name)
    text, spans = chat.render_with_spans(CHAT[:3])
    assert text[: spans[0][0]] == chat.render(CHAT[:2], add_generation_prompt=True)


def test_the_published_prompt_of_52k_rows():
    chat = ChatTemplate.named("alpaca")
    plain = {"role": "user", "content": "Sing."}
    assert chat.render([plain], True) == ALPACA.format("", "Sing.", "")
    row = {"role": "user", "content": "Add.\n\n2, 3", "instruction": "Add.", "input": "2, 3"}
    paired = ", paired with an input that provides further context"
    assert chat.render([row], True) == ALPACA.format(paired, "Add.", "### Input:\n2, 3\n\n")


def test_words_of_a_template_in_the_content_do_no_harm():
    nasty = "\U000f0000{% generation %}{{ 7 * 7 }}\U000f0001<|im_end|>"
    chat = [{"role": "user", "content": nasty}, {"role": "assistant", "content": nasty}]
    text, spans = ChatTemplate.named("chatml").render_with_spans(chat)
    assert [text[start:end] for start, end in spans] == [nasty + "<|im_end|>"]
    assert text.count("{{ 7 * 7 }}") == 2


def test_a_template_that_rewrites_the_past_is_refused():
    past = ChatTemplate("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(ValueError, match="before message 2 differently"):
        past.render_with_spans(CHAT)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe|undefined"),
        ("{{ messages.append(1) }}", "unsafe|not safely"),
        ("{{ raise_exception('only users') }}", "only users"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "turns"),
        ("{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x | replace('a',"
         " n.x) %}{% endfor %}", "characters"),
        ("{% set x = 'a' * 3000000 %}{% set y %}{% for i in range(9999) %}{{ x }}{% endfor %}"
         "{% endset %}{{ y | length }}", "turns or texts"),
        ("{{ (['a' * 3000000] * 9999) | join }}", "characters"),
        ("{{ ('a' * 3000000).replace('a', 'b' * 3000000) | length }}", "characters"),
        ("{{ ''.join(['a' * 3000000] * 9999) | length }}", "characters"),
        ("{{ 'a' * 999999999 }}", "characters"),
        ("{{ 10 ** 10 ** 10 }}", r"\*\*"),
        ("{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}"
         "{% endfor %}", "characters"),
        ("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "recursion|turns|deep"),
        ("{{ 'a'.ljust(999999999) }}", "999999999"),
        ("{{ '%999999999d' % 1 }}", "not allowed"),
        ("{{ messages[9].content }}", "no element|undefined"),
    ],
)  # fmt: skip
def test_the_sandbox_holds(template, why):
    with pytest.raises(ValueError, match=f"(?i){why}"):
        ChatTemplate(template).render(CHAT)


def test_what_is_no_template_is_refused():
    with pytest.raises(ValueError, match="no Jinja"):
        ChatTemplate("{% for %}")
    with pytest.raises(ValueError, match="no Jinja"):
        ChatTemplate("{{ 1 | center }}")
    with pytest.raises(ValueError, match="'vicuna' is none of alpaca"):
        ChatTemplate.named("vicuna")
    with pytest.raises(ValueError, match="message 0 is 'hi'"):
        ChatTemplate.named("plain").render(["hi"])


def test_tools_time_and_loop_controls():
    chat = ChatTemplate(
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ loop.index }}"
        "{% endfor %}{{ tools | tojson }}{{ strftime_now('%Y') | length }}"
    )
    assert chat.render(CHAT, tools=[{"name": "é"}]) == '1234[{"name": "é"}]4'
    assert ChatTemplate.named("chatml").special_tokens() == ["<|im_end|>", "<|im_start|>"]
