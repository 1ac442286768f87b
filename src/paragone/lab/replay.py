"""A study again, from what its `study.json` says: the same plan, then a look at what differs.

The plan is made anew by the studies that are installed here; nothing that the file names is
imported or run. Contestants that came from a file of the user's or from an object in Python are
code, so they take part only when they are given again. What is not as it was (versions, sources,
parameters, data, processor) is said before the first run; methods that are deterministic give the
same quality to the bit where nothing differs.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError
from paragone.lab import guests, session, studies
from paragone.lab.api import command
from paragone.lab.build import source_digest, version_of
from paragone.lab.diff import Comparison, compare_studies
from paragone.lab.plan import block_range
from paragone.lab.result import Plan, Study, shown
from paragone.lab.spec import Contestant, Request
from paragone.lab.store import read_study

__all__ = ["Replayed", "replay"]

_PLAIN = ("task", "prefer", "max_latency", "max_memory", "prompts")


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a replay found; `str()` says so.

    Attributes:
        study: The new study.
        differences: What is not as it was, a sentence each.
        comparison: The old study beside the new one, as `paragone diff` gives it.
        equal: Pairs of runs on the same split whose quality agrees to the last bit.
        pairs: All such pairs.
    """

    study: Study
    differences: tuple[str, ...]
    comparison: Comparison
    equal: int
    pairs: int

    @property
    def exit_code(self) -> int:
        """0 if there are pairs and all agree, else 1."""
        return int(not self.pairs or self.equal < self.pairs)

    def __str__(self) -> str:
        return "\n".join([
            str(self.comparison), "", *_told(self.differences),
            f"quality: {self.equal} of {self.pairs} medians on the same splits equal to the bit",
            f"report: {shown(self.study.folder)}/report.html",
        ])  # fmt: skip


def replay(
    folder: str | os.PathLike[str],
    *,
    data: Any = None,
    entries: tuple[str, ...] = (),
    out: str | os.PathLike[str] | None = None,
    dry: bool = False,
    progress: Callable[[Any], None] | None = None,
) -> Replayed | Plan:
    """Runs a study again; see `paragone.replay`."""
    place = Path(folder).expanduser()
    place = (place.parent if place.name == "study.json" else place).resolve()
    content = read_study(place)
    target = Path(out or place.with_name(place.name + "-replay")).expanduser().resolve()
    if target == place:
        raise UsageError(f"--out {out}: that is the study itself; choose another folder")
    wanted, left = _wanted(content, data, entries)
    again = command("replay", str(folder), data=data, with_=entries, out=out)
    prepared = session.prepare(session.Wanted(**wanted, out=target, command=again), dry=dry)
    differences = (*left, *_differences(content, prepared))
    if dry:
        plan = session.plan(prepared)
        text = "\n".join([plan.text, "", *_told(differences)])
        return dataclasses.replace(plan, text=text)
    study = session.execute(prepared, progress)
    found = compare_studies(place, target)
    return Replayed(
        study=study, differences=differences, comparison=found,
        equal=sum(change.same for change in found.changes),
        pairs=sum(change.pairs for change in found.changes),
    )  # fmt: skip


def _told(differences: Sequence[str]) -> list[str]:
    return [f"differs: {text}" for text in differences] or ["nothing differs in the plan"]


def _wanted(
    content: Mapping[str, Any], data: Any, entries: tuple[str, ...]
) -> tuple[dict[str, Any], list[str]]:
    """The arguments that the study was asked for with, and who cannot come again."""
    request = content["request"]
    options = dict(request["options"])
    plain = {name: options.pop(name) for name in _PLAIN if options.get(name) is not None}
    question = studies.load(content["study"])
    asked = Request(quick=request["quick"], options=options)
    known = {c.id: c for c in [*question.contestants(asked), *guests.announced(question.id)]}
    methods, left = [], []
    for told in content["contestants"]:
        name, ours = told["id"], known.get(told["id"])
        if told["hidden"]:
            continue
        if ours is None and not entries:
            left.append(f"{name} is code of the study's own ({told['make']}); give it by --with "
                        "if you trust it")  # fmt: skip
        elif ours is not None and not guests.installed(ours):
            left.append(f"{name} is not installed: {ours.install}")
        elif ours is not None:
            methods.append(name)
    blocks = content["blocks"]
    wanted = {
        "study": content["study"], "data": request["data"] if data is None else data,
        "target": request["target"], "methods": tuple(methods), "entries": entries,
        "budget": content["budget_s"], "repeats": f"{blocks[0]}-{blocks[1]}",
        "quick": request["quick"], "tune": request["tune"], "device": request["device"],
        "threads": request["threads"], "seed": request["seed"], "options": options, **plain,
    }  # fmt: skip
    return wanted, left


def _differences(content: Mapping[str, Any], prepared: session.Prepared) -> list[str]:
    from paragone.lab.diagnose import environment

    before = {one["id"]: one for one in content["contestants"]}
    found = []
    for contestant in prepared.contestants:
        found += _changed(before.get(contestant.id), contestant)
    digests = {one["id"]: one["digest"] for one in content["workloads"]}
    for workload in prepared.workloads:
        if digests.get(workload.id, workload.digest) != workload.digest:
            found.append(f"the data of {workload.id}: {digests[workload.id][:12]} before, "
                         f"{workload.digest[:12]} now")  # fmt: skip
    lost = [name for name in digests if name not in {w.id for w in prepared.workloads}]
    found += [f"the data {name} is not there" for name in lost]
    blocks = list(block_range(prepared.question, prepared.request, prepared.repeats))
    if blocks != list(content["blocks"]):
        found.append(f"blocks: {content['blocks']} before, {blocks} now")
    then, now = content.get("environment", {}), environment()
    for name in ("machine", "python", "gpu"):
        if then.get(name) != now[name]:
            found.append(f"{name}: {then.get(name)} before, {now[name]} now")
    versions = then.get("versions", {})
    for name in sorted({*versions, *now["versions"]}):
        if versions.get(name) != now["versions"].get(name):
            found.append(f"{name}: {versions.get(name)} before, {now['versions'].get(name)} now")
    return found


def _changed(before: Mapping[str, Any] | None, now: Contestant) -> list[str]:
    if before is None:
        return [f"{now.id} was not in the study"]
    pairs = (
        ("version", before["version"], version_of(now)),
        ("parameters", dict(before["params"]), dict(now.params)),
        ("maker", before["make"], now.make),
    )
    found = [f"{now.id}, {what}: {old} before, {new} now" for what, old, new in pairs if old != new]
    if before["source_digest"] != source_digest(now):
        found.append(f"{now.id}: its source has changed")
    return found
