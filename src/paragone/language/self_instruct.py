r"""Self-Instruct: a teacher writes instructions, and what is new is kept.

From a few tasks written by people, three at a time, a teacher is asked for more. Of what it
writes, rows are dropped that are broken, unsuitable for text, or near to one that is kept,

$$ \max_{k \in \text{pool}} F_{\text{ROUGE-L}}(x, k) > 0.7 , $$

and the others join the pool. The rows have the 52k format: instruction, input, output.

Each request draws by its own number, so a run that was stopped goes on as if it had not been, and
every request, its answer, its tokens and its cost are on disk.

Cost: one request of the teacher for some ten rows; the filter is nothing beside it.

References:
    Wang et al. (2023), Self-Instruct, arXiv:2212.10560, section 2.
    Taori et al. (2023), Stanford Alpaca, section "Data generation process".

Shapes: lists of rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from paragone.language._instruct_log import Log
from paragone.language._instruct_prompt import BLACKLIST, Row, blocks, objection, write_prompt
from paragone.language._instruct_teacher import Ask, Endpoint, Reply, TeacherError, as_teacher
from paragone.language.rouge import Novelty

__all__ = ["Asked", "Endpoint", "Reply", "TeacherError", "Written", "seed_rows", "self_instruct"]


@dataclasses.dataclass(frozen=True)
class Asked:
    """How a run stands after a request.

    Attributes:
        requests: Requests so far.
        rows: Rows kept so far.
        count: Rows wanted.
        cost: What it cost so far; None: no prices known.
        seconds: Since the start, those of earlier processes not counted.
        left: Seconds that are likely left; None: unknown.
    """

    requests: int
    rows: int
    count: int
    cost: float | None
    seconds: float
    left: float | None


class Written(list[Row]):
    """Rows of the 52k format, and how they came about; `finetune` takes it as it is.

    Attributes:
        requests: Requests that were made.
        dropped: Why rows were dropped, and how many.
        prompt_tokens: Tokens that the teacher read.
        completion_tokens: Tokens that it wrote.
        uncounted: Requests whose tokens the teacher did not tell.
        cost: What they cost; None: no prices given.
        folder: Where all of it is; None: nowhere.
        finish_reason: "count", "cost" or "stalled".
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        super().__init__(rows)
        self.requests = self.prompt_tokens = self.completion_tokens = self.uncounted = 0
        self.dropped: Counter[str] = Counter()
        self.cost: float | None = None
        self.folder: Path | None = None
        self.finish_reason = "count"

    def told(self) -> str:
        """One line on the run."""
        dropped = ", ".join(f"{n} {reason}" for reason, n in self.dropped.most_common())
        parts = [f"{len(self)} rows of {self.requests} requests"]
        parts.append(f"{self.prompt_tokens} + {self.completion_tokens} tokens")
        if self.uncounted:
            parts.append(f"tokens of {self.uncounted} requests not told")
        if self.cost is not None:
            parts.append(f"cost {self.cost:.4f}")
        if dropped:
            parts.append(f"dropped: {dropped}")
        return "; ".join(parts)


def seed_rows(seeds: Any) -> list[Row]:
    """Reads seed tasks.

    Args:
        seeds: Rows with instruction, input and output; or with instruction and instances, as in
            the published seed tasks (the first instance is taken); or a JSON or JSONL file.

    Raises:
        ValueError: A row without an instruction or an output.
    """
    if isinstance(seeds, str | Path):
        path = Path(seeds)
        text = path.read_text(encoding="utf-8")
        try:
            if text.lstrip().startswith("["):
                seeds = json.loads(text)
            else:
                seeds = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise ValueError(f"{path}: expected JSON or a JSON object a line ({error})") from error
    rows = []
    for at, seed in enumerate(seeds):
        if not isinstance(seed, Mapping):
            raise ValueError(f"seed {at} is {seed!r}; expected a mapping")
        held = {**seed, **(seed["instances"][0] if seed.get("instances") else {})}
        if not held.get("instruction") or not held.get("output"):
            raise ValueError(f"seed {at}: expected instruction and output, found {sorted(held)}")
        rows.append({
            "instruction": str(held["instruction"]), "input": str(held.get("input") or ""),
            "output": str(held["output"]),
        })  # fmt: skip
    if not rows:
        raise ValueError("no seeds: give at least one row with instruction and output")
    return rows


def self_instruct(
    seeds: Any,
    teacher: Any,
    *,
    count: int = 100,
    folder: str | Path | None = None,
    examples: int = 3,
    own_examples: int = 0,
    tasks: int = 20,
    similarity: float = 0.7,
    blacklist: Sequence[str] = BLACKLIST,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_tokens: int = 3072,
    parallel: int = 1,
    prices: tuple[float, float] | None = None,
    most_cost: float | None = None,
    patience: int = 20,
    seed: int = 0,
    compat: bool = False,
    head: str | None = None,
    progress: Callable[[Asked], Any] | None = None,
) -> Written:
    """Makes instruction rows from a few seeds and a teacher; the same call goes on.

    Prefer it to rows from elsewhere where they must fit a field of one's own: the seeds say which.

    Args:
        seeds: See `seed_rows`.
        teacher: `Endpoint(url, model)`, a pair (model, tokenizer), or a function of the prompt
            that returns a text or a `Reply`.
        count: Rows that are wanted, the seeds not counted; the last answers may give some more.
        folder: Where requests.jsonl, settings.json and rows.json go; a run there goes on.
        examples: Seeds that a prompt shows.
        own_examples: Kept rows that a prompt shows besides (the paper: 6 seeds, 2 rows).
        tasks: Tasks that the prompt's list is said to have, the examples included.
        similarity: F-measure of ROUGE-L above which an instruction is not new.
        blacklist: Whole words that an instruction may not hold.
        temperature: Of the teacher's draws.
        top_p: Share of the probability that it draws from.
        max_tokens: Longest answer.
        parallel: Requests that are under way at once; the rows depend on it, and not on which
            request is answered first.
        prices: Price of a million tokens read, and written.
        most_cost: Asks no more once so much has been spent; needs prices.
        patience: Requests in a row that may yield nothing.
        seed: Of the choice of examples, and of the teacher's draws where it takes a seed.
        compat: Numbers the demands of the prompt as published (2 and 3 come twice).
        head: A text in place of the prompt's demands, such as the published file's.
        progress: Called after each request.

    Returns:
        The rows, with counts of requests, tokens, cost and what was dropped.

    Raises:
        ValueError: Bad seeds or numbers, or a folder of another run.
        TeacherError: The teacher failed for good; what was kept is on disk.

    Example:
        >>> seeds = [{"instruction": "Name a prime number.", "input": "", "output": "7"}]
        >>> answer = " Explain primes to a child.\\n2. Input:\\n<noinput>\\n2. Output:\\nThey ..."
        >>> self_instruct(seeds, lambda prompt: answer, count=1)[0]["instruction"]
        'Explain primes to a child.'
    """
    rows, asked = seed_rows(seeds), as_teacher(teacher)
    if count < 0 or examples < 1 or parallel < 1:
        raise ValueError(
            f"count={count}, examples={examples}, parallel={parallel}: at least 0, 1 and 1"
        )
    if most_cost is not None and prices is None:
        raise ValueError("most_cost needs prices=(of a million tokens read, written)")
    settings = {
        "seeds": hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16],
        "teacher": asked.name, "examples": examples, "own_examples": own_examples,
        "tasks": tasks, "similarity": similarity, "blacklist": list(blacklist),
        "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens,
        "parallel": parallel, "seed": seed, "compat": compat, "head": head,
    }  # fmt: skip
    log = Log(None if folder is None else Path(folder), settings)
    run = _Run(rows, log, similarity, tuple(blacklist), prices)
    begun, before = time.monotonic(), len(run.made)

    def request(number: int) -> tuple[list[int], Reply]:
        rng = np.random.default_rng([seed, number])
        shown, prompt = run.prompt(rng, examples, own_examples, tasks, compat, head)
        ask = Ask(
            prompt, max_tokens, temperature, top_p, (f"\n{tasks + 1}.",),
            int(rng.integers(1 << 31)),
        )  # fmt: skip
        return shown, asked.ask(ask)

    with ThreadPoolExecutor(parallel, thread_name_prefix="paragone-teacher") as pool:
        while not run.over(count, most_cost, patience):
            # Requests of a round see what was kept before it, whoever answers first.
            start = len(log.requests) // parallel * parallel
            run.see(start)
            numbers = range(len(log.requests), start + parallel)
            waiting = [pool.submit(request, number) for number in numbers]
            try:
                for future in waiting:
                    run.take(*future.result())
                    if progress is not None:
                        progress(run.stands(count, time.monotonic() - begun, before))
            finally:
                for future in waiting:
                    future.cancel()
            log.write_rows(run.made)
    run.made.folder = log.folder
    log.write_rows(run.made)
    return run.made


class _Run:
    """Rows, pool and counts of one run, as its log has them."""

    def __init__(
        self, seeds: list[Row], log: Log, similarity: float, blacklist: tuple[str, ...],
        prices: tuple[float, float] | None,
    ) -> None:  # fmt: skip
        self.seeds, self.log, self.blacklist, self.prices = seeds, log, blacklist, prices
        self.pool = Novelty([row["instruction"] for row in seeds], similarity)
        self.made, self.idle, self.seen = Written(), 0, 0
        for entry in log.requests:
            self._count(entry)
            for row in entry["rows"]:
                self.pool.add(row["instruction"])

    def see(self, requests: int) -> None:
        """Lets prompts show what the first requests have given."""
        self.seen = sum(len(entry["rows"]) for entry in self.log.requests[:requests])

    def prompt(
        self, rng: np.random.Generator, examples: int, own: int, tasks: int, compat: bool,
        head: str | None,
    ) -> tuple[list[int], str]:  # fmt: skip
        """Numbers of the examples, kept rows counted behind the seeds, and the prompt."""
        kept = self.seen
        picked = rng.choice(len(self.seeds), min(examples, len(self.seeds)), replace=False)
        more = rng.choice(kept, min(own, kept), replace=False) if own and kept else []
        shown = [*map(int, picked), *(len(self.seeds) + int(at) for at in more)]
        rows = [*self.seeds, *self.made]
        return shown, write_prompt([rows[at] for at in shown], tasks, compat=compat, head=head)

    def take(self, shown: list[int], reply: Reply) -> None:
        """Reads an answer, keeps what is new, and writes the request down."""
        kept: list[Row] = []
        dropped: Counter[str] = Counter()
        for row, reason in blocks(reply.text, reply.finish_reason == "length"):
            reason = reason if row is None else objection(row, self.blacklist)
            if row is not None and reason is None and not self.pool.offer(row["instruction"]):
                reason = "not new"
            if row is None or reason is not None:
                dropped[str(reason)] += 1
            else:
                kept.append(row)
        entry = {
            "request": len(self.log.requests), "shown": shown, "reply": reply.text,
            "finish_reason": reply.finish_reason, "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens, "rows": kept, "dropped": dict(dropped),
        }  # fmt: skip
        self.log.add(entry)
        self._count(entry)

    def _count(self, entry: dict[str, Any]) -> None:
        made = self.made
        made.extend(entry["rows"])
        made.requests += 1
        made.dropped.update(entry["dropped"])
        made.prompt_tokens += entry["prompt_tokens"] or 0
        made.completion_tokens += entry["completion_tokens"] or 0
        made.uncounted += entry["prompt_tokens"] is None
        if self.prices is not None:
            read, written = self.prices
            spent = made.prompt_tokens * read + made.completion_tokens * written
            made.cost = spent / 1e6
        self.idle = 0 if entry["rows"] else self.idle + 1

    def over(self, count: int, most_cost: float | None, patience: int) -> bool:
        """Whether to ask no more; says why."""
        made = self.made
        if len(made) >= count:
            made.finish_reason = "count"
        elif most_cost is not None and (made.cost or 0.0) >= most_cost:
            made.finish_reason = "cost"
        elif self.idle >= patience:
            made.finish_reason = "stalled"
        else:
            return False
        return True

    def stands(self, count: int, seconds: float, before: int) -> Asked:
        """The run for `progress`."""
        new = len(self.made) - before
        left = seconds / new * max(count - len(self.made), 0) if new else None
        return Asked(self.made.requests, len(self.made), count, self.made.cost, seconds, left)
