"""Actions and texts as hypothesis draws them, for the tests of the grammar."""

from hypothesis import strategies as st

from paragone.multimodal.agent.actions import ACTIONS, Action

PIECES = (
    "Action:", "\nAction: click(start_box='(1,2)')", "Thought:", "\n  Reflection :", "\\", "'",
    "Action_Summary：", '"', "\n", "\n\n", ")", "(", " ", "\t", "\r", "\x00", "\u2028", "\x1c", "=",
    "<point>", "</point>", "</parameter>", "<\\/parameter>", "<think>", "</think>", "</thinkt>",
    "<seed:tool_call>", "</seed:tool_call>", "<function=click>", "</function>", "type(content='",
    "')", "',", "key=", "[EOS]", "```", "<|im_end|>", "<|box_start|>", "{", "}", "\\n", "\\u0041",
    "#", "：", "</answer>", "<bbox>", "point=3", "1", "click(", "wait()", "finished", "，", "`",
)  # fmt: skip
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=6).map("".join)
words = texts.map(str.strip).filter(bool)
numbers = st.floats(-1e5, 1e5) | st.integers(-50, 2000)
boxes = st.tuples(numbers, numbers) | st.tuples(numbers, numbers, numbers, numbers)
VALUES = {
    "content": texts, "key": words, "app_name": words, "start_box": boxes, "end_box": boxes,
    "direction": st.sampled_from(["up", "down", "left", "right"]), "time": st.floats(0, 3600),
}  # fmt: skip


@st.composite
def actions(draw):
    name = draw(st.sampled_from(sorted(ACTIONS)))
    wanted = [*ACTIONS[name].required, *(x for x in ACTIONS[name].optional if draw(st.booleans()))]
    thoughts = [draw(st.just("") | texts) for _ in range(3)]
    return Action(name, {argument: draw(VALUES[argument]) for argument in wanted}, *thoughts)
