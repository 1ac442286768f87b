"""The JavaScript that hears what a person does, in a world of its own inside the page."""

from paragone.multimodal.agent._dom_script import LIBRARY

__all__ = ["LISTENER"]

LISTENER = (
    r"""(() => {
  if (globalThis.hears) return;
  globalThis.hears = true;
  const label = (node, ask) => {"""
    + LIBRARY
    + r"""
    const element = node.closest?.(WIDGETS + ', label, option, li, td, summary') ?? node;
    const target = element.tagName === 'LABEL' ? element.control ?? element : element;
    const told = nameOf(target);
    const name = roleOf(target) === 'text' && told.length > 40 ? '' : told;
    const box = seen(target) ?? seen(element);
    return {name: name.slice(0, 60), role: roleOf(target), box};
  };
  const tell = (event, more = {}) => {
    if (!event.isTrusted) return;
    const node = event.composedPath()[0];
    const clip = [0, 0, window.innerWidth, window.innerHeight];
    const told = label(node.nodeType === 1 ? node : document.body, {clip});
    paragoneHeard(JSON.stringify({
      type: event.type, x: event.clientX, y: event.clientY, button: event.button, ...told, ...more,
    }));
  };
  const hear = (type, more) => window.addEventListener(type, (e) => tell(e, more?.(e)), true);
  for (const type of ['pointerdown', 'pointerup', 'dblclick', 'dragend', 'contextmenu']) hear(type);
  hear('wheel', (e) => ({dx: e.deltaX, dy: e.deltaY}));
  const texts = /^(text|search|url|tel|password|email|number)$/;
  const writes = (e) => {
    const node = e.composedPath()[0];
    return node.isContentEditable || node.tagName === 'TEXTAREA'
      || (node.tagName === 'INPUT' && texts.test(node.type));
  };
  hear('beforeinput', (e) => ({data: e.inputType === 'insertText' ? e.data : null}));
  hear('compositionend', (e) => ({data: e.data}));
  hear('keydown', (e) => ({
    written: writes(e),
    key: e.key, ctrl: e.ctrlKey, alt: e.altKey, shift: e.shiftKey, meta: e.metaKey,
  }));
})();"""
)
