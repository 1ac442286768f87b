"""Two hosts with a network, a name, memory and a disk of their own, and torchrun on both."""

import pickle
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.hosts import Hosts, ended, why_not

from paragone.lab.build import resolve_target

JOB = str(Path(__file__).with_name("hosts_job.py"))
REASON = why_not() if sys.platform.startswith("linux") else "network namespaces need Linux"
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON or "they can be made")


def torchrun(host, *words):
    """As docs/hosts.md has it, with 1 to 2 hosts and restarts."""
    settings = f"is_host={int(host.name == 'alpha')},last_call_timeout=5,join_timeout=300"
    return host.start(
        [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc-per-node", "1",
         "--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-endpoint", "10.77.0.1:29500",
         "--rdzv-id", "test", "--rdzv-conf", settings, "--local-addr", host.address, *words],
        # As Debian has it: gloo would listen where no other host can reach it.
        lines=f"127.0.1.1 {host.name}\n", PYTHONPATH=":".join(p for p in sys.path if p),
    )  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Answers by part of the story and rank: a rank is killed, then a whole host."""
    folder = tmp_path_factory.mktemp("hosts")
    with Hosts(folder) as hosts:
        runs = [torchrun(host, JOB, str(folder)) for host in hosts]
        until = time.monotonic() + 400
        while not (folder / "now").exists():
            if time.monotonic() > until or any(run.poll() is not None for run in runs):
                ended(runs, 1)
            time.sleep(0.2)
        hosts[1].crash()
        ended(runs[:1], 300)
    return {path.stem: pickle.loads(path.read_bytes()) for path in folder.glob("*.pickle")}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(x, other[n]) for n, x in one.items())


def test_sums_over_hosts_are_those_of_a_loop(told):
    for rank in (0, 1):
        first = told[f"first-{rank}"]
        assert first["world"] == 2
        assert first["card"] == "cable"
        assert [first[n] for n in ("ring", "hierarchical", "zero 2", "zero 3")] == [True] * 4


def test_what_needs_one_host_is_refused_with_its_name(told):
    for rank in (0, 1):
        first = told[f"first-{rank}"]
        for words in ("alpha", "beta", "another host", "use gloo"):
            assert words in first["refused"]
        for words in ("alpha", "beta", "does not see", "all hosts share"):
            assert words in first["disk"]
        for words in ("40 documents", "39 documents", "rank 0", "rank 1", "alpha", "beta"):
            assert words in first["texts"]


def test_a_killed_rank_is_started_again_and_comes_to_the_same_bits(told):
    for rank in (0, 1):
        assert same(told[f"second-{rank}"]["went on"], told["first-0"]["whole"])


def test_after_a_crash_the_other_host_finishes_alone(told):
    job = {name: resolve_target(f"{JOB}:{name}") for name in ("boosted", "learned", "weights")}
    third = told["third-0"]
    assert third["world"] == 1
    assert "third-1" not in told
    assert np.array_equal(third["boosted"], job["boosted"](0, 1))
    before = torch.get_num_threads()
    one = job["weights"](job["learned"](None, accumulate=2))
    torch.set_num_threads(before)
    for zero in (0, 2):
        for name, x in third[f"shrunk {zero}"].items():
            torch.testing.assert_close(x, one[name], rtol=2e-2, atol=2e-3)
