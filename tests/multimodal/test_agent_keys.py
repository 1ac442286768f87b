"""Names of keys: what models write comes out as Playwright's and X11's names, or as an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paragone.multimodal.agent._keys import browser_keys, split_keys, typed_keysym, x11_keys
from paragone.multimodal.agent.actions import ActionError


@pytest.mark.parametrize(
    ("written", "browser", "x11"),
    [
        ("ctrl c", "Control+c", "ctrl+c"),
        ("Ctrl+C", "Control+c", "ctrl+c"),
        ("ctrl shift t", "Control+Shift+t", "ctrl+shift+t"),
        ("t shift ctrl", "Control+Shift+t", "ctrl+shift+t"),
        ("enter", "Enter", "Return"),
        ("Return", "Enter", "Return"),
        ("page_down", "PageDown", "Next"),
        ("Page Down", "PageDown", "Next"),
        ("pgup", "PageUp", "Prior"),
        ("arrow left", "ArrowLeft", "Left"),
        ("arrowleft", "ArrowLeft", "Left"),
        ("alt+F4", "Alt+F4", "alt+F4"),
        ("cmd space", "Meta+ ", "super+space"),
        ("ctrl +", "Control++", "ctrl+plus"),
        ("ctrl++", "Control++", "ctrl+plus"),
        ("+", "+", "plus"),
        ("ctrl -", "Control+-", "ctrl+minus"),
        ("A", "A", "A"),
        ("shift", "Shift", "shift"),
        ("del", "Delete", "Delete"),
        ("?", "?", "0x3f"),
    ],
)
def test_known_combinations(written, browser, x11):
    assert (browser_keys(written), x11_keys(written)) == (browser, x11)


@pytest.mark.parametrize("written", ["", " ", "a b", "ctrl nokey", "enter tab", "ctrl c; ls", "-x"])
def test_what_is_no_combination(written):
    with pytest.raises(ActionError):
        split_keys(written)


def test_a_letter_that_no_key_has():
    with pytest.raises(ActionError, match="not on the keyboard"):
        browser_keys("ctrl é")
    assert x11_keys("ctrl é") == "ctrl+0xe9"


@given(st.text(max_size=30))
def test_any_text_is_keys_or_one_error(text):
    try:
        found = x11_keys(text)
    except ActionError:
        return
    assert found
    assert found.replace("_", "").replace("+", "").isalnum()


@given(st.characters())
def test_a_keysym_is_a_name_or_a_number(character):
    try:
        name = typed_keysym(character)
    except ActionError:
        return
    assert name.isalnum()
    assert name.isascii()
    if name.startswith("U") and len(name) > 1:
        assert chr(int(name[1:], 16)) == character
