"""No logic is written twice: no 16 equal lines of code stand in two places; no file is long.

Names are kept, indents are not. Passed over are comments, blank lines, docstrings, imports and
lines of brackets alone. Lines are read as text, since the formatter has made equal code equal.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "tests", "benchmarks", "examples")
MOST = 15
QUOTES = re.compile('"' * 3)
OPENS_TEXT = re.compile('r?"' + '"' * 2)
SAYS = re.compile(r"\w")


def code_lines(text: str) -> list[tuple[int, str]]:
    """Numbers and contents of the lines that count."""
    found, inside, skips, imports = [], False, False, False
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if imports:
            imports = not line.startswith(")")
            continue
        was_inside, marks = inside, len(QUOTES.findall(line))
        if not inside and marks:
            skips = OPENS_TEXT.match(line) is not None
        inside = inside != (marks % 2 == 1)
        if skips and (was_inside or marks):
            continue
        if not was_inside and line.startswith(("import ", "from ")):
            imports = line.endswith("(")
        elif SAYS.search(line) and (was_inside or not line.startswith("#")):
            found.append((number, line))
    return found


def twins(files: dict[str, list[tuple[int, str]]]) -> list[str]:
    """Places whose next lines stand somewhere before, the first of each run."""
    known: dict[tuple[str, ...], tuple[str, int]] = {}
    found = []
    for name, numbered in files.items():
        lines = [line for _, line in numbered]
        again = False
        for at in range(len(lines) - MOST):
            here = (name, numbered[at][0])
            there = known.setdefault(tuple(lines[at : at + MOST + 1]), here)
            if there != here and not again:
                found.append(f"{name}:{here[1]} is {there[0]}:{there[1]}")
            again = there != here
    return found


def test_nothing_stands_twice():
    files = {
        str(path.relative_to(ROOT)): code_lines(path.read_text(encoding="utf-8"))
        for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))
    }  # fmt: skip
    assert len(files) > 1000
    assert not twins(files), "put it one layer down, and let both call it"


def test_a_copy_is_found_whatever_stands_between():
    body = [f"x{i} = f({i}, y)" for i in range(MOST + 1)]
    quotes = '"' * 3
    other = f"{quotes}Says.\n\nx = 1\n{quotes}\nfrom os import (\n    path,\n)\n\n"
    other += "\n# why\n\n".join("    " + line for line in body)
    one, two = code_lines("\n".join(body)), code_lines(other)
    assert twins({"a": one, "b": two}) == ["b:9 is a:1"]
    assert twins({"a": one, "b": two[1:]}) == []
    assert twins({"a": [*one, (17, "z"), *two]}) == ["a:9 is a:1"]


def test_files_are_short():
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    long = {str(path.relative_to(ROOT)): path.read_bytes().count(b"\n") for path in paths}
    assert not {name: lines for name, lines in long.items() if lines > 600}
