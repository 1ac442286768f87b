"""What is right to do in further pages of MiniWoB++.

Where something must be found first, a teacher that knew where it is would show guessing. These look
where it can be: the next tab, the next section, the next page of results.
"""

__all__ = ["MORE"]

_LOOK = r"""
const name = instruction.match(/"(.*)"/)[1];
const links = all('.alink').filter((e) => e.innerHTML === name);
const shown = links.find((e) => seen(e));
if (shown) return [press(shown)];
"""

_NEXT_TAB = (
    _LOOK
    + """
const tabs = all('#area ul a');
const active = tabs.findIndex((e) => e.closest('li').classList.contains('ui-tabs-active'));
return [press(tabs[(active + 1) % tabs.length])];"""
)

_NEXT_SECTION = (
    _LOOK
    + """
const heads = all('#area h3');
const open = heads.findIndex((e) => e.getAttribute('aria-expanded') === 'true');
return [press(heads[(open + 1) % heads.length])];"""
)

_SOLVE = r"""
const [left, right] = textOf(one('#math-problem')).split('=').map((t) => t.trim());
const [a, sign, b] = left.split(' ');
const plus = {'+': 1, '-': -1}[sign];
const n = (t) => Number(t);
const answer = right === ''
  ? {'+': n(a) + n(b), '-': n(a) - n(b), x: n(a) * n(b)}[sign]
  : a === 'x' ? n(right) - plus * n(b) : plus * (n(right) - n(a));
return [fill(one('#math-answer'), String(answer), 'answer'), press(one('#subbtn'))];"""

_SLIDER = r"""
const slide = (root, value) => {
  const box = jQuery(root);
  const [low, high] = [box.slider('option', 'min'), box.slider('option', 'max')];
  const upright = box.slider('option', 'orientation') === 'vertical';
  const off = value - box.slider('value');
  if (!off) return null;
  const r = root.getBoundingClientRect();
  const length = upright ? r.height : r.width;
  const share = (value - low) / (high - low);
  const handle = one('.ui-slider-handle', root);
  const near = Math.abs(off) * length / (high - low) < 4;
  if (near && document.activeElement === handle) {
    return key(off > 0 ? 'right' : 'left');
  }
  const to = upright ? [r.left + r.width / 2, r.bottom - share * r.height]
    : [r.left + share * r.width, r.top + r.height / 2];
  return drag(handle, to, false, 'slider');
};
"""

_SEARCH_FIELDS = r"""
const [, genre, person, year] = instruction.match(
  /Search for (.*) movies directed by (.*) from year (\d+)/);
const rows = all('#area input[type=text]').map((field) => {
  const row = field.closest('p, .row, tr, .field, .ui-entry');
  const label = textOf(row);
  const text = /genre/i.test(label) ? genre : /director/i.test(label) ? person : year;
  return fill(field, text, label.replace(':', ''));
});
const send = one('#area button, #area .final, #area .ui-submit');
return [...rows, press(send)];"""

MORE: dict[str, str] = {
    "form-sequence-2": r"""
const [radio, box] = [...instruction.matchAll(/(\d)(?:st|nd|rd)/g)].map((m) => m[1]);
const text = instruction.match(/"(.*)"/)[1];
const places = ['first', 'second', 'third'];
return [
  check(one(`#area input[value="${radio}"]`), true, places[radio - 1]),
  ...[1, 2, 3].map((i) => fill(one('#input-' + i), i == box ? text : '', places[i - 1])),
  press(one('#subbtn')),
];""",
    "click-tab-2": _NEXT_TAB,
    "click-tab-2-medium": _NEXT_TAB,
    "click-tab-2-hard": _NEXT_TAB,
    "click-collapsible-2": _NEXT_SECTION,
    "click-collapsible-nodelay": """
const open = one('#area h3').getAttribute('aria-expanded') === 'true';
return [open ? null : press(one('#area h3')), press(one('#subbtn'))];""",
    "click-collapsible-2-nodelay": _NEXT_SECTION,
    "click-checkboxes-large": r"""
const named = instruction.match(/^Select (.*) and click Submit\.$/)[1].split(', ');
return [
  ...all('#area input').map((e) => check(e, named.includes(e.labels[0].textContent))),
  press(one('#subbtn')),
];""",
    "click-test-transfer": "return [press(one('#subbtn'))];",
    "click-shape": r"""
const words = instruction.replace(/^Click on an? /, '').split(' ');
const size = words[0] === 'large' || words[0] === 'small' ? words.shift() : '';
const known = ['red', 'green', 'blue', 'aqua', 'black', 'magenta', 'yellow'];
const colour = known.includes(words[0]) ? words.shift() : '';
const what = words.join(' ') || 'item';
const kindOf = (e) => ({rect: 'rectangle', circle: 'circle', polygon: 'triangle'}[e.tagName]);
const fits = (e) => {
  const text = e.textContent;
  const long = e.tagName === 'text' ? parseFloat(e.getAttribute('font-size'))
    : e.getBBox().width;
  const type = kindOf(e) ? 'shape' : /\d/.test(text) ? 'digit' : 'letter';
  return (!size || (long > 15) === (size === 'large'))
    && (!colour || e.getAttribute('fill') === colour)
    && [kindOf(e) ?? text, type, 'item'].includes(what);
};
const found = all('#area_svg > *').filter(fits);
return [press(found.find((e) => seen(e)) ?? found[0], 'press', instruction.slice(11))];""",
    "choose-list": r"""
const name = instruction.match(/^Select (.*) from the list/)[1];
const list = one('#options');
const option = [...list.options].find((e) => e.innerHTML === name || e.text === name);
const open = list.matches(':open');
const done = option.selected && !open;
if (open && !seen(option)) {
  return [document.activeElement === option ? key('enter')
    : {do: 'type', say: 'type', text: name, name: 'list'}];
}
return [
  done ? null : press(open ? option : list, 'press', open ? name : 'list'),
  press(one('#area button')),
];""",
    "enter-text-2": r"""
const [, text, kind] = instruction.match(/Type "(.*)" in all (upper|lower) case/);
const typed = kind === 'upper' ? text.toUpperCase() : text.toLowerCase();
return [fill(one('#tt'), typed, 'text field'), press(one('#subbtn'))];""",
    "enter-time": r"""
const field = one('#tt');
const [, hour, minute, half] = instruction.match(/Enter (\d+):(\d+)\s*([AP]M)/);
const hours = (Number(hour) % 12) + (half === 'PM' ? 12 : 0);
if (field.value === `${String(hours).padStart(2, '0')}:${minute}`) {
  return [press(one('#subbtn'))];
}
const r = field.getBoundingClientRect();
const first = [r.left, r.top, r.left + 18, r.bottom];
const ready = document.activeElement === field && last.at && last.at[0] <= 18 && !last.keys;
const text = hour.padStart(2, '0') + minute + half[0];
if (ready) return [{do: 'type', say: 'type', text, name: 'time'}];
return [press(field, 'focus', 'time', {at: [9, r.height / 2], around: first})];""",
    "simple-arithmetic": _SOLVE,
    "simple-algebra": _SOLVE,
    "read-table": r"""
const name = instruction.match(/the value of (.*) into/)[1];
const row = all('#tab tr').find((e) => textOf(e.children[0]) === name);
return [fill(one('#tt'), row.children[1].textContent, 'text field'), press(one('#subbtn'))];""",
    "read-table-2": r"""
const value = (label) => all('#tab tr')
  .find((e) => textOf(e.children[0]) === textOf(label).replace(/:$/, '')).children[1].textContent;
return [
  fill(one('#tt1'), value(one('#ll1')), textOf(one('#ll1'))),
  fill(one('#tt2'), value(one('#ll2')), textOf(one('#ll2'))),
  press(one('#subbtn')),
];""",
    "use-spinner": r"""
const wanted = Number(instruction.match(/Select (-?\d+)/)[1]);
const now = Number(one('#spinner').value);
const way = now < wanted ? 'up' : 'down';
return [
  now === wanted ? null : press(one('.ui-spinner-' + way), 'press', way), press(one('#subbtn')),
];""",
    "use-slider": _SLIDER
    + r"""
const value = Number(instruction.match(/Select (-?\d+)/)[1]);
return [slide(one('#slider'), value), press(one('#subbtn'))];""",
    "use-slider-2": _SLIDER
    + r"""
const values = JSON.parse(instruction.match(/\[.*\]/)[0]);
return [...values.map((v, i) => slide(one('#slider-' + (i + 1)), v)), press(one('#subbtn'))];""",
    "form-sequence": _SLIDER
    + r"""
const [, value, box] = instruction.match(/Select (-?\d+) with .* the (\d)/);
const places = ['first', 'second', 'third'];
return [
  slide(one('#slider'), Number(value)),
  ...[1, 2, 3].map((i) => check(one('#checkbox-' + i), i == box, places[i - 1])),
  press(one('#subbtn')),
];""",
    "navigate-tree": r"""
const name = instruction.match(/"(.*)"/)[1];
const spans = all('#tree span').filter((e) => textOf(e) === name);
const shown = spans.find((e) => seen(e));
if (shown) return [press(shown)];
const shut = all('#tree li.expandable > .hitarea').find((e) => seen(e));
return [press(shut, 'press', shut && textOf(one('span', shut.parentElement)))];""",
    "multi-orderings": _SEARCH_FIELDS,
    "multi-layouts": _SEARCH_FIELDS,
    "odd-or-even": r"""
const rows = all('#numbers .row').map((row) => {
  const odd = Math.abs(Number(textOf(one('.display-number', row)))) % 2 === 1;
  const button = one(odd ? '.odd' : '.even', row);
  return button.classList.contains('selected') ? null : press(button);
});
return [...rows, press(one('#submit'))];""",
    "click-shades": r"""
const colour = instruction.match(/shades of (\w+)/)[1];
const spans = all('#area span').map((e) => {
  const right = e.dataset.color === colour;
  return right === e.classList.contains('selected') ? null : press(e, 'press', colour);
});
return [...spans, press(one('#submit'))];""",
    "find-word": r"""
const number = Number(instruction.match(/the (\d+)/)[1]);
const word = textOf(one('#area p')).split(' ')[number - 1].replace(/[^a-zA-Z]/g, '');
return [fill(one('#answer-input'), word, 'text field'), press(one('#subbtn'))];""",
    "text-transform": r"""
return [fill(one('#tt'), textOf(one('#captcha')), 'text field'), press(one('#subbtn'))];""",
    "login-user-popup": r"""
const quoted = [...instruction.matchAll(/"(.*?)"/g)].map((m) => m[1]);
const cancel = one('#popup-cancel');
return [
  cancel && seen(cancel) ? press(cancel) : null,
  fill(one('#username'), quoted[0]), fill(one('#password'), quoted[1]), press(one('#subbtn')),
];""",
    "email-inbox-noscroll": r"""
const person = instruction.match(/email by (\w+)/)[1];
const text = instruction.match(/text "(.*)"\.?$/)?.[1];
const receiver = instruction.match(/that email to (.*)\.$/)?.[1];
const icon = /trash/.test(instruction) ? '.trash' : /star/.test(instruction) ? '.star' : null;
const threads = all('#main .email-thread');
const thread = threads.find((e) => textOf(one('.email-sender', e)) === person);
const [mail, reply, forward] = ['#email', '#reply', '#forward'].map((s) => one(s));
if (reply && text) {
  return [fill(one('#reply-text'), text, 'text'), press(one('#send-reply'), 'press', 'send')];
}
if (forward && receiver) {
  return [
    fill(one('.forward-sender'), receiver, 'to'), press(one('#send-forward'), 'press', 'send'),
  ];
}
const away = one('#close-reply') ?? one('#close-forward');
if (away) return [press(away, 'press', 'back')];
if (mail && textOf(one('.email-sender', mail)) !== person) {
  return [press(one('#close-email'), 'press', 'back')];
}
if (seen(one("#search-cancel"))) {
  return [press(one("#search-cancel"), "press", "back")];
}
if (icon) return [press(one(icon, mail ?? thread), 'press', icon.slice(1))];
if (mail) return [press(one(text ? '.email-reply' : '.email-forward', mail))];
return [press(one('.email-left', thread), 'press', person)];""",
}
