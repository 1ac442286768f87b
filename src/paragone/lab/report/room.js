"use strict";
// The page works without this; with it, what changes is exchanged in place.
const parts = () => [...document.querySelectorAll("[data-live]")];
const served = new Map(parts().map((part) => [part.id, part.cloneNode(true)]));
const sayings = (root) => [...root.querySelectorAll("[data-say]")].map((one) => one.dataset.say);
const tell = (text, loud) => {
  const said = document.getElementById("said");
  if (said.textContent !== text) said.textContent = text;
  said.className = loud ? "problem" : "sr";
};

const graft = (fresh) => {
  const before = new Set(sayings(document));
  for (const old of parts()) {
    const part = fresh.getElementById(old.id);
    if (!part || served.get(old.id)?.isEqualNode(part)) continue;
    served.set(old.id, part.cloneNode(true));
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    old.replaceWith(part);
    part.querySelectorAll("table.board").forEach(sortable);
    if (focused) {
      const head = document.querySelector("h1");
      head.tabIndex = -1;
      (document.getElementById(focused) || head).focus();
    }
  }
  const news = sayings(document).filter((text) => !before.has(text));
  tell(news.join(". "), false);
  document.title = fresh.title;
  document.body.dataset.busy = fresh.body.dataset.busy;
};

const look = async () => {
  if (!document.hidden && parts().length) {
    try {
      const answer = await fetch(location.pathname + location.search);
      // The style has the nonce of that answer; this page's policy would complain of it.
      const text = (await answer.text()).replace(/<style[^]*?<\/style>/, "");
      if (answer.ok) graft(new DOMParser().parseFromString(text, "text/html"));
      else tell("The server was started anew: open the address that it printed.", true);
    } catch {
      tell("The server does not answer. What it ran was interrupted and can be continued.", true);
    }
  }
  setTimeout(look, document.body.dataset.busy ? 2000 : 5000);
};
setTimeout(look, 2000);
