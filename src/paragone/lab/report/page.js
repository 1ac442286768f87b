"use strict";
// Everything here is comfort: the page is complete without it.
const each = (selector, act, root = document) => root.querySelectorAll(selector).forEach(act);

const sortable = (table) => {
  const body = table.tBodies[0];
  const original = [...body.rows];
  each("thead th[data-sort]", (head) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = { ascending: "descending", descending: "none" }[head.ariaSort] || "ascending";
      each("th[aria-sort]", (other) => other.removeAttribute("aria-sort"), table);
      const sign = order === "descending" ? -1 : 1;
      const key = (row) => {
        const text = row.cells[head.cellIndex].dataset.v;
        return head.dataset.sort === "text" ? text : text === "" || text === undefined ? null : +text;
      };
      const sorted = order === "none" ? original : [...original].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        // Rows without a number stay below, whichever way the column is turned.
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
      });
      if (order !== "none") head.ariaSort = order;
      body.append(...sorted);
    });
  }, table);
};
each("table.board", sortable);

each(".tools", (tools) => {
  const field = tools.querySelector("input[type=search]");
  const rows = [...tools.closest("section").querySelectorAll("table.board tbody tr")];
  const found = tools.querySelector("output");
  if (!field) return;
  field.closest("label").hidden = false;
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row) => {
      row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    });
    const shown = rows.filter((row) => !row.hidden).length;
    found.value = words.length ? `${shown} of ${rows.length}` : "";
  });
});

each("button.copy", (button) => {
  const text = button.parentElement.querySelector("pre").textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("pre"));
      button.textContent = "Selected";
    }
  });
});

const reveal = () => {
  const target = document.getElementById(location.hash.slice(1));
  for (let node = target; node; node = node.parentElement) {
    if (node.tagName === "DETAILS") node.open = true;
  }
  if (target) target.scrollIntoView({ block: "start" });
};
addEventListener("hashchange", reveal);
if (location.hash) reveal();

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((node) => { node.open = true; });
});
addEventListener("afterprint", () => closed.forEach((node) => { node.open = false; }));

const themes = document.querySelectorAll(".theme input");
try {
  const kept = localStorage.getItem("paragone-theme");
  themes.forEach((input) => {
    if (input.value === kept) input.checked = true;
    input.addEventListener("change", () => localStorage.setItem("paragone-theme", input.value));
  });
} catch { /* A page opened from disk may have no storage; the choice then lasts for the visit. */ }
