"""The contestants of the study `collectives`: strings only."""

from __future__ import annotations

from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["ALGORITHMS", "contestants"]

_HERE = "paragone.lab.contestants.reducers:"
_CALL = "paragone.training.collectives:all_reduce"
_GROUP = "paragone.training.shared_group"

ALGORITHMS = {
    "ring": "ring", "tree": "two trees", "halving_doubling": "halving-doubling",
    "bcube": "bcube", "hierarchical": "hierarchical",
}  # fmt: skip


def _algorithm(id: str, title: str, note: str, algorithm: str, **more: Any) -> Contestant:
    needs = more.pop("needs", {})
    return Contestant(
        id=id, title=title, make=_HERE + "Ours", method="all_reduce", note=note, needs=needs,
        params={"algorithm": algorithm, "target": _CALL, **more},
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """Shared memory, our algorithms over gloo's messages, gloo itself, and the floor."""
    square, more = {"ranks": [4]}, {"ranks": [3, 4]}
    return [
        Contestant(
            id="all_reduce", title="paragone shared memory", make=_HERE + "Shared",
            params={"target": _GROUP}, method="all_reduce",
            note="one host; the tensor lies in shared memory, summed in place",
        ),
        Contestant(
            id="shared_copy", title="shared memory, copied", make=_HERE + "Shared",
            params={"target": _GROUP, "inside": False}, method="all_reduce",
            note="one host; an ordinary tensor, copied through the ranks' lanes",
        ),
        _algorithm("ring", "ring", "over gloo's isend and irecv", "ring"),
        _algorithm("ring_ordered", "ring, ordered sums", "added in the order of ranks", "ring",
                   ordered=True, needs=more),
        _algorithm("halving_doubling", "halving-doubling", "over gloo's isend and irecv",
                   "halving_doubling"),
        _algorithm("tree", "two trees", "over gloo's isend and irecv; chunks of 1 MiB or more",
                   "tree"),
        _algorithm("bcube", "bcube", "all pairs at once for up to 4 ranks", "bcube", needs=more),
        _algorithm("hierarchical", "hierarchical", "as 2 nodes of 2 ranks", "hierarchical",
                   ranks_per_node=2, needs=square),
        Contestant(
            id="gloo_all_reduce", title="gloo (torch {version})", make=_HERE + "Gloo",
            origin="rival", distribution="torch", install="pip install torch",
            note="torch.distributed.all_reduce over loopback TCP",
        ),
        Contestant(
            id="naive", title="to one rank and back", make=_HERE + "Ours", origin="baseline",
            method="all_reduce", params={"algorithm": "naive", "target": _CALL},
            note="over gloo's isend and irecv",
        ),
    ]  # fmt: skip
