"""
Teaching a model to look, from a file of questions
==================================================

Pictures and what is to be said of them stand in a file, a JSON object a line. The same call trains
any of the three models of pictures and texts, goes on after an interruption, and leaves a folder
that `paragone ask` opens. Here a small KimiVL learns to tell handwritten zeros from ones.
"""

import json
import tempfile
from pathlib import Path

from PIL import Image

from paragone.multimodal import digits_with_captions, open_model, read_captions, train_vl
from paragone.multimodal.captions import digit_judge

folder = Path(tempfile.mkdtemp())

# %%
# Two lines for each digit: a caption, and a question with its answer. The last two lines are wrong;
# what is left out is counted and named.
lines = []
for number, digit in enumerate(digits_with_captions("all")):
    word = digit.caption.split()[-1]
    if word not in ("zero", "one"):
        continue
    name = f"{number}.png"
    Image.fromarray(digit.picture[..., 0]).save(folder / name)
    lines.append({"image": name, "caption": digit.caption})
    lines.append({"image": name, "question": "Is it round?", "answer": str(word == "zero")})
lines += [{"image": "0.png"}, {"image": "none.png", "caption": "not there"}]
(folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))

records = read_captions(folder / "captions.jsonl")
train, held = records.split(0.2)
print(f"{len(train)} records to learn from, {len(held)} held out; {records.notes()[0]}")

# %%
# Whether a picture is held out follows from its pixels: its caption and its question are on the
# same side. A captioned picture may be read or drawn, a question can be answered.
print({task: len(train.work((task,))) for task in ("read", "draw", "answer")})
print("on both sides:", len({one.digest for one in train} & {one.digest for one in held}))

# %%
# Training: a model of 0.1 M weights, a few seconds. KimiVL does not draw, so the tasks are the
# other two.
sizes = {
    "text_config": {"num_hidden_layers": 1, "first_k_dense_replace": 1},
    "vision_config": {"num_hidden_layers": 1},
}
done = train_vl(
    records, folder / "run", arch="kimi", model=sizes, steps=60, batch=16, lr=5e-3, judged=40,
    threads=1,
)  # fmt: skip
print({name: round(value, 3) for name, value in done.metrics.items()})

# %%
# The folder is a model's folder. The same call again finds that all is done.
model = open_model(folder / "run")
seen = [one for one in held if not one.question][:6]
print([one.caption for one in seen])
print(model.describe([one.picture for one in seen], "Is it round?"))

# %%
# What a model draws is judged by a classifier of real pictures. It is right about those, too:
pictures = [one.picture for one in seen]
print("judge:", digit_judge()(pictures) == [one.caption for one in seen])
