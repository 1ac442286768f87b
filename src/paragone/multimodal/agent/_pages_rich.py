"""Generated pages of several steps: forms, lists, settings, sliders, orders."""

from __future__ import annotations

import json
from collections.abc import Callable

from paragone.multimodal.agent._pages_look import Page, World, escape
from paragone.multimodal.agent._pages_words import (
    ACTIONS,
    FIELDS,
    PEOPLE,
    SWITCHES,
    THINGS,
)

__all__ = ["RICH"]

_LETTERS = "abcdefghijkmnpqrstuvwxyzACDEFGHKLMNPRTUVWXY23456789"


def _value(world: World) -> str:
    draw = world.random
    if draw.random() < 0.5:
        return draw.choice((world.draw(PEOPLE, 1)[0], world.draw(THINGS, 1)[0].lower()))
    return "".join(draw.choice(_LETTERS) for _ in range(draw.randint(2, 6)))


def form(world: World) -> Page:
    """Fields to fill, some with something in them already."""
    draw = world.random
    most = 2 if world.height < 240 else 4
    count = draw.randint(1, most)
    shown = world.draw(FIELDS, min(count + draw.randint(0, 1), most))
    asked = sorted(draw.sample(range(len(shown)), min(count, len(shown))))
    values = {at: _value(world) for at in asked}
    button = world.draw(ACTIONS, 1)[0]
    rows = []
    for at, name in enumerate(shown):
        held = _value(world) if at in values and draw.random() < 0.15 else ""
        rows.append(
            f'<label>{escape(name)}<input type="text" id="f{at}" autocomplete="off" '
            f'value="{escape(held)}"></label>'
        )
    told = [f'"{values[at]}" ({shown[at]})' for at in asked]
    rights = json.dumps({f"#f{at}": values.get(at, "") for at in range(len(shown))})
    body = f'{"".join(rows)}<button class="main" id="send">{escape(button)}</button>'
    script = f"""
const rights = Object.entries({rights});
one('#send').onclick = () => end(rights.every(([s, v]) => one(s).value === v) ? 1 : 0);"""
    wanted = "return [...rights.map(([s, v]) => t.fill(one(s), v)), t.press(one('#send'))];"
    return Page(world.say("fields", a=world.listed(told), b=button), body, script, wanted)


def ticks(world: World) -> Page:
    """Checkboxes, or radio buttons of which one is right, and a button."""
    draw = world.random
    radio = draw.random() < 0.35
    names = world.draw(PEOPLE if draw.random() < 0.5 else THINGS, draw.randint(3, 5))
    count = 1 if radio else draw.randint(1, 3)
    asked = sorted(draw.sample(range(len(names)), count))
    button = world.draw(ACTIONS, 1)[0]
    kind = "radio" if radio else "checkbox"
    rows = []
    for at, name in enumerate(names):
        state = "checked" if not radio and draw.random() < 0.15 else ""
        right = "data-right" if at in asked else ""
        rows.append(f'<label><input type="{kind}" name="n" {state} {right}>{escape(name)}</label>')
    body = f'{"".join(rows)}<button class="main" id="send">{escape(button)}</button>'
    script = """
const boxes = all('input');
one('#send').onclick = () => end(boxes.every((e) => e.checked === 'right' in e.dataset) ? 1 : 0);"""
    wanted = """
const wrong = (e) => e.type === 'radio' && !('right' in e.dataset);
return [
  ...boxes.filter((e) => !wrong(e)).map((e) => t.check(e, 'right' in e.dataset)),
  t.press(one('#send')),
];"""
    said = world.listed([f'"{names[at]}"' for at in asked])
    return Page(world.say("ticks", a=said, b=button), body, script, wanted)


def settings(world: World) -> Page:
    """Switches to set, and a button."""
    draw = world.random
    names = world.draw(SWITCHES, draw.randint(2, 4))
    asked = draw.sample(range(len(names)), draw.randint(1, 2))
    button = world.draw(ACTIONS, 1)[0]
    rows = []
    for at, name in enumerate(names):
        state = "true" if draw.random() < 0.3 else "false"
        right = "data-right" if at in asked else ""
        rows.append(
            f'<div class="switch"><span>{escape(name)}</span><div role="switch" {right} '
            f'aria-label="{escape(name)}" aria-checked="{state}"></div></div>'
        )
    body = f'{"".join(rows)}<button class="main" id="send">{escape(button)}</button>'
    script = """
const on = (e) => e.getAttribute('aria-checked') === 'true';
const switches = all('[role=switch]');
for (const e of switches) e.onclick = () => e.setAttribute('aria-checked', String(!on(e)));
one('#send').onclick = () => end(switches.every((e) => on(e) === 'right' in e.dataset) ? 1 : 0);"""
    wanted = """
return [
  ...switches.map((e) => (on(e) === 'right' in e.dataset ? null : t.press(e))),
  t.press(one('#send')),
];"""
    said = world.listed([f'"{names[at]}"' for at in sorted(asked)])
    return Page(world.say("on", a=said, b=button), body, script, wanted)


def search(world: World) -> Page:
    """A long list with a field that narrows it; scrolling leads there, too."""
    draw = world.random
    names = world.draw(PEOPLE, draw.randint(8, 14))
    asked = draw.randrange(len(names))
    typed = draw.random() < 0.5
    rows = "".join(
        f'<div class="item" role="option" {"data-right" if at == asked else ""}>{name}</div>'
        for at, name in enumerate(names)
    )
    field = '<input type="text" id="find" autocomplete="off" aria-label="search">' if typed else ""
    body = f'{field}<div class="list">{rows}</div>'
    script = """
for (const e of all('.item')) e.onclick = () => end('right' in e.dataset ? 1 : 0);
const find = one('#find');
if (find) find.oninput = () => {
  for (const e of all('.item')) e.hidden = !e.textContent.startsWith(find.value);
};"""
    wanted = f"""
const right = one('.item[data-right]');
const narrow = find && !t.seen(right) && t.fill(find, {json.dumps(names[asked])});
return [narrow || null, t.press(right)];"""
    return Page(world.say("find", a=names[asked]), body, script, wanted)


def slider(world: World) -> Page:
    """A slider to drag, and a button."""
    draw = world.random
    name = world.draw(SWITCHES, 1)[0]
    steps = draw.choice((4, 5, 8, 10))
    each = draw.choice((1, 5, 10))
    at, right = draw.sample(range(steps + 1), 2)
    button = world.draw(ACTIONS, 1)[0]
    wide = draw.randint(60, 100)
    body = (
        f'<p>{escape(name)}: <b id="n">{at * each}</b></p><input type="range" min="0" id="r" '
        f'max="{steps * each}" step="{each}" value="{at * each}" style="width:{wide}%" '
        f'aria-label="{escape(name)}"><br>'
        f'<button class="main" id="send">{escape(button)}</button>'
    )
    script = f"""
const range = one('#r');
range.oninput = () => {{ one('#n').textContent = range.value; }};
one('#send').onclick = () => end(Number(range.value) === {right * each} ? 1 : 0);"""
    wanted = f"""
const r = range.getBoundingClientRect();
const thumb = 16;
const place = (value) => r.left + thumb / 2 + (r.width - thumb) * value / {steps * each};
const y = (r.top + r.bottom) / 2;
const x = place(Number(range.value));
return [
  t.drag(range, [place({right * each}), y], Number(range.value) === {right * each}, null,
    {{at: [x - r.left, r.height / 2], around: [x - 7, r.top, x + 7, r.bottom]}}),
  t.press(one('#send')),
];"""
    return Page(world.say("slider", a=f'"{name}"', n=right * each, b=button), body, script, wanted)


def order(world: World) -> Page:
    """Things with their numbers, each with a plus and a minus, and a button."""
    draw = world.random
    names = world.draw(THINGS, draw.randint(1, 3))
    counts = [draw.choice((0, 0, 0, 1, 2)) for _ in names]
    asked = draw.randrange(len(names))
    right = draw.choice([n for n in range(5) if n != counts[asked]])
    goal = [right if at == asked else n for at, n in enumerate(counts)]
    button = world.draw(ACTIONS, 1)[0]
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td><button data-less="{at}" aria-label="-">-</button>'
        f'<b id="n{at}">{count}</b><button data-more="{at}" aria-label="+">+</button></td></tr>'
        for at, (name, count) in enumerate(zip(names, counts, strict=True))
    )
    body = f'<table>{rows}</table><button class="main" id="send">{escape(button)}</button>'
    script = f"""
const counts = {counts};
const goal = {goal};
const change = (at, by) => {{
  counts[at] = Math.max(0, counts[at] + by);
  one('#n' + at).textContent = counts[at];
}};
for (const e of all('[data-less]')) e.onclick = () => change(Number(e.dataset.less), -1);
for (const e of all('[data-more]')) e.onclick = () => change(Number(e.dataset.more), 1);
one('#send').onclick = () => end(counts.every((n, at) => n === goal[at]) ? 1 : 0);"""
    wanted = """
return [
  ...counts.map((n, at) => (n === goal[at] ? null
    : t.press(one(`[data-${n < goal[at] ? 'more' : 'less'}="${at}"]`)))),
  t.press(one('#send')),
];"""
    return Page(world.say("cart", a=names[asked], n=right, b=button), body, script, wanted)


RICH: dict[str, Callable[[World], Page]] = {
    "form": form, "ticks": ticks, "settings": settings, "search": search, "slider": slider,
    "order": order,
}  # fmt: skip
"""Kinds of pages."""
