"""Writes a study folder that looks like a real one, from a known truth.

The times drift together (AR(1) in the logarithm), jitter and spike; qualities share the
split's difficulty, so that pairing matters. Failures, a time-out, a contestant that ate its
memory, one that is not installed, and the hidden duplicate are all there.

    python tests/lab/fabricate.py FOLDER [workloads] [blocks]
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from paragone.lab.spec import PROTOCOL_VERSION, Contestant, Measure, Workload

MEASURES = (
    Measure(name="log_loss", title="log loss", better="lower", role="quality", margin=0.01,
            primary=True, note="Mean negative logarithm of the probability of the truth."),
    Measure(name="rmse", title="RMSE", better="lower", role="quality", margin=0.01,
            note="Root of the mean squared error."),
    Measure(name="accuracy", title="accuracy", better="higher", role="quality", margin=0.005,
            relative=False),
    Measure(name="fit_s", title="fit", better="lower", role="time", margin=0.05, unit="s",
            primary=True),
    Measure(name="predict_s", title="predict", better="lower", role="time", margin=0.05, unit="s"),
    Measure(name="fit_peak", title="peak RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True),
)  # fmt: skip

# id, title, origin, relative quality loss, fit seconds, peak MB, noise of its own
CAST = (
    ("newton_boosting", "paragone xgboost", "paragone", 0.000, 1.9, 212, 0.004),
    ("gradient_boosting", "paragone gbdt", "paragone", 0.004, 3.1, 205, 0.004),
    ("lightgbm", "lightgbm 4.7", "rival", 0.002, 2.0, 240, 0.004),
    ("xgboost", "xgboost 3.2", "rival", 0.001, 2.4, 255, 0.004),
    ("sk_hist", "scikit-learn HistGradientBoosting 1.9", "rival", 0.003, 2.9, 230, 0.004),
    ("random_forest", "paragone random_forest", "paragone", 0.065, 11.8, 510, 0.006),
    ("sk_forest", "scikit-learn RandomForest 1.9", "rival", 0.067, 12.6, 560, 0.006),
    ("stacking", "paragone stacking", "paragone", -0.004, 41.0, 820, 0.004),
    ("bagging", "paragone bagging", "paragone", 0.10, 13.0, 480, 0.008),
    ("adaboost", "paragone adaboost", "paragone", 0.21, 6.2, 190, 0.008),
    ("decision_tree", "paragone decision_tree", "paragone", 0.60, 0.21, 150, 0.02),
    ("mymodel", "mine.py:MyModel", "guest", 0.30, 0.9, 140, 0.02),
)

NAMES = ("breast_cancer", "diabetes", "digits", "california", "wine", "adult", "credit")


def contestants(count: int) -> list[Contestant]:
    """The cast, as a study would name it."""
    return [
        Contestant(
            id=name, title=title, origin=origin, make=f"some.module:{name}",  # type: ignore[arg-type]
            method=name if origin == "paragone" else "",
            distribution=name if origin == "rival" else "",
            install=f"pip install {name}" if origin == "rival" else "",
        )
        for name, title, origin, *_ in CAST[:count]
    ]  # fmt: skip


def workloads(count: int, splits: int) -> list[Workload]:
    """Classification and regression in turn."""
    made = []
    for i, name in enumerate(NAMES[:count]):
        regression = i % 2 == 1
        made.append(Workload(
            id=name, title=name.replace("_", " "), load=f"some.module:load_{name}",
            facts={"rows": 569 * (i + 1), "columns": 30 + i, "classes": 0 if regression else 2,
                   "kind": "Regressor" if regression else "Classifier"},
            digest=hashlib.sha256(name.encode()).hexdigest(),
            measures=("rmse" if regression else "log_loss", *(() if regression else ("accuracy",)),
                      "fit_s", "predict_s", "fit_peak"),
            primary="rmse" if regression else "log_loss", splits=splits,
            test_share=0.25 if splits > 1 else 0.0,
        ))  # fmt: skip
    return made


def fabricate(
    folder: str | Path,
    *,
    workloads_count: int = 3,
    contestants_count: int = 12,
    blocks: int = 6,
    splits: int = 30,
    seed: int = 0,
    failures: bool = True,
    duplicate_slowdown: float = 1.0,
    quality: Mapping[str, float] | None = None,
    speed: Mapping[str, float] | None = None,
    busy: bool = False,
    examples: int = 0,
    complete: bool = True,
    torn: bool = False,
) -> Path:
    """Writes `study.json`, `records.jsonl` and artifacts; returns the folder.

    Args:
        folder: Where to write.
        workloads_count: Number of data sets, 1 to 7.
        contestants_count: Number of visible contestants, 2 to 12.
        blocks: Blocks of each workload.
        splits: Train/test splits of each workload; 1 for a single one.
        seed: Seed of all that is random.
        failures: Whether some contestants fail, time out, or are not installed.
        duplicate_slowdown: Factor on the hidden duplicate's times (1: honest machine).
        quality: Relative quality loss by contestant id, in place of the cast's.
        speed: Fit seconds by contestant id, in place of the cast's.
        busy: Whether foreign load is recorded.
        examples: Test examples whose losses are stored as artifacts (0: none).
        complete: What `study.json` says of itself.
        torn: Whether the last line of the records is cut off.
    """
    folder = Path(folder)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rivals, inputs = contestants(contestants_count), workloads(workloads_count, splits)
    truth = {name: (loss, fit, peak, own) for name, _, _, loss, fit, peak, own in CAST}
    reference = rivals[0].id
    entered = [*rivals, Contestant(**{**asdict(rivals[0]), "id": f"{reference}~2"})]
    records: list[dict[str, Any]] = []
    load = 0.0
    for i, workload in enumerate(inputs):
        for block in range(blocks):
            difficulty = float(np.exp(rng.normal(0, 0.05)))
            for place in rng.permutation(len(entered)):
                one = entered[int(place)]
                name = one.id.removesuffix("~2")
                loss, fit, peak, own = truth[name]
                loss = (quality or {}).get(name, loss)
                fit = (speed or {}).get(name, fit)
                load = 0.9 * load + rng.normal(0, 0.15 * np.sqrt(1 - 0.81))
                slow = float(np.exp(load + rng.normal(0, 0.08)))
                if rng.random() < 0.02:
                    slow *= 2.5
                slow *= duplicate_slowdown if one.id.endswith("~2") else 1.0
                # The duplicate is the same program with the same seed: the same quality.
                private = np.random.default_rng([seed, i, block, len(name), ord(name[0])])
                level = (0.31 if i % 2 == 0 else 41.0) * (1 + 0.3 * i)
                value = level * difficulty * (1 + loss + private.normal(0, own))
                records.append(_record(
                    folder, len(records) + 1, one, workload, block, value, fit * (1 + i), slow,
                    peak * 1e6 * (1 + 0.1 * i), rng, failures, busy, examples,
                ))  # fmt: skip
    study = _study(rivals, entered, inputs, blocks, reference, failures, complete)
    (folder / "study.json").write_text(json.dumps(study, indent=1), encoding="utf-8")
    lines = "".join(json.dumps(record) + "\n" for record in records)
    if torn:
        lines += '{"schema": 1, "id": "r99'
    (folder / "records.jsonl").write_text(lines, encoding="utf-8")
    return folder


def _record(
    folder: Path, index: int, one: Contestant, workload: Workload, block: int, quality: float,
    cpu: float, slow: float, peak: float, rng: np.random.Generator, failures: bool, busy: bool,
    examples: int,
) -> dict[str, Any]:  # fmt: skip
    name, identifier = one.id.removesuffix("~2"), f"r{index:04d}"
    key = hashlib.sha256(f"{one.id} {workload.id} {block}".encode()).hexdigest()[:16]
    record: dict[str, Any] = {
        "schema": 1, "id": identifier, "key": key, "setup": "s0", "attempt": 0,
        "wall": cpu * slow, "time": f"2026-11-22T20:{index % 60:02d}:00",
        "contestant": one.id, "workload": workload.id, "block": block,
        "split": block % workload.splits, "seed": block, "status": "ok", "message": "",
        "values": {}, "phases": {}, "curves": {}, "artifacts": {},
        "digests": {"data": workload.digest, "split": f"{block % workload.splits:08x}"},
        "load": {"psi": 0.23 if busy else 0.004, "foreign": 0.35 if busy else 0.01},
        "threads": 1, "machine": "f00d", "versions": {"numpy": "2.4.0"},
        "log": f"logs/{identifier}.log",
    }  # fmt: skip
    if failures and (name, workload.id) in _FAILURES:
        first_bad, status, message = _FAILURES[name, workload.id]
        if block >= first_bad:
            (folder / record["log"]).write_text(f"Traceback ...\n{message}\n", encoding="utf-8")
            return record | {"status": status, "message": message}
    regression = workload.primary == "rmse"
    fit, cpu = cpu * slow, cpu * float(np.exp(rng.normal(0, 0.03)))
    values = {
        "rmse" if regression else "log_loss": quality,
        "fit_s": fit, "fit_cpu_s": cpu,
        "predict_s": fit / 300, "predict_cpu_s": cpu / 300, "fit_peak": peak,
        "predict_peak": peak * 0.8, "import_s": 0.4, "first_call_s": fit * 1.1,
    }  # fmt: skip
    if not regression:
        values["accuracy"] = float(1 / (1 + quality / 4))
    record["values"] = values
    record["phases"] = {
        "import": {"wall": 0.4, "cpu": 0.38, "peak": 9e7},
        "fit": {"wall": fit, "cpu": cpu, "peak": peak},
        "predict": {"wall": fit / 300, "cpu": cpu / 300, "peak": peak * 0.8},
    }
    if "boost" in name or name in ("lightgbm", "xgboost"):
        rounds = np.arange(1, 101, 3)
        curve = quality * (1 + 1.5 * np.exp(-rounds / 15))
        record["curves"] = {"test loss by trees": {"x": rounds.tolist(), "y": curve.tolist()}}
    if examples:
        path = f"artifacts/{identifier}/example_loss.npy"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        common = np.random.default_rng([ord(workload.id[0]), block]).gamma(0.5, 2.0, examples)
        losses = common * np.exp(np.random.default_rng(len(name)).normal(0, 0.1, examples))
        target = quality**2 if regression else quality
        np.save(folder / path, losses * (target / losses.mean()))
        record["artifacts"] = {"example_loss": path}
    return record


_FAILURES = {
    ("stacking", "breast_cancer"): (2, "timeout", "killed after 66.0 s (limit 60 s)"),
    ("stacking", "diabetes"): (0, "timeout", "killed after 66.0 s (limit 60 s)"),
    ("mymodel", "breast_cancer"): (0, "failed", "ValueError: Input X contains NaN."),
    ("mymodel", "diabetes"): (0, "failed", "ValueError: Input X contains NaN."),
    ("mymodel", "digits"): (0, "crashed", "killed by signal 11 (SIGSEGV)"),
    ("sk_forest", "digits"): (1, "memory", "killed above 1.0 GB of memory"),
}


def _study(
    rivals: list[Contestant], entered: list[Contestant], inputs: list[Workload], blocks: int,
    reference: str, failures: bool, complete: bool,
) -> dict[str, Any]:  # fmt: skip
    absent = Contestant(
        id="catboost", title="catboost", make="catboost:CatBoost{kind}", origin="rival",
        distribution="catboost", install="pip install catboost",
    )  # fmt: skip
    return {
        "schema": 1, "protocol": PROTOCOL_VERSION, "study": "ensembles",
        "question": "Which tree ensemble should I use on this table?",
        "command": "paragone compare ensembles --out runs/fake --seed 0", "created":
        "2026-11-22T20:00:00+00:00",
        "request": {"data": None, "target": None, "quick": False, "seed": 0, "threads": 1,
                    "device": "cpu", "tune": 0, "cache": "", "options": {}},
        "measures": [asdict(m) for m in MEASURES], "workloads": [asdict(w) for w in inputs],
        "contestants": [
            asdict(c) | {"version": "0.1.0", "source_digest": "0" * 12} for c in entered
        ],
        "setups": {f"{c.id}|{w.id}": "s0" for c in entered for w in inputs}, "looks": 0,
        "ended": "settled" if complete else "", "skipped": [],
        "missing": [asdict(absent)] if failures else [], "reference": reference,
        "blocks": [min(5, blocks), max(30, blocks)], "threads": 1, "timed": True,
        "environment": {"cpu": "Some CPU @ 2.0 GHz", "cores": 2, "memory": 8_000_000_000,
                        "system": "Linux 6.1", "python": "3.11.9", "gpu": ""},
        "tuning": "defaults", "budget_s": 600.0, "run_limit_s": 60.0, "complete": complete,
    }  # fmt: skip


if __name__ == "__main__":
    made = fabricate(
        sys.argv[1],
        workloads_count=int(sys.argv[2]) if len(sys.argv) > 2 else 3,
        blocks=int(sys.argv[3]) if len(sys.argv) > 3 else 6,
    )
    print(made)
