"""Mamba and Mamba-2 on one thread of a CPU: the scan, the blocks and a step, beside their peers.

    OMP_NUM_THREADS=1 python benchmarks/mamba.py

Process time, interleaved, medians. The peers are the loop of `ops/scan/reference.py`, and the
modules of transformers with the same weights (their fallbacks in torch; mamba-ssm has no CPU path).
"""

import logging
import statistics
import time

import torch

from paragone._core.lazy import resolve
from paragone.lab.torchvision_cpu import prepare
from paragone.mixers import Mamba, Mamba2
from paragone.mixers.ops.scan import selective_scan

logging.disable(logging.WARNING)
prepare()
modeling_mamba = resolve("transformers.models.mamba.modeling_mamba")
modeling_mamba2 = resolve("transformers.models.mamba2.modeling_mamba2")
WIDTH, INNER, TIME = 256, 512, 2048


def compare(name: str, repeats: int, **calls) -> None:
    """Prints medians, and how many times longer each peer took than the first."""
    found = {key: [] for key in calls}
    for round_ in range(repeats + 1):
        for key, call in calls.items():
            begun = time.process_time()
            call()
            if round_:
                found[key].append(1e3 * (time.process_time() - begun))
    medians = {key: statistics.median(values) for key, values in found.items()}
    ours, *peers = medians.values()
    times = ", ".join(f"{key} {value:.2f} ms" for key, value in medians.items())
    print(f"{name:28} {times}; {', '.join(f'{peer / ours:.1f}x' for peer in peers)}", flush=True)


def backward(module, x) -> None:
    """Runs a module forth and back."""
    y = module(x)
    (y[0] if isinstance(y, tuple) else y).sum().backward()


def scans() -> None:
    """Compares the scan with the loop and with the published fallback."""
    both = torch.randn(1, TIME, 2 * INNER)
    A = -torch.arange(1.0, 17).repeat(INNER, 1)
    B, C = torch.randn(2, 1, TIME, 16)
    given = {"x": both[..., :INNER], "dt": torch.randn(1, TIME, INNER) - 4, "A": A, "B": B, "C": C,
             "D": torch.ones(INNER)}  # fmt: skip
    more = {"z": both[..., INNER:], "dt_bias": torch.zeros(INNER)}
    first = [v.mT.contiguous() for v in (given["x"], given["dt"], more["z"])]

    def published():
        modeling_mamba.mamba_selective_scan(
            *first[:2], A, B.mT, C.mT, given["D"], first[2], more["dt_bias"], True, True
        )

    compare(
        "selective scan forward", 5, numba=lambda: selective_scan(**given, **more),
        loop=lambda: selective_scan(**given, **more, backend="torch"), transformers=published,
    )  # fmt: skip
    leaves = {key: value.clone().requires_grad_() for key, value in given.items()}

    def both_ways(backend):
        selective_scan(**leaves, **more, backend=backend)[0].sum().backward()

    compare("selective scan both ways", 3, numba=lambda: both_ways("auto"),
            loop=lambda: both_ways("torch"))  # fmt: skip


def blocks() -> None:
    """Compares whole mixers and single steps."""
    x = torch.randn(1, TIME, WIDTH)
    one = modeling_mamba.MambaMixer(
        modeling_mamba.MambaConfig(hidden_size=WIDTH, state_size=16, num_hidden_layers=1), 0
    )
    config = modeling_mamba2.Mamba2Config(
        hidden_size=WIDTH, state_size=64, head_dim=64, num_heads=8, n_groups=1, num_hidden_layers=1
    )
    two = modeling_mamba2.Mamba2Mixer(config, 0)
    pairs = (("Mamba", Mamba, one), ("Mamba-2", Mamba2, two))
    for name, ours, peer in pairs:
        mixer = ours.from_state_dict(peer.state_dict())
        with torch.no_grad():
            compare(f"{name} block forward", 5, paragone=lambda m=mixer: m(x),
                    transformers=lambda m=peer: m(x))  # fmt: skip
        short = x[:, :256] if name == "Mamba" else x
        compare(f"{name} both ways, T={short.shape[1]}", 3,
                paragone=lambda m=mixer, s=short: backward(m, s),
                transformers=lambda m=peer, s=short: backward(m, s))  # fmt: skip
        with torch.no_grad():
            state = mixer(x)[1]

            def steps(m=mixer, state=state):
                for _ in range(20):
                    m.step(x[:, 0], state)

            slow = ours.from_state_dict(peer.state_dict(), backend="torch")
            compare(f"{name} 20 steps", 9, numba=steps, torch=lambda m=slow: steps(m))


torch.manual_seed(0)
scans()
blocks()
