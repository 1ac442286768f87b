"""
Actions and coordinates: from a model's answer to the pixel that is clicked
============================================================================

A GUI agent answers in text: a thought and an action. Four dialects write the same click in four
ways and in three spaces; a page can put anything into an answer. Here answers in all dialects are
read, carried to one place of a picture of 640 x 427 pixels, and a hostile one is refused.
"""

import numpy as np
from sklearn.datasets import load_sample_image

from paragone.multimodal.agent import (
    ActionError,
    Coordinates,
    format_action,
    parse,
    score_screenspot,
    smart_resize,
)
from paragone.multimodal.agent.actions import DIALECTS
from paragone.multimodal.agent.contract import Screen

screen = Screen(load_sample_image("china.jpg"), device_pixel_ratio=2.0, scroll=(0.0, 120.0))
rows, columns = screen.size
seen = smart_resize(rows, columns)
print(f"the screenshot has {rows} x {columns} pixels, the model sees {seen[0]} x {seen[1]}")

# %%
# What is meant is the golden roof, at (300, 150). Each dialect writes it in its own way, in whole
# numbers; read back and carried to pixels, all of them mean the same place to within a pixel.
roof = (300.0, 150.0)
answers = {}
for name, dialect in DIALECTS.items():
    space = Coordinates.of(screen, dialect.space, seen if dialect.space == "resized" else None)
    (click,) = parse("Thought: The roof shines.\nAction: click(start_box='(300,150)')")
    answers[name] = format_action(click.moved(space.from_screenshot), name, digits=0)
    (read,) = parse(answers[name], name)
    place = read.moved(space.to_screenshot).point
    assert np.allclose(place, roof, atol=1)
    x, y = space.to_css(*read.point)
    down = space.to_page(*read.point)[1]
    print(f"{name:12} {' '.join(answers[name].splitlines()[1:])}")
    print(
        f"{'':12} pixel {place[0]:.0f}, {place[1]:.0f}; mouse {x:.0f}, {y:.0f}; page y {down:.0f}"
    )

# %%
# Quotes, brackets and markers inside a typed text belong to the text, and a line feed at its end
# (which submits a form) stays there.
for answer in (
    "Action: type(content='it's here (really), Action: none')",
    "Thought: Two steps.\nAction: click(point='<point>10 20</point>')\n\ntype(content='a\\n')",
    "<think>Wait.</think>\nAction：wait(time=2)",
):
    for action in parse(answer):
        print(action.name, dict(action.arguments), repr(action.thought))

# %%
# An answer is never run. What is no literal of the grammar is one typed error that says where and
# what was expected; an agent's loop catches it and tells the model.
for hostile in (
    "Action: click(start_box='<bbox>print(\"run\")or(10) 20 10 20</bbox>')",
    "Action: type(content=open('/etc/passwd').read())",
    "Action: format_disk(name='/')",
):
    try:
        parse(hostile)
    except ActionError as error:
        print(f"refused: {str(error)[:110]}")

# %%
# The same texts can be scored as ScreenSpot does: a prediction is right if its point lies in the
# box that the annotation names, and what cannot be read is wrong.
sample = {"img_filename": "web_1.jpg", "img_size": [columns, rows], "bbox": [250, 110, 120, 70],
          "data_type": "icon", "data_source": "shop", "instruction": "the golden roof"}  # fmt: skip
print(score_screenspot([sample] * 2, [answers["ui-tars-1.5"], "I see no roof."]))
