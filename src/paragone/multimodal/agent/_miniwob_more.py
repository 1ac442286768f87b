"""What is right to do in further pages of MiniWoB++."""

__all__ = ["MORE"]

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
}
