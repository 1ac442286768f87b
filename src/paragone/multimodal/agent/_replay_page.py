r"""The page of a replay: HTML that is safe whatever an agent or a page has said.

Each screen stands once in a store and is drawn by reference, with its marks over it. A policy in
the page's head names the hashes of its one style and one script,

$$ \text{hash} = \text{base64}(\text{SHA-256}(\text{text})) , $$

so a browser would run nothing else even if something got through the escaping.

References:
    W3C (2016), "Content Security Policy Level 3", section 2.3.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence

from paragone.multimodal.agent._episode_files import png, screen_name
from paragone.multimodal.agent._marks import in_words, marks, printable, svg, unit
from paragone.multimodal.agent.contract import Screen
from paragone.multimodal.agent.loop import Episode, Step

__all__ = ["replay_page"]

_SEEN = 480

_STYLE = """
:root {
  color-scheme: light dark;
  --bg: light-dark(#f3f4f7, #0f1216); --card: light-dark(#fff, #171b21);
  --ink: light-dark(#14181f, #e8ebf0); --soft: light-dark(#545d6b, #a3adba);
  --line: light-dark(#dfe3e9, #2b323c); --accent: light-dark(#005f99, #62b4f0);
  --good: light-dark(#00694d, #3fcf9f); --good-wash: light-dark(#e3f4ee, #12302a);
  --bad: light-dark(#a3261e, #ff9d8c); --bad-wash: light-dark(#fdeae8, #3a1d1a);
}
*, *::before, *::after { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 2rem 1.25rem 5rem; }
h1, h2, h3, p { margin: 0; overflow-wrap: anywhere; }
h1 { font-size: 1.05rem; font-weight: 600; color: var(--soft); }
h2 { font-size: 1.5rem; line-height: 1.25; letter-spacing: -0.015em; }
h3 { font-size: 1.05rem; line-height: 1.35; }
section { margin-top: 2.2rem; }
.facts { display: flex; flex-wrap: wrap; gap: .3rem .9rem; margin-top: .6rem; color: var(--soft);
  align-items: center; }
.chip { padding: .05rem .7rem; border-radius: 99px; font-weight: 600; font-size: .9rem; }
.good { color: var(--good); background: var(--good-wash); }
.bad { color: var(--bad); background: var(--bad-wash); }
ol { list-style: none; margin: 0; padding: 0; }
.index { margin-top: 1rem; border: 1px solid var(--line); border-radius: .7rem;
  background: var(--card); }
.index li { display: flex; gap: .8rem; padding: .45rem 1rem; align-items: baseline; }
.index li + li { border-top: 1px solid var(--line); }
.index a { color: var(--accent); flex: 1; min-width: 0; overflow-wrap: anywhere; }
.step { display: flex; flex-wrap: wrap; gap: 1rem 1.4rem; margin-top: 1rem; padding: 1rem;
  background: var(--card); border: 1px solid var(--line); border-radius: .8rem;
  scroll-margin: 1rem; }
.step:focus { outline: 3px solid var(--accent); outline-offset: 2px; }
.screen { margin: 0; flex: 0 1 auto; max-width: min(100%, 46rem); }
.screen svg { display: block; max-width: 100%; height: auto; border-radius: .3rem;
  outline: 1px solid var(--line); }
.sharp { image-rendering: pixelated; }
.said { flex: 1 1 15rem; min-width: 0; display: flex; flex-direction: column; gap: .5rem; }
.number { display: inline-block; min-width: 1.7em; padding: 0 .45em; margin-right: .5em;
  border-radius: 99px; background: var(--ink); color: var(--card); text-align: center;
  font-size: .85em; line-height: 1.7em; }
.thought { white-space: pre-wrap; }
.label { display: block; color: var(--soft); font-size: .82rem; }
.error { color: var(--bad); background: var(--bad-wash); padding: .35rem .7rem;
  border-radius: .4rem; white-space: pre-wrap; }
.soft, summary { color: var(--soft); font-size: .88rem; }
summary { cursor: pointer; }
pre { margin: .4rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .82rem;
  font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
[data-hint] { margin-top: .8rem; }
.store { position: absolute; }
.halo, .mark { fill: none; stroke-linecap: round; stroke-linejoin: round; }
.halo { stroke: #fff; }
.mark { stroke: #e2005a; }
.mark .filled { fill: #e2005a; fill-opacity: .35; }
@media print { .step { break-inside: avoid; } }
"""

_SCRIPT = """
(() => {
  const steps = [...document.querySelectorAll(".step")];
  if (!steps.length) return;
  const hint = document.querySelector("[data-hint]");
  hint.hidden = false;
  let at = -1;
  addEventListener("focusin", (event) => {
    const found = steps.indexOf(event.target.closest(".step"));
    if (found >= 0) at = found;
  });
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!way) return;
    event.preventDefault();
    at = Math.min(Math.max(at + way, 0), steps.length - 1);
    steps[at].focus({ preventScroll: true });
    steps[at].scrollIntoView({ block: "nearest" });
  });
})();
"""


def replay_page(episodes: Sequence[Episode], title: str) -> str:
    """The whole page as text that UTF-8 can hold."""
    store = _Store()
    shown = [_episode(number, one, store) for number, one in enumerate(episodes, 1)]
    index = _index(episodes) if len(episodes) > 1 else ""
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(_STYLE)}'; script-src '{_hash(_SCRIPT)}'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n{store}<main>\n"
        f"<h1>{_text(title)}</h1>\n{index}"
        '<p class="soft" data-hint hidden>The arrow keys ← and → go from step to step.</p>\n'
        f"{''.join(shown)}</main>\n<script>{_SCRIPT}</script>\n</body></html>\n"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(text: str, lines: bool = False) -> str:
    """A text for HTML: what cannot be seen is spelled out, and all of it is escaped."""
    parts = text.split("\n") if lines else [text]
    return html.escape("\n".join(map(printable, parts)))


class _Store:
    """Screens, each different one once."""

    def __init__(self) -> None:
        self._images: dict[str, str] = {}
        self._known: dict[int, tuple[Screen, str]] = {}

    def name(self, screen: Screen) -> str:
        """The id of a screen's image."""
        if id(screen) not in self._known:
            name = f"s{screen_name(screen)}"
            self._known[id(screen)] = screen, name
            if name not in self._images:
                rows, columns = screen.size
                data = base64.b64encode(png(screen.pixels)).decode()
                sharp = ' class="sharp"' * (columns <= _SEEN // 2)
                self._images[name] = (
                    f'<image id="{name}" width="{columns}" height="{rows}"{sharp} '
                    f'href="data:image/png;base64,{data}"/>\n'
                )
        return self._known[id(screen)][1]

    def __str__(self) -> str:
        inside = "".join(self._images.values())
        return (
            '<svg class="store" width="0" height="0" aria-hidden="true"><defs>\n'
            f"{inside}</defs></svg>\n"
        )


def _index(episodes: Sequence[Episode]) -> str:
    rows = [
        f'<li>{_chip(one)}<a href="#e{number}">{_text(one.instruction)}</a>'
        f'<span class="soft">{_facts(one)}</span></li>\n'
        for number, one in enumerate(episodes, 1)
    ]
    return f'<ol class="index">\n{"".join(rows)}</ol>\n'


def _chip(episode: Episode) -> str:
    kind = "good" if episode.good else "bad"
    return f'<span class="chip {kind}">{_text(episode.verdict)}</span>'


def _facts(episode: Episode) -> str:
    count = len(episode.steps)
    return f"{count} step{'s' * (count != 1)}, {episode.seconds:.1f} s"


def _episode(number: int, episode: Episode, store: _Store) -> str:
    steps = [_step(f"e{number}s{at}", at, one, store) for at, one in enumerate(episode.steps, 1)]
    took = [step.seconds for step in episode.steps]
    mean = f"<span>{1000 * sum(took) / len(took):.0f} ms a step</span>" if took else ""
    error = f'<p class="error">{_text(episode.error, True)}</p>' if episode.error else ""
    end = ""
    if episode.last is not None:
        picture = _picture(episode.last, None, store, "The last screenshot.")
        end = f'<li class="step" tabindex="-1">{picture}<div class="said"><h3>In the end</h3>'
        end += f"<p>{_chip(episode)}</p></div></li>\n"
    return (
        f'<section id="e{number}"><h2>{_text(episode.instruction)}</h2>\n<p class="facts">'
        f"{_chip(episode)}<span>{_facts(episode)}</span>{mean}</p>{error}\n"
        f"<ol>\n{''.join(steps)}{end}</ol></section>\n"
    )


def _step(name: str, number: int, step: Step, store: _Store) -> str:
    said = "; ".join(in_words(action) for action in step.actions) or "no action"
    unchanged = ", the screen stayed as it was" if step.changed is False else ""
    parts = [f'<h3><span class="number">{number}</span>{_text(said)}</h3>']
    for action in step.actions:
        for label in ("reflection", "thought", "summary"):
            if text := getattr(action, label):
                parts.append(
                    f'<p class="thought"><span class="label">{label}</span>{_text(text, True)}</p>'
                )
    if step.error:
        parts.append(f'<p class="error">{_text(step.error, True)}</p>')
    parts.append(f'<p class="soft">{1000 * step.seconds:.0f} ms{unchanged}</p>')
    parts.append(
        f"<details><summary>the answer as it came</summary><pre>{_text(step.text, True)}</pre>"
        "</details>"
    )
    picture = _picture(step.screen, step, store, f"Screenshot before step {number}: {said}")
    return (
        f'<li class="step" id="{name}" tabindex="-1">{picture}\n'
        f'<div class="said">{"".join(parts)}</div></li>\n'
    )


def _picture(screen: Screen, step: Step | None, store: _Store, words: str) -> str:
    rows, columns = screen.size
    times = max(1, _SEEN // columns)
    u = unit(rows, columns)
    over = "".join(
        svg(marks(action, rows, columns), u) for action in (step.actions if step else ())
    )
    return (
        f'<figure class="screen"><svg viewBox="0 0 {columns} {rows}" width="{times * columns}" '
        f'height="{times * rows}" role="img" aria-label="{_text(words)}">'
        f'<use href="#{store.name(screen)}"/>{over}</svg></figure>'
    )
