"""
Tasks of one's own: pages that say what is to be done, and whether it is
=========================================================================

An agent learns to use a web application from pages that declare three things: an instruction, a
reward, and what is right to do next. Here such a page is written, a teacher leads it, the steps
are kept as demonstrations, and a script's session on another page is recorded beside them.
"""

import tempfile
from pathlib import Path

from paragone.multimodal.agent._chromium import why_no_browser
from paragone.multimodal.agent.demonstrations import Demonstrations
from paragone.multimodal.agent.pages import KINDS, page_html

folder = Path(tempfile.mkdtemp())
why_not = why_no_browser()
print(f"A browser: {why_not or 'installed'}")

# %%
# ``start`` makes an exercise from a seed. ``wanted`` returns goals in order; the first one that
# does not hold now becomes an action. So it is right after a mistake, too.
(folder / "tasks").mkdir()
(folder / "tasks" / "rename.html").write_text("""<!DOCTYPE html>
<h3>Project</h3>
<label>Title <input id="title" value="untitled"></label>
<label><input type="checkbox" id="public"> Public</label>
<button id="save">Save</button>
<script>
  const names = ['Harbour', 'Orchard', 'Lantern'];
  const one = (s) => document.querySelector(s);
  let name, done = null;
  one('#save').onclick = () => { done = one('#title').value === name && one('#public').checked; };
  window.paragone = {
    start(seed) { name = names[seed % 3]; this.instruction = `Make "${name}" a public project.`; },
    reward: () => done === null ? null : Number(done),
    wanted: (t) => [
      t.fill(one('#title'), name), t.check(one('#public'), true), t.press(one('#save')),
    ],
  };
</script>""")

# %%
# The teacher at work, as ``paragone agent generate --tasks file:tasks`` does it. A quarter of the
# steps takes a wrong action first; what is stored as wanted is right in each of them.
if not why_not:
    from paragone.multimodal.agent.browser import Browser
    from paragone.multimodal.agent.demonstrations import DemonstrationWriter, demonstrate
    from paragone.multimodal.agent.open_tasks import open_tasks

    task = open_tasks(f"file:{folder / 'tasks'}")[0]
    with Browser(width=320, height=200) as browser, DemonstrationWriter(folder / "out") as out:
        for seed in range(2):
            samples, reward = demonstrate(task, browser, seed, noise=0.25)
            print(f"{samples[0].context.instruction} reward {reward:g}")
            for sample in samples:
                print(f"   {sample.wanted.action.name:7s} {sample.wanted.action.thought}")
                out.add(sample)
    held = Demonstrations(folder / "out")
    print(len(held), "samples;", len(list((folder / "out" / "screens").iterdir())), "screenshots")
    print("seen on the first:", [element.text for element in held[0].elements])

# %%
# Besides one's own there are generated pages of many kinds, looks and languages.
print("kinds of generated pages:", ", ".join(KINDS))
print(page_html("form", 3)[:60].replace("\n", " "), "...")
