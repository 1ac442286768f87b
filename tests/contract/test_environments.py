"""Every environment of ours passes Gymnasium's `check_env`, alone, by name, and many at once."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from paragone.reinforcement import make, make_vec
from paragone.reinforcement._register import ENVIRONMENTS

LAYOUT = {"GridWorld-v0": {"layout": ["S.#", "..T"]}}

pytestmark = pytest.mark.filterwarnings(
    # Gymnasium's advice on spaces of environments that are copied from it.
    "ignore:.*Box observation space m.*imum value is:UserWarning",
    "ignore:.*For Box action spaces, we recommend.*:UserWarning",
)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_check_env(name):
    env = gymnasium.make(f"paragone/{name}", **LAYOUT.get(name, {}))
    check_env(env.unwrapped)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_many_hold_to_their_spaces(name):
    envs = make_vec(name, 3, **LAYOUT.get(name, {}))
    assert "autoreset_mode" in envs.metadata
    seen, infos = envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(60):
        assert seen in envs.observation_space
        assert isinstance(infos, dict)
        seen, reward, terminated, truncated, infos = envs.step(envs.action_space.sample())
        assert reward.shape == terminated.shape == truncated.shape == (3,)
        assert terminated.dtype == truncated.dtype == np.bool_
    envs.close()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_equal_seeds_give_equal_episodes(name):
    runs = []
    for _ in range(2):
        env = make(name, **LAYOUT.get(name, {}))
        env.action_space.seed(1)
        seen = [np.asarray(env.reset(seed=4)[0])]
        for _ in range(30):
            state, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            seen.append(np.append(np.asarray(state, float), reward))
            if terminated or truncated:
                seen.append(np.asarray(env.reset()[0]))
        runs.append(np.concatenate([np.ravel(x) for x in seen]))
    assert np.array_equal(*runs)


def test_the_checker_sees_a_bad_environment():
    env = make("FrozenLake-v1")
    env.observation_space = gymnasium.spaces.Discrete(2, start=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(AssertionError):
            check_env(env)
