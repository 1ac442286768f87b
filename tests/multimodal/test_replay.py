"""Replays: marks where the actions went, every screen once, and nothing hostile that runs."""

import base64
import dataclasses
import hashlib
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from tests.multimodal.agent_loop_fakes import BUTTON, FINISHED, NOWHERE, FakePage, Scripted

from paragone.multimodal.agent._marks import COLOUR, drawn, in_words, marks, printable, svg, unit
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Screen
from paragone.multimodal.agent.loop import Episode, Step, run
from paragone.multimodal.agent.replay import film_strip, write_replay

HOSTILE = [
    "<script>window.pwned = 1</script>",
    "</style><script>window.pwned = 1</script>",
    "</script><img src=x onerror='window.pwned = 1'>",
    '"><svg onload="window.pwned = 1"><image href="http://example.invalid/x.png"/></svg>',
    "<!-- ' & --> ]]> </pre></details></svg><iframe src='http://example.invalid'></iframe>",
    "\x00\x1b[31m\u202e\ud800 {{7*7}} &lt;b&gt;",
]


def grey(rows, columns, shade=128):
    return Screen(np.full((rows, columns, 3), shade, np.uint8))


def hostile_episode(text):
    action = Action("type", {"content": text}, text, text, text)
    strange = Action(text, {"app_name": text, "key": text, "time": text})
    steps = (
        Step(grey(40, 60), text, (action, strange), True, 0.1, text),
        Step(grey(40, 60), text, (Action("click", {"start_box": (20.0, 10.0)}, text),), True, 0.1),
    )
    return Episode(text, steps, text, 0.2, grey(40, 60, 90), text)


class Page(HTMLParser):
    """Tags with their attributes, and the texts between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.scripts, self.inside = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        (self.scripts if self.inside in ("script", "style") else self.texts).append(data)


def written(episodes, tmp_path):
    path = write_replay(episodes, tmp_path / "deep" / "replay.html")
    return path.read_text("utf-8")


def test_a_page_says_what_happened(tmp_path):
    script = [BUTTON, "garbage", NOWHERE, FINISHED]
    episode = run(Scripted(*script), FakePage(), "Press the button.")
    text = written(episode, tmp_path)
    page = Page(text)
    said = " ".join(page.texts)
    for words in ("Press the button.", "finished", "click (30, 20)", "There it is.", "no action",
                  'finished "done"', episode.steps[1].error, "ms a step"):  # fmt: skip
        assert words in said
    assert said.count("the screen stayed as it was") == 2
    # Two different screens are held once each, and every step refers to its own.
    images = {at["id"]: at["href"] for tag, at in page.tags if tag == "image"}
    shown = [at["href"].removeprefix("#") for tag, at in page.tags if tag == "use"]
    assert len(images) == 2
    assert len(shown) == 4
    for name, step in zip(shown, episode.steps, strict=True):
        data = base64.b64decode(images[name].removeprefix("data:image/png;base64,"))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), step.screen.pixels)
    centres = [(at["cx"], at["cy"]) for tag, at in page.tags if tag == "circle"]
    assert centres == [("30.0", "20.0")] * 2 + [("60.0", "80.0")] * 2


def test_what_the_judge_says_counts_more_than_how_it_ended(tmp_path):
    episode = run(Scripted(FINISHED), FakePage(), "x")
    good, bad = ("succeeded", "good"), ("failed (finished)", "bad")
    ways = {None: ("finished", "good"), True: good, False: bad}
    for success, (words, colour) in ways.items():
        judged = dataclasses.replace(episode, success=success)
        assert f'<span class="chip {colour}">{words}</span>' in written([judged], tmp_path)


def test_nothing_comes_from_elsewhere_and_the_policy_names_what_may_run(tmp_path):
    text = written([hostile_episode(one) for one in HOSTILE], tmp_path)
    page = Page(text)
    plain = Page(written([run(Scripted(BUTTON, FINISHED), FakePage(), "x")], tmp_path))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags} | {
        "a", "polyline", "ol", "li", "image",
    }  # fmt: skip
    for tag, given in page.tags:
        assert not any(name.startswith("on") or name in ("src", "style") for name in given), tag
        assert re.match(r"#|data:image/png;base64,", given.get("href", "#"))
    assert [tag for tag, _ in page.tags].count("script") == 1
    style, script = page.scripts
    policy = next(at["content"] for tag, at in page.tags if "http-equiv" in at)
    for kind, inside in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    said = "".join(page.texts)
    for one in HOSTILE:
        assert printable(one) in said


def test_marks_lie_where_the_action_went():
    for rows, columns in ((160, 160), (720, 1280), (33, 500)):
        for x, y in ((columns / 2, rows / 2), (columns / 3, rows / 4)):
            action = Action("click", {"start_box": (x, y)})
            picture = Image.fromarray(grey(rows, columns).pixels)
            u = unit(rows, columns)
            pixels = np.asarray(drawn(picture, marks(action, rows, columns), u))
            found = np.argwhere((pixels == COLOUR).all(-1)) + 0.5
            top, left = found.min(0) - 0.5
            bottom, right = found.max(0) + 0.5
            assert (left + right) / 2 == pytest.approx(x, abs=1.0)
            assert (top + bottom) / 2 == pytest.approx(y, abs=1.0)
            assert right - left == pytest.approx(2 * u * 1.14, abs=2.5)
            assert np.array_equal(np.asarray(picture), grey(rows, columns).pixels)


def test_each_action_has_its_own_mark():
    box = {"start_box": (40.0, 40.0)}
    seen = {}
    for action in (
        Action("click", box), Action("left_double", box), Action("right_single", box),
        Action("long_press", box), Action("click", {"start_box": (20.0, 20.0, 60.0, 60.0)}),
        Action("drag", {**box, "end_box": (80.0, 70.0)}), Action("scroll", {"direction": "left"}),
        *(Action("scroll", {**box, "direction": way}) for way in ("up", "down", "left", "right")),
    ):  # fmt: skip
        shapes = marks(action, 100, 100)
        assert shapes
        seen[svg(shapes, 4.5)] = action
    assert len(seen) == 11
    for action in (Action("type", {"content": "x"}), Action("wait"), Action("finished")):
        assert marks(action, 100, 100) == []
    assert svg([], 4.5) == ""
    # An arrow of no length is a ring alone, and no division by zero.
    assert len(marks(Action("drag", {**box, "end_box": (40.0, 40.0)}), 100, 100)) == 1


def test_words_of_actions():
    assert in_words(Action("scroll", {"start_box": (1.25, 2.0), "direction": "up"})) == (
        "scroll (1.2, 2) up"
    )
    assert in_words(Action("type", {"content": 'a"b\n'})) == r'type "a\"b\n"'
    assert in_words(Action("wait", {"time": 2.0})) == "wait 2 s"
    assert printable("é 日本 \ud800\u202e\x1b\n") == r"é 日本 \ud800\u202e\x1b\n"


@pytest.mark.parametrize("size", [(1, 1), (720, 1280), (1280, 60), (7, 900)], ids=str)
def test_films_of_odd_sizes(size):
    step = Step(grey(*size), "", (Action("click", {"start_box": (0.0, 0.0)}, "t " * 999),), True)
    film = film_strip(Episode("word" * 300, (step,) * 5, "steps", 1.0, grey(*size)))
    assert (film.dtype, film.ndim, film.shape[2]) == (np.uint8, 3, 3)
    # Six panels stand in two rows of four.
    assert film.shape[1] == 4 * 380 + 5 * 24
    assert film.shape[0] < 1500


def test_films_show_marks_and_take_hostile_words():
    episode = run(Scripted(BUTTON, FINISHED), FakePage(), "Press the button.")
    film = film_strip(episode)
    found = np.argwhere((film == COLOUR).all(-1)).mean(0)
    # The screen of 120 x 90 is enlarged three times, inside a gap of 24 and an edge of 10.
    assert found[1] == pytest.approx(24 + 10 + 3 * 30, abs=2)
    assert film.shape[1] == 2 * 380 + 3 * 24
    assert film_strip(Episode("", (), "error", 0.0)).size
    for text in HOSTILE:
        assert film_strip(hostile_episode(text)).size


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    place = shutil.which("chromium")
    if place is None:
        pytest.skip("no Chromium here")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=place, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_in_a_browser(tmp_path, chromium):
    path = write_replay([hostile_episode(one) for one in HOSTILE], tmp_path / "replay.html")
    page = chromium.new_page(viewport={"width": 900, "height": 700})
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(path.as_uri())
    assert page.evaluate("window.pwned === undefined")
    assert [one for one in asked if not one.startswith("data:")] == [path.as_uri()]
    assert wrong == []
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "e1s2"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.id") == "e1s1"
    # The planted script is one that the policy refuses even where it is part of the page.
    planted = path.read_text("utf-8").replace("<main>", f"<main>{HOSTILE[0]}{HOSTILE[2]}", 1)
    path.write_text(planted, "utf-8")
    page.goto(path.as_uri())
    assert page.evaluate("window.pwned === undefined")
    assert wrong
    page.close()


def test_in_a_browser_without_javascript(tmp_path, chromium):
    episode = run(Scripted(BUTTON, FINISHED), FakePage(), "Press the button.")
    path = write_replay(episode, tmp_path / "replay.html")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    shot = np.asarray(Image.open(io.BytesIO(page.locator(".screen svg").first.screenshot())))
    assert tuple(shot[3 * 80, 3 * 5 + 20][:3]) == (240, 240, 240)
    assert (shot[..., :3] == (150, 150, 160)).all(-1).sum() > 5000
    assert (shot[..., :3] == COLOUR).all(-1).sum() > 50
    assert page.locator("[data-hint]").is_hidden()
    context.close()
