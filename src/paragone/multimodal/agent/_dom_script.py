"""The JavaScript that a judge runs in a page; see `_dom`."""

__all__ = ["LIBRARY"]

LIBRARY = r"""
const {instruction, given} = ask;
const ratio = window.devicePixelRatio;
const clip = ask.clip ?? [0, 0, window.innerWidth, window.innerHeight];
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const clean = (text) => (text ?? '').replace(/\s+/g, ' ').trim();
const textOf = (element) => clean(element?.textContent);
const within = (box, bounds) => [
  Math.max(box[0], bounds[0]), Math.max(box[1], bounds[1]),
  Math.min(box[2], bounds[2]), Math.min(box[3], bounds[3]),
];
const empty = (box) => box[2] - box[0] < 1 || box[3] - box[1] < 1;
const boxOf = (r) => [r.left, r.top, r.right, r.bottom];
const view = within(clip, [0, 0, window.innerWidth, window.innerHeight]);
const pixels = ([x, y]) => [(x - clip[0]) * ratio, (y - clip[1]) * ratio];
const inPixels = (box) => box && [...pixels(box.slice(0, 2)), ...pixels(box.slice(2))]
  .map((x) => Math.round(x * 10) / 10);
const middle = (box) => [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];

// What was last pressed: some fields do not tell what is selected in them.
const html = document.documentElement;
if (!html.lastInput) {
  const noted = html.lastInput = {keys: '', at: null};
  html.addEventListener('keydown', (event) => {
    if (/^(Control|Shift|Alt|Meta)$/.test(event.key)) return;
    noted.keys = (event.ctrlKey ? 'Control ' : '') + event.key.toLowerCase();
  }, true);
  html.addEventListener('pointerdown', (event) => {
    const r = event.target.getBoundingClientRect();
    Object.assign(noted, {keys: '', at: [event.clientX - r.left, event.clientY - r.top]});
  }, true);
}
const last = html.lastInput;

const hits = (element, x, y, loose) => {
  const top = document.elementFromPoint(x, y);
  if (!top) return false;
  if (top === element || element.contains(top)) return true;
  if (loose && top.contains(element)) return true;
  const label = top.closest('label');
  return Boolean(label) && label.control === element;
};

const bounds = (element) => {
  let part = view;
  for (let up = element.parentElement; up && up !== document.body; up = up.parentElement) {
    const style = getComputedStyle(up);
    if (style.overflowX !== 'visible' || style.overflowY !== 'visible') {
      part = within(part, boxOf(up.getBoundingClientRect()));
    }
    if (style.position === 'fixed') break;
  }
  return part;
};

// The part of a rectangle where the element is on top, from a grid of probes.
const uncovered = (element, box, loose) => {
  const steps = 6;
  const at = (i, k) => [
    box[0] + (box[2] - box[0]) * (i + 0.5) / steps, box[1] + (box[3] - box[1]) * (k + 0.5) / steps,
  ];
  const free_at = (i, k) => hits(element, ...at(i, k), loose);
  const rim = [[0, 0], [0, 5], [5, 0], [5, 5], [2, 5], [2, 0]];
  const whole = hits(element, ...middle(box), loose) && rim.every(([i, k]) => free_at(i, k));
  if (whole) return box;
  const free = [];
  for (let i = 0; i < steps; i++) for (let k = 0; k < steps; k++) {
    if (free_at(i, k)) free.push([i, k]);
  }
  if (!free.length) return null;
  const width = (box[2] - box[0]) / steps;
  const height = (box[3] - box[1]) / steps;
  const around = (cells) => {
    const xs = cells.map((c) => c[0]);
    const ys = cells.map((c) => c[1]);
    return [
      box[0] + width * Math.min(...xs), box[1] + height * Math.min(...ys),
      box[0] + width * (Math.max(...xs) + 1), box[1] + height * (Math.max(...ys) + 1),
    ];
  };
  const hull = around(free);
  if (hits(element, ...middle(hull), loose)) return hull;
  const rows = Map.groupBy(free, (c) => c[1]);
  const longest = [...rows.values()].sort((a, b) => b.length - a.length)[0];
  const row = around(longest);
  return hits(element, ...middle(row), loose) ? row : around([longest[0]]);
};

const seen = (element, loose = false) => {
  if (!element || !element.checkVisibility({opacityProperty: true, visibilityProperty: true})) {
    return null;
  }
  const part = bounds(element);
  let best = null;
  for (const rect of [...element.getClientRects()].slice(0, 4)) {
    const box = within(boxOf(rect), part);
    if (empty(box)) continue;
    const free = uncovered(element, box, loose);
    const area = (b) => (b[2] - b[0]) * (b[3] - b[1]);
    if (free && (!best || area(free) > area(best))) best = free;
  }
  return best;
};

const roleOf = (element) => {
  const told = element.getAttribute('role');
  if (told) return told;
  const tag = element.tagName.toLowerCase();
  if (tag === 'input') {
    return {
      checkbox: 'checkbox', radio: 'radio', button: 'button', submit: 'button', reset: 'button',
      range: 'slider', number: 'spinbutton',
    }[element.type] ?? 'textbox';
  }
  return {
    a: 'link', button: 'button', select: 'combobox', textarea: 'textbox', img: 'img', svg: 'img',
  }[tag] ?? 'text';
};

const nameOf = (element) => {
  const label = element.getAttribute('aria-label') || element.labels?.[0]?.textContent;
  const before = (e) => {
    const near = e.previousElementSibling;
    return near && near.tagName === 'LABEL' ? near.textContent : '';
  };
  const field = /^(INPUT|TEXTAREA|SELECT)$/.test(element.tagName);
  const own = field
    ? (/^(button|submit|reset)$/.test(element.type) ? element.value : '') || before(element)
    : element.textContent;
  return clean(label) || clean(own) || clean(element.getAttribute('placeholder'))
    || clean(element.getAttribute('title')) || clean(element.getAttribute('alt'))
    || roleOf(element);
};

const press = (element, say = 'press', name = null, more = {}) =>
  ({do: 'press', element, say, name, ...more});
const check = (element, state = true, name = null) => ({do: 'check', element, state, name});
const fill = (element, text, name = null, more = {}) =>
  ({do: 'fill', element, text, name, ...more});
const drag = (element, to, holds = false, name = null, more = {}) =>
  ({do: 'drag', element, to, holds, name, ...more});
const key = (keys, holds = false, say = 'key') => ({do: 'key', keys, holds, say});

const holds = (goal) => {
  if (!goal) return true;
  if (goal.holds !== undefined) return Boolean(goal.holds);
  if (goal.do === 'check') return goal.element ? goal.element.checked === goal.state : false;
  if (goal.do === 'fill') return goal.element ? goal.element.value === goal.text : false;
  return false;
};

const scrollable = (element) => {
  for (let up = element.parentElement; up; up = up.parentElement) {
    const style = getComputedStyle(up);
    const root = up === document.scrollingElement;
    if (up.scrollHeight > up.clientHeight + 1
        && (root || /auto|scroll/.test(style.overflowY))) return up;
  }
  return null;
};

// One action towards an element out of view.
const scrollTo = (element) => {
  if (!element || !element.checkVisibility()) return null;
  const area = scrollable(element);
  if (!area) return null;
  const root = area === document.scrollingElement;
  const box = root ? view : seen(area, true);
  if (!box) return null;
  const at = element.getBoundingClientRect();
  const down = (at.top + at.bottom) / 2 > (box[1] + box[3]) / 2;
  const end = area.scrollHeight - area.clientHeight - area.scrollTop < 1;
  if (down ? end : area.scrollTop < 1) return null;
  const direction = down ? 'down' : 'up';
  return {
    kind: 'scroll', say: 'scroll', direction, box: inPixels(box), point: pixels(middle(box)),
  };
};

const click = (element, say, name, more = {}) => {
  const own = seen(element);
  const label = element?.labels?.[0];
  const target = own ?? seen(label);
  if (!target) return scrollTo(element);
  const tick = /^(checkbox|radio)$/.test(element.type);
  const wide = tick && label && label.contains(element) ? seen(label, false) : null;
  let point = middle(target);
  if (more.at) {
    const r = element.getBoundingClientRect();
    point = [r.left + more.at[0], r.top + more.at[1]];
  }
  const box = more.around ? more.around : wide ?? target;
  return {
    kind: more.kind ?? 'click', say, name: (name ?? nameOf(element)).slice(0, 60),
    box: inPixels(box), point: pixels(point),
  };
};

const fillNow = ({element, text, name, say, picture}) => {
  if (!element) return null;
  const told = name ?? nameOf(element);
  if (document.activeElement !== element) return click(element, say ?? 'focus', told);
  const value = element.value;
  const chosen = element.selectionStart === null
    ? last.keys === 'Control a'
    : element.selectionStart === 0 && element.selectionEnd === value.length;
  if (value && !chosen) return {kind: 'hotkey', say: 'select', key: 'ctrl a', name: told};
  if (!text) return {kind: 'hotkey', say: 'key', key: 'delete', name: told};
  return {kind: 'type', say: 'type', content: text, name: told};
};

const next = (goals) => {
  if (!goals) return null;
  for (const goal of [].concat(goals)) {
    if (holds(goal)) continue;
    if (goal.do === 'press') return click(goal.element, goal.say, goal.name, goal);
    if (goal.do === 'check') {
      return click(goal.element, goal.state ? 'check' : 'uncheck', goal.name);
    }
    if (goal.do === 'fill') return fillNow(goal);
    if (goal.do === 'key') return {kind: 'hotkey', say: goal.say, key: goal.keys};
    if (goal.do === 'type') {
      return {kind: 'type', say: goal.say, content: goal.text, name: goal.name};
    }
    if (goal.do === 'drag') {
      const from = click(goal.element, 'drag', goal.name, goal);
      if (!from || from.kind === 'scroll') return from;
      return {...from, kind: 'drag', end: pixels(goal.to)};
    }
    return goal.kind ? goal : null;
  }
  return null;
};

const colours = {
  red: [255, 0, 0], green: [0, 128, 0], blue: [0, 0, 255], aqua: [0, 255, 255],
  black: [0, 0, 0], magenta: [255, 0, 255], yellow: [255, 255, 0], white: [255, 255, 255],
  lime: [0, 255, 0], olive: [128, 128, 0], grey: [128, 128, 128], purple: [128, 0, 128],
  orange: [255, 165, 0], pink: [255, 192, 203], navy: [0, 0, 128], teal: [0, 128, 128],
};
const colourOf = (text) => {
  const parts = (text.match(/[\d.]+/g) ?? []).map(Number);
  if (parts.length < 3 || parts[3] === 0) return '';
  const far = (c) => c.reduce((sum, x, i) => sum + Math.abs(x - parts[i]), 0);
  return Object.entries(colours).sort((a, b) => far(a[1]) - far(b[1]))[0][0];
};

const WIDGETS = 'button, input, textarea, select, a, ' + [
  'button', 'link', 'tab', 'checkbox', 'radio', 'switch', 'slider', 'menuitem', 'option', 'textbox',
  'combobox', 'spinbutton', 'treeitem', 'img',
].map((role) => `[role=${role}]`).join(', ');
const SHAPES = 'circle, rect, polygon, ellipse';

// Lines of a text node: words of one height are one line.
const linesOf = (node) => {
  const range = document.createRange();
  range.selectNodeContents(node);
  const whole = range.getClientRects();
  if (whole.length === 1) return [[clean(node.data), boxOf(whole[0])]];
  const lines = [];
  for (const match of node.data.matchAll(/\S+/g)) {
    range.setStart(node, match.index);
    range.setEnd(node, match.index + match[0].length);
    const rect = range.getClientRects()[0];
    if (!rect) continue;
    const last = lines.at(-1);
    if (last && Math.abs(last[1][1] - rect.top) < 2) {
      last[0] += ' ' + match[0];
      last[1][2] = rect.right;
    } else lines.push([match[0], boxOf(rect)]);
  }
  return lines;
};

const everything = (most = 80) => {
  const found = [];
  const add = (text, role, box) => {
    if (box && text && found.length < most) found.push([text.slice(0, 80), role, inPixels(box)]);
  };
  const told = new Set();
  for (const element of all(WIDGETS)) {
    const role = roleOf(element);
    const leaf = !element.querySelector('button, input, textarea, select, a');
    if (role === 'text' || !leaf) continue;
    const box = seen(element);
    if (!box) continue;
    told.add(element);
    if (element.labels) for (const label of element.labels) told.add(label);
    const typed = role === 'textbox' && element.type !== 'password' ? clean(element.value) : '';
    add(typed || nameOf(element), role, box);
  }
  for (const element of all(SHAPES)) {
    const colour = colourOf(getComputedStyle(element).fill);
    const kind = {rect: 'rectangle', polygon: 'triangle'}[element.tagName] ?? element.tagName;
    if (colour) add(`${colour} ${kind}`, 'img', seen(element));
  }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode() && found.length < most) {
    const node = walker.currentNode;
    const parent = node.parentElement;
    if (!node.data.trim() || !parent) continue;
    if (/^(SCRIPT|STYLE|TEXTAREA|OPTION)$/.test(parent.tagName)) continue;
    const widget = parent.closest(WIDGETS);
    if (widget && told.has(widget)) continue;
    if (!parent.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const part = bounds(parent);
    for (const [text, rect] of linesOf(node)) {
      const box = within(rect, part);
      if (!empty(box) && hits(parent, ...middle(box), true)) add(text, 'text', box);
    }
  }
  return found;
};
"""
