"""Each of the three, trained for two steps, stopped, resumed and opened."""

import os
import signal

import numpy as np
import pytest
import torch

from paragone.multimodal.captions import Captions, digits_with_captions
from paragone.multimodal.contract import open_model
from paragone.multimodal.image_tokenizer import ImageTokenizer
from paragone.multimodal.train_vl import train_vl

FEW = Captions(digits_with_captions("all", questions=True)[:60], "digits")
SMALL = {
    "kimi": {"text_config": {"num_hidden_layers": 1, "first_k_dense_replace": 0}},
    "chameleon": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
    "lossless": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
}


def run(arch, out, **options):
    stage = {"steps": 2, "batch": 4, "evaluate_every": 1} if arch == "chameleon" else None
    options = {"steps": 2, "batch": 4, "judged": 1, "threads": 1, **options}
    return train_vl(
        FEW, out, arch=arch, model=SMALL[arch], image_tokenizer=stage, **options
    )  # fmt: skip


@pytest.mark.parametrize("arch", ["kimi", "chameleon", "lossless"])
def test_trains_goes_on_and_opens(arch, tmp_path):
    def stops_with(metric):
        def listen(event):
            if event.kind == "validated" and event.step == 1 and metric in event.metrics:
                os.kill(os.getpid(), signal.SIGINT)

        return listen

    if arch == "chameleon":
        with pytest.raises(KeyboardInterrupt):
            run(arch, tmp_path, progress=stops_with("usage"))
        assert not (tmp_path / "config.json").exists()
    with pytest.raises(KeyboardInterrupt):
        run(arch, tmp_path, progress=stops_with("validation_loss"))
    half = open_model(tmp_path)
    done = run(arch, tmp_path)
    whole = run(arch, None)
    opened = open_model(tmp_path)
    state = whole.model.state_dict()
    moved = 0
    for name, value in done.model.state_dict().items():
        assert torch.equal(value, state[name]), name
        assert torch.equal(value, opened.state_dict()[name]), name
        moved += not torch.equal(value, half.state_dict()[name])
    assert moved
    assert {"captions_exact", "answers_exact"} <= set(done.metrics)
    assert (tmp_path / "drawn.png").is_file() == done.model.draws
    picture = FEW[0].picture
    assert opened.describe([picture], max_new_tokens=3) == done.model.describe(
        [picture], max_new_tokens=3
    )


def test_a_first_stage_is_taken_over(tmp_path):
    tokenizer = ImageTokenizer.fit([one.picture for one in FEW[:9:3]], "digits", steps=1, batch=2,
                                   folder=tmp_path).tokenizer  # fmt: skip
    for given in (tokenizer, tmp_path, str(tmp_path)):
        done = train_vl(FEW, arch="chameleon", model=SMALL["chameleon"], image_tokenizer=given,
                        steps=1, batch=2, judged=0, threads=1, validation=0.0)  # fmt: skip
        found = done.model.state_dict()
        code = tokenizer.quantize.embedding.weight
        assert any(x.shape == code.shape and torch.equal(x, code) for x in found.values())


def test_options_of_one_model_alone():
    with pytest.raises(ValueError, match="'rope' is none of"):
        train_vl(FEW, arch="lossless", positions="rope", steps=1)
    with pytest.raises(ValueError, match="options of arch='lossless'"):
        train_vl(FEW, arch="kimi", positions="1d", steps=1)


def test_pictures_of_ones_own_are_made_to_fit(tmp_path):
    """Larger and coloured ones: another preset, cropped for a model that draws one size."""
    draws = np.random.default_rng(0)
    records = [
        {"image": draws.integers(0, 256, (40, 70, 3), dtype=np.uint8), "caption": f"noise {n}"}
        for n in range(2)
    ]
    events = []
    done = train_vl(
        records, arch="lossless", steps=1, batch=1, judged=0, validation=0.0, threads=1,
        model={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
        progress=events.append,
    )  # fmt: skip
    assert "2 pictures are cropped to 32 x 32 pixels" in [event.text for event in events]
    assert done.model.config.channels == 3
