"""Grid worlds: each convention by enumeration, the environment, and the picture."""

import itertools
import pickle
from xml.etree import ElementTree

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from paragone.reinforcement import GridWorld, evaluate_policy, value_iteration

BOOK = [".....", ".##..", "..#..", ".#T#.", ".#..."]
MOVES = [(-1, 0), (0, 1), (1, 0), (0, -1), (0, 0)]


def by_hand(layout, s, a, forbidden="enter", target="continuing", bump="boundary",
            rewards=(-1.0, -1.0, 1.0, 0.0)):  # fmt: skip
    """One move as the rules say it, cell by cell: (next state, reward, terminated)."""
    boundary, bad, goal, step = rewards
    R, C = len(layout), len(layout[0])
    r, c = divmod(s, C)
    if layout[r][c] == "T" and target != "continuing":
        return s, 0.0, target == "terminal"
    nr, nc = r + MOVES[a][0], c + MOVES[a][1]
    if not (0 <= nr < R and 0 <= nc < C):
        cost = {"boundary": boundary, "forbidden": bad, "sum": boundary + bad}[bump]
        return s, cost if layout[r][c] == "#" else boundary, False
    there = layout[nr][nc]
    if there == "#" and forbidden == "block" and (nr, nc) != (r, c):
        return s, bad, False
    reward = {"#": bad, "T": goal}.get(there, step)
    return nr * C + nc, reward, there == "T" and target == "terminal"


CHOICES = list(itertools.product(
    ["enter", "block"], ["continuing", "absorbing", "terminal"], ["boundary", "forbidden", "sum"]
))  # fmt: skip


@pytest.mark.parametrize(("forbidden", "target", "bump"), CHOICES)
def test_every_convention_is_what_it_says(forbidden, target, bump):
    rewards = (-1.0, -10.0, 5.0, -0.1)
    layout = ["#..T", ".##.", "#..#"]
    grid = GridWorld(
        layout, 0.9, *rewards[:3], r_step=rewards[3], forbidden=forbidden, target=target,
        bump_in_forbidden=bump,
    )  # fmt: skip
    for s in range(grid.n_states):
        for a in range(5):
            there, reward, ends = by_hand(layout, s, a, forbidden, target, bump, rewards)
            assert grid.P[s][a] == [(1.0, there, reward, ends)]
    assert grid.deterministic


def test_a_wrong_rule_is_caught():
    # The planted bug: bumps from forbidden cells always cost the boundary's reward.
    grid = GridWorld(["#T"], r_forbidden=-10, bump_in_forbidden="sum")
    assert grid.P[0][0] != [(1.0, 0, -1.0, False)]
    assert grid.P[0][0] == [(1.0, 0, -11.0, False)]


def test_slip_goes_to_the_sides_and_staying_does_not():
    grid = GridWorld(["...", ".T.", "..."], slip=0.2)
    assert grid.P[0][1] == [(0.8, 1, 0.0, False), (0.1, 0, -1.0, False), (0.1, 3, 0.0, False)]
    assert grid.P[0][4] == [(1.0, 0, 0.0, False)]


@pytest.mark.parametrize("map_name", ["4x4", "8x8"])
def test_with_a_slip_of_two_thirds_it_is_frozen_lake(map_name):
    env = gymnasium.make("FrozenLake-v1", map_name=map_name)
    theirs = value_iteration(env, gamma=0.95).values
    # Holes end the episode with 0, as cells of a target would: build them as such by hand.
    letters = env.unwrapped.desc.astype(str)
    layout = ["".join(row).replace("F", ".").replace("H", "#").replace("G", "T") for row in letters]
    grid = GridWorld(
        layout, 0.95, 0, 0, 1, actions=4, slip=2 / 3, target="terminal", forbidden="enter"
    )
    hole = grid.cells.reshape(-1) == 1
    rows = {s: ({a: [(1.0, s, 0.0, True)] for a in range(4)} if hole[s] else grid.P[s])
            for s in range(grid.n_states)}  # fmt: skip
    np.testing.assert_allclose(value_iteration(rows, gamma=0.95).values, theirs, atol=1e-7)


def test_windy_grid_of_sutton_and_barto():
    # Example 6.5: the goal is reached in 15 steps at best, from the start at (3, 0).
    layout = ["." * 10] * 3 + ["S......T.."] + ["." * 10] * 3
    grid = GridWorld(
        layout, 0.999, -1, -1, -1, -1, actions=4, target="terminal",
        wind=[0, 0, 0, 1, 1, 1, 2, 2, 1, 0],
    )  # fmt: skip
    steps = -value_iteration(grid).values[grid.state(3, 0)]
    assert steps == pytest.approx((1 - 0.999**15) / 0.001)


def test_zhao_figure_values():
    # Zhao, figures 2.7 and 4.4: the target's value is 1 / (1 - gamma) = 10 where the task goes
    # on, and a policy that stays in forbidden cells at -10 each is worth -100.
    grid = GridWorld(BOOK, 0.9, -1, -10, 1)
    stay = evaluate_policy(grid, np.full(25, 4)).values.reshape(5, 5)
    assert stay[3, 2] == pytest.approx(10)
    assert stay[1, 1] == pytest.approx(-100)
    assert stay[0, 0] == 0


def test_start_is_the_cell_marked_or_any_free_one():
    grid = GridWorld("S.#\n..T")
    assert grid.start.tolist() == [1, 0, 0, 0, 0, 0]
    assert GridWorld(".#T").start.tolist() == [1, 0, 0]
    assert GridWorld(".#T", start=1).start.tolist() == [0, 1, 0]
    assert grid.layout == ["..#", "..T"]


@pytest.mark.parametrize("more", [
    {}, {"actions": 4, "target": "terminal"}, {"slip": 0.3}, {"target": "absorbing"},
])  # fmt: skip
def test_it_is_a_gymnasium_environment(more):
    grid = GridWorld(BOOK, **more)
    check_env(grid, skip_render_check=True)
    grid.reset(seed=3)
    seen = [grid.step(grid.action_space.sample())[0] for _ in range(50)]
    assert all(grid.observation_space.contains(s) for s in seen)


def test_steps_follow_the_table():
    grid = GridWorld(BOOK, slip=0.5)
    rng = np.random.default_rng(0)
    state, _ = grid.reset(seed=1)
    counts = {}
    for _ in range(4000):
        action = int(rng.integers(5))
        after, reward, ended, cut, info = grid.step(action)
        assert (info["prob"], after, reward, ended) in grid.P[state][action]
        assert not cut
        counts.setdefault((state, action), []).append(info["prob"])
        state = after
    many = max((c for c in counts.values() if len(set(c)) > 1), key=len)
    assert np.mean(np.array(many) == 0.5) == pytest.approx(0.5, abs=0.2)


def test_reset_takes_a_state_and_is_seeded():
    grid = GridWorld(BOOK)
    assert grid.reset(options={"state": 7})[0] == 7
    assert grid.reset(seed=5)[0] == GridWorld(BOOK).reset(seed=5)[0]
    with pytest.raises(ValueError, match="state 99"):
        grid.reset(options={"state": 99})
    with pytest.raises(ValueError, match="action 7 does not exist"):
        grid.step(7)
    with pytest.raises(ValueError, match="before reset"):
        GridWorld(BOOK).step(0)


WRONG = [
    (dict(layout=["..", ".."]), "no target"),
    (dict(layout=""), "empty"),
    (dict(layout=["..T", ".."]), "row 1 of the layout has 2 cells"),
    (dict(layout=[".xT"]), "'x' in row 0, column 1"),
    (dict(layout=BOOK, actions=3), "actions=3"),
    (dict(layout=BOOK, gamma=1.0), "gamma=1.0"),
    (dict(layout=BOOK, gamma=1.5), "gamma=1.5"),
    (dict(layout=BOOK, forbidden="wall"), "forbidden='wall'"),
    (dict(layout=BOOK, target="end"), "target='end'"),
    (dict(layout=BOOK, bump_in_forbidden="x"), "bump_in_forbidden='x'"),
    (dict(layout=BOOK, r_target=float("nan")), "r_target=nan"),
    (dict(layout=BOOK, slip=1.5), "slip=1.5"),
    (dict(layout=BOOK, wind=[1]), r"wind=\[1\]"),
    (dict(layout=BOOK, start=25), "start=25"),
    (dict(layout=BOOK, render_mode="human"), "render_mode='human'"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "words"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_named(given, words):
    with pytest.raises(ValueError, match=words):
        GridWorld(**given)


def test_it_survives_pickling_with_its_tables():
    grid = GridWorld(BOOK, slip=0.1)
    again = pickle.loads(pickle.dumps(grid))
    assert again.P == grid.P


def test_text_shows_cells_arrows_and_values():
    grid = GridWorld(BOOK, render_mode="ansi")
    plan = value_iteration(grid)
    text = grid.text(values=plan.values, policy=plan.policy, agent=0)
    cells, arrows, values = text.strip("\n").split("\n\n")
    assert cells.splitlines()[0] == "@ . . . ."
    assert arrows.splitlines()[3].split()[2] == "·"
    assert values.splitlines()[3].split()[2] == "10.0"
    grid.reset(seed=0)
    assert "@" in grid.render()


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (20, 31), (80, 70)])
def test_pictures_of_all_sizes(tmp_path, shape):
    rng = np.random.default_rng(0)
    letters = rng.choice([".", "#"], size=shape)
    letters[-1, -1] = "T"
    grid = GridWorld(["".join(row) for row in letters], render_mode="rgb_array")
    plan = value_iteration(grid)
    drawing = grid.draw(values=plan.values, policy=plan.policy, agent=0)
    root = ElementTree.fromstring(drawing.svg())
    assert root.get("viewBox") == f"0 0 {shape[1] * drawing.cell} {shape[0] * drawing.cell}"
    if max(shape) <= 60:
        assert len(root.findall(".//{*}rect")) >= shape[0] * shape[1]
    pixels = drawing.pixels()
    assert pixels.shape == (shape[0] * drawing.cell, shape[1] * drawing.cell, 3)
    assert pixels.dtype == np.uint8
    drawing.save(tmp_path / "grid.svg")
    drawing.save(tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes()[:4] == b"\x89PNG"
    assert len(drawing.svg()) < 3_000_000
    grid.reset(seed=0)
    assert grid.render().shape == pixels.shape


def test_pictures_of_a_random_policy_and_what_does_not_fit():
    grid = GridWorld(BOOK)
    uniform = np.full((25, 5), 0.2)
    svg = grid.draw(policy=uniform).svg()
    assert svg.count("<path") == 25 * 4
    assert "circle" in svg
    with pytest.raises(ValueError, match="3 values for 25"):
        grid.draw(values=[1, 2, 3])
    with pytest.raises(ValueError, match="action 9 does not exist in state 0"):
        grid.draw(policy=np.full(25, 9))
    with pytest.raises(ValueError, match=r"ends in '\.gif'"):
        grid.draw().save("x.gif")
    with pytest.raises(ValueError, match="outside the grid"):
        grid.state(5, 0)


def test_the_name_of_a_file_is_no_layout(tmp_path):
    path = tmp_path / "maze.txt"
    path.write_text("..T")
    for given in (path, str(path)):
        with pytest.raises(ValueError, match="the name of a file"):
            GridWorld(given)
