"""Operating characteristics of the timing verdict, on the simulated machine of the benchmark."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "noise.py"


@pytest.fixture(scope="module")
def noise():
    spec = importlib.util.spec_from_file_location("noise", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_program_against_itself_is_rarely_called_different(noise):
    words, blocks, alarm = noise.share(1.0, 100, seed=1)
    assert words["better"] + words["worse"] <= 0.05
    assert alarm <= 0.05
    assert noise.LEAST <= blocks <= noise.MOST


@pytest.mark.parametrize("most", [15, 30])
def test_a_quarter_more_is_found(noise, most):
    words, blocks, _ = noise.share(1.25, 100, seed=2, most=most)
    assert words["worse"] >= 0.90
    assert words["better"] == words["same"] == 0
    assert blocks < most


def test_a_tenth_more_is_not_called_the_same(noise):
    words, _, _ = noise.share(1.10, 60, seed=3)
    assert words["same"] + words["better"] <= 0.02


def test_the_simulation_would_catch_runs_that_are_not_interleaved(noise):
    words, _, alarm = noise.share(1.0, 60, seed=4, interleaved=False)
    assert words["better"] + words["worse"] > 0.3
    assert alarm > 0.2


def test_looks_that_are_not_paid_for_would_be_caught(noise):
    # Planted bug: the same blocks judged at 5 % after each of them.
    from paragone.lab.statistics.timing import paired_log_ratio

    rng, wrong = np.random.default_rng(5), 0
    for _ in range(100):
        seconds = noise.machine(rng, 1.0)
        looks = (paired_log_ratio(seconds[:n, 1], seconds[:n, 0]) for n in range(5, 31))
        wrong += any(not look.low <= 0 <= look.high for look in looks)
    assert wrong / 100 > 0.10


def test_the_machine_has_the_truth_that_it_is_told(noise):
    rng = np.random.default_rng(6)
    many = np.concatenate([noise.machine(rng, 1.25) for _ in range(60)])
    ratio = np.median(many[:, noise.NAMES.index("rival")] / many[:, noise.NAMES.index("ours")])
    assert ratio == pytest.approx(1.25, abs=0.02)
