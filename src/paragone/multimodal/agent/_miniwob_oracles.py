"""What is right to do in the pages of MiniWoB++, as goals of the judge's library (`_dom`).

Each body sees `instruction` (the words that an agent is given, too) and the page's elements, and
returns goals in order. Where a page keeps what was done in a variable alone, that is read, too.
"""

from paragone.multimodal.agent._miniwob_more import MORE

__all__ = ["ORACLES"]

_QUOTED = r"const quoted = [...instruction.matchAll(/\"(.*?)\"/g)].map((m) => m[1]);"
_FIRST = r"const quoted = [instruction.match(/\"(.*)\"/)[1]];"
_SEEN = "const best = (found) => found.find((e) => seen(e)) ?? found[0];"

_ONE_OF = f"""{_FIRST} {_SEEN}
const same = all('SELECTOR').filter((e) => e.innerHTML === quoted[0]
  || e.textContent === quoted[0]);
return [press(best(same))];"""

_BOXES = r"""
const named = instruction.match(/^Select (.*) and click Submit\.$/)[1];
const wanted = named === 'nothing' ? [] : named.split(', ');
return [
  ...all('#area input').map((e) => check(e, wanted.includes(e.labels[0].textContent))),
  press(one('#subbtn')),
];"""

_ENTER = f"""{_QUOTED}
return [fill(one('#tt'), quoted[0], 'text field'), press(one('#subbtn'))];"""

_LINK = _ONE_OF.replace("SELECTOR", ".alink")
_BUTTON = _ONE_OF.replace("SELECTOR", "#area button")

ORACLES: dict[str, str] = {
    "click-test": "return [press(one('#subbtn'))];",
    "click-test-2": "return [press(one('#subbtn'))];",
    "click-button": _BUTTON,
    "click-button-sequence": """

if (buttonsPushed[0] === 'subbtn2') return null;
return [press(one(buttonsPushed.length ? '#subbtn2' : '#subbtn'))];""",
    "click-dialog": "return [press(one('.ui-dialog-titlebar button'), 'press', 'x')];",
    "click-dialog-2": f"""{_FIRST}
const close = one('.ui-dialog-titlebar button');
const button = all('.ui-dialog-buttonset button').find((e) => textOf(e) === quoted[0]);
return [press(quoted[0] === 'x' ? close : button, 'press', quoted[0])];""",
    "click-tab": r"""
const number = instruction.match(/#(\d)/)[1];
return [press(one(`#area ul a[href="#tabs-${number}"]`))];""",
    "focus-text": "return [press(one('#tt'), 'focus', 'text field')];",
    "focus-text-2": r"""
const number = instruction.match(/the (\d)/)[1];
const place = ['first', 'second', 'third'][number - 1];
return [press(one('#tt' + number), 'focus', place)];""",
    "click-link": _LINK,
    "click-widget": f"""{_QUOTED} {_SEEN}
return [press(best(all(`#area [data-type="${{quoted[0]}}"]`)), 'press', quoted[0])];""",
    "click-option": r"""
const name = instruction.match(/^Select (.*) and click Submit\.$/)[1];
const option = all('#boxes input').find((e) => e.labels[0].textContent === name);
return [check(option), press(one('#subbtn'))];""",
    "enter-text": _ENTER,
    "enter-text-dynamic": _ENTER,
    "enter-password": f"""{_QUOTED}
return [
  fill(one('#password'), quoted[0]), fill(one('#verify'), quoted[0]), press(one('#subbtn')),
];""",
    "login-user": f"""{_QUOTED}
return [
  fill(one('#username'), quoted[0]), fill(one('#password'), quoted[1]), press(one('#subbtn')),
];""",
    "click-checkboxes": _BOXES,
    "click-checkboxes-transfer": _BOXES,
    "click-color": r"""
const colour = instruction.match(/Click on the (.*) colored box/)[1];
return [press(one(`#area [data-color="${colour}"]`), 'press', colour)];""",
    "click-collapsible": """
const open = one('#area h3').getAttribute('aria-expanded') === 'true';
return [open ? null : press(one('#area h3')), press(one('#subbtn'))];""",
    "grid-coordinate": r"""
const place = instruction.match(/\(.*\)/)[0];
return [press(document.getElementById(place), 'press', place)];""",
    "identify-shape": """
const shape = one('#area_svg').lastElementChild;
const letter = /^[a-z]$/i.test(shape.textContent) ? 'letter' : 'digit';
const kind = {rect: 'rectangle', circle: 'circle', polygon: 'triangle'}[shape.tagName] ?? letter;
return [press(one(`#area-buttons [data-type="${kind}"]`))];""",
    "click-tab-2-easy": _LINK,
    "unicode-test": _BUTTON,
    "enter-date": r"""
const field = one('#tt');
const [month, day, year] = instruction.match(/(\d+)\/(\d+)\/(\d+)/).slice(1);
if (field.value === `${year}-${month}-${day}`) return [press(one('#subbtn'))];
const r = field.getBoundingClientRect();
const first = [r.left, r.top, r.left + 20, r.bottom];
const ready = document.activeElement === field && last.at && last.at[0] <= 20 && !last.keys;
if (ready) return [{do: 'type', say: 'type', text: month + day + year, name: 'date'}];
return [press(field, 'focus', 'date', {at: [11, r.height / 2], around: first})];""",
    **MORE,
}
