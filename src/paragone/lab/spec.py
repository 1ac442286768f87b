"""What a study says: its question, workloads, contestants, measures, claims, pictures.

Everything here is data that travels to a fresh process as JSON: code is named by strings
(`"module:attribute"`) and resolved only where it runs, so that a broken rival costs its own
row and the parent never imports it. This module loads the standard library alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from paragone.lab.outcome import ClaimResult, Summary

__all__ = [
    "PROTOCOL_VERSION", "Block", "Claim", "Contestant", "Job", "Measure", "Picture", "Request",
    "Study", "Workload",
]  # fmt: skip

PROTOCOL_VERSION = 1
"""Part of every run's key: a change in how runs are made or timed starts new records."""

Better = Literal["lower", "higher"]
Role = Literal["quality", "time", "memory", "count"]
Origin = Literal["paragone", "rival", "guest", "baseline"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One column: a number that every run records, with its direction and its margin.

    Direction and margin are fixed before the first run and stored in `study.json`.

    Attributes:
        name: Key in the record's `values`.
        title: Head of the column.
        better: Which direction wins.
        role: What it is about; "time" and "memory" are compared as ratios over blocks.
        margin: Difference that does not matter: a share of the reference if `relative`.
        relative: Whether `margin` is a share.
        unit: "s", "B", "%", "" ...
        primary: The measure by which this role ranks (one for each role).
        note: One line for the glossary.
        shown: Whether the short table shows it, beside the measures that rank.
    """

    name: str
    title: str
    better: Better
    role: Role
    margin: float
    relative: bool = True
    unit: str = ""
    primary: bool = False
    note: str = ""
    shown: bool = False


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One rival, described by strings and built only in its own process.

    Attributes:
        id: Key on the command line and in records.
        title: What the table shows, such as "paragone gbdt" or "lightgbm 4.7".
        make: `"module:attribute"` or `"/path/file.py:Name"`; called with `params`. Fields of
            the workload's facts are filled in: `"xgboost:XGB{kind}"`.
        params: Arguments of `make` (JSON).
        origin: Ours, a rival library, a guest of the user's, or a floor that all must beat.
        distribution: pip distribution whose version goes into the record ("" for ours).
        install: The pip line that brings it.
        method: Catalogue id, where it is one of ours.
        needs: Facts the workload must have, such as `{"kind": ["Classifier"]}`; else no run.
        start: "fork" from the preloaded server, or "exec" a new interpreter (CUDA, torchrun).
        note: One line for the report, such as how categories are prepared.
        space: What `--tune` may draw from: parameter to a list of values, or to
            {"low": a, "high": b} with "log" and "integer" as options (JSON).
    """

    id: str
    title: str
    make: str
    params: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = "paragone"
    distribution: str = ""
    install: str = ""
    method: str = ""
    needs: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    start: Literal["fork", "exec"] = "fork"
    note: str = ""
    space: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One input on which contestants meet: a data set, or one point of a sweep.

    Attributes:
        id: Short, usable as a file name.
        title: What the report shows.
        load: `"module:function"`, called in the run's process as `function(**params)`.
        params: Arguments of `load` (JSON); paths absolute. `cache`, a folder for what can be
            made again, is no part of a run's identity.
        facts: Known before any run, such as rows, columns, task kind, length (JSON). `threads`
            sets the run's threads, for sweeps over them.
        digest: Hash of the input's bytes; every run computes it again and must agree.
        measures: Names of the measures that apply here; () means all.
        primary: The quality measure that ranks here ("" : the study's primary one).
        axis: Coordinates for sweeps, such as `{"length": 4096}`.
        splits: Number of different train/test splits that blocks walk through (1: none).
        test_share: n_test / n_train of a split, for the Nadeau-Bengio correction.
        counts: Whether it has a part in the leaderboard over all. One that does not answers a
            question of its own, with a table and claims.
    """

    id: str
    title: str
    load: str
    params: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    measures: Sequence[str] = ()
    primary: str = ""
    axis: Mapping[str, float] = field(default_factory=dict)
    splits: int = 1
    test_share: float = 0.0
    counts: bool = True


@dataclass(frozen=True, kw_only=True)
class Block:
    """(workload, split, seed): all contestants run once in it, in random order.

    Attributes:
        workload: Workload id.
        index: 0, 1, 2 ... within the workload; block i uses split `i % splits`.
        split: Number of the split.
        seed: Seed of every contestant in this block.
    """

    workload: str
    index: int
    split: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that one run needs; written as JSON, read in the run's own process.

    Attributes:
        key: Hash of what the run is; records with the same key are the same run.
        task: `"module:function"`, called as `function(job, probe)`.
        contestant: The contestant.
        workload: The workload.
        block: The block.
        threads: Threads that every contestant may use; set before any import.
        device: "cpu" or "cuda".
        quick: Whether the study runs in its short form.
        tune: Trials of hyper-parameter search, equal for all (0: defaults).
        options: Further arguments of the task (JSON).
        folder: Where the run writes its artifacts and log (absolute).
    """

    key: str
    task: str
    contestant: Contestant
    workload: Workload
    block: Block
    threads: int
    device: str = "cpu"
    quick: bool = False
    tune: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for, checked: the arguments of `compare` that shape a study."""

    data: str | None = None
    target: str | None = None
    quick: bool = False
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    tune: int = 0
    cache: str = ""
    """Folder in which workloads may be stored (absolute)."""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence from a paper, checked against what was measured here.

    Attributes:
        text: The claim, in one sentence.
        source: Paper and place.
        check: Given the summary, says what was measured and whether it holds.
    """

    text: str
    source: str
    check: Callable[[Summary], ClaimResult]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image for the report, drawn after the runs in a process of its own.

    Attributes:
        id: File name of the artifact.
        title: Caption.
        draw: `"module:function"`, called as `function(folder, path)`: study folder in, one
            SVG (or PNG) file out.
    """

    id: str
    title: str
    draw: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, and all that is needed to answer it.

    Attributes:
        id: Name on the command line.
        family: Package whose methods meet here.
        question: As an engineer would ask it.
        task: `"module:function"` that performs one run, as `function(job, probe)`.
        measures: Columns, with direction and margin.
        workloads: Builds the inputs from the request.
        contestants: Names the rivals, ours first; missing libraries are dropped by the lab.
        reference: Contestant whose hidden duplicate measures the noise floor ("" : none).
        inputs: What `--data` may be: "table", "text", "images", "env", "none" ...
        claims: Sentences from papers.
        answer: The sentence that answers a question which "use X" does not; it comes first.
        findings: Sentences that only this study can say, such as where the lead changes hands;
            they follow the verdict.
        speed: Method to the study in which `bench` measures it (this one without it).
        pictures: Images for the report.
        preload: Modules that the fork server imports once: neutral ones, no contestant's.
        blocks: (least, most) blocks a workload; adaptive repeats stay between.
        quick_blocks: The same for `--quick`.
        timed: Whether times are compared; then one run at a time on a machine.
        options: Arguments of the task (JSON), the same for all; see `lab.tasks`.
        export: `"module:function"` that writes a winner that is no table's, as
            `function(study, workload, contestant, folder)`.
    """

    id: str
    family: str
    question: str
    task: str
    measures: Sequence[Measure]
    workloads: Callable[[Request], Sequence[Workload]]
    contestants: Callable[[Request], Sequence[Contestant]]
    reference: str = ""
    inputs: Sequence[str] = ("none",)
    claims: Sequence[Claim] = ()
    answer: Callable[[Summary], str] | None = None
    findings: Callable[[Summary], Sequence[str]] | None = None
    speed: Mapping[str, str] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()
    preload: Sequence[str] = ()
    blocks: tuple[int, int] = (5, 30)
    quick_blocks: tuple[int, int] = (1, 3)
    timed: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    export: str = ""
