"""What users call: one function for each command, the same in Python and in the shell.

The command line is generated from these signatures and docstrings. Importing this module loads
the standard library alone; each function imports what it needs.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from paragone.lab.diagnose import Diagnosis
    from paragone.lab.diff import Comparison
    from paragone.lab.export import Exported
    from paragone.lab.listing import Listing, Page
    from paragone.lab.memory_view import Forecast
    from paragone.lab.precision_view import PrecisionReport
    from paragone.lab.replay import Replayed
    from paragone.lab.result import Plan, Study
    from paragone.lab.threads import Watch
    from paragone.lab.vision_jobs import Found, Trained
    from paragone.lab.warming import Warming
    from paragone.runtime.inspection import Snapshot

__all__ = [
    "bench", "compare", "detect", "diff", "doctor", "export", "list_methods",
    "mean_average_precision", "memory", "replay", "report", "run", "serve", "show", "threads",
    "tour", "train_vision", "warmup",
]  # fmt: skip

PROGRAM = "PARAGONE_PROGRAM"
"""Environment variable: how this program was called, for the commands it prints."""

Prefer = Literal["quality", "speed", "memory"]
Task = Literal["auto", "classification", "regression"]


def list_methods(family: str | None = None) -> Listing:
    """Lists the catalogue: claim, cost, paper, rivals installed or not.

    Args:
        family: One family, such as "ensemble"; all without it.
    """
    from paragone.lab import listing

    return listing.families(family)


def show(method: str, *, source: bool = False) -> Page:
    """Explains a method: idea, equation, cost, lineage, and when to prefer it.

    Args:
        method: Its id, such as "gbdt".
        source: Also print its source.
    """
    from paragone.lab import listing

    return listing.page(method, source)


def compare(
    study: str,
    *,
    data: Any = None,
    target: str | None = None,
    methods: str | Sequence[str] = (),
    with_: str | Sequence[str] = (),
    contestants: Sequence[Any] = (),
    budget: str | float | None = None,
    repeats: str | int = "auto",
    prefer: Prefer = "quality",
    max_latency: str | float | None = None,
    max_memory: str | float | None = None,
    quick: bool = False,
    tune: int = 0,
    task: Task = "auto",
    prompts: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    engine: str = "local",
    dry_run: bool = False,
    progress: Callable[[Any], None] | None = None,
) -> Study | Plan:
    """Compares rivals fairly, side by side, and says which to use. The same call continues.

    Args:
        study: The question, such as "ensembles".
        data: What to compare on: a file (CSV, TSV, Parquet, NPZ, LibSVM), a data frame, or
            arrays (X, y); without it the study's own real data.
        target: Column to predict.
        methods: Only these contestants (commas in between); without it all.
        with_: Further contestants: an installed rival, FILE.py:Name, or module:Name.
        contestants: Further contestants as objects.
        budget: Time for the whole study, such as 10m.
        repeats: Blocks for each data set: auto, a number, or least-most.
        prefer: What decides among those of equal quality.
        max_latency: Recommend only what predicts one row within this, such as 2ms.
        max_memory: Recommend only what fits within this, such as 1GB.
        quick: A first look: small data, few blocks.
        tune: Trials of hyper-parameter search, the same for all; 0 compares defaults.
        task: How the target is taken; auto decides by its values and says so.
        prompts: A file of prompts, where a study decodes: text, or JSON Lines.
        device: Where models run.
        threads: Threads that each contestant may use; all cores without it.
        seed: Seed of splits and contestants.
        out: The study's folder; runs/NAME without it.
        fresh: Start anew; what was measured before is moved aside.
        engine: Where runs go: local, dask, dask:ADDRESS, or ray.
        dry_run: Print the plan and run nothing.
        progress: Called with each event of the study.
    """
    from paragone.lab import session

    wanted = session.Wanted(
        study=study, data=data, target=target, methods=_names(methods), entries=_names(with_),
        objects=tuple(contestants), budget=budget, repeats=repeats, prefer=prefer,
        max_latency=max_latency, max_memory=max_memory, quick=quick, tune=tune, task=task,
        device=device, threads=threads, seed=seed, out=out, fresh=fresh, engine=engine,
        prompts=prompts,
    )  # fmt: skip
    prepared = session.prepare(wanted, dry=dry_run)
    return session.plan(prepared) if dry_run else session.execute(prepared, progress)


def run(
    method: str,
    *,
    data: Any = None,
    target: str | None = None,
    task: Task = "auto",
    quick: bool = False,
    threads: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[Any], None] | None = None,
) -> Study | Plan:
    """Runs one method: the record of a study of one.

    Args:
        method: Its id, such as "gbdt".
        data: As for `compare`.
        target: Column to predict.
        task: How the target is taken.
        quick: A first look: small data, few blocks.
        threads: Threads that it may use; all cores without it.
        seed: Seed of splits and method.
        out: The study's folder; runs/METHOD without it.
        progress: Called with each event.
    """
    from paragone._core import catalog

    name = Path(data).stem if isinstance(data, str | os.PathLike) else "data" if data is not None \
        else "quick" if quick else ""  # fmt: skip
    return compare(
        catalog.find(method).study, data=data, target=target, methods=(method,), task=task,
        quick=quick, threads=threads, seed=seed, progress=progress,
        out=out or Path("runs") / "-".join(filter(None, (method, name))),
    )  # fmt: skip


def report(
    folder: str | os.PathLike[str], *, format: Literal["html", "md", "json", "parquet"] = "html"
) -> Path:
    """Writes the report of a study again and returns the file's path.

    Args:
        folder: The study's folder, such as runs/NAME.
        format: One page, Markdown, JSON, or the records as a table.
    """
    from paragone.lab.report import write

    return write(Path(folder), format)


def diff(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Comparison:
    """Compares two studies: what changed from the first to the second.

    Args:
        a: Folder of the earlier study.
        b: Folder of the later one.
    """
    from paragone.lab.diff import compare_studies

    return compare_studies(a, b)


def replay(
    folder: str | os.PathLike[str],
    *,
    data: Any = None,
    with_: str | Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    progress: Callable[[Any], None] | None = None,
) -> Replayed | Plan:
    """Runs a study again from its study.json, says what differs, and compares the two.

    Args:
        folder: The study's folder, or its study.json.
        data: Where its data lie now, if they have moved.
        with_: Contestants of the user's own, again as FILE.py:Name; never taken from the file.
        out: Folder of the new study; FOLDER-replay without it.
        dry_run: Say what would run and what differs.
        progress: Called with each event.
    """
    from paragone.lab.replay import replay as again

    return again(folder, data=data, entries=_names(with_), out=out, dry=dry_run, progress=progress)


def export(
    folder: str | os.PathLike[str],
    to: str | os.PathLike[str] = "winner",
    *,
    pick: str = "best",
    workload: str | None = None,
    prefer: Prefer = "quality",
) -> Exported:
    """Fits the winner on all rows and writes it with the code that loads it.

    Args:
        folder: The study's folder, such as runs/NAME.
        to: Folder to write.
        pick: "best", or a contestant's id.
        workload: Which data set, in a study of several; the first without it.
        prefer: What decides among those of equal quality.
    """
    from paragone.lab.export import export as write_winner
    from paragone.lab.result import Study

    return write_winner(Study(Path(folder)), to, pick=pick, workload=workload, prefer=prefer)


def bench(
    method: str,
    *,
    against: str | Sequence[str] = (),
    rows: int | None = None,
    leaves: int | None = None,
    repeats: str | int = "7-15",
    threads: int | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[Any], None] | None = None,
) -> Any:
    """Measures a method's speed as ratios to its peers, after its own tests have passed.

    Args:
        method: Its id, such as "gbdt".
        against: Peers, commas in between: contestants' ids or libraries, such as sklearn; the
            study's first installed rival of that method without it.
        rows: Rows of the tables (or points) that are measured on; 100000 without it.
        leaves: Leaves of each tree of a gradient boosting; 31 without it.
        repeats: Blocks: auto, a number, or least-most.
        threads: Threads that both may use; all cores without it.
        out: Folder of the records; runs/bench-METHOD without it.
        progress: Called with each event.
    """
    from paragone.lab.benching import bench as measure

    return measure(
        method, _names(against), rows=rows, leaves=leaves, repeats=repeats, threads=threads,
        out=out, progress=progress,
    )  # fmt: skip


def tour(
    *,
    quick: bool = False,
    out: str | os.PathLike[str] = "runs/tour",
    progress: Callable[[Any], None] | None = None,
) -> Path:
    """Runs every study on its own data and binds the reports into one book.

    Args:
        quick: A first look at each.
        out: Folder of the book.
        progress: Called with each event.
    """
    from paragone.lab import session

    return session.tour(Path(out), quick, progress)


def serve(folder: str | os.PathLike[str] = "runs", *, port: int = 8000) -> None:
    """Shows reports in the browser, starts and stops studies there; for this machine only.

    Args:
        folder: Folder that holds studies.
        port: Port on 127.0.0.1; the next free one if it is taken.
    """
    from paragone.lab.serve import serve as start

    start(Path(folder), port=port)


def doctor() -> Diagnosis:
    """Tells what this machine can do, and why a back end is not available."""
    from paragone.lab.diagnose import examine

    return examine()


def warmup(name: str | None = None, *, progress: Callable[[Any], None] | None = None) -> Warming:
    """Compiles every kernel once, so that later processes start at once; can be interrupted.

    Args:
        name: A family such as "ensemble", or a method's id; all without it.
        progress: Called with each event.
    """
    from paragone.lab.warming import warm

    return warm(name, progress)


def threads(
    pid: int | None = None, *, watch: bool = False, every: float = 1.0, no_stacks: bool = False
) -> Snapshot | Watch:
    """Lists every process and thread of a program: name, state, CPU, what it waits in, stack.

    Args:
        pid: Number of a process; this one without it. For Python stacks of another process it
            takes py-spy and its owner's rights.
        watch: Again and again, with the CPU used in between, until the process ends.
        every: Seconds from one look to the next.
        no_stacks: Only what the kernel knows; no Python stacks.
    """
    from paragone._core.errors import UsageError
    from paragone.lab.threads import Watch, look

    if every <= 0:
        raise UsageError(f"--every {every}: give a positive number of seconds")
    return Watch(pid, every, not no_stacks) if watch else look(pid, not no_stacks)


def memory(
    model: Any,
    *,
    optimizer: str = "adamw",
    precision: str | None = None,
    batch: int | None = None,
    sequence: int | None = None,
    gpus: int = 1,
    zero: Literal[0, 1, 2, 3] = 0,
    offload: Literal["optimizer", "parameters"] | None = None,
    checkpointing: Literal["attention", "selective", "full"] | None = None,
    attention: Literal["flash", "math"] = "flash",
    tensor_parallel: int = 1,
    context_parallel: int = 1,
    compiled: Literal["layers", "all"] | None = None,
    step: Literal["foreach", "fused"] = "foreach",
    accumulate: bool = False,
    fits: str | None = None,
    out: str | None = None,
) -> Forecast:
    """Tells what a training run will need on each GPU, by ZeRO stage, and what fits.

    Args:
        model: A name such as llama-7b, a config.json or its folder, or a count such as 7.5B.
        optimizer: adamw, adam, adamw8bit, lion, lion8bit, muon, adafactor, schedule-free, sgd,
            or sgd-momentum.
        precision: fp32, fp16, bf16, autocast, or another recipe; bf16 without it.
        batch: Sequences on each data-parallel GPU; model states only without it.
        sequence: Tokens of a sequence.
        gpus: GPUs of the run.
        zero: ZeRO stage.
        offload: What is kept in the host's memory.
        checkpointing: What is computed again in the backward pass.
        attention: Whether scores are written out (math) or not.
        tensor_parallel: GPUs that share each matrix.
        context_parallel: GPUs that share each sequence.
        compiled: Whether layers, or the loss too, run under torch.compile.
        step: Whether the optimizer makes temporaries (foreach) or not.
        accumulate: Whether gradients are accumulated over several passes.
        fits: Memory of a GPU, such as 80GB: says whether it fits, and the largest that does.
        out: SVG file to draw the stages into.
    """
    from paragone.lab.memory_view import foresee

    return foresee(
        model, fits=fits, out=out, optimizer=optimizer, precision=precision, batch=batch,
        sequence=sequence, gpus=gpus, zero=zero, offload=offload, checkpointing=checkpointing,
        attention=attention, tensor_parallel=tensor_parallel, context_parallel=context_parallel,
        compiled=compiled, step=step, accumulate=accumulate,
    )  # fmt: skip


def train_vision(
    task: Literal["classify", "segment", "detect"],
    data: Any = None,
    *,
    model: str | None = None,
    epochs: int | None = None,
    budget: str | float | None = None,
    batch: int | None = None,
    size: int | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    weights: str | None = None,
    freeze: str = "",
    multi_scale: str = "",
    progressive: float = 1.0,
    mirror: Literal["none", "horizontal", "both", "all"] | None = None,
    fit: Literal["stretch", "letterbox", "cover", "native"] | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    keep: Literal["best", "last"] = "best",
    images: str | None = None,
    validation: float = 0.15,
    test: float = 0.0,
    validate_on: Literal["validation", "test"] = "validation",
    options: str = "",
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
    fresh: bool = False,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[Any], None] | None = None,
) -> Trained:
    """Trains a classifier, a segmenter or a detector on images. The same call continues.

    Args:
        task: classify, segment or detect.
        data: A folder, zip or tar: a folder for each class, images with masks, VOC, YOLO or COCO
            (also its JSON); digits or scenes are embedded, and taken without it.
        model: The network; an unknown name lists them.
        epochs: Passes over the images.
        budget: Time for training and validation, such as 5m.
        batch: Images of a step.
        size: Side of the training images in pixels.
        optimizer: sgd, adamw or another of paragone.training.
        lr: Largest learning rate.
        weights: A state dict or safetensors to start from; what does not fit is told.
        freeze: Parts of the network that keep their weights, commas in between.
        multi_scale: Sides that batches are drawn to have, such as 240,320,400.
        progressive: Share of the size to begin with.
        mirror: How training images are mirrored; both: upside down, too; all: also turned.
        fit: How whole images meet the network.
        precision: auto measures whether a narrow type is faster here.
        keep: The best weights by validation, or the last: then nothing was chosen by it.
        images: Folder of the pictures, if a COCO file is elsewhere.
        validation: Share of the images to validate on, if the data has no such split.
        test: Share of the images to test on, if the data has no such split.
        validate_on: test: validate on the data's own test images, train on all others.
        options: Further arguments of the network, such as width=0.5,depth=3.
        seed: Seed of weights, order and augmentation.
        threads: Threads of torch.
        device: Where it runs.
        fresh: Start anew.
        out: The run's folder; runs/TASK-NAME without it.
        progress: Called with each event.
    """
    from paragone.lab import vision_jobs

    given: dict[str, Any] = {
        "model": model, "epochs": epochs, "batch": batch, "size": size, "optimizer": optimizer,
        "lr": lr, "weights": weights, "freeze": _names(freeze),
        "multi_scale": vision_jobs.numbers(multi_scale), "progressive": progressive, "fit": fit,
        "precision": precision, "keep": keep, "seed": seed, "threads": threads,
        "device": device, "resume": not fresh,
        "model_options": vision_jobs.named_values(options),
    }  # fmt: skip
    reading = {"validation": validation, "test": test, "random_state": seed,
               "validate_on": validate_on, "images": images}  # fmt: skip
    return vision_jobs.train_vision(
        task, data, options=given, reading=reading, budget=budget, mirror=mirror, out=out,
        progress=progress,
    )  # fmt: skip


def detect(
    model: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    threshold: float = 0.4,
    like: str | None = None,
    batch: int = 8,
    device: str = "auto",
    progress: Callable[[Any], None] | None = None,
) -> Found:
    """Finds objects in images with a trained detector, draws them, and writes COCO results.

    Args:
        model: The run's folder, such as runs/NAME.
        images: A picture, or a folder, zip or tar of them.
        out: Folder for the drawn pictures and detections.json.
        threshold: Least score of a box.
        like: Annotations (COCO, VOC, YOLO) whose ids of images and classes are written.
        batch: Images at a time.
        device: Where it runs.
        progress: Called with each event.
    """
    from paragone.lab import vision_jobs

    return vision_jobs.detect(
        model, images, out=out, threshold=threshold, like=like, batch=batch, device=device,
        progress=progress,
    )  # fmt: skip


def mean_average_precision(
    gt: Any,
    detections: Any,
    *,
    protocol: Literal["coco", "voc2007", "voc2010", "voc2012"] = "coco",
    iou: float | None = None,
    classes: bool = False,
    compare: Any = None,
    resamples: int = 1000,
    mode: Literal["native", "pycocotools"] = "native",
    problems: Literal["raise", "skip"] = "raise",
    threads: int | None = None,
    out: str | os.PathLike[str] | None = None,
) -> PrecisionReport:
    """Evaluates boxes by COCO's or VOC's protocol, and compares two detectors on the same images.

    Args:
        gt: The objects: a COCO file, a folder of VOC's XML or of YOLO's texts.
        detections: The same with scores: a COCO list of results, or YOLO's texts.
        protocol: How average precision is read.
        iou: One threshold of overlap, in place of the protocol's.
        classes: Also each class.
        compare: Detections of a second detector: the difference with its interval.
        resamples: Of the comparison.
        mode: native, or pycocotools for that tool's numbers with its faults.
        problems: raise at the first bad record, or skip and count.
        threads: All cores without it.
        out: Folder for a page with curves, and tables as CSV.
    """
    from paragone.lab.precision_view import assess

    return assess(
        gt, detections, compare=compare, classes=classes, out=out, resamples=resamples,
        protocol=protocol, iou=iou, mode=mode, problems=problems, threads=threads,
    )  # fmt: skip


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else list(given)
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip())


def command(name: str, *arguments: str, **options: Any) -> str:
    """The shell line of a call; options at None, False or empty are left out."""
    words = [*os.environ.get(PROGRAM, "paragone").split(), name, *arguments]
    for option, value in options.items():
        flag = "--" + option.strip("_").replace("_", "-")
        if value is True:
            words.append(flag)
        elif value not in (None, False, (), "") and not isinstance(value, bool):
            values = value if isinstance(value, tuple) else (value,)
            words += [word for item in values for word in (flag, str(item))]
    return shlex.join(words)
