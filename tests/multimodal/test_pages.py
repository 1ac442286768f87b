"""Generated pages and one's own: the teacher succeeds, wrong ways fail, and words are held out."""

import re

import pytest

from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import OperatorError
from paragone.multimodal.agent.miniwob import FIRST_TEST_SEED
from paragone.multimodal.agent.pages import KINDS, FileTask, PageTask, file_tasks, page_html

from .test_miniwob import lead

OWN = """<!DOCTYPE html><title>mine</title>
<input id="title"><input type="checkbox" id="agree"><button id="save">Save</button>
<button id="cover" style="position:fixed;left:0;top:100px;width:90px;height:40px">over</button>
<button id="under" style="position:fixed;left:0;top:100px;width:80px;z-index:-1">u</button>
<div style="height:900px"></div><button id="far">Far</button>
<script>
let saved = null, word = '';
const one = (s) => document.querySelector(s);
one('#save').onclick = () => {
  saved = one('#title').value === word && one('#agree').checked ? 1 : 0.25;
};
let far = 0;
one('#far').onclick = () => { far += 1; };
window.paragone = {
  start(seed) { word = 'W' + seed; this.instruction = `Save ${word}.`; },
  reward: () => saved,
  wanted: (t) => [
    t.fill(one('#title'), word), t.check(one('#agree'), true),
    far ? null : t.press(one('#far')), t.press(one('#save')),
  ],
};
</script>"""


class TestGenerator:
    def test_a_seed_is_a_page(self):
        for kind in KINDS:
            assert page_html(kind, 4) == page_html(kind, 4)
            assert page_html(kind, 4) != page_html(kind, 5)

    def test_words_and_themes_of_tests_are_not_trained(self):
        """Candle, Flower's neighbours and the rest of each fifth word; slate and amber."""
        train = "".join(page_html(kind, seed) for kind in KINDS for seed in range(60))
        test = "".join(
            page_html(kind, FIRST_TEST_SEED + seed) for kind in KINDS for seed in range(60)
        )
        for held_out in (">Candle<", ">Kerze<", ">Candela<", ">Bougie<", "#dfe4ea", "#2a2118"):
            assert held_out not in train, held_out
            assert held_out in test, held_out

    def test_no_markup_of_the_judge_shows(self):
        """What is right is marked by attributes, which no screenshot holds."""
        for kind in KINDS:
            style = re.search(r"<style>(.*?)</style>", page_html(kind, 1), re.DOTALL)[1]
            assert "data-" not in style

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_teacher_succeeds(self, browser, kind):
        seed = KINDS.index(kind) % 2 * FIRST_TEST_SEED + 1
        exercise = PageTask(kind).start(browser, seed)
        assert exercise.operator.screenshot().size == (160, 160)
        assert lead(exercise)[0] == 1, exercise.instruction

    def test_a_wrong_answer_fails(self, browser):
        exercise = PageTask("toolbar").start(browser, 1)
        right = exercise.wanted().box
        wrong = next(e.box for e in exercise.elements() if e.role == "button" and e.box != right)
        point = ((wrong[0] + wrong[2]) / 2, (wrong[1] + wrong[3]) / 2)
        exercise.operator.execute(Action("click", {"start_box": point}))
        assert exercise.reward() == 0

    def test_a_view_that_is_too_small_is_named(self, browser):
        with pytest.raises(OperatorError, match="does not fit"):
            PageTask("form", 900, 700).start(browser, 0)


class TestOwnPages:
    @pytest.fixture
    def task(self, tmp_path):
        (tmp_path / "mine.html").write_text(OWN)
        return file_tasks(tmp_path)[0]

    def test_its_own_reward_judges_and_goals_lead_there(self, browser, task):
        exercise = task.start(browser, 12)
        assert exercise.instruction == "Save W12."
        kinds = []
        while exercise.reward() is None:
            action = exercise.wanted().action
            kinds.append(action.name)
            exercise.operator.execute(action)
        assert exercise.reward() == 1
        assert kinds[:3] == ["click", "type", "click"]
        assert "scroll" in kinds

    def test_a_part_of_the_reward_is_kept(self, browser, task):
        exercise = task.start(browser, 1)
        save = next(e.box for e in exercise.elements() if e.text == "Save")
        exercise.operator.execute(Action("click", {"start_box": (save[0] + 3, save[1] + 3)}))
        assert exercise.reward() == 0.25

    def test_what_is_covered_has_no_box(self, browser, task):
        exercise = task.start(browser, 1)
        told = {e.text for e in exercise.elements()}
        assert "over" in told
        assert "u" not in told
        assert "Far" not in told

    def test_a_reward_that_is_no_number_is_named(self, browser, tmp_path):
        """And a teacher that fails: both cost the exercise, not the run."""
        page = OWN.replace("reward: () => saved", "reward: () => 'much'").replace("far ?", "fra ?")
        (tmp_path / "mine.html").write_text(page)
        exercise = FileTask(tmp_path / "mine.html").start(browser, 0)
        with pytest.raises(OperatorError, match="'much'"):
            exercise.reward()
        with pytest.raises(OperatorError, match="fra is not defined"):
            exercise.wanted()

    def test_a_page_that_declares_nothing_is_named(self, browser, tmp_path):
        (tmp_path / "bare.html").write_text("<p>hello</p>")
        with pytest.raises(OperatorError, match=r"window\.paragone"):
            FileTask(tmp_path / "bare.html").start(browser, 0)
        with pytest.raises(ValueError, match="no folder"):
            file_tasks(tmp_path / "none")
        with pytest.raises(ValueError, match="no such page"):
            FileTask(tmp_path / "none.html")


def test_all_ways_to_edit_a_field(browser):
    """Fields that do not tell their selection (number), and texts that must go."""
    html = """<input id="n" type="number" value="7"><input id="t" value="old">
    <script>const one = (s) => document.querySelector(s);
    window.paragone = {instruction: 'x', reward: () => null,
      wanted: (t) => [t.fill(one('#n'), '42'), t.fill(one('#t'), '')]};</script>"""
    from paragone.multimodal.agent.pages import _declared

    browser.open(html)
    exercise = _declared(browser, 0, "own", None)
    done = []
    while (wanted := exercise.wanted()) is not None and len(done) < 9:
        done.append(wanted.action.arguments.get("key", wanted.action.name))
        exercise.operator.execute(wanted.action)
    assert done == ["click", "ctrl a", "type", "click", "ctrl a", "delete"]
    assert browser.evaluate("[one('#n').value, one('#t').value].join()") == "42,"
