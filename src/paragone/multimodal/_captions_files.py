"""Files of captions: JSON Lines and other tables, folders by caption, folders of named pictures.

Every picture is decoded once, on all threads, so that a broken one is known before training; what
is left out is counted by reason and named by file and record.

References:
    Hugging Face, "Create an image dataset" (metadata.jsonl with file_name beside the pictures).

Shapes: (H, W, C) uint8 of each picture.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from paragone._core.lazy import resolve
from paragone.multimodal.captions import Captioned, Captions, Page, Record, digest_of
from paragone.multimodal.documents import picture
from paragone.runtime.pools import ThreadPool

__all__ = ["FileImage", "read"]

_IMAGE = ("image", "file_name", "image_path", "path")
_CAPTION = ("caption", "text")
_TABLES = ("captions", "metadata", "train", "data")
_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_ANSWERS = "places of the answers of a conversation"
_COPY = re.compile(r"[\s_-]*\(?\d+\)?$")
_EXPECTED = (
    '{"image": path, "caption": text}, {"image", "question", "answer"} or '
    '{"parts": [text, {"image": path}, ...]}'
)


class LeftOutError(ValueError):
    """A record that is left out; the reason is what it is counted under.

    Args:
        reason: Counted under it.
        detail: More about this one.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class FileImage:
    """A picture that is decoded whenever it is asked for.

    Args:
        path: Its file.
        longest: Pixels that its longer side has at most, or None.
    """

    path: Path
    longest: int | None = None

    def __call__(self) -> np.ndarray:
        decode = resolve("paragone.vision._data_files:decode_image")
        pixels = _grey_if_grey(decode(self.path.read_bytes(), str(self.path)))
        most = max(pixels.shape[:2])
        if self.longest is None or most <= self.longest:
            return pixels
        height, width = (max(1, round(n * self.longest / most)) for n in pixels.shape[:2])
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        return picture(image.resize((width, height), Image.Resampling.LANCZOS))


def _grey_if_grey(pixels: np.ndarray) -> np.ndarray:
    """One channel where all three are equal."""
    grey = (pixels == pixels[..., :1]).all()
    return np.ascontiguousarray(pixels[..., :1]) if grey else pixels


class _Budget:
    """Bytes of decoded pictures that may still be kept."""

    def __init__(self, cache: int | None) -> None:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        self.left = free // 4 if cache is None else cache

    def source(self, file: FileImage, pixels: np.ndarray) -> Any:
        if pixels.nbytes > self.left:
            return file
        self.left -= pixels.nbytes
        return pixels


def read(source: Any, longest: int | None, cache: int | None) -> Captions:
    """What `read_captions` does."""
    if longest is not None and longest < 1:
        raise ValueError(f"longest={longest}: at least one pixel, or None")
    if isinstance(source, Path) and not source.exists():
        raise ValueError(f"{source}: no such file or folder; captions or pictures are expected")
    table = _table(source) if isinstance(source, Path) else None
    if isinstance(source, Path) and table is None:
        rows, root, name = _folder_rows(source), source, source.name
    else:
        rows = _table_rows(source if table is None else table)
        root = Path() if table is None else table.parent
        name = "records" if table is None else table.name
    budget = _Budget(cache)

    def look(row: tuple[str, Any]) -> tuple[Any, list[Any] | None, str, str]:
        place, record = row
        try:
            if isinstance(record, Mapping) and "conversations" in record:
                record = _conversation(record)
            return record, _parts(record, root, longest), "", ""
        except LeftOutError as error:
            return record, None, error.reason, f"{place}: {error}"

    found = Captions(name=name)
    with ThreadPool(None) as pool:
        looked = pool.imap(look, rows, chunksize=8)
        for (place, _), (record, parts, reason, problem) in zip(rows, looked, strict=True):
            if parts is None:
                found.skipped[reason] += 1
                found.problems.append(problem)
            else:
                found.extend(_records(place, record, parts, budget))
    if not found:
        why = found.problems[0] if found.problems else f"no record in it; {_EXPECTED} is expected"
        raise ValueError(f"{source if isinstance(source, Path) else name}: nothing to use: {why}")
    return found


def _table(path: Path) -> Path | None:
    if path.is_file():
        kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
        if kind.lower() not in _KINDS:
            raise ValueError(
                f"{path}: a file of {', '.join(_KINDS)}, or a folder of pictures, is expected"
            )
        return path
    named = [path / (stem + kind) for stem in _TABLES for kind in _KINDS]
    return next((one for one in named if one.is_file()), None)


def _table_rows(source: Any) -> list[tuple[str, Any]]:
    """Records with their places; a broken line of JSON Lines is a record that cannot be used."""
    if isinstance(source, Path) and source.suffix.lower() in (".jsonl", ".ndjson"):
        return _lines(source)
    return list(resolve("paragone.language._tune_read:read_records")(source))


def _lines(path: Path) -> list[tuple[str, Any]]:
    import json

    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8 ({error})") from error
    rows: list[tuple[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{path}, line {number}"
            try:
                rows.append((place, json.loads(line)))
            except ValueError as error:
                rows.append((place, LeftOutError("not JSON", str(error))))
    return rows


def _folder_rows(folder: Path) -> list[tuple[str, Any]]:
    """Pictures of a folder: below folders of captions, or with captions as their names."""
    files = sorted(
        one for one in folder.rglob("*")
        if one.suffix.lower() in _SUFFIXES
        and not any(part.startswith(".") for part in one.relative_to(folder).parts)
    )  # fmt: skip
    rows = []
    for file in files:
        inside = file.relative_to(folder)
        beside = file.with_suffix(".txt")
        if beside.is_file():
            text = beside.read_text(encoding="utf-8", errors="replace").strip()
        elif len(inside.parts) > 1:
            text = _spoken(inside.parts[-2])
        else:
            text = _spoken(_COPY.sub("", file.stem) or file.stem)
        rows.append((str(file), {"image": str(inside), "caption": text}))
    return rows


def _spoken(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name)).strip()


def _parts(record: Any, root: Path, longest: int | None) -> list[Any]:
    """Texts and decoded pictures of a record, pictures with their files."""
    if isinstance(record, LeftOutError):
        raise record
    if not isinstance(record, Mapping):
        raise LeftOutError("of another form", f"found {type(record).__name__}, not {_EXPECTED}")
    if "parts" in record:
        return _page(record, root, longest)
    image = next((record[key] for key in _IMAGE if record.get(key) is not None), None)
    if image is None:
        raise LeftOutError(
            "without a picture", f"has {', '.join(map(str, record))}, not {_EXPECTED}"
        )
    asked = record.get("question") or ""
    said = record.get("answer") if asked else _captions(record)
    for text in (asked, said):
        if text is not None and not isinstance(text, str):
            raise LeftOutError("of another form", f"expected a text, found {text!r}"[:200])
    if not said:
        raise LeftOutError("without an answer" if asked else "without a caption")
    return [_decoded(image, root, longest), said, asked]


def _captions(record: Mapping[str, Any]) -> Any:
    return next((record[key] for key in _CAPTION if record.get(key) is not None), None)


def _page(record: Mapping[str, Any], root: Path, longest: int | None) -> list[Any]:
    given = record["parts"]
    if not isinstance(given, Sequence) or isinstance(given, str) or not len(given):
        raise LeftOutError("of another form", '"parts" is to be a list of texts and pictures')
    parts = []
    for one in given:
        if isinstance(one, str):
            parts.append(one)
        elif isinstance(one, Mapping) and any(key in one for key in _IMAGE):
            image = next(one[key] for key in _IMAGE if key in one)
            parts.append(_decoded(image, root, longest))
        else:
            raise LeftOutError(
                "of another form", f'a part is {one!r}; text or {{"image": path}}'[:200]
            )
    learned = record.get("learned")
    if learned is not None and len(learned) != len(parts):
        raise LeftOutError("of another form", f"{len(learned)} learned for {len(parts)} parts")
    return parts


def _conversation(record: Mapping[str, Any]) -> dict[str, Any]:
    """A conversation about a picture as a page: the picture, then the turns; answers are known."""
    turns = record["conversations"]
    known = {"human": False, "user": False, "gpt": True, "assistant": True}
    try:
        said = [
            (known[turn["from"]], turn["value"].replace("<image>", "").strip()) for turn in turns
        ]
        image = next(record[key] for key in _IMAGE if record.get(key) is not None)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise LeftOutError(
            "of another form", '"conversations" of {"from", "value"} about an "image" are expected'
        ) from error
    said = [turn for turn in said if turn[1]]
    answers = [at for at, (learned, _) in enumerate(said, 1) if learned]
    return {"parts": [{"image": image}, *(text for _, text in said)], _ANSWERS: answers}


def _decoded(image: Any, root: Path, longest: int | None) -> tuple[FileImage | None, np.ndarray]:
    if not isinstance(image, str | os.PathLike):
        try:
            return None, picture(image)
        except ValueError as error:
            raise LeftOutError("broken picture", str(error)) from error
    file = FileImage(root / image, longest)
    try:
        return file, file()
    except FileNotFoundError as error:
        raise LeftOutError("without its file", f"{file.path} does not exist") from error
    except (ValueError, OSError) as error:
        raise LeftOutError("broken picture", str(error)) from error


def _records(
    place: str, record: Mapping[str, Any], parts: list[Any], budget: _Budget
) -> list[Record]:
    def kept(one: Any) -> Any:
        if isinstance(one, str):
            return one
        file, pixels = one
        return pixels if file is None else budget.source(file, pixels)

    first = next((one[1] for one in parts if not isinstance(one, str)), None)
    digest = "" if first is None else digest_of(first)
    if "parts" not in record:
        return [Captioned(kept(parts[0]), parts[1], parts[2], place, digest)]
    sources = tuple(kept(one) for one in parts)
    if _ANSWERS in record:
        # A page for each answer, so that the end of each is learned.
        return [
            Page(sources[: at + 1], (*[False] * at, True), place, digest) for at in record[_ANSWERS]
        ]
    learned = record.get("learned")
    flags = None if learned is None else tuple(bool(one) for one in learned)
    return [Page(sources, flags, place, digest)]
