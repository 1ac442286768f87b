"""Text to train on: files, folders, JSON Lines, or the sources of Python's own library.

A document is a file of text, a line of a JSON Lines file, or a string of a list. Nothing is left
out silently: what could not be read is counted by reason, and named.

Every machine that runs this has some ten megabytes of one author's collective that is free to
train on: the sources of the standard library. They are what `train` takes without being told.

References:
    Python Software Foundation, "History and license" (the sources of the library).
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Corpus", "library_texts", "read_texts"]

_KEYS = ("text", "content", "body")
_TEXT = (".txt", ".md", ".rst", ".py", ".tex", ".html", ".csv", ".xml", ".c", ".h", ".js", ".ts")
_LINES = (".jsonl", ".ndjson", ".json")
_NO_TEXT = ("site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__")
_MOST_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Documents, and what was left out of them.

    Attributes:
        texts: The documents.
        name: What they are, in words.
        skipped: Reason to number of files or records that were left out.
        problems: A line for each of them.
    """

    texts: tuple[str, ...]
    name: str = "texts"
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return sum(len(text.encode("utf-8", "replace")) for text in self.texts)

    def fingerprint(self) -> str:
        """A digest of all documents in their order."""
        digest = hashlib.blake2b(digest_size=12)
        for text in self.texts:
            data = text.encode("utf-8", "replace")
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        return digest.hexdigest()

    def notes(self) -> list[str]:
        """What was left out, in lines for a user."""
        if not self.skipped:
            return []
        counts = ", ".join(f"{reason}: {count}" for reason, count in self.skipped.items())
        more = len(self.problems) - _MOST_NAMED
        last = [f"… and {more} more"] if more > 0 else []
        return [f"left out: {counts}", *self.problems[:_MOST_NAMED], *last]


def read_texts(source: Any, *, key: str | None = None) -> Corpus:
    """Reads documents.

    Prefer a JSON Lines file to a folder of a million small ones.

    Args:
        source: A text file, a JSON Lines file, either also as .gz, a folder of them, or a sequence
            of strings or of mappings; or a `Corpus`, which comes back as it is.
        key: Field of a JSON record that has the text (None: text, content or body).

    Raises:
        ValueError: Nothing is there, or nothing of it can be read.

    Example:
        >>> read_texts(["one", "", "two"]).texts
        ('one', 'two')
    """
    if isinstance(source, Corpus):
        return source
    found = _Reading(key)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.exists():
            raise ValueError(f"{path} does not exist; name a text, a JSON Lines file or a folder")
        name = path.name or str(path)
        if path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                if not any(part.startswith(".") for part in file.relative_to(path).parts):
                    found.file(file, explicit=False)
        else:
            found.file(path, explicit=True)
    elif isinstance(source, Iterable):
        name = "texts"
        for number, record in enumerate(source):
            found.record(record, f"document {number}")
    else:
        raise ValueError(f"data is a {type(source).__name__}; a path or strings are expected")
    if not found.texts:
        why = "; ".join(found.problems[:3]) or "there is no text in it"
        raise ValueError(f"{name}: nothing to train on ({why})")
    return Corpus(tuple(found.texts), name, found.skipped, tuple(found.problems))


def library_texts(most: int = 4_000_000) -> Corpus:
    """Sources of Python's standard library, whole files, spread over its packages.

    Args:
        most: Bytes, about.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(
        path for path in root.rglob("*.py")
        if not any(part in _NO_TEXT for part in path.relative_to(root).parts)
        and path.stat().st_size > 1
    )  # fmt: skip
    # A fixed order that mixes packages: a part of it is like the whole.
    files.sort(key=lambda path: hashlib.md5(path.relative_to(root).as_posix().encode()).digest())
    found, size = _Reading(None), 0
    for path in files:
        if size >= most:
            break
        before = len(found.texts)
        found.file(path, explicit=False)
        size += sum(len(text) for text in found.texts[before:])
    return Corpus(tuple(found.texts), "standard library", found.skipped, tuple(found.problems))


class _Reading:
    def __init__(self, key: str | None) -> None:
        self.key = key
        self.texts: list[str] = []
        self.skipped: dict[str, int] = {}
        self.problems: list[str] = []

    def _skip(self, reason: str, where: str) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        self.problems.append(f"{where}: {reason}")

    def record(self, record: Any, where: str) -> None:
        if isinstance(record, Mapping):
            keys = (self.key,) if self.key else _KEYS
            texts = [record[k] for k in keys if isinstance(record.get(k), str)]
            if not texts:
                self._skip(f"no text under {' or '.join(keys)}", where)
                return
            record = texts[0]
        if not isinstance(record, str):
            self._skip(f"a {type(record).__name__}, not a text", where)
        elif not record.strip():
            self._skip("empty", where)
        else:
            self.texts.append(record)

    def file(self, path: Path, *, explicit: bool) -> None:
        kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
        if not explicit and kind.lower() not in (*_TEXT, *_LINES):
            self._skip(f"{kind or 'no'} ending, not known as text", str(path))
            return
        try:
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            self._skip("not UTF-8", str(path))
            return
        except (OSError, EOFError, zlib.error) as error:
            self._skip(f"unreadable ({type(error).__name__})", str(path))
            return
        if kind.lower() not in _LINES:
            self.record(text.replace("\r\n", "\n"), str(path))
            return
        for where, record in _records(text, path):
            if record is None:
                self._skip("not JSON", where)
            else:
                self.record(record, where)


def _records(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """(where, record) of JSON Lines, or of one JSON list; None for what is no JSON."""
    whole = _parsed(text) if text.lstrip()[:1] == "[" else None
    if isinstance(whole, Sequence) and not isinstance(whole, str):
        yield from ((f"{path}, record {at}", record) for at, record in enumerate(whole, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", _parsed(line)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
