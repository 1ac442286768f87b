"""Clocks and gauges against the operating system and psutil."""

import mmap
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paragone.lab.probe import (
    LoadMeter,
    Probe,
    descendants,
    digest_arrays,
    fingerprint,
    machine_facts,
    resident,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is needed")
MIB = 1 << 20


def touch(size: int) -> None:
    """Takes `size` bytes of fresh pages and gives them back: a heap might reuse what it has."""
    with mmap.mmap(-1, size) as pages:
        np.frombuffer(pages, dtype=np.uint8).fill(1)


@linux
def test_peak_memory_starts_anew_in_each_phase():
    probe = Probe()
    with probe.phase("fit"):
        touch(200 * MIB)
    with probe.phase("predict"):
        touch(40 * MIB)
    fit, predict = probe.phases["fit"], probe.phases["predict"]
    assert 199 * MIB <= fit["peak"] - fit["start"] < 210 * MIB
    assert 39 * MIB <= predict["peak"] - predict["start"] < 50 * MIB
    assert probe.values["fit_peak"] == fit["peak"]


@linux
def test_without_the_reset_the_second_peak_would_be_the_first(monkeypatch):
    """The planted bug that the test above must catch: a high-water mark that never falls."""
    monkeypatch.setattr("paragone.lab.probe._reset_peak", lambda: resident(os.getpid()))
    probe = Probe()
    with probe.phase("fit"):
        touch(200 * MIB)
    with probe.phase("predict"):
        pass
    assert probe.phases["predict"]["peak"] - probe.phases["predict"]["start"] > 190 * MIB


def test_a_gpu_is_measured_where_torch_has_used_one(monkeypatch):
    """No GPU is needed: a stand-in for torch.cuda tells what was asked of it."""
    calls = []
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        synchronize=lambda: calls.append("synchronize"),
        reset_peak_memory_stats=lambda: calls.append("reset"),
        max_memory_allocated=lambda: 123,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    probe = Probe()
    with probe.phase("fit"):
        calls.append("body")
    assert calls == ["synchronize", "reset", "body", "synchronize"]
    assert probe.values["fit_gpu_peak"] == 123
    cuda.is_initialized = lambda: False
    with probe.phase("predict"):
        pass
    assert "predict_gpu_peak" not in probe.values


@linux
def test_memory_that_tracemalloc_cannot_see_counts():
    import tracemalloc

    tracemalloc.start()
    probe = Probe()
    with probe.phase("native"):
        touch(64 * MIB)
    seen = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen < 10 * MIB
    assert probe.phases["native"]["peak"] - probe.phases["native"]["start"] >= 63 * MIB


BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


def test_cpu_time_counts_children_dead_and_alive():
    probe = Probe()
    with probe.phase("reaped"):
        subprocess.run([sys.executable, "-S", "-c", BURN], check=True)
    assert probe.values["reaped_cpu_s"] >= 0.3
    with probe.phase("idle"):
        time.sleep(0.05)
    assert probe.values["idle_cpu_s"] < 0.05 <= probe.values["idle_s"]
    burn_and_stay = [sys.executable, "-S", "-c", BURN + "print(1, flush=True)\ntime.sleep(60)"]
    with probe.phase("alive"):
        child = subprocess.Popen(burn_and_stay, stdout=subprocess.PIPE)
        child.stdout.readline()
    child.kill()
    child.communicate()
    if sys.platform == "linux":
        assert probe.values["alive_cpu_s"] >= 0.2


def test_a_phase_entered_again_adds_up():
    probe = Probe()
    for _ in range(3):
        with probe.phase("step"):
            time.sleep(0.01)
    assert probe.values["step_s"] >= 0.03
    assert list(probe.phases) == ["step"]


def test_a_phase_that_raises_is_recorded(tmp_path):
    probe = Probe(tmp_path)
    with pytest.raises(KeyError), probe.phase("fit"):
        raise KeyError("x")
    assert probe.phases["fit"]["wall"] >= 0
    assert (tmp_path / "phase").read_text() == "fit"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -np.inf, np.float32("nan")])
def test_only_finite_values(number):
    with pytest.raises(ValueError, match="not a finite number"):
        Probe().value("loss", number)


def test_curves_keep_gaps_and_refuse_ragged_axes():
    probe = Probe()
    probe.curve("loss", np.arange(3), [1.0, np.nan, np.inf])
    assert probe.curves["loss"] == {"x": [0.0, 1.0, 2.0], "y": [1.0, None, None]}
    with pytest.raises(ValueError, match="3 x but 2 y"):
        probe.curve("loss", [1, 2, 3], [1, 2])


def test_arrays_become_files_and_objects_do_not(tmp_path):
    probe = Probe(tmp_path)
    probe.array("losses", np.arange(5.0))
    np.testing.assert_array_equal(np.load(tmp_path / "losses.npy"), np.arange(5.0))
    with pytest.raises(ValueError, match="allow_pickle"):
        probe.array("objects", np.array([object()]))
    with pytest.raises(ValueError, match="file name"):
        probe.array("../escape", np.arange(2))


@given(st.lists(st.floats(allow_nan=True, width=64), min_size=1, max_size=20), st.integers(0, 19))
def test_digests_see_every_bit_and_nothing_else(numbers, place):
    values = np.array(numbers)
    wide = np.zeros((len(values), 3))
    wide[:, 1] = values
    assert digest_arrays(values) == digest_arrays(wide[:, 1]) == digest_arrays(values.copy())
    changed = values.copy().view(np.uint64)
    changed[place % len(changed)] ^= 1
    assert digest_arrays(values) != digest_arrays(changed.view(np.float64))
    assert digest_arrays(values) != digest_arrays(values.astype(np.complex128))
    assert digest_arrays(values) != digest_arrays(values[None])


def test_digests_of_other_things():
    torch = pytest.importorskip("torch")
    things = [
        "text", b"bytes", 3, 3.0, None, [1, 2], (1, 2, "x"), {"a": np.arange(2)},
        np.array(["a", "b"], dtype=object), torch.arange(3), torch.ones(2, dtype=torch.bfloat16),
        complex(1, 2), range(3),
    ]  # fmt: skip
    digests = [digest_arrays(thing) for thing in things]
    assert len(set(digests)) == len(things)
    assert digest_arrays({"a": 1, "b": 2}) == digest_arrays({"b": 2, "a": 1})
    assert digest_arrays(np.arange(2), np.arange(3)) != digest_arrays(np.arange(3), np.arange(2))
    grad = torch.ones(3, requires_grad=True)
    assert digest_arrays(grad) == digest_arrays(torch.ones(3))


@linux
def test_descendants_and_resident_agree_with_psutil():
    psutil = pytest.importorskip("psutil")
    code = "import subprocess, sys; subprocess.run(['sleep', '60'])"
    # Other tests of this process may have left a server of theirs running.
    before = set(descendants(os.getpid()))
    with subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True) as child:
        for _ in range(250):
            if len(set(descendants(os.getpid())) - before) >= 2:
                break
            time.sleep(0.02)
        try:
            expected = {p.pid for p in psutil.Process().children(recursive=True)}
            assert set(descendants(os.getpid())) == expected
            assert len(expected - before) == 2
            assert child.pid in expected - before
            ours, theirs = resident(os.getpid()), psutil.Process().memory_info().rss
            assert abs(ours - theirs) < 4 * MIB
            assert 0 < resident(os.getpid(), shared=False) <= ours + MIB
        finally:
            for process in psutil.Process(child.pid).children(recursive=True):
                process.kill()
            child.kill()
    assert resident(child.pid) == 0


@linux
def test_the_meter_tells_own_from_foreign_load():
    meter = LoadMeter()
    subprocess.run([sys.executable, "-S", "-c", BURN], check=True)
    seen = meter.stop(own=0.0)
    assert 0 <= seen["psi"] <= 1
    assert 0.05 < seen["foreign"] <= 1
    assert LoadMeter().stop(own=1e9)["foreign"] == 0.0


def test_the_machine_has_one_fingerprint():
    facts = machine_facts()
    assert facts["cores"] == os.cpu_count()
    assert fingerprint() == fingerprint()
    assert len(fingerprint()) == 12
