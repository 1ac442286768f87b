r"""Plain decoding against drafters, end to end, on one checkpoint: is it the same text, and sooner?

    python benchmarks/decoding.py MODEL [--heads FOLDER ...] [--draft-model FOLDER] [--out FILE]
        [--prompts FILE] [--same 40] [--timed 4] [--rounds 7] [--tokens 128] [--temperature 0]
        [--threads 1] [--weights float32] [--rows 1] [--draft auto|N]

same: on so many prompts each drafter's tokens must be those of plain decoding, greedily and drawn
with a seed, in turn (`--same 480` for the whole test).

timed: in each round plain decoding and each drafter continue the same prompts, in an order that
changes; a drafter's figure is the median over the rounds of plain time over its own. CPU time of
the process, all threads together, which other programs disturb less; the wall clock is told beside
it. Everything counts: reading the prompt, drafting, what the controller tries.

cost: T(n)/T(1), the time of a pass over n tokens of a sequence.

Prompts are lines of a file, or beginnings that the model draws itself. What was measured lies in
`--out` (JSON Lines) and is not measured again; the table is written beside it (.md).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

__all__ = ["main", "table"]


class Kept:
    """Lines that were measured, by a key each; a run that was stopped goes on.

    Args:
        path: The file.
        run: What else makes this run this run; another one's file is refused.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path, self.lines = path, {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self.lines[tuple(record.pop("key"))] = record
        before = self.lines.get(("run",))
        if before is not None and before != run:
            changed = [k for k in run if before.get(k) != run[k]]
            raise SystemExit(f"{path} is of another run ({', '.join(changed)} differ): delete it "
                             "or name another --out")  # fmt: skip
        if before is None:
            self.add(("run",), run)

    def add(self, key: tuple[Any, ...], record: dict[str, Any]) -> None:
        """Writes a line at once."""
        self.lines[key] = record
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": list(key), **record}) + "\n")

    def of(self, kind: str) -> dict[tuple[Any, ...], dict[str, Any]]:
        """Lines of a kind."""
        return {key: line for key, line in self.lines.items() if key[0] == kind}


def prompts_of(options: argparse.Namespace, engine: Any, tokenizer: Any) -> list[list[int]]:
    """Token ids of as many prompts as are needed."""
    from paragone.language.generate import sample_batch
    from paragone.language.sampling import Sampling

    count = max(options.same, options.timed * options.rows)
    if options.prompts:
        lines = Path(options.prompts).read_text(encoding="utf-8").splitlines()
        lines = [line for line in lines if line.strip()]
        if not lines:
            raise SystemExit(f"{options.prompts} has no line of text")
        return [tokenizer.encode(lines[i % len(lines)], bos=True) for i in range(count)]
    first = engine.config.bos_token_id
    first = 0 if first is None else first
    ends = set(engine.config.eos)
    drawn = sample_batch(engine, [[first]] * count, Sampling(seed=1), 16)
    return [[first, *(int(t) for t in ids if int(t) not in ends)] for ids in drawn.ids]


def drafters_of(options: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Name to what `generate(speculate=...)` takes."""
    from paragone.language import load

    found: dict[str, Any] = {"prompt look-up": "prompt-lookup"}
    if options.draft_model:
        found[f"draft model {Path(options.draft_model).name}"] = load(options.draft_model)[0]
    if options.heads:
        from paragone.language._draft_files import load_drafter

        for folder in options.heads:
            found[Path(folder).name] = load_drafter(folder, model)
    return found


class Bench:
    """One checkpoint, its prompts, and who drafts for it."""

    def __init__(self, options: argparse.Namespace) -> None:
        from paragone.language import load
        from paragone.language.engine import Engine

        self.options = options
        self.model, self.tokenizer = load(options.model)
        self.model.eval()
        self.engine = Engine.make(self.model, weights=options.weights, threads=options.threads)
        self.prompts = prompts_of(options, self.engine, self.tokenizer)
        self.drafters = drafters_of(options, self.model)
        names = ("weights", "threads", "tokens", "temperature", "rows", "timed", "draft")
        run = {
            "model": str(Path(options.model).resolve()),
            **{n: getattr(options, n) for n in names},
        }
        self.kept = Kept(Path(options.out), run)

    def texts(self, who: str, prompts: Sequence[Sequence[int]], **sampling: Any) -> list[Any]:
        """Continuations; `who` is "plain" or a drafter's name."""
        from paragone.language import generate

        more: dict[str, Any] = {}
        if who != "plain":
            more = {"speculate": self.drafters[who], "draft": self.options.draft}
        return generate(
            self.engine, None, [list(p) for p in prompts], max_new_tokens=self.options.tokens,
            **sampling, **more,
        )  # fmt: skip

    def same(self) -> None:
        """Compares each drafter's tokens with plain ones, prompt by prompt."""
        for at in range(self.options.same):
            open_ = [who for who in self.drafters if ("same", who, at) not in self.kept.lines]
            if not open_:
                continue
            sampling = {"temperature": 0.0} if at % 2 == 0 else {"temperature": 0.8, "seed": at}
            plain = self.texts("plain", [self.prompts[at]], **sampling)[0].tokens
            for who in open_:
                found = self.texts(who, [self.prompts[at]], **sampling)[0].tokens
                self.kept.add(("same", who, at), {"equal": found == plain, "tokens": len(plain)})
            if at % 20 == 19:
                print(f"compared {at + 1} of {self.options.same} prompts", flush=True)

    def timed(self) -> None:
        """Rounds in which all continue the same prompts, in an order that changes."""
        everyone = ["plain", *self.drafters]
        size = self.options.rows
        groups = [self.prompts[k * size : (k + 1) * size] for k in range(self.options.timed)]
        if all(("time", who, at) in self.kept.lines
               for who in everyone for at in range(self.options.rounds)):  # fmt: skip
            return
        sampling: dict[str, Any] = {"temperature": self.options.temperature}
        sampling |= {"seed": 7} if self.options.temperature else {}
        for who in everyone:
            self.texts(who, groups[0], **sampling)
        for at in range(self.options.rounds):
            order = random.Random(at).sample(everyone, len(everyone))
            for who in order:
                if ("time", who, at) in self.kept.lines:
                    continue
                wall, cpu, made = time.perf_counter(), time.process_time(), []
                for group in groups:
                    made += self.texts(who, group, **sampling)
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                tokens = sum(len(text.tokens) for text in made)
                steps = sum(len(t.tokens) / max(getattr(t, "tokens_per_step", 1.0), 1e-9)
                            for t in made)  # fmt: skip
                depths = getattr(made[0], "accepted_by_depth", [])
                self.kept.add(("time", who, at), {
                    "cpu": cpu, "wall": wall, "tokens": tokens, "steps": steps,
                    "depths": [round(float(share), 4) for share in depths],
                })  # fmt: skip
            print(f"round {at + 1} of {self.options.rounds}", flush=True)

    def cost(self) -> None:
        """T(n)/T(1)."""
        if ("cost",) in self.kept.lines:
            return
        from paragone.language.cost_curve import cost_curve

        sizes = (1, 2, 4, 8, 16)
        curve = cost_curve(self.engine, tokens=sizes, rows=self.options.rows)
        self.kept.add(("cost",), {
            "tokens": list(sizes), "ratios": [float(r) for r in curve.ratios],
            "seconds": [float(s) for s in curve.seconds],
        })  # fmt: skip


def table(lines: dict[tuple[Any, ...], dict[str, Any]]) -> str:
    """What was measured, as Markdown."""
    run = lines[("run",)]
    told = [f"# Decoding {Path(run['model']).name}: plain and with drafts", "",
            f"{run['weights']}, {run['threads']} thread(s), {run['tokens']} tokens, temperature "
            f"{run['temperature']:g}, {run['rows']} row(s) together, draft={run['draft']}. Times "
            "are medians of rounds in turn; the ratio is plain by drafter, in the same round.", "",
            "| who | tokens/CPU s | tokens/s | CPU ratio (least, most) | wall ratio | tokens/step "
            "| accepted by depth | same text |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    times: dict[str, dict[int, Any]] = {}
    for key, line in lines.items():
        if key[0] == "time":
            times.setdefault(key[1], {})[key[2]] = line
    plain = times.get("plain", {})
    for who, rounds in sorted(times.items(), key=lambda item: item[0] != "plain"):
        rates = [statistics.median(r["tokens"] / r[unit] for r in rounds.values())
                 for unit in ("cpu", "wall")]  # fmt: skip
        shared = sorted(rounds.keys() & plain.keys())
        cpu, wall = ([plain[at][unit] * rounds[at]["tokens"] / plain[at]["tokens"]
                      / rounds[at][unit] for at in shared] for unit in ("cpu", "wall"))  # fmt: skip
        steps = sum(r["tokens"] for r in rounds.values()) / max(
            sum(r["steps"] for r in rounds.values()), 1e-9)  # fmt: skip
        depths = " ".join(f"{x:.2f}" for x in next(iter(rounds.values()))["depths"])
        equal = [line["equal"] for key, line in lines.items() if key[:2] == ("same", who)]
        same = f"{sum(equal)} of {len(equal)}" if equal else ""
        spread = f"{statistics.median(cpu):.2f} ({min(cpu):.2f}, {max(cpu):.2f})" if cpu else ""
        told.append(
            f"| {who} | {rates[0]:.1f} | {rates[1]:.1f} | {spread} | "
            f"{statistics.median(wall) if wall else 1:.2f} | {steps:.2f} | {depths} | {same} |"
        )
    cost = lines.get(("cost",))
    if cost:
        curve = ", ".join(f"T({n})/T(1) {r:.2f}" for n, r in
                          zip(cost["tokens"], cost["ratios"], strict=True))  # fmt: skip
        told += ["", f"Cost of a pass: {curve}; T(1) {1e3 * cost['seconds'][0]:.2f} ms."]
    return "\n".join(told) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    """Measures what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--heads", nargs="*", default=[])
    parser.add_argument("--draft-model", default="")
    parser.add_argument("--out", default="decoding.jsonl")
    parser.add_argument("--prompts", default="")
    parser.add_argument("--same", type=int, default=40)
    parser.add_argument("--timed", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", default="float32")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--draft", default="auto", type=lambda w: int(w) if w.isdigit() else w)
    bench = Bench(parser.parse_args(words))
    bench.same()
    bench.timed()
    bench.cost()
    text = table(bench.kept.lines)
    bench.kept.path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
