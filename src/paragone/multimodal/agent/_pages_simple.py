"""Generated pages of one or two steps: buttons, icons, tables, dialogs, menus, tabs."""

from __future__ import annotations

import json
from collections.abc import Callable

from paragone.multimodal.agent._pages_look import ICONS, Page, World, escape, icon
from paragone.multimodal.agent._pages_words import (
    ACTIONS,
    ICON_NAMES,
    PEOPLE,
    THINGS,
    TOPICS,
)

__all__ = ["SIMPLE"]

_RIGHT = "return [t.press(one('[data-right]'))];"
_JUDGE = "for (const e of all('[data-judge]')) e.onclick = () => end('right' in e.dataset ? 1 : 0);"


def _mark(right: bool) -> str:
    return "data-judge data-right" if right else "data-judge"


def buttons(world: World) -> Page:
    """Buttons and links among words; one of them is asked for."""
    draw = world.random
    count = draw.randint(3, 7)
    names = world.draw(ACTIONS, count)
    links = [draw.random() < 0.35 for _ in names]
    asked = draw.randrange(count)
    parts = [f"<h1>{escape(world.draw(TOPICS, 1)[0])}</h1>"]
    for at, (name, link) in enumerate(zip(names, links, strict=True)):
        mark = _mark(at == asked)
        if draw.random() < 0.3:
            parts.append(f"<span>{escape(' '.join(world.draw(THINGS, 2)))}</span> ")
        if link:
            parts.append(f'<a href="#" {mark}>{escape(name)}</a> ')
        else:
            kind = ' class="main"' if draw.random() < 0.3 else ""
            parts.append(f"<button {mark}{kind}>{escape(name)}</button> ")
        if draw.random() < 0.4:
            parts.append("<br>")
    sentence = world.say("link" if links[asked] else "button", a=names[asked])
    return Page(sentence, "".join(parts), _JUDGE, _RIGHT)


def toolbar(world: World) -> Page:
    """A bar of icons without words."""
    draw = world.random
    count = draw.randint(4, 9)
    named = list(zip(ICONS, ICON_NAMES[world.language], strict=True))
    chosen = draw.sample(named, count)
    asked = draw.randrange(count)
    size = draw.choice((14, 16, 20, 24))
    bar = "".join(
        f'<button {_mark(at == asked)} aria-label="{escape(name)}">{icon(drawn, size)}</button>'
        for at, (drawn, name) in enumerate(chosen)
    )
    below = escape(" ".join(world.draw(THINGS, 6)))
    parts = [f'<div class="bar">{bar}</div>', f"<p>{below}</p>"]
    if draw.random() < 0.4:
        parts.reverse()
    return Page(world.say("icon", a=chosen[asked][1]), "".join(parts), _JUDGE, _RIGHT)


def table(world: World) -> Page:
    """A table to look something up in, or to sort first."""
    draw = world.random
    names = world.draw(THINGS, draw.randint(3, 5))
    prices = draw.sample(range(10, 99), len(names))
    heads = {
        "en": ("Name", "Price"), "de": ("Name", "Preis"), "it": ("Nome", "Prezzo"),
        "es": ("Nombre", "Precio"), "fr": ("Nom", "Prix"),
    }[world.language]  # fmt: skip
    kind = draw.choice(("cell", "cheapest", "sort"))
    asked = draw.randrange(len(names)) if kind == "cell" else prices.index(min(prices))
    rows = "".join(
        f"<tr><td {_mark(kind == 'cheapest' and at == asked)}>{escape(name)}</td>"
        f"<td {_mark(kind == 'cell' and at == asked)}>{price}</td></tr>"
        for at, (name, price) in enumerate(zip(names, prices, strict=True))
    )
    body = f'<table><thead><tr><th>{heads[0]}</th><th id="by">{heads[1]}</th></tr></thead>'
    body += f'<tbody id="rows">{rows}</tbody></table>'
    if kind != "sort":
        return Page(world.say(kind, a=names[asked]), body, _JUDGE, _RIGHT)
    script = """
let sorted = false;
one('#by').onclick = () => {
  sorted = true;
  const price = (row) => Number(row.lastElementChild.textContent);
  one('#rows').append(...all('#rows tr').sort((a, b) => price(a) - price(b)));
};
one('#rows').onclick = (event) => end(
  sorted && event.target.closest('tr') === one('#rows tr') ? 1 : 0);"""
    wanted = "return [sorted ? null : t.press(one('#by')), t.press(one('#rows td'))];"
    return Page(world.say("sort", a=heads[1]), body, script, wanted)


def dialog(world: World) -> Page:
    """A dialog over the page, which may have to be opened first."""
    draw = world.random
    opener, *answers = world.draw(ACTIONS, 4)
    answers = answers[: draw.randint(2, 3)]
    asked = draw.randrange(len(answers))
    shown = draw.random() < 0.5
    inside = "".join(
        f"<button {_mark(at == asked)}>{escape(word)}</button>" for at, word in enumerate(answers)
    )
    other = world.draw(PEOPLE, 1)[0]
    text = escape(" ".join(world.draw(THINGS, draw.randint(2, 4))))
    parts = [
        f"<h1>{escape(world.draw(TOPICS, 1)[0])}</h1>",
        f"<p>{escape(' '.join(world.draw(THINGS, 4)))}</p>",
        f'<button id="open">{escape(opener)}</button> <button>{other}</button>',
        f'<div class="cover" id="cover" {"" if shown else "hidden"}><div class="box" role="dialog">'
        f"<p>{text}?</p>{inside}</div></div>",
    ]
    script = f"{_JUDGE} one('#open').onclick = () => {{ one('#cover').hidden = false; }};"
    wanted = """
return [one('#cover').hidden ? t.press(one('#open')) : null, t.press(one('[data-right]'))];"""
    kind = "answer" if shown else "dialog"
    told = {"a": answers[asked]} if shown else {"a": opener, "b": answers[asked]}
    return Page(world.say(kind, **told), "".join(parts), script, wanted)


def menu(world: World) -> Page:
    """Menus of a bar that drop down."""
    draw = world.random
    heads = world.draw(TOPICS, draw.randint(2, 3))
    items = world.draw(ACTIONS, 3 * len(heads))
    asked, inner = draw.randrange(len(heads)), draw.randrange(3)
    bar, drops = [], []
    for at, head in enumerate(heads):
        bar.append(f'<button data-menu="{at}">{escape(head)}</button>')
        entries = "".join(
            f'<div role="menuitem" {_mark(at == asked and k == inner)}>{escape(word)}</div>'
            for k, word in enumerate(items[3 * at : 3 * at + 3])
        )
        drops.append(f'<div class="drop" data-drop="{at}" hidden>{entries}</div>')
    text = escape(" ".join(world.draw(THINGS, 6)))
    body = f'<div class="bar">{"".join(bar)}</div>{"".join(drops)}<p>{text}</p>'
    script = f"""{_JUDGE}
for (const head of all('[data-menu]')) head.onclick = () => {{
  for (const drop of all('[data-drop]')) {{
    drop.hidden = drop.dataset.drop !== head.dataset.menu || !drop.hidden;
    drop.style.left = head.offsetLeft + 'px';
    drop.style.top = head.offsetTop + head.offsetHeight + 'px';
  }}
}};"""
    wanted = f"""
const drop = one('[data-drop="{asked}"]');
const head = one('[data-menu="{asked}"]');
return [drop.hidden ? t.press(head) : null, t.press(one('[data-right]'))];"""
    sentence = world.say("menu", a=heads[asked], b=items[3 * asked + inner])
    return Page(sentence, body, script, wanted)


def tabs(world: World) -> Page:
    """Tabs or sections that open; something in one of them is asked for."""
    draw = world.random
    heads = world.draw(TOPICS, draw.randint(2, 3))
    words = world.draw(THINGS, 3 * len(heads))
    asked, inner = draw.randrange(len(heads)), draw.randrange(3)
    panels = [
        "".join(
            f'<a href="#" {_mark(at == asked and k == inner)}>{escape(word)}</a><br>'
            for k, word in enumerate(words[3 * at : 3 * at + 3])
        )
        for at in range(len(heads))
    ]
    upright = draw.random() < 0.5
    opened = draw.randrange(len(heads)) if not upright else -1
    head = [
        f'<button role="tab" data-tab="{at}">{escape(h)}</button>' for at, h in enumerate(heads)
    ]
    panel = [
        f'<div data-panel="{at}" {"" if at == opened else "hidden"}>{p}</div>'
        for at, p in enumerate(panels)
    ]
    if upright:
        pairs = zip(head, panel, strict=True)
        body = "".join(f"<div>{one}</div>{two}" for one, two in pairs)
    else:
        body = f'<div class="bar">{"".join(head)}</div>{"".join(panel)}'
    script = f"""{_JUDGE}
const upright = {json.dumps(upright)};
const show = (at) => {{
  for (const p of all('[data-panel]')) {{
    p.hidden = p.dataset.panel === at ? upright && !p.hidden : true;
    one(`[data-tab="${{p.dataset.panel}}"]`).classList.toggle('on', !p.hidden);
  }}
}};
for (const p of all('[data-tab]')) p.onclick = () => show(p.dataset.tab);
if (!upright) one('[data-tab="{max(opened, 0)}"]').classList.add('on');"""
    wanted = f"""
const panel = one('[data-panel="{asked}"]');
const head = one('[data-tab="{asked}"]');
return [panel.hidden ? t.press(head) : null, t.press(one('[data-right]'))];"""
    return Page(world.say("tab", a=heads[asked], b=words[3 * asked + inner]), body, script, wanted)


SIMPLE: dict[str, Callable[[World], Page]] = {
    "buttons": buttons, "toolbar": toolbar, "table": table, "dialog": dialog, "menu": menu,
    "tabs": tabs,
}  # fmt: skip
"""Kinds of pages."""
