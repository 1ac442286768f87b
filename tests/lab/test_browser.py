"""The page in a real browser, where one is installed: sorting, filtering, links, no complaint."""

import re
import shutil
import subprocess
from html import unescape

import pytest

from paragone.lab.report.html import page

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
    "--virtual-time-budget=4000",
)  # fmt: skip
PROBE = """
const table = document.querySelector("table.board"), told = [];
const names = () => [...table.tBodies[0].rows].map((r) => r.querySelector("th").dataset.v);
const tell = (name, value) => told.push(name + "=" + JSON.stringify(value));
tell("first", names());
const fit = [...table.querySelectorAll("thead th")].find((h) => h.textContent.startsWith("fit"));
for (const order of ["up", "down", "again"]) {
  fit.querySelector("button").click();
  tell(order, names());
}
const field = document.querySelector("input[type=search]");
field.value = "rival"; field.dispatchEvent(new Event("input"));
tell("rivals", [...table.tBodies[0].rows].filter((r) => !r.hidden).length);
location.hash = "#run-r0002";
setTimeout(() => {
  tell("open", document.getElementById("run-r0002").closest("details").open);
  document.body.textContent = "TOLD" + told.join(";;") + "END";
}, 200);
"""


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
def test_comforts_work_in_a_browser(summary_of, tmp_path):
    summary = summary_of(1, 8, 3)
    text = page(summary, tmp_path)
    # The page's own policy would, rightly, refuse the probe.
    open_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    probed = open_page.replace("</body>", f"<script>{PROBE}</script></body>")
    (tmp_path / "probed.html").write_text(probed)
    (tmp_path / "plain.html").write_text(text)

    def browse(name):
        command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
                   (tmp_path / name).as_uri()]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert "CONSOLE" not in done.stderr
        return done.stdout

    # With its policy the page runs its own script: heads have become buttons.
    assert '<button type="button">' in browse("plain.html")
    found = re.search(r"TOLD(.*)END", browse("probed.html"), re.S)
    assert found
    told = dict(pair.split("=", 1) for pair in unescape(found.group(1)).split(";;"))
    rows = {row.title: row for row in summary.rows}
    assert told["first"] == told["again"]
    order = [name for name in rows if f'"{name}"' in told["up"]]
    times = {name: rows[name].cells["fit_s"].value for name in order if rows[name].tier}
    expected = sorted(times, key=lambda name: times[name])
    failed = [name for name in order if not rows[name].tier]
    assert told["up"] == _list([*expected, *failed])
    assert told["down"] == _list([*reversed(expected), *failed])
    assert int(told["rivals"]) == sum(row.origin == "rival" for row in summary.rows)
    assert told["open"] == "true"


def _list(names):
    return "[" + ",".join(f'"{name}"' for name in names) + "]"
