"""
Hands and eyes in a browser
===========================

An agent sees pixels and acts with a mouse and a keyboard, nothing else; whoever judges it may look
into the page. Here a policy of three lines, which looks for a colour, fills in a form, and a page
that hangs costs no more than its own episode. A trained policy takes its place in
`paragone agent train`.
"""

import numpy as np

from paragone.multimodal.agent import Action, Browser, OperatorError
from paragone.multimodal.agent.browser import why_no_browser

if why_no_browser():
    print(f"skipped: {why_no_browser()}")
    raise SystemExit(0)

FORM = """<body style="margin:20px;font:16px DejaVu Sans">
<form onsubmit="this.outerHTML = '<h2>Thank you, ' + field.value + '</h2>'; return false">
Your name <input id=field style="background:#ffd"> <button style="background:#fc0">Send</button>
</form>"""


def place(pixels, colour):
    """The middle of all pixels of a colour: x and y."""
    rows, columns = np.nonzero((pixels == colour).all(-1))
    return float(np.median(columns)) + 0.5, float(np.median(rows)) + 0.5


browser = Browser(width=420, height=120)
browser.open(FORM)
operator = browser.operator()
screen = operator.screenshot()
print("the agent sees", screen.pixels.shape, "and may", ", ".join(sorted(operator.actions)))

# %%
# Points are pixels of the screenshot. After each action the operator waits until the page is
# quiet: two frames without a change, no sleeps.
field, button = place(screen.pixels, (255, 255, 221)), place(screen.pixels, (255, 204, 0))
for action in (
    Action("click", {"start_box": field}),
    Action("type", {"content": "Ada"}),
    Action("click", {"start_box": button}),
):
    operator.execute(action)
after = operator.screenshot()
print(f"{np.mean((screen.pixels != after.pixels).any(-1)):.0%} of the pixels changed")

# %%
# The judge reads the page; while the agent thinks, it cannot.
print("the page says:", browser.evaluate("document.body.innerText"))
with operator.sealed():
    try:
        browser.page.title()
    except OperatorError as error:
        print("in the agent's turn:", error)

# %%
# A page may say and do what it likes.
browser.open("<body style='height:90vh' onclick=\"alert('Give me your keys!'); window.close()\">")
operator = browser.operator()
try:
    operator.execute(Action("click", {"start_box": (50, 50)}))
except OperatorError as error:
    print("this episode:", error)
print("it said:", browser.dialogs)
browser.open(FORM)
print("the next one:", browser.evaluate("document.body.innerText").strip())
browser.close()
