"""The tour: every study that asks a question, one after another, into one book.

`agenda.toml` holds the studies in their order, and what each costs. A budget is shared by these
costs: the study whose turn it is gets

    share_i = left * cost_i / (cost_i + cost_(i+1) + ... + cost_n),

where `left` is what the studies before it left of the budget, so time that one saves is given to
all that follow. A study whose whole does not fit into its turn, at the pace of those before it,
takes its short form, and says so. All its contestants run on its first input even if that passes
its turn (kernels may have to be compiled), as long as the studies ahead can spare the time.

Everything is on the disk: `tour.json` (how far each study is, what it cost), and in each study's
folder its records and its `card.json`, the page of the book. So the same call continues where it
was interrupted or killed. A study that fails costs its own page.

The `*_speed` benches are no part of it: they ask how fast one kernel is against one library, and
`paragone bench` answers that for one method at a time, after its tests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import paragone
from paragone._core.errors import UsageError
from paragone.lab import format as fmt
from paragone.lab import session, studies
from paragone.lab.api import command
from paragone.lab.protocol import Event
from paragone.lab.report import book
from paragone.lab.result import shown
from paragone.lab.store import write_json

__all__ = ["QUICK_BUDGET", "Stop", "Tour", "TourEvent", "agenda", "run"]

QUICK_BUDGET = 885.0
"""Seconds of a `--quick` tour's studies; it ends within 15 minutes, with its start and set-up."""

_SCHEMA = 1
_LEAST = 5.0
"""Seconds that the runs of a study get in any case."""
_CLOSING, _CLOSING_SHARE = 6.0, 0.3
"""Seconds for pictures and report, and the largest share of a study's turn that they take."""
_RUN_LIMIT = 30.0
_KEPT = 0.7
"""Share of their costs that the studies ahead keep when one passes its turn."""
_MARGIN = 1.15
"""By how much a turn must be longer than what it is to hold."""
_EVERY = 2.0
"""Seconds between two notes of what a running study has cost."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """One study of the agenda.

    Attributes:
        id: The study.
        seconds: What a round of blocks of the whole `--quick` study costs on two cores.
        brief: What its short form costs.
        workloads: Those of the short form; () all.
        contestants: Those of the short form; () all.
    """

    id: str
    seconds: float
    brief: float
    workloads: tuple[str, ...] = ()
    contestants: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TourEvent:
    """What just happened, for whoever shows progress.

    Attributes:
        kind: "tour" (it begins), "study" (one begins), "run" (an event of its runs), "done",
            "kept" (done by an earlier call), "failed", or "end".
        study: Which.
        number: How many studies are behind it.
        count: Studies of the tour.
        elapsed: Seconds of this study, at the end of the tour.
        share: Share of the work that is done.
        eta: Seconds until the book is whole, None while nothing is known.
        message: The question, the verdict, or the error.
        event: The study's own event, for "run".
    """

    kind: Literal["tour", "study", "run", "done", "kept", "failed", "end"]
    study: str = ""
    number: int = 0
    count: int = 0
    elapsed: float = 0.0
    share: float = 0.0
    eta: float | None = None
    message: str = ""
    event: Event | None = None


@dataclass(frozen=True)
class Tour:
    """A finished tour; `str()` is a table of what each study says.

    Attributes:
        path: The book.
        cards: Its pages.
        exit_code: 0, or 1 if a study failed, or 3 if none has a verdict.
    """

    path: Path
    cards: tuple[book.Card, ...]

    @property
    def exit_code(self) -> int:
        told = [card for card in self.cards if card.state == "done"]
        return 3 if not told else int(any(card.state == "failed" for card in self.cards))

    def __str__(self) -> str:
        wide = max((len(card.id) for card in self.cards), default=0)
        lines = []
        for card in self.cards:
            text = card.verdict[0] if card.verdict else card.error or "nothing was measured"
            lines.append(f"{card.id:<{wide}}  {text}")
        return "\n".join([*lines, "", f"the book: {shown(self.path)}"])


def agenda(chosen: Sequence[str] = ()) -> tuple[Stop, ...]:
    """Returns the studies of the tour, or those that are named.

    Raises:
        UsageError: A named study is not on the agenda.
    """
    text = Path(__file__).with_name("agenda.toml").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = [
        {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        for row in tomllib.loads(text)["study"]
    ]
    stops = tuple(Stop(**row) for row in rows)
    if not chosen:
        return stops
    known = {stop.id: stop for stop in stops}
    for name in chosen:
        if name not in known:
            raise UsageError(f"no study {name!r} on the tour; there are {', '.join(known)}")
    return tuple(stop for stop in stops if stop.id in chosen)


def run(
    out: Path,
    *,
    quick: bool = False,
    budget: float | None = None,
    chosen: Sequence[str] = (),
    threads: int | None = None,
    fresh: bool = False,
    progress: Callable[[TourEvent], None] | None = None,
) -> Tour:
    """Runs what is left of the tour and writes the book after each study.

    Args:
        out: The tour's folder.
        quick: The quick form of each study.
        budget: Seconds for all studies, over all calls; None: no limit, or `QUICK_BUDGET`.
        chosen: Ids of studies; () all.
        threads: Threads that contestants may use.
        fresh: Begin again.
        progress: Called with each event.

    Raises:
        UsageError: No such study, no such folder, no threads, or another tour is writing there.
    """
    if quick and budget is None:
        budget = QUICK_BUDGET
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: at least 1 is expected")
    stops = agenda(chosen)
    out = out.expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--out {out}: no folder can be made there ({error.strerror}); choose another"
        ) from None
    with _alone(out):
        if fresh:
            (out / "tour.json").unlink(missing_ok=True)
        asked = _Asked(quick=quick, budget=budget, threads=threads, fresh=fresh)
        return _Drive(out, stops, asked, progress or (lambda event: None)).drive()


@dataclass(frozen=True, kw_only=True)
class _Asked:
    quick: bool
    budget: float | None
    threads: int | None
    fresh: bool


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    with (out / ".tour.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{out}: another tour is writing here; wait for it, or choose another --out"
            ) from None
        yield


class _Drive:
    """One call: visits the studies in turn, notes what they cost, tells how long it will take."""

    def __init__(
        self, out: Path, stops: Sequence[Stop], asked: _Asked, tell: Callable[[TourEvent], None]
    ):
        self.out, self.stops, self.asked, self._tell = out, stops, asked, tell
        self.short = asked.budget is not None and asked.budget < sum(s.seconds for s in stops)
        self.key = self._key()
        self.notes: dict[str, dict[str, Any]] = self._noted()
        self.cost = {
            s.id: s.seconds
            if self.notes.get(s.id, {}).get("rounds", not self.short) >= 1
            else s.brief
            for s in stops
        }
        self.cards = {s.id: self._card(s.id) for s in stops}
        self.began, self._written = time.monotonic(), 0.0
        self._now, self._eta = "", None

    # What is known.

    def _noted(self) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads((self.out / "tour.json").read_text(encoding="utf-8"))
            known = content["studies"] if content["schema"] == _SCHEMA else {}
        except (OSError, ValueError, KeyError):
            known = {}
        return {s.id: known[s.id] for s in self.stops if known.get(s.id, {}).get("key") == self.key}

    def _key(self) -> str:
        """What a finished study depends on: asked otherwise, or by other code, it is looked at."""
        package = Path(paragone.__file__).parent
        newest = max(path.stat().st_mtime_ns for path in package.rglob("*.py"))
        asked = self.asked
        return repr((paragone.__version__, newest, asked.quick, asked.budget, asked.threads,
                     self.short))  # fmt: skip

    def _card(self, name: str) -> book.Card:
        if self.notes.get(name, {}).get("state") in ("done", "failed"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                return book.read_card(self.out / name)
        question = studies.load(name)
        return book.Card(id=name, family=question.family, question=question.question)

    def spent(self) -> float:
        """Seconds of all studies, over all calls."""
        return sum(note["seconds"] for note in self.notes.values())

    def left(self) -> float:
        """Seconds that the budget has left."""
        if self.asked.budget is None:
            return float("inf")
        return self.asked.budget - self.spent()

    def eta(self) -> float | None:
        """Seconds until the book is whole.

        What was done tells how long a second of the agenda takes here; so does the study that
        runs, once it has an ETA of its own.
        """
        took, cost = self._behind()
        ahead = sum(self.cost.values()) - cost
        here = 0.0
        if self._now and self._eta is not None:
            here = self._eta
            took += self.notes[self._now]["seconds"] + here
            cost += self.cost[self._now]
            ahead -= self.cost[self._now]
        if self.asked.budget is None and not (cost and took):
            return None
        pace = took / cost if cost and took else 1.0
        if self._now and self._eta is None:
            here = max(self.cost[self._now] * pace - self.notes[self._now]["seconds"], 0.0)
            ahead -= self.cost[self._now]
        return max(min(here + pace * ahead, self.left()), here)

    def _behind(self) -> tuple[float, float]:
        """What the studies that are behind took, and what the agenda says of them."""
        names = [n for n, note in self.notes.items() if note["state"] in ("done", "failed")]
        return (
            sum(self.notes[name]["seconds"] for name in names),
            sum(self.cost[name] for name in names),
        )

    def pace(self) -> float:
        """How long a second of the agenda takes here."""
        took, cost = self._behind()
        return took / cost if took and cost else 1.0

    def share(self) -> float:
        """Share of the tour that is behind."""
        done = self._behind()[1]
        if self._now and self._eta is not None:
            spent = self.notes[self._now]["seconds"]
            done += self.cost[self._now] * spent / max(spent + self._eta, 1e-9)
        return done / max(sum(self.cost.values()), 1e-9)

    # What is done.

    def tell(self, kind: Any, study: str = "", **more: Any) -> None:
        number = sum(note["state"] in ("done", "failed") for note in self.notes.values())
        self._tell(TourEvent(
            kind=kind, study=study, number=number, count=len(self.stops), share=self.share(),
            eta=self.eta(), **more,
        ))  # fmt: skip

    def save(self) -> None:
        """Writes `tour.json`."""
        write_json(self.out / "tour.json", {
            "schema": _SCHEMA, "quick": self.asked.quick, "budget_s": self.asked.budget,
            "studies": self.notes,
        }, durable=False)  # fmt: skip

    def drive(self) -> Tour:
        """Visits every study; the book is whole after each."""
        self.tell("tour")
        path = self.bind()
        for stop in self.stops:
            if self.cards[stop.id].state == "done":
                self.tell("kept", stop.id, message=" ".join(self.cards[stop.id].verdict[:1]))
                continue
            self._visit(stop)
            path = self.bind()
        self.tell("end", elapsed=time.monotonic() - self.began)
        return Tour(path, tuple(self.cards.values()))

    def bind(self) -> Path:
        """Writes the book."""
        return book.write_book(
            self.out, list(self.cards.values()), command=self._command(), quick=self.asked.quick,
            spent=self.spent(),
        )  # fmt: skip

    def _command(self) -> str:
        asked = self.asked
        usual = QUICK_BUDGET if asked.quick else None
        everything = len(self.stops) == len(agenda())
        return command(
            "tour", quick=asked.quick,
            budget=None if asked.budget == usual else f"{asked.budget:g}",
            studies=None if everything else ",".join(s.id for s in self.stops),
            threads=asked.threads, out=None if shown(self.out) == "runs/tour" else shown(self.out),
        )  # fmt: skip

    def _visit(self, stop: Stop) -> None:
        name, began = stop.id, time.monotonic()
        note: dict[str, Any] = {"seconds": 0.0, **self.notes.get(name, {})}
        note |= {"state": "running", "key": self.key}
        self.notes[name] = note
        before = note["seconds"]
        self._now, self._eta = name, None

        def clock(event: Event | None = None) -> None:
            note["seconds"] = round(before + time.monotonic() - began, 3)
            if event is not None:
                self._eta = event.eta
                self.tell("run", name, event=event)
            if time.monotonic() - self._written > _EVERY:
                self.save()
                self._written = time.monotonic()

        card = self.cards[name]
        self.tell("study", name, message=card.question)
        try:
            self.cards[name] = self._measure(stop, note, clock)
            note["state"] = "done"
        # Whatever goes wrong in one study, by its code or its data, must not cost the others.
        except Exception as error:
            self.cards[name] = book.failed(card, error, traceback.format_exc(), self.out / name)
            note["state"] = "failed"
        finally:
            clock()
            self._now, self._eta = "", None
            self.save()
        told = self.cards[name]
        message = told.error if told.error else " ".join(told.verdict[:1])
        self.tell(note["state"], name, elapsed=note["seconds"], message=message)

    def _measure(self, stop: Stop, note: dict[str, Any], clock: Callable[..., None]) -> book.Card:
        """Runs what is left of a study, and returns its page."""
        asked, folder = self.asked, self.out / stop.id
        prepared = session.prepare(session.Wanted(
            study=stop.id, quick=asked.quick, threads=asked.threads, out=folder,
            fresh=asked.fresh, command=self._command(),
        ))  # fmt: skip
        if asked.budget is not None:
            rounds = note.setdefault("rounds", self._rounds(stop))
            self.cost[stop.id] = stop.seconds if rounds >= 1 else stop.brief
            prepared = _fitted(prepared, stop, asked.budget, rounds)
        clock()
        if asked.budget is not None and "budget_s" not in note:
            note["budget_s"] = self._share(stop)
        if asked.budget is not None:
            prepared = dataclasses.replace(
                prepared, budget=note["budget_s"], run_limit=max(note["budget_s"], _RUN_LIMIT),
                grace=self._grace(stop, note["budget_s"]),
            )  # fmt: skip
        study = session.execute(prepared, clock, told=False)
        card = book.card_of(study, seconds=note["seconds"])
        book.write_card(card, folder)
        return card

    def _turn(self, stop: Stop) -> float:
        """Seconds for a study whose turn it is, by what the budget has left."""
        own, cost = self.left() + self.notes[stop.id]["seconds"], self.cost[stop.id]
        return own * cost / (cost + self._ahead(stop))

    def _ahead(self, stop: Stop) -> float:
        """What the agenda says of the studies behind this one that are not done."""
        ids = [s.id for s in self.stops]
        names = ids[ids.index(stop.id) + 1 :]
        return sum(self.cost[name] for name in names if self.cards[name].state != "done")

    def _rounds(self, stop: Stop) -> float:
        """How many rounds of blocks of the whole study its turn has room for."""
        return round(self._turn(stop) / (_MARGIN * self.pace() * stop.seconds), 3)

    def _share(self, stop: Stop) -> float:
        """Seconds for a study's runs: its turn without what else it takes."""
        turn = self._turn(stop)
        closing = min(_CLOSING, _CLOSING_SHARE * turn)
        return round(max(turn - self.notes[stop.id]["seconds"] - closing, _LEAST), 1)

    def _grace(self, stop: Stop, runs: float) -> float:
        """Seconds that a study's first input may take of what the studies ahead can spare."""
        return round(max(self.left() - runs - _CLOSING - _KEPT * self._ahead(stop), 0.0), 1)


def _fitted(
    prepared: session.Prepared, stop: Stop, budget: float, rounds: float
) -> session.Prepared:
    """A study as a budget has room for it, which says what it leaves out."""
    whole = (len(prepared.contestants), len(prepared.workloads))
    if rounds < 1:
        prepared = session.shortened(prepared, stop.contestants, stop.workloads)
    kept = (len(prepared.contestants), len(prepared.workloads))
    left = [
        f"{part} of {total} {word}"
        for part, total, word in zip(kept, whole, ("contestants", "workloads"), strict=True)
        if part < total
    ]
    question = prepared.question
    least, most = question.quick_blocks if prepared.request.quick else question.blocks
    if rounds < least > 1:
        left.append("as many blocks as there is time for")
    if not left:
        return prepared
    again = command("compare", stop.id, quick=prepared.request.quick)
    text = f"Shortened for a tour of {fmt.seconds(budget)}: {fmt.join(left)}. All of it: {again}."
    return dataclasses.replace(prepared, repeats=(1, most), remarks=(text,))
