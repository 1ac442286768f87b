"""The grammar: exact inverse, tolerance, refusals, and that nothing of a text is ever run."""

import ast
import builtins
import itertools
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.multimodal import agent_actions as draws

from paragone.multimodal.agent import _literals, actions
from paragone.multimodal.agent.actions import (
    ACTIONS,
    DIALECTS,
    Action,
    ActionError,
    format_action,
    parse,
)

TEXTUAL = [name for name in DIALECTS if not DIALECTS[name].functions]


def call(text, dialect="ui-tars-1.5"):
    """Name and arguments of the only action."""
    (found,) = parse(text, dialect)
    return found.name, dict(found.arguments)


@settings(max_examples=120)
@given(st.lists(draws.actions(), min_size=1, max_size=3), st.sampled_from(sorted(DIALECTS)))
def test_what_is_written_is_read_back(several, dialect):
    assert parse(format_action(several, dialect), dialect) == several


@settings(max_examples=150)
@given(
    st.lists(st.sampled_from(draws.PIECES), max_size=20).map("".join),
    st.sampled_from(sorted(DIALECTS)),
)
def test_what_is_read_has_a_normal_form(text, dialect):
    try:
        normal = format_action(parse(text, dialect), dialect)
    except ActionError:
        return
    assert format_action(parse(normal, dialect), dialect) == normal


def test_a_planted_bug_is_caught(monkeypatch):
    """Without escaped backslashes the inverse breaks where a text ends with one or names an n."""
    monkeypatch.setattr(_literals, "text_of", lambda text: "'" + text.replace("'", r"\'") + "'")
    wrong = Action("type", {"content": r"C:\new"})
    assert parse(format_action(wrong)) != [wrong]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_in_every_dialect(name, dialect):
    values = {"start_box": (0.0, 0.0), "end_box": (3.0, 4.5, 5.0, 6.0), "time": 0.5, "key": "a b",
              "content": "it's\n", "app_name": "Clock", "direction": "up"}  # fmt: skip
    space = ACTIONS[name]
    action = Action(name, {one: values[one] for one in (*space.required, *space.optional)}, "why")
    assert parse(format_action(action, dialect), dialect) == [action]


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("ui-tars-1.0", "click(start_box='<|box_start|>(10,20)<|box_end|>')"),
        ("ui-tars-1.5", "click(start_box='(10,20)')"),
        ("doubao", "click(point='<point>10 20</point>')"),
    ],
)
def test_published_forms(dialect, text):
    action = Action("click", {"start_box": (10, 20)}, "I see it.")
    assert format_action(action, dialect) == f"Thought: I see it.\nAction: {text}"


def test_published_form_of_a_drag():
    action = Action("drag", {"start_box": (1, 2), "end_box": (3, 4)})
    expected = "drag(start_point='<point>1 2</point>', end_point='<point>3 4</point>')"
    assert format_action(action, "doubao") == f"Action: {expected}"


@pytest.mark.parametrize(
    "box",
    [
        "'(10,20)'", "'<|box_start|>(10,20)<|box_end|>'", "'<|box_start|>(10,20)'", '"(10, 20)"',
        "'[10,20]'", "'10, 20'", "'10 20'", "'<point>10 20</point>'", "'<point>10, 20<point>'",
        "'<bbox>10 20</bbox>'", "'((10, 20))'", "(10,20)", "[10, 20]", "<point>10 20</point>",
        "'<point>10 20</point>''", "'( 10.0 , +20 )'", "'(1e1,2E+1)'", "'(10,20'", "' (10,20) '",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["start_box", "point", "start_point"])
def test_points_in_every_form(box, key):
    for dialect in TEXTUAL:
        assert call(f"Action: click({key}={box})", dialect) == ("click", {"start_box": (10, 20)})


@pytest.mark.parametrize(
    "box", ["(1,2,3,4)", "[1, 2, 3, 4]", "<bbox>1 2 3 4</bbox>", "(1,2),(3,4)", "1 2 3 4"]
)
def test_boxes_in_every_form(box):
    (found,) = parse(f"Action: left_double(start_box='{box}')")
    assert found.arguments["start_box"] == (1, 2, 3, 4)
    assert found.point == (2, 3)


@pytest.mark.parametrize(
    ("written", "content"),
    [
        (r"'it\'s'", "it's"), ("'it's here'", "it's here"), ('"it\'s"', "it's"),
        ('"say \\"no\\""', 'say "no"'), ('\'say "no"\'', 'say "no"'),
        ("'f(x)'", "f(x)"), ("'f('x')'", "f('x')"), ("'f(x)\n\nthen (y)'", "f(x)\n\nthen (y)"),
        ("'f('x')\n\nthen y'", "f('x')\n\nthen y"), ("'a', 'b'", "a', 'b"),
        ("'a' + 'b'", "a' + 'b"),
        ("'Action: click(x)'", "Action: click(x)"), ("'a\nAction: wait()'", "a\nAction: wait()"),
        ("'point=3'", "point=3"), ("'start_point=<point>1 2</point>'",
                                   "start_point=<point>1 2</point>"),
        ("'<|box_start|>'", "<|box_start|>"), (r"'two\nlines\n'", "two\nlines\n"),
        ("'sent\n'", "sent\n"), ("' kept '", " kept "), ("''", ""), (r"'C:\\new'", r"C:\new"),
        (r"'C:\dir'", r"C:\dir"), (r"'caf\u00e9 \xe9'", "café é"), (r"'\ud83d\ude00'", "😀"),
        (r"'\ud83d'", r"\ud83d"), (r"'\U0001F600'", "😀"), (r"'\U99999999'", r"\U99999999"),
        ("'<b>&amp;</b> [EOS]'", "<b>&amp;</b> [EOS]"), ("'天气'", "天气"),
        ("'__import__(\"os\")'", '__import__("os")'), ("hello", "hello"), ("42", "42"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dialect", TEXTUAL)
def test_contents_survive(written, content, dialect):
    assert call(f"Thought: t\nAction: type(content={written})", dialect) == (
        "type", {"content": content},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("Thought: t\nAction: wait()", "t"),
        ("\n\n  Thought:t\n\nAction :wait()\n", "t"),
        ("Thought：t\nAction：wait()", "t"),
        ("Thought: t Action: wait()", "t"),
        ("t\nAction: wait()", "t"),
        ("wait()", ""),
        ("Action: wait(", ""),
        ("<think>t</think>\nAction: wait()", "t"),
        ("<think_xyz>t</think_xyz>wait()", "t"),
        ("<Thought>t</Thought>\nAction: wait()\n</Output>", "t"),
        ("<think>no</think>\nThought: t\nAction: wait()", "t"),
        ("<think>no\nAction: click(1)</think>\nThought: t\nAction: wait()", "t"),
        ("Thought: t\nAction: ```python\nwait()\n```", "t"),
        ("Thought: t\nAction: `wait()`", "t"),
        ("Thought: t\nAction: wait() # for the page<|im_end|>", "t"),
        ("Thought: t\nAction: wait()[EOS]", "t"),
        ("Thought: t\n<computer_env>\nAction: wait()\n</computer_env>", "t\n<computer_env>"),
        ("Thought: first\nAction: I wait.\nAction: wait()", "first\nAction: I wait."),
        ("Thought: a\nThought: b\nAction: wait()", "a\nb"),
    ],
)
def test_what_stands_around_a_call(text, thought):
    assert parse(text) == [Action("wait", {}, thought)]


def test_reflections_and_summaries():
    text = "Reflection: r\nover lines\nThought: t\nAction_Summary: s\nAction: wait()"
    assert parse(text) == [Action("wait", {}, "t", "r\nover lines", "s")]


def test_several_actions_share_a_thought():
    text = (
        "Thought: t\nAction: click(start_box='(1,2)')\n\ntype(content='a')\n\nhotkey(key='enter')"
    )
    found = parse(text)
    assert [one.name for one in found] == ["click", "type", "hotkey"]
    assert {one.thought for one in found} == {"t"}
    assert format_action(found) == text
    assert [x.thought for x in parse(text.replace("\n\nhotkey", "\n\nAction: hotkey"))] == [
        "t", "t", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type(text='a', start_box='(1,2)')",
         [("click", {"start_box": (1, 2)}), ("type", {"content": "a"})]),
        ("scroll(start_box='(1,2)', end_box='(3,4)')",
         [("drag", {"start_box": (1, 2), "end_box": (3, 4)})]),
        ("left_single(point='1 2')", [("click", {"start_box": (1, 2)})]),
        ("hotkey(hotkey='ctrl v')", [("hotkey", {"key": "ctrl v"})]),
        ("scroll(direction=DOWN)", [("scroll", {"direction": "down"})]),
        ("wait(time='1.5')", [("wait", {"time": 1.5})]),
        ("click('(1,2)')", [("click", {"start_box": (1, 2)})]),
        ("drag('(1,2)', '(3,4)')", [("drag", {"start_box": (1, 2), "end_box": (3, 4)})]),
        ("finished()", [("finished", {})]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_shorthands_and_other_names(text, expected):
    found = parse(f"Action: {text}")
    assert [(one.name, dict(one.arguments)) for one in found] == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'Action:'"), ("Thought: nothing", "'Action:'"), ("Thought: t\nAction:", "a call"),
        ("Action: open_computer()", "unknown action 'open_computer'.*expected one of click"),
        ("Action: click()", "click lacks start_box"),
        ("Action: click(end_box='(1,2)')", "no argument 'end_box': expected start_box"),
        ("Action: wait(5, 6)", "'='"), ("Action: drag(start_box='(1,2)')", "drag lacks end_box"),
        ("Action: click(start_box='')", "start_box of click.*a point"),
        ("Action: click(start_box='(1)')", "expected x and y"),
        ("Action: click(start_box='(1,2,3)')", "expected x and y"),
        ("Action: click(start_box='(1,2,3,4,5)')", "at most 4"),
        ("Action: click(start_box='(nan,1)')", "a point as numbers"),
        ("Action: click(start_box='(1e400,1)')", "at most 100,000"),
        ("Action: click(start_box='(100001,1)')", "at most 100,000"),
        ("Action: click(start_box='(1.2.3,1)')", "a number"),
        ("Action: click(start_box='(10%,1)')", "a point"),
        (f"Action: click(start_box='({'9' * 99},1)')", "a number"),
        ("Action: click(start_box=((((((((((1,2))))))))))", "at most 8 brackets"),
        ("Action: click(start_box='(1,2)', point='(3,4)')", "once, not twice"),
        ("Action: click(start_box='(1,2)', start_box='(3,4)')", "once, not twice"),
        ("Action: scroll(direction='north')", "one of down, up, left, right"),
        ("Action: hotkey(key='')", "key of hotkey is empty"), ("Action: open_app()", "app_name"),
        ("Action: wait(time=-1)", "0 or more"), ("Action: wait(time=1e9)", "at most 3,600"),
        ("Action: wait(time=soon)", "a number"),
        ("Action: type(content='never closed", "a closing '"),
        ("Action: type(content=open('x'))", "a literal"),
        ("Action: type(content=f'{x}')", "a literal"),
        ("Action: type(content=a.b[0])", "a literal"),
        ("Action: hotkey(key='a' + 'b')", "a comma or a closing bracket"),
        ("Action: wait() and then some", "a call, 'Action:' or the end"),
        ("Action: wait().close()", "a call, 'Action:' or the end"),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_refusals_say_what_was_expected(text, said):
    with pytest.raises(ActionError, match=f"(?s){said}"):
        parse(text)


HOSTILE = [
    "click(start_box='<bbox>print(\"PWNED\")or(10) 20 10 20</bbox>')",
    "click(start_box='__import__(\"os\").abort()')",
    "type(content=__import__('os').abort())",
    "wait(time=__import__('os').abort())",
    "exec('raise SystemExit')", "eval(content='1')", "os.abort()", "__import__('os')",
    "click(**{'start_box': (1,2)})", "click(start_box=[1 for _ in 'ab'])",
    "click(start_box='(1,2)') or __import__('os').abort()",
    "click(start_box=lambda: 0)", "hotkey(key=f'{1/0}')",
    "{\"name\": \"__import__\", \"arguments\": {\"name\": \"os\"}}",
]  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_is_run(text, dialect, monkeypatch):
    ran = []
    for name in ("eval", "exec", "compile", "__import__"):
        monkeypatch.setattr(builtins, name, lambda *given, name=name: ran.append(name))
    forms = [f"Action: {text}", f"<seed:tool_call>{text}</seed:tool_call>", text]
    name, _, rest = text.partition("(")
    forms.append(f"<function={name}><parameter=point>{rest}</parameter></function>")
    refused = 0
    for form in forms:
        try:
            parse(form, dialect)
        except ActionError:
            refused += 1
    monkeypatch.undo()
    assert not ran
    assert refused == len(forms)


def test_the_grammar_has_no_interpreter():
    folder = Path(actions.__file__).parent
    for name in ("_action*.py", "_literals.py", "_dialects*.py", "actions.py", "*screenspot*.py"):
        for path in folder.glob(name):
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            called = {node.id for node in nodes if isinstance(node, ast.Name)}
            taken = {one.name for node in nodes for one in getattr(node, "names", [])
                     if isinstance(one, ast.alias)}  # fmt: skip
            assert not called & {"eval", "exec", "compile", "__import__", "getattr"}, path.name
            assert not taken & {"ast", "pickle", "importlib", "subprocess", "os"}, path.name


@pytest.mark.parametrize(
    "piece",
    ["(", "[", "{", "'", "\\", "<point>", "Action:", "\nAction: click(", "type(content='a' x)",
     "<function=click>", "<think>", "','", "wait()\n", "\nThought: x", " ", "</parameter>"],
)  # fmt: skip
@pytest.mark.parametrize("dialect", ["ui-tars-1.5", "ui-tars-2"])
def test_long_texts_take_steps_in_proportion(piece, dialect):
    """Calls and lines of Python grow at most as the text does: nothing is read again and again."""

    def steps(length):
        count = 0

        def seen(frame, event, argument):
            nonlocal count
            count += 1
            return seen

        text = "Action: type(content='" + piece * (length // len(piece))
        sys.settrace(seen)
        try:
            parse(text, dialect)
        except ActionError:
            pass
        finally:
            sys.settrace(None)
        return count

    traced = sys.gettrace()
    try:
        few, many = steps(400), steps(1600)
    finally:
        sys.settrace(traced)
    assert many <= 4.5 * few + 200


def test_a_megabyte():
    content = "x'\\\n(" * 10_000 + "x" * 1_000_000
    action = Action("type", {"content": content}, "t" * 100_000)
    for dialect in DIALECTS:
        assert parse(format_action(action, dialect), dialect) == [action]
    with pytest.raises(ActionError):
        parse("Action: click(start_box='" + "(" * 1_000_000)


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (Action("fly"), "unknown action"),
        (Action("click"), "lacks start_box"),
        (Action("click", {"start_box": (math.nan, 1)}), "at most 100,000"),
        (Action("click", {"start_box": (10**5000, 1)}), "whole number of"),
        (Action("click", {"start_box": "(1,2)"}), "expected x and y"),
        (Action("click", {"start_box": (True, 1)}), "expected a number"),
        (Action("type", {"content": 3}), "expected a text"),
        (Action("type", {"content": "a", "start_box": (1, 2)}), "shorthand"),
        (Action("left_click", {"start_box": (1, 2)}), "shorthand"),
        (Action("wait", {}, None), "expected texts"),
        ([], "at least one action"),
    ],
    ids=itertools.count(),
)
def test_what_is_not_written(action, said):
    with pytest.raises(ActionError, match=said):
        format_action(action)


def test_unknown_dialects_and_answers_that_are_no_text():
    for use in (lambda: parse("wait()", "klingon"), lambda: format_action(Action("wait"), "")):
        with pytest.raises(ValueError, match=r"expected one of ui-tars-1\.0") as caught:
            use()
        assert not isinstance(caught.value, ActionError)
    with pytest.raises(ActionError, match="NoneType"):
        parse(None)


def test_whole_numbers_stay_exact():
    action = Action("click", {"start_box": (-0.0, 1 / 3)})
    assert format_action(action) == "Action: click(start_box='(0,0.3333333333333333)')"
    assert parse(format_action(action)) == [action]
    (minus,) = parse("Action: click(start_box='(-0.0,1)')")
    assert math.copysign(1, minus.arguments["start_box"][0]) == 1
    assert format_action(action, digits=2) == "Action: click(start_box='(0,0.33)')"
    assert format_action(action, digits=0) == "Action: click(start_box='(0,0)')"
