"""What the ranks of `test_hosts.py` do: torchrun starts it on each host, and again after a loss.

    torchrun ... tests/training/hosts_job.py FOLDER

FOLDER is the hosts' common one, FOLDER/disk each host's own. What has happened already is told by
files, since a rank that starts again knows nothing.
"""

import os
import pickle
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import torch

from paragone.language import fitting, train

__all__ = ["TEXT", "boosted", "learned", "rows", "sums_and_shares"]

TEXT = [f"line {i}: to be or not to be, that is the question number {i % 7}. " * 3
        for i in range(40)]  # fmt: skip
GIVEN = {"model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "num_key_value_heads": 1},
         "vocab_size": 300, "length": 32, "batch": 2, "tokens": 1500, "precision": "fp32",
         "validation": 0.1, "threads": 1}  # fmt: skip


class StoppedError(Exception):
    """A run that a test ends in the middle."""


def learned(folder, accumulate=1, zero=0, at=None, then=None):
    """Trains a small language model; `then` happens when step `at` is done and saved."""
    whole = fitting.Loop._one

    def one(loop, done):
        if loop.step == at:
            then()
        whole(loop, done)

    fitting.Loop._one, fitting._SAVE_EVERY = one, 0.0
    try:
        return train(TEXT, folder, accumulate=accumulate, zero=zero, **GIVEN)
    finally:
        fitting.Loop._one = whole


def weights(done):
    return {name: x.detach().clone() for name, x in done.model.state_dict().items()}


def rows():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(600, 4))
    return X, X[:, 0] * 2 + np.sin(3 * X[:, 1]) + 0.1 * rng.normal(size=600)


def boosted(rank, world, checkpoint=None, after=None):
    """Fits six rounds to this rank's rows; `after` happens when round 3 is written."""
    from paragone.ensemble import NewtonBoostingRegressor
    from paragone.ensemble._journal import Journal

    X, y = rows()
    cuts = [0, 600] if world == 1 else [0, 250, 600]
    part = slice(cuts[rank], cuts[rank + 1])
    whole = Journal.write

    def write(journal, r, trees):
        whole(journal, r, trees)
        if r == 3 and after is not None:
            after()

    Journal.write = write
    try:
        model = NewtonBoostingRegressor(n_estimators=6, max_depth=3, n_jobs=1)
        model.fit(X[part], y[part], process_group=world > 1, checkpoint=checkpoint)
    finally:
        Journal.write = whole
    return model.predict(X)


def sums_and_shares(rank, world, folder):
    """ZeRO and sums over hosts against loops, and what is refused there."""
    import torch.distributed as dist
    from torch import nn

    from paragone.training import Zero, collectives, shared_group

    def drawn(of):
        return torch.randn(1001, generator=torch.Generator().manual_seed(of))

    found = {"refused": "", "disk": ""}
    for algorithm in ("ring", "hierarchical"):
        total = collectives.all_reduce(drawn(rank), algorithm, ordered=True)
        found[algorithm] = torch.equal(total, sum(drawn(r) for r in range(1, world)) + drawn(0))
    try:
        shared_group.new_group()
    except shared_group.SharedGroupError as error:
        found["refused"] = str(error)

    def net():
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return nn.Sequential(nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 3))

    def loss(model, step, of):
        x = torch.randn(5, 7, generator=torch.Generator().manual_seed(10 * step + of))
        return model(x).square().sum()

    for stage in (2, 3):
        model, alone = net(), net()
        zero = Zero(model, torch.optim.AdamW, stage=stage, lr=0.05, foreach=False)
        plain = torch.optim.AdamW(alone.parameters(), lr=0.05, foreach=False)
        for step in range(2):
            loss(model, step, rank).backward()
            zero.step()
            parts = [torch.autograd.grad(loss(alone, step, r), [*alone.parameters()])
                     for r in range(world)]  # fmt: skip
            for p, *grads in zip(alone.parameters(), *parts, strict=True):
                p.grad = sum(grads[1:], grads[0]) / world
            plain.step()
        full = zero.full_state_dict(everywhere=True)["model"]
        found[f"zero {stage}"] = all(torch.equal(full[n], x) for n, x in alone.state_dict().items())
    try:
        zero.save(folder / "disk" / "zero")
    except OSError as error:
        found["disk"] = str(error)
    zero.save(folder / "zero")
    zero.load(folder / "zero")
    zero.close()
    dist.barrier()
    return found


def two_texts(rank):
    """What a host is told that has another text."""
    try:
        train(TEXT[rank:], tokens=100, **{k: v for k, v in GIVEN.items() if k != "tokens"})
    except ValueError as error:
        return str(error)
    return ""


def stop():
    raise StoppedError


def hang(folder):
    (folder / "now").touch()
    time.sleep(600)


def main(folder):
    from paragone.ensemble.distributed import connect

    crashed, killed = (folder / "now").exists(), (folder / "killed").exists()
    if os.environ["WORLD_SIZE"] == "1" and not crashed:
        # The other host comes later: torchrun starts all ranks again when it does.
        time.sleep(600)
    rank, world = connect(timeout=120)
    beta, own = socket.gethostname() == "beta", folder / "disk"
    answers = {"world": world, "card": os.environ.get("GLOO_SOCKET_IFNAME")}
    if not killed:
        answers |= sums_and_shares(rank, world, folder)
        answers["texts"] = two_texts(rank)
        answers["whole"] = weights(learned(None))

        def die():
            if beta:
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)

        (folder / f"first-{rank}.pickle").write_bytes(pickle.dumps(answers))
        learned(own / "run", at=7, then=die)
    elif not crashed:
        answers["went on"] = weights(learned(own / "run"))
        for zero in (0, 2):
            try:
                learned(own / f"shrinks-{zero}", zero=zero, at=9, then=stop)
            except StoppedError:
                continue
        (folder / f"second-{rank}.pickle").write_bytes(pickle.dumps(answers))
        boosted(rank, world, own / "rounds.jsonl", after=lambda: hang(folder) if beta else None)
    else:
        answers["boosted"] = boosted(rank, world, own / "rounds.jsonl")
        for zero in (0, 2):
            answers[f"shrunk {zero}"] = weights(learned(own / f"shrinks-{zero}", zero=zero))
        (folder / f"third-{rank}.pickle").write_bytes(pickle.dumps(answers))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
