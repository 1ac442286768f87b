"""Classic control against Gymnasium: every bit of every transition."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from paragone.reinforcement._register import register
from paragone.reinforcement.classic_control import (
    TASKS,
    ClassicControl,
    ClassicControlVector,
)

NAMES = sorted(TASKS)


@pytest.fixture(scope="module", autouse=True)
def registered():
    if "paragone/CartPole-v1" not in gymnasium.registry:
        register()


def actions_of(space, rng, n, wide=1.3):
    if hasattr(space, "n"):
        return rng.integers(0, space.n, n)
    return rng.uniform(wide * space.low, wide * space.high, (n, 1)).astype(np.float32)


def theirs(name, n, mode, limit):
    makers = [lambda: gymnasium.make(name, max_episode_steps=limit) for _ in range(n)]
    return SyncVectorEnv(makers, autoreset_mode=mode)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("name", NAMES)
def test_whole_runs_are_gymnasiums_in_every_bit(name, mode):
    rng, n, limit = np.random.default_rng(len(name)), 5, 130
    ours = ClassicControlVector(n, name, max_episode_steps=limit, autoreset_mode=mode)
    peer = theirs(name, n, mode, limit)
    assert ours.observation_space == peer.observation_space
    assert ours.action_space == peer.action_space
    a, b = ours.reset(seed=7)[0], peer.reset(seed=7)[0]
    assert a.dtype == b.dtype
    assert np.array_equal(a, b)
    ends = 0
    for _ in range(300):
        actions = actions_of(ours.single_action_space, rng, n)
        a, b = ours.step(actions), peer.step(actions)
        for x, y in zip(a[:4], b[:4], strict=True):
            assert x.dtype == y.dtype
            assert np.array_equal(x, y)
        assert a[4].keys() == b[4].keys()
        if "final_obs" in b[4]:
            assert np.array_equal(a[4]["_final_obs"], b[4]["_final_obs"])
            for x, y in zip(a[4]["final_obs"], b[4]["final_obs"], strict=True):
                assert np.array_equal(x, y)
            assert a[4]["final_info"] == b[4]["final_info"]
            assert np.array_equal(a[4]["_final_info"], b[4]["_final_info"])
        ends += (b[2] | b[3]).sum()
    assert ends >= 10


def spread(name, rng):
    """States all over the space, walls and goals included."""
    if name.startswith("CartPole"):
        return rng.uniform(-1, 1, 4) * [2.4, 3, 0.21, 3]
    if name.startswith("Acrobot"):
        return rng.uniform(-1, 1, 4) * [np.pi, np.pi, 4 * np.pi, 9 * np.pi]
    if name.startswith("Pendulum"):
        return rng.uniform(-1, 1, 2) * [40, 8]
    state = rng.uniform([-1.2, -0.07], [0.6, 0.07])
    return np.where(rng.random(2) < 0.2, [-1.2, 0.07], state)


@pytest.mark.parametrize("name", NAMES)
def test_single_transitions_from_anywhere(name):
    rng = np.random.default_rng(3)
    ours, peer = ClassicControl(name), gymnasium.make(name).unwrapped
    ours.reset(seed=1), peer.reset(seed=1)
    for _ in range(3000):
        state = spread(name, rng)
        if "Continuous" in name:
            state = state.astype(np.float32)
        ours.state = peer.state = state
        peer.steps_beyond_terminated = None
        (action,) = actions_of(ours.action_space, rng, 1, 1.6)
        a, b = ours.step(action), peer.step(action)
        assert np.array_equal(a[0], b[0])
        assert a[1:4] == (float(b[1]), b[2], b[3])
        assert np.array_equal(ours.state[: len(peer.state)], np.asarray(peer.state, float))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("CartPole-v1", {"sutton_barto_reward": True}),
        ("Pendulum-v1", {"g": 9.81}),
        ("MountainCar-v0", {"goal_velocity": 0.03}),
    ],
)
def test_parameters_are_gymnasiums(name, parameters):
    rng = np.random.default_rng(0)
    ours, peer = ClassicControl(name, **parameters), gymnasium.make(name, **parameters).unwrapped
    ours.reset(seed=1), peer.reset(seed=1)
    for _ in range(500):
        ours.state = peer.state = spread(name, rng)
        (action,) = actions_of(ours.action_space, rng, 1)
        peer.steps_beyond_terminated = None
        assert ours.step(action)[1:3] == tuple(map(float, peer.step(action)[1:3]))


def test_options_of_reset_are_gymnasiums():
    cases = {
        "CartPole-v1": {"low": -0.2, "high": 0.1},
        "Acrobot-v1": {"high": 0.3},
        "MountainCar-v0": {"low": -0.9},
        "Pendulum-v1": {"x_init": 0.4, "y_init": 0.2},
    }
    for name, options in cases.items():
        ours, peer = ClassicControl(name), gymnasium.make(name)
        a, b = ours.reset(seed=4, options=options)[0], peer.reset(seed=4, options=options)[0]
        assert np.array_equal(a, b)
    with pytest.raises(ValueError, match=r"low=0\.3 is above high=0\.1"):
        ClassicControl("CartPole-v1").reset(options={"low": 0.3, "high": 0.1})


# Gymnasium's own checker warns of the spaces that Gymnasium's own tasks have.
@pytest.mark.filterwarnings("ignore:.*WARN:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_contract_of_gymnasium(name):
    check_env(gymnasium.make(f"paragone/{name}").unwrapped, skip_render_check=True)
    made = gymnasium.make(f"paragone/{name}")
    assert made.spec.max_episode_steps == gymnasium.spec(name).max_episode_steps
    assert made.spec.reward_threshold == gymnasium.spec(name).reward_threshold
    many = gymnasium.make_vec(f"paragone/{name}", num_envs=3, autoreset_mode="SameStep")
    assert isinstance(many, ClassicControlVector)
    assert many.max_episode_steps == made.spec.max_episode_steps
    many.reset(seed=0)
    many.step(many.action_space.sample())


def test_copies_do_not_depend_on_the_vector_they_are_in():
    rng = np.random.default_rng(0)
    whole = ClassicControlVector(6)
    parts = [ClassicControlVector(2), ClassicControlVector(4)]
    whole.reset(seed=list(range(6)))
    parts[0].reset(seed=[0, 1]), parts[1].reset(seed=[2, 3, 4, 5])
    for _ in range(200):
        actions = rng.integers(0, 2, 6)
        one = whole.step(actions)[:4]
        two = zip(parts[0].step(actions[:2])[:4], parts[1].step(actions[2:])[:4], strict=True)
        for x, y in zip(one, two, strict=True):
            assert np.array_equal(x, np.concatenate(y))


def test_time_runs_out_without_termination():
    env = ClassicControlVector(2, "Pendulum-v1", max_episode_steps=3, autoreset_mode="SameStep")
    env.reset(seed=0)
    for t in range(1, 7):
        _, _, over, cut, info = env.step(np.zeros((2, 1), np.float32))
        assert not over.any()
        assert cut.all() == (t % 3 == 0) == ("final_obs" in info)


def test_disabled_autoreset_wants_a_mask():
    env = ClassicControlVector(3, max_episode_steps=2, autoreset_mode="Disabled")
    env.reset(seed=0)
    env.reset(options={"reset_mask": np.array([False, True, False])})
    actions = np.zeros(3, np.int64)
    env.step(actions)
    last = env.step(actions)
    assert last[3].all()
    with pytest.raises(ValueError, match=r"copies \[0, 1, 2\] have ended"):
        env.step(actions)
    seen, _ = env.reset(options={"reset_mask": np.array([True, True, True])})
    assert not np.array_equal(seen, last[0])
    env.step(actions)


def test_state_can_be_kept():
    env, rng = ClassicControlVector(4, "Acrobot-v1"), np.random.default_rng(0)
    env.reset(seed=0)
    kept, actions = env.get_state(), rng.integers(0, 3, (60, 4))
    first = [env.step(a)[0] for a in actions]
    env.set_state(kept)
    assert np.array_equal(first, [env.step(a)[0] for a in actions])


def test_arrays_are_the_callers_own():
    env = ClassicControlVector(2)
    seen, _ = env.reset(seed=0)
    kept = seen.copy()
    env.step(np.array([0, 1]))
    assert np.array_equal(seen, kept)


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="task='CartPole' is none of"):
        ClassicControl("CartPole")
    with pytest.raises(ValueError, match="no parameter 'g'; it has sutton_barto_reward"):
        ClassicControl("CartPole-v1", g=3)
    with pytest.raises(ValueError, match="num_envs=0 is no number"):
        ClassicControlVector(0)
    with pytest.raises(ValueError, match="max_episode_steps=0 is no number"):
        ClassicControlVector(1, max_episode_steps=0)
    with pytest.raises(ValueError, match="no picture"):
        ClassicControl("CartPole-v1", "human")
    env = ClassicControl("CartPole-v1")
    with pytest.raises(ValueError, match="call reset"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action=2 is none of 0\.\.1"):
        env.step(2)
    many = ClassicControlVector(2)
    with pytest.raises(ValueError, match="call reset"):
        many.step(np.array([0, 0]))
    with pytest.raises(ValueError, match="3 seeds for 2 environments"):
        many.reset(seed=[1, 2, 3])
    many.reset(seed=0)
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        many.step(np.array([0, 2]))
    with pytest.raises(ValueError, match="2 whole numbers"):
        many.step(np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"reset_mask must be \(2,\)"):
        many.reset(options={"reset_mask": np.zeros(2, bool)})
    box = ClassicControlVector(2, "Pendulum-v1")
    box.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(2, 1\)"):
        box.step(np.zeros((3, 1)))
