"""What the teacher is asked, how its answer is read, and what of it is kept.

The prompt lists demands, shows some tasks as numbered blocks, and breaks off at the next one's
instruction. The answer goes on in the same form, so it is read block by block.

References:
    Wang et al. (2023), Self-Instruct, arXiv:2212.10560, section 2.2 and appendix A.
    Taori et al. (2023), Stanford Alpaca: one prompt for instruction, input and output; its rules
    for what is dropped.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

__all__ = ["BLACKLIST", "Row", "blocks", "objection", "write_prompt"]

Row = dict[str, str]

_DEMANDS = (
    "Let the tasks begin with different verbs.",
    "Vary how they are worded: some are questions, some are orders.",
    "Vary what is asked: writing freely, sorting into classes, editing, and so on.",
    "Each task must be one that a model of language can carry out by text alone. Nothing that "
    "must be seen or heard is to be made, and nothing is to be done later or in the world.",
    "Write the instructions in English.",
    "An instruction has one or two sentences.",
    "Where a task needs something to work on, give it as the input: real and particular matter, "
    "no placeholders, enough to make the task worth its while, and at most 100 words.",
    'Where it needs none, such as a question about the world, write "<noinput>" as the input.',
    "The output is a good answer to the instruction and the input, in less than 100 words.",
)
_PUBLISHED_NUMBERS = (1, 2, 3, 2, 3, 4, 5, 6, 7)

BLACKLIST = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps",
    "draw", "plot", "go to", "video", "audio", "music", "flowchart", "diagram",
)  # fmt: skip
"""Words of tasks that a text alone cannot answer; they count as whole words only."""

_FIELD = r"^[ \t]*(?:\d+[.)][ \t]*)?{}:"
_PARTS = re.compile(
    "(.*?)".join(_FIELD.format(name) for name in ("Instruction", "Input", "Output")) + "(.*)",
    re.DOTALL | re.MULTILINE,
)
# A heading inside an output is no end of a block.
_BETWEEN = re.compile(
    r"^[ \t]*#{3,}[ \t]*(?:(?:Task[ \t]*)?\d*[.:)]*[ \t]*$|(?=\d+[.)][ \t]*Instruction:))",
    re.MULTILINE,
)
_BEGINS = re.compile(r"\s*(?:###|(?:\d+[.)][ \t]*)?Instruction:)")


def write_prompt(
    rows: Sequence[Row], tasks: int = 20, *, compat: bool = False, head: str | None = None
) -> str:
    """Writes the prompt that shows some rows and asks for more.

    Args:
        rows: Examples with instruction, input and output.
        tasks: How many tasks the list is said to have.
        compat: Whether the demands are numbered as in the published prompt, which has 2 and 3
            twice.
        head: A text to take instead of the demands, such as the published file.
    """
    if head is None:
        numbers = _PUBLISHED_NUMBERS if compat else range(1, len(_DEMANDS) + 1)
        demands = zip(numbers, _DEMANDS, strict=True)
        lines = [f"{number}. {demand}" for number, demand in demands]
        head = "\n".join([
            f"Please think of {tasks} tasks of different kinds. They will be given to a model of "
            "language, and its answers will be judged.", "", "What is demanded:", *lines, "",
            f"List of {tasks} tasks:", "",
        ])  # fmt: skip
    parts = [head, "\n"]
    for number, row in enumerate(rows, 1):
        instruction = re.sub(r"\s+", " ", row["instruction"]).strip().rstrip(":")
        given = row.get("input", "") or "<noinput>"
        parts.append(
            f"###\n{number}. Instruction: {instruction}\n{number}. Input:\n{given}\n"
            f"{number}. Output:\n{row['output']}\n"
        )
    parts.append(f"###\n{len(rows) + 1}. Instruction:")
    return "".join(parts)


def blocks(answer: str, cut_off: bool) -> list[tuple[Row | None, str]]:
    """Reads an answer.

    Args:
        answer: What the teacher wrote.
        cut_off: Whether it ran into its longest length; the last block is then left out.

    Returns:
        For each block a row, or None and why not.
    """
    if not _BEGINS.match(answer):
        answer = "Instruction:" + answer
    out: list[tuple[Row | None, str]] = []
    parts = [part for part in _BETWEEN.split(answer) if part.strip()]
    for at, part in enumerate(parts):
        if cut_off and at == len(parts) - 1:
            out.append((None, "cut off"))
            continue
        found = _PARTS.search(part)
        if found is None:
            out.append((None, "not in the form"))
            continue
        instruction, given, output = (text.strip() for text in found.groups())
        given = "" if given.lower().strip("<>. ") in ("noinput", "no input") else given
        out.append(({"instruction": instruction, "input": given, "output": output}, ""))
    return out


def objection(row: Row, blacklist: Sequence[str] = BLACKLIST) -> str | None:
    """Why a row is dropped whatever else there is; None if it is not.

    Args:
        row: With instruction and output.
        blacklist: Words that an instruction may not hold.
    """
    instruction = row["instruction"]
    if not 3 < len(instruction.split()) <= 150:
        return "too short or too long"
    if not row["output"]:
        return "without an output"
    for word in blacklist:
        if re.search(rf"\b{re.escape(word)}\b", instruction, re.IGNORECASE):
            return "with a word of the blacklist"
    if instruction.startswith("Write a program"):
        return "a program"
    if instruction[0] in string.punctuation or not instruction[0].isascii():
        return "with a strange beginning"
    return None
