"""The grammar against the parsers of UI-TARS: the Python package, and the cases of the desktop's.

`CASES` has one entry for every form of answer in the 164 cases of `action-parser` (UI-TARS-desktop,
Apache-2.0, `packages/ui-tars/action-parser/test` and `multimodal/gui-agent/action-parser/test`),
with the thoughts shortened. `DIFFERENT` has those that are read in another way here, and why.
"""

import contextlib
import io
import itertools
import re

import pytest

from paragone.multimodal.agent import _literals
from paragone.multimodal.agent.actions import ACTIONS, ActionError, parse
from paragone.multimodal.agent.coordinates import smart_resize

T = "Thought: t\nAction: "
TOOL = (
    "<thinkt>Try <point>9 9</point>.</thinkt><seed:tool_call>\n<function=scroll>\n"
    "<parameter=direction>up</parameter>\n<parameter=point><point>500 500</point></parameter>\n"
    "</function>\n<function=type>\n<parameter=content>hello</parameter>\n</function>\n"
    "<function=wait>\n</function>\n</seed:tool_call>"
)
NAMED_TOOL = re.sub(
    r"<parameter=(\w+)>", r'<parameter name="\1" string="true">',
    re.sub(r"<function=(\w+)>", r'<function name="\1">', TOOL),
)  # fmt: skip


def click(*box):
    return [("click", {"start_box": box})]


CASES = [
    (f"{T}click(start_box='(100,200)')", click(100, 200)),
    (f"{T}click(start_box='[948,57]')", click(948, 57)),
    (f"{T}click(start_box='<bbox>637 964 637 964</bbox>')", click(637, 964, 637, 964)),
    (f"{T}click(start_box='[637,964,637,964]')", click(637, 964, 637, 964)),
    (f"{T}click(start_box='[348, 333, 928, 365]')", click(348, 333, 928, 365)),
    (f"{T}click(start_box='[0, 964, 10, 984]')", click(0, 964, 10, 984)),
    (f"{T}click(point='<point>510 150</point>')", click(510, 150)),
    (f"{T}left_double(start_box='21, 246, 21, 246')",
     [("left_double", {"start_box": (21, 246, 21, 246)})]),
    (f"{T}drag(start_box='[130,226]', end_box='[200,226]')",
     [("drag", {"start_box": (130, 226), "end_box": (200, 226)})]),
    (f"{T}hotkey(key='ctrl v')", [("hotkey", {"key": "ctrl v"})]),
    ("Thought: swipe(start_box='(693,685)', end_box='(724,300)')\n\n"
     "Action: scroll(direction='left')", [("scroll", {"direction": "left"})]),
    (f"{T}click(point='<point>403 81</point>')\n\ntype(content='北京天气')\n\nhotkey(key='enter')",
     [*click(403, 81), ("type", {"content": "北京天气"}), ("hotkey", {"key": "enter"})]),
    ("click(start_box=\"(100,200)\")", click(100, 200)),
    ("Thought: t\nAction：click(start_box='(100,200)')", click(100, 200)),
    ("\n\nAction：click(start_box='<bbox>191 21 191 21</bbox>')", click(191, 21, 191, 21)),
    ("<think>\nno\n</think>\nThought: t\nAction: click(point='<point>510 150</point>')",
     click(510, 150)),
    ("<Thought>t</Thought>\nAction_Summary: s\nAction: click(start_box='(100,200)')\n</Output>",
     click(100, 200)),
    ("<think_never_used_51bce0c785ca2f68081bfa7d91973934>t</think_never_used_51bce0c785ca2f68081bfa"
     "7d91973934>\n<computer_env>\nAction: click(point='<point>400 435</point>')\n</computer_env>",
     click(400, 435)),
    ("Action_Summary: s\nAction: click(start_box='(948,57)')", click(948, 57)),
    (TOOL, [("scroll", {"direction": "up", "start_box": (500, 500)}),
            ("type", {"content": "hello"}), ("wait", {})]),
    ('{"name": "scroll", "arguments": "{\\"direction\\": \\"up\\", \\"point\\": \\"<point>5 6</poin'
     't>\\"}"}', [("scroll", {"direction": "up", "start_box": (5, 6)})]),
    ('{"name": "hotkey", "arguments": "{\\"key\\": \\"enter\\"}"}', [("hotkey", {"key": "enter"})]),
    ('{"name": "type", "arguments": "{\\"content\\": \\"Hello\\\\nWorld\\\\t!\\"}"}',
     [("type", {"content": "Hello\nWorld\t!"})]),
    ('{"name": "wait", "arguments": ""}', [("wait", {})]),
    ('{"name": "wait", "arguments": null}', [("wait", {})]),
]  # fmt: skip

DIFFERENT = [
    # Theirs gives one action with a place; an operator would have to know that it clicks first.
    (f"{T}type(text='Hello', start_box='(300,400)')",
     [("click", {"start_box": (300, 400)}), ("type", {"content": "Hello"})]),
    # Theirs gives a backslash and an n, which no page would take as the end of a line.
    (f"{T}type(content='doubao.com\n')", [("type", {"content": "doubao.com\n"})]),
    # Theirs drops the first action of two blocks.
    (f"{T}click(start_box='(100,100)')\n\nAction: type(content='a')",
     [*click(100, 100), ("type", {"content": "a"})]),
    # Theirs gives an action without a name, without a place, or with a place of no numbers.
    ("Thought: t", "'Action:'"),
    (f"{T.rstrip()}", "a call"),
    (f"{T}click(start_box='')", "a point"),
    (f"{T}click(start_box='[]')", "a point"),
    (f"{T}click(end_box='[130,226]')", "no argument 'end_box'"),
    # Actions and arguments that no prompt of the four dialects offers and no operator here has.
    ("<think>t</think>\n<env>\nAction: open_computer()\n</env>", "unknown action"),
    ("<think>t</think>\n<answer>\n2\n</answer>", "'Action:'"),
    ('{"name": "complex_action", "arguments": {"nested": {"key": "value"}, "array": [1, 2, 3]}}',
     "unknown action"),
    ('{"name": "type", "arguments": {"content": "a", "special": "b"}}', "no argument 'special'"),
    # As theirs: refused.
    ('{"name": "scroll", "arguments": invalid json}', "a number"),
    ('{"invalid": "structure"}', "a function call"), ("", "'Action:'"), ("null", "'Action:'"),
]  # fmt: skip


def dialect_of(text):
    return "ui-tars-2" if text.startswith("{") or "<function" in text else "ui-tars-1.5"


def plain(found):
    return [(one.name, dict(one.arguments)) for one in found]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=itertools.count())
def test_cases_of_the_desktop(text, expected):
    assert plain(parse(text, dialect_of(text))) == expected


@pytest.mark.parametrize(("text", "expected"), DIFFERENT, ids=itertools.count())
def test_cases_that_are_read_in_another_way(text, expected):
    if isinstance(expected, list):
        assert plain(parse(text, dialect_of(text))) == expected
        return
    with pytest.raises(ActionError, match=expected):
        parse(text, dialect_of(text))


@pytest.mark.parametrize(
    "text",
    ["(1, 1)", "[1, 1]", "[1,1]", "[1 1]", "(1 1)", "((1, 1))", "1, 1", "1 1", "<point>1, 1<point>",
     "<point>1 1<point>", "<point>1,1<point>"],
)  # fmt: skip
def test_points_of_the_desktop(text):
    assert _literals.box(text)[0] == (1, 1)


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("ui_tars.action_parser", reason="ui-tars is not installed")


SIZE = (1000, 1000)
SAME = [
    f"{T}click(start_box='(100,200)')", f"{T}type(content='sent\\n')",
    f"{T}click(point='<point>100 200</point>')", f"{T}wait()", f"{T}hotkey(key='ctrl v')",
    f"{T}drag(start_point='<point>1 2</point>', end_point='<point>3 4</point>')",
    f"{T}scroll(start_box='(5,6)', direction='down')", f"{T}left_double(start_box='(0,0)')",
    f"{T}type(content='plain')", f"{T}finished(content='done')", f"{T}press_home()",
    f"{T}click(start_box='(1,2)')\n\nhotkey(key='enter')", f"{T}type(content='it\\'s')",
    "Reflection: r\nAction_Summary: s\nAction: wait()", f"{T}open_app(app_name='Clock')",
    f"{T}right_single(start_box='(1,2,3,4)')", f"{T}call_user()",
]  # fmt: skip
# What `ui-tars` 0.5.1 refuses or changes; here it is read.
BROKEN = [
    (f"{T}finished(content='point=3')", {"content": "point=3"}),
    (f'{T}type(content="double")', {"content": "double"}),
    (f"{T}type(content='f(x)\n\ny')", {"content": "f(x)\n\ny"}),
    (f"{T}type(content='Action: x')", {"content": "Action: x"}),
    (f"{T}click(start_box='<|box_start|>(1,2)<|box_end|>')", {"start_box": (1, 2)}),
    (f"{T}click(start_box='[1,2]')", {"start_box": (1, 2)}),
    (f"{T}click(start_box='<bbox>1 2 3 4</bbox>')", {"start_box": (1, 2, 3, 4)}),
    (f"{T}click(point='<point>1.5 2</point>')", {"start_box": (1.5, 2)}),
    ("Thought: t\nAction：wait()", {}),
    ("Action:wait()", {}),
]  # fmt: skip


def theirs(peer, text):
    """Name and arguments of what the package reads, with boxes in pixels; None if it fails."""
    rows, columns = smart_resize(*SIZE)
    found = []
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            read = peer.parse_action_to_structure_output(text, 1000, *SIZE)
    except (ValueError, AssertionError, TypeError, IndexError):
        return None
    for one in read:
        given = {}
        for name, value in one["action_inputs"].items():
            if name.endswith("_box"):
                numbers = [float(x) for x in value.strip("[]").split(",")]
                scaled = [x * (columns, rows)[at % 2] for at, x in enumerate(numbers)]
                value = tuple(round(x, 6) for x in scaled)
            given[name] = value
        found.append((one["action_type"], given, one["thought"] or "", one["reflection"] or ""))
    return found


def ours(text):
    """The same of ours: a point as a box of one place, a summary as a thought, as theirs has it."""
    found = []
    for one in parse(text):
        given = {
            name: value * 2 if name.endswith("_box") and len(value) == 2 else value
            for name, value in one.arguments.items()
        }
        found.append((one.name, given, one.thought or one.summary, one.reflection))
    return found


@pytest.mark.peers
@pytest.mark.parametrize("text", SAME, ids=itertools.count())
def test_as_the_package_reads_it(peer, text):
    assert theirs(peer, text) == ours(text)


@pytest.mark.peers
@pytest.mark.parametrize(("text", "expected"), BROKEN, ids=itertools.count())
def test_where_the_package_fails(peer, text, expected):
    (found,) = parse(text)
    assert dict(found.arguments) == expected
    assert theirs(peer, text) != ours(text)


@pytest.mark.peers
def test_the_package_runs_what_it_reads(peer):
    """The reason for all of this: their second parser hands a box to `eval`; ours refuses it."""
    text = f"{T}click(start_box='<bbox>print(\"RUN\")or(10) 20 10 20</bbox>')"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        peer.parse_action_to_structure_output_v2(text)
    assert "RUN" in said.getvalue()
    with pytest.raises(ActionError, match="a point as numbers"):
        parse(text)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("text", "reader"),
    [
        (TOOL, "parse_xml_action_v5"),
        (TOOL, "parse_xml_action_02"),
        (NAMED_TOOL, "parse_xml_action_65"),
    ],
    ids=["v5", "02", "65"],
)  # fmt: skip
def test_function_calls_as_the_package_reads_them(peer, text, reader):
    read = getattr(peer, reader)(text)
    found = parse(text, "ui-tars-2")
    assert [one["function"] for one in read] == [one.name for one in found]
    for one, other in zip(read, found, strict=True):
        given = dict(one["parameters"])
        if "point" in given:
            numbers = given.pop("point").removeprefix("<point>").removesuffix("</point>").split()
            given["start_box"] = tuple(map(float, numbers))
        assert given == dict(other.arguments)


@pytest.mark.peers
def test_the_action_space_of_the_prompts():
    """Every line of the published prompts' action spaces is an action here, and none is missing."""
    prompt = pytest.importorskip("ui_tars.prompt", reason="ui-tars is not installed")
    seen = set()
    for text in (prompt.COMPUTER_USE_DOUBAO, prompt.MOBILE_USE_DOUBAO, prompt.GROUNDING_DOUBAO):
        space = text.partition("## Action Space")[2].partition("## ")[0]
        for line in filter(None, map(str.strip, space.splitlines())):
            line = re.sub(r"x[12] y[12]", "10 20", line).replace(
                "down or up or right or left", "up"
            )
            (found,) = parse(line.replace("app_name=''", "app_name='Clock'"), "doubao")
            seen.add(found.name)
    assert seen | {"call_user"} == set(ACTIONS)
