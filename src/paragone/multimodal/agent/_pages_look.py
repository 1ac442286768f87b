"""How generated pages look: themes, the frame, and icons drawn by a few strokes."""

from __future__ import annotations

import dataclasses
import html
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from paragone.multimodal.agent._pages_words import LANGUAGES, SENTENCES

__all__ = ["ICONS", "THEMES", "Page", "World", "escape", "frame", "icon"]

THEMES: dict[str, dict[str, str]] = {
    "light": {"page": "#fff", "ink": "#111", "soft": "#eee", "line": "#999", "main": "#06c"},
    "dark": {"page": "#1b1d22", "ink": "#eee", "soft": "#33363e", "line": "#666", "main": "#69f"},
    "contrast": {"page": "#000", "ink": "#ff0", "soft": "#000", "line": "#ff0", "main": "#0ff"},
    "paper": {"page": "#f6f1e4", "ink": "#3b2f22", "soft": "#e8dfc8", "line": "#b8a888",
              "main": "#8a3b12"},
    "mint": {"page": "#f0fbf7", "ink": "#12382c", "soft": "#d2f0e4", "line": "#7cc3a8",
             "main": "#0a7a55"},
    "rose": {"page": "#fff5f7", "ink": "#4a1626", "soft": "#fadbe3", "line": "#dd9ab0",
             "main": "#b3124a"},
    "slate": {"page": "#dfe4ea", "ink": "#1c2733", "soft": "#fff", "line": "#8795a5",
              "main": "#2f4b6e"},
    "amber": {"page": "#2a2118", "ink": "#ffd79a", "soft": "#43351f", "line": "#8a6b35",
              "main": "#ffb02e"},
}  # fmt: skip
"""Colours; the last two are held out for test seeds."""

_HELD_OUT = ("slate", "amber")

ICONS: dict[str, str] = {
    "plus": "M4 12H20M12 4V20",
    "minus": "M4 12H20",
    "cross": "M5 5L19 19M19 5L5 19",
    "tick": "M4 13L10 19L20 6",
    "left": "M20 12H5M11 5L4 12L11 19",
    "right": "M4 12H19M13 5L20 12L13 19",
    "up": "M12 20V5M5 11L12 4L19 11",
    "down": "M12 4V19M5 13L12 20L19 13",
    "search": "M10 4A6 6 0 1 0 10 16A6 6 0 1 0 10 4M15 15L21 21",
    "bin": "M4 7H20M9 7V4H15V7M6 7L7 21H17L18 7",
    "house": "M3 12L12 4L21 12M6 10V20H18V10",
    "star": "M12 3L15 10L22 10L16 14L18 21L12 17L6 21L8 14L2 10L9 10Z",
    "letter": "M3 6H21V18H3ZM3 7L12 14L21 7",
    "lock": "M5 11H19V21H5ZM8 11V7A4 4 0 0 1 16 7V11",
    "clock": "M12 3A9 9 0 1 0 12 21A9 9 0 1 0 12 3M12 7V12L16 14",
    "folder": "M3 6H10L12 9H21V19H3Z",
    "play": "M7 4L20 12L7 20Z",
    "pause": "M8 4V20M16 4V20",
    "person": "M12 4A4 4 0 1 0 12 12A4 4 0 1 0 12 4M4 21A8 8 0 0 1 20 21",
    "bars": "M4 6H20M4 12H20M4 18H20",
}
"""Strokes on a field of 24 x 24, in the order of `ICON_NAMES`."""


@dataclasses.dataclass(frozen=True)
class World:
    """What a page is made from.

    Args:
        random: The only source of chance.
        width: In CSS pixels.
        height: In CSS pixels.
        held_out: Whether words and themes of tests may be used.
        languages: To choose from.
    """

    random: random.Random
    width: int = 160
    height: int = 160
    held_out: bool = False
    languages: tuple[str, ...] = LANGUAGES
    language: str = dataclasses.field(default="", init=False)
    theme: str = dataclasses.field(default="", init=False)

    def __post_init__(self) -> None:
        themes = [name for name in THEMES if self.held_out or name not in _HELD_OUT]
        object.__setattr__(self, "language", self.random.choice(self.languages))
        object.__setattr__(self, "theme", self.random.choice(themes))

    def draw(self, words: Mapping[str, Sequence[str]] | Sequence[str], count: int) -> list[str]:
        """Different words of the page's language."""
        listed = words[self.language] if isinstance(words, Mapping) else words
        known = [w for at, w in enumerate(listed) if self.held_out or at % 5 != 4]
        return self.random.sample(sorted(set(known)), min(count, len(set(known))))

    def say(self, kind: str, **parts: object) -> str:
        """A sentence of the page's language."""
        return SENTENCES[kind][self.language].format(**parts)

    def listed(self, words: Sequence[str]) -> str:
        """Words with commas and an "and"."""
        joint = {"en": "and", "de": "und", "it": "e", "es": "y", "fr": "et"}[self.language]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joint} {words[-1]}"


@dataclasses.dataclass(frozen=True)
class Page:
    """A page and its exercise.

    Args:
        instruction: What is to be done.
        body: HTML.
        script: JavaScript, with `end(reward)`, `one` and `all` at hand; it may define functions.
        wanted: Body of a function that returns goals; `t` holds the judge's library.
    """

    instruction: str
    body: str
    script: str
    wanted: str


def escape(text: str) -> str:
    """Text for HTML, also inside quotes."""
    return html.escape(text, quote=True)


def icon(name: str, size: int) -> str:
    """An icon as inline SVG."""
    return (
        f'<svg width="{size}" height="{size}" viewBox="0 0 24 24" fill="none" '
        f'stroke="currentColor" stroke-width="2.2"><path d="{ICONS[name]}"/></svg>'
    )


_STYLE = """
* {{ box-sizing: border-box; }}
html, body {{ margin: 0; padding: 0; }}
body {{ background: {page}; }}
main {{ position: relative; width: {width}px; height: {height}px; overflow-x: hidden;
  overflow-y: auto; background: {page}; color: {ink}; font: {size}px/1.3 {font};
  padding: {above}px {pad}px {pad}px {before}px; }}
button, input, textarea, .item {{ font: inherit; color: {ink}; background: {soft};
  border: {stroke}px solid {line}; border-radius: {radius}px; }}
button {{ padding: {gap}px {wide}px; margin: {gap}px 1px; }}
button.main {{ background: {main}; color: {page}; border-color: {main}; }}
input[type=text] {{ width: 100%; padding: 1px 3px; background: {page}; }}
input[type=checkbox], input[type=radio] {{ width: {tick}px; height: {tick}px; margin: 1px 3px 1px 0;
  vertical-align: middle; accent-color: {main}; }}
input[type=range] {{ width: 100%; margin: {gap}px 0; accent-color: {main}; }}
label {{ display: block; }} h1 {{ font-size: 1.15em; margin: 0 0 {gap}px 0; }}
p {{ margin: {gap}px 0; }} a {{ color: {main}; }}
table {{ border-collapse: collapse; width: 100%; }}
td, th {{ border: 1px solid {line}; padding: {gap}px 3px; text-align: left; }}
th {{ background: {soft}; }} [hidden] {{ display: none !important; }}
.bar {{ display: flex; flex-wrap: wrap; gap: 2px; border-bottom: 1px solid {line}; }}
.bar button {{ margin: 0; }} .on {{ background: {main}; color: {page}; }}
.cover {{ position: absolute; inset: 0; background: #0008; }}
.box {{ position: absolute; left: 8%; right: 8%; top: 22%; background: {page}; padding: {pad}px;
  border: 1px solid {line}; border-radius: {radius}px; }}
.drop {{ position: absolute; background: {page}; border: 1px solid {line}; z-index: 2; }}
.drop div, .item {{ padding: {gap}px {wide}px; }}
.list {{ height: 55%; overflow-y: auto; border: 1px solid {line}; }}
.list .item {{ border-width: 0 0 1px 0; border-radius: 0; background: {page}; }}
.switch {{ display: flex; justify-content: space-between; align-items: center; }}
.switch [role=switch] {{ width: 26px; height: 14px; border-radius: 7px; background: {line};
  position: relative; }}
.switch [role=switch]::after {{ content: ''; position: absolute; width: 10px; height: 10px;
  top: 2px; left: 2px; border-radius: 5px; background: {page}; }}
.switch [aria-checked=true] {{ background: {main}; }}
.switch [aria-checked=true]::after {{ left: 14px; }}
"""

_PAGE = """<!DOCTYPE html><html lang="{language}"><head><meta charset="utf-8">
<style>{style}</style></head><body><main>{body}</main><script>{{
const one = (s, root = document) => root.querySelector(s);
const all = (s, root = document) => [...root.querySelectorAll(s)];
let reward = null;
const end = (r) => {{ if (reward === null) reward = r; }};
{script}
window.paragone = {{
  instruction: {instruction},
  reward: () => reward,
  wanted: (t) => {{ {wanted} }},
}};
}}</script></body></html>"""


def frame(world: World, page: Page) -> str:
    """The whole page as HTML."""
    draw = world.random
    large = min(world.width, world.height) >= 320
    size = draw.choice((13, 14, 15, 16) if large else (9, 10, 11))
    pad = draw.choice((3, 4, 6))
    look: dict[str, Any] = {
        **THEMES[world.theme], "width": world.width, "height": world.height, "size": size,
        "font": draw.choice(("DejaVu Sans", "DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono")),
        "pad": pad, "before": pad + draw.choice((0, 0, 5, 12)),
        "above": pad + draw.choice((0, 0, 6, 14, 24)) * world.height // 160,
        "stroke": draw.choice((1, 1, 2)),
        "radius": draw.choice((0, 3, 8)), "gap": draw.choice((1, 2, 3)),
        "wide": draw.choice((4, 6, 8)), "tick": size + 1,
    }  # fmt: skip
    told = json.dumps(page.instruction).replace("</", "<\\/")
    return _PAGE.format(
        language=world.language, style=_STYLE.format(**look), body=page.body, script=page.script,
        instruction=told, wanted=page.wanted,
    )  # fmt: skip
