"""Names of keys: what models write, what Playwright calls it, and what X11 calls it.

Models name keys as pyautogui, xdotool or JavaScript do, in any case: "ctrl c", "Control+C",
"page_down". A combination is written with spaces or plus signs between its keys.
"""

from __future__ import annotations

import re
import unicodedata

from paragone.multimodal.agent.actions import ActionError

__all__ = ["browser_keys", "split_keys", "typed_keysym", "x11_keys"]

_NAMED = {
    "ctrl": ("Control", "ctrl"), "shift": ("Shift", "shift"), "alt": ("Alt", "alt"),
    "meta": ("Meta", "super"), "enter": ("Enter", "Return"), "tab": ("Tab", "Tab"),
    "space": (" ", "space"), "backspace": ("Backspace", "BackSpace"), "esc": ("Escape", "Escape"),
    "delete": ("Delete", "Delete"), "insert": ("Insert", "Insert"), "home": ("Home", "Home"),
    "end": ("End", "End"), "pageup": ("PageUp", "Prior"), "pagedown": ("PageDown", "Next"),
    "up": ("ArrowUp", "Up"), "down": ("ArrowDown", "Down"), "left": ("ArrowLeft", "Left"),
    "right": ("ArrowRight", "Right"), "capslock": ("CapsLock", "Caps_Lock"),
    "numlock": ("NumLock", "Num_Lock"), "scrolllock": ("ScrollLock", "Scroll_Lock"),
    "pause": ("Pause", "Pause"), "printscreen": ("PrintScreen", "Print"),
    "menu": ("ContextMenu", "Menu"), "plus": ("+", "plus"), "minus": ("-", "minus"),
    **{f"f{n}": (f"F{n}", f"F{n}") for n in range(1, 25)},
}  # fmt: skip
_SAME = {
    "control": "ctrl", "controlleft": "ctrl", "ctrlleft": "ctrl", "ctrlright": "ctrl",
    "controlorcontrol": "ctrl", "option": "alt", "altleft": "alt", "altright": "alt",
    "shiftleft": "shift", "shiftright": "shift", "cmd": "meta", "command": "meta", "win": "meta",
    "windows": "meta", "winleft": "meta", "super": "meta", "return": "enter", "escape": "esc",
    "del": "delete", "ins": "insert", "pgup": "pageup", "pgdn": "pagedown", "pgdown": "pagedown",
    "prior": "pageup", "next": "pagedown", "arrowup": "up", "arrowdown": "down",
    "arrowleft": "left", "arrowright": "right", "spacebar": "space", "bksp": "backspace",
    "prtsc": "printscreen", "prtscr": "printscreen", "print": "printscreen", "apps": "menu",
    "contextmenu": "menu", "caps": "capslock",
}  # fmt: skip
_HELD = ("ctrl", "alt", "meta", "shift")


def split_keys(keys: str) -> list[str]:
    """Returns our names of the keys of a combination, modifiers first.

    Args:
        keys: Such as "ctrl c", "Ctrl+Shift+T", "page_down" or "a".

    Raises:
        ActionError: No key, a key that does not exist, or two that are no modifiers.

    Example:
        >>> split_keys("Shift+Control+T")
        ['ctrl', 'shift', 't']
    """
    text = re.sub(r"\bpage[ _-](?=up\b|down\b)", "page", keys.strip(), flags=re.IGNORECASE)
    text = re.sub(r"\barrow[ _-](?=(up|down|left|right)\b)", "arrow", text, flags=re.IGNORECASE)
    parts = re.findall(r"[^\s+]+|\+(?=\s*$|\s*\+)", text)
    found = []
    for part in parts:
        name = part.lower().replace("_", "").replace("-", "") or part
        name = _SAME.get(name, name)
        if len(part) == 1 and part.isprintable():
            name = part.lower() if len(parts) > 1 else part
        elif name not in _NAMED:
            raise ActionError(f"hotkey: no key is called {part!r}; such as 'ctrl c' or 'pagedown'")
        found.append({"+": "plus", "-": "minus"}.get(name, name))
    held = [name for name in _HELD if name in found]
    last = [name for name in found if name not in _HELD]
    if not found or len(last) > 1:
        raise ActionError(f"hotkey: {keys!r} is no combination of modifiers and one key")
    return [*held, *last]


def browser_keys(keys: str) -> str:
    """Returns a combination as Playwright's `keyboard.press` takes it.

    Raises:
        ActionError: No such keys.

    Example:
        >>> browser_keys("ctrl page_down")
        'Control+PageDown'
    """
    named = []
    for name in split_keys(keys):
        if name not in _NAMED and not " " <= name <= "~":
            raise ActionError(f"hotkey: {name!r} is not on the keyboard; type() writes any text")
        named.append(_NAMED[name][0] if name in _NAMED else name)
    return "+".join(named)


def x11_keys(keys: str) -> str:
    """Returns a combination as `xdotool key` takes it.

    Raises:
        ActionError: No such keys.

    Example:
        >>> x11_keys("cmd a")
        'super+a'
    """
    return "+".join(
        _NAMED[name][1] if name in _NAMED else typed_keysym(name) for name in split_keys(keys)
    )


def typed_keysym(character: str) -> str:
    """Returns the X11 keysym of a character.

    Latin-1 has its own numbers; all else is Unicode's, as X11 has it since 1999.

    Raises:
        ActionError: A control character other than newline and tab.

    Example:
        >>> typed_keysym("é"), typed_keysym("€"), typed_keysym("\\n")
        ('0xe9', 'U20AC', 'Return')
    """
    if character in "\r\n\t":
        return "Tab" if character == "\t" else "Return"
    if unicodedata.category(character) in ("Cc", "Cs"):
        raise ActionError(f"type: {character!r} is on no keyboard")
    if character.isascii() and character.isalnum():
        return character
    code = ord(character)
    return f"0x{code:x}" if code < 0x100 else f"U{code:04X}"
