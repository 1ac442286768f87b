"""`paragone agent generate` and `record`: folders, words, and one line for what a user can mend."""

import json

import pytest

from paragone._core.errors import UsageError
from paragone.lab import agent_data_jobs
from paragone.lab.agent_data_jobs import Generated, generate, record, sized
from paragone.multimodal.agent._chromium import why_no_browser

WHY_NOT = why_no_browser()


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there is one")
def test_generate_and_go_on(tmp_path):
    told = []
    folder = str(tmp_path / "out")
    asked = {"tasks": "pages:toolbar", "out": folder, "workers": 1, "noise": 0.0}
    done = generate(count=2, size="200x160", progress=told.append, **asked)
    assert done.samples == done.fresh == done.succeeded == 2
    assert done.tasks == {"pages:toolbar@200x160": 2}
    assert [event.samples for event in told] == [1, 2]
    assert "2 of 2 exercises (100" in str(done)
    assert json.loads(done.json())["episodes"] == 2
    again = generate(count=2, size="200x160", **asked)
    assert "nothing was to be done" in str(again)


def test_progress_is_told(tmp_path):
    from paragone.lab.agent_data_progress import CollectingProgress, described
    from paragone.multimodal.agent.collecting import Collected

    event = Collected("f", 50, 100, 20, 19, 0, ("a 1: broke",), 10.0, 40)
    assert described(event) == (
        "50/100 samples  20 exercises  1 failed  4.0 a second  ETA 12.0 s"
    )  # fmt: skip
    assert CollectingProgress().share(event) == 0.5


def test_failures_are_told():
    told = Generated("f", 9, 9, 8, 1, 0, 3.0, {"a": 9}, tuple(f"a {n}: broke" for n in range(7)))
    assert "failed: a 4: broke\nand 2 more; see f/episodes.jsonl" in str(told)


def test_sizes_are_of_pages_alone():
    told = agent_data_jobs._with_size("pages:form,table@99x99,miniwob:12,pages:menu", "@320x240")
    assert told == "pages:form@320x240,table@99x99,miniwob:12,pages:menu@320x240"


@pytest.mark.parametrize(
    ("asked", "why"),
    [({"size": "big"}, "no size"), ({"size": "4x4"}, "no size"), ({"tasks": "pages:x"}, "kind"),
     ({"tasks": "what"}, "of what kind"), ({"count": 0}, "count 0"), ({"noise": 2.0}, "noise 2"),
     ({"tasks": "miniwob:tic-tac-toe"}, "no teacher")],
    ids=["size", "small", "kind", "prefix", "count", "noise", "mute"],
)  # fmt: skip
def test_what_the_user_can_mend(tmp_path, asked, why):
    with pytest.raises(UsageError, match=why):
        generate(out=str(tmp_path), **asked)


def test_what_the_recorder_refuses(tmp_path):
    file = tmp_path / "session.py"
    file.write_text("def save(page):\n    pass\n")
    with pytest.raises(UsageError, match="--instruction"):
        record("x.html", script=f"{file}:save")
    with pytest.raises(UsageError, match="no function 'load'"):
        record("x.html", instruction="x", script=f"{file}:load")
    with pytest.raises(UsageError, match="no function of a file"):
        record("x.html", instruction="x", script="save")
    with pytest.raises(UsageError, match="--size"):
        record("x.html", instruction="x", size="1")
    assert sized(" 1280X720 ") == (1280, 720)
