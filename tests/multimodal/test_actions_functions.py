"""Function calls of UI-TARS-2: the exact form, the forms that are read as well, and refusals."""

import itertools

import pytest

from paragone.multimodal.agent.actions import Action, ActionError, format_action, parse

MARK = "_never_used_51bce0c785ca2f68081bfa7d91973934"
CLICK = Action("click", {"start_box": (18, 58)})
BODY = "<function=click><parameter=point><point>18 58</point></parameter></function>"


def read(text):
    return parse(text, "ui-tars-2")


def test_the_exact_form():
    several = [
        Action("click", {"start_box": (18, 58)}, "I see it."),
        Action("type", {"content": "two\nlines\n"}, "I see it."),
        Action("drag", {"start_box": (0, 1.5), "end_box": (2, 3)}),
    ]
    text = format_action(several, "ui-tars-2")
    assert text == (
        "<think>I see it.</think>\n<seed:tool_call>\n"
        "<function=click>\n<parameter=point><point>18 58</point></parameter>\n</function>\n"
        "<function=type>\n<parameter=content>two\nlines\n</parameter>\n</function>\n"
        "</seed:tool_call>\n<seed:tool_call>\n"
        "<function=drag>\n<parameter=start_point><point>0 1.5</point></parameter>\n"
        "<parameter=end_point><point>2 3</point></parameter>\n</function>\n</seed:tool_call>"
    )
    assert read(text) == several


@pytest.mark.parametrize(
    "text",
    [
        BODY,
        f"<seed:tool_call>{BODY}</seed:tool_call>",
        f"<seed:tool_call>\n{BODY}\n</seed:tool_call>\n<|im_end|>",
        f"<seed:tool_call>{BODY}",
        "<function=click><parameter=point>\n<point>18 58</point>\n</parameter></functi>",
        "<function=click><parameter=point>18 58</parameter>",
        "<function=click>\n<parameter=point>(18, 58)</parameter></function>",
        "<function name='click'>\n<parameter name='point'>18 58</parameter>\n</function>",
        '<function name="click"><parameter name="point" string="true">18 58</parameter></function>',
        "<function=click><parameter=point string=\"true\">18 58</parameter></function>",
        BODY.replace("function", f"function{MARK}").replace("parameter", f"parameter{MARK}"),
        f"<seed:tool_call{MARK}>{BODY}</seed:tool_call{MARK}>",
        '<seed:tool_call>{"name": "click", "arguments": {"point": "18 58"}}</seed:tool_call>',
        '{"name": "click", "arguments": {"point": [18, 58]}}',
        '{"name": "click", "arguments": "{\\"point\\": \\"<point>18 58</point>\\"}"}',
        '[{"name": "click", "arguments": {"start_box": "(18,58)"}}]',
        "Action: click(point='<point>18 58</point>')",
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_forms_that_are_read(text):
    assert read(text) == [CLICK]


@pytest.mark.parametrize(
    "head",
    [
        "t", "t\n", "<think>t</think>", "<thinkt>t</thinkt>\n", "<gui_think>t</gui_think>",
        f"<think{MARK}>\nt\n</think{MARK}>", "t</think>", "<think>t", "<think></think>t",
    ],
)  # fmt: skip
def test_thoughts_in_every_form(head):
    (found,) = read(f"{head}<seed:tool_call>{BODY}</seed:tool_call>")
    assert found == Action("click", CLICK.arguments, "t")


def test_a_thought_may_speak_of_points_and_marks():
    thought = "Near <point>500 500</point>, say </think> or <function=click> or <seed:tool_call>."
    action = Action("scroll", {"direction": "up"}, thought, "Thought: no", "Action: none\n")
    assert read(format_action(action, "ui-tars-2")) == [action]


@pytest.mark.parametrize(
    "content",
    ["</parameter>", "<\\/parameter>", "a</parameter></function><function=wait></function>", "<",
     " kept\n", "", "&lt;b&gt;", "<parameter=content>", "{\"a\": 1}", "1", "null", "\\n", "'\""],
    ids=itertools.count(),
)  # fmt: skip
def test_contents_survive(content):
    action = Action("finished", {"content": content})
    assert read(format_action(action, "ui-tars-2")) == [action]


def test_a_content_is_taken_as_it_stands():
    (found,) = read("<function=type><parameter=content>a &amp; b\\n\n</parameter></function>")
    assert found.arguments["content"] == "a &amp; b\\n\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'Action:'"), ("<seed:tool_call></seed:tool_call>", "at least one function"),
        ("<seed:tool_call>wait</seed:tool_call>", "<function=name>"),
        ("<function=fly></function>", "unknown action 'fly'"),
        ("<function=click></function>", "click lacks start_box"),
        ("<function=click><parameter=content>1</parameter></function>", "no argument 'content'"),
        ("<function=type><parameter=content>never closed", "</parameter> for content"),
        ("<function=click>18 58</function>", "<parameter=name>"),
        (BODY.replace("18 58", "18 x"), "start_box of click.*a point as numbers"),
        ("<function=click><parameter=point><function name=\"click\"><parameter name=\"point\">"
         "<point>1 2</point></parameter></function></parameter></function>", "a point as numbers"),
        (BODY.replace("</function>", "<parameter=point>1 2</parameter>"), "once, not twice"),
        (BODY.replace("</function>", "<parameter=start_box>1 2</parameter>"), "once, not twice"),
        (BODY + "and then", "end of the text"),
        ('{"name": "click"}', "lacks start_box"), ('{"invalid": "structure"}', "a function call"),
        ('{"name": "scroll", "arguments": invalid}', "a number"), ("[]", "at least one"),
        ('{"name": "scroll", "arguments": "invalid"}', "a number"),
        ('{"name": "wait", "arguments": {"time": 1e999}}', "at most 3,600"),
        ('{"name": "wait", "arguments": ' + "[" * 1000, "at most 8 brackets"),
        ('{"name": "type", "arguments": {"content": true}}', "a text"),
        ('{"name": "wait", "arguments": {1: 2}}', "a text in quotes"),
        ('{"name": "wait"} {}', "the end of the text"),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_refusals_say_what_was_expected(text, said):
    with pytest.raises(ActionError, match=f"(?s){said}"):
        read(text)


def test_json_without_arguments():
    for given in ("null", '""', "{}", '" "'):
        assert read(f'{{"name": "wait", "arguments": {given}}}') == [Action("wait")]
