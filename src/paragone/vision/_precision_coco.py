"""COCO JSON: data sets and lists of results, read into columns and written.

References:
    Lin et al. (2014), "Microsoft COCO", arXiv:1405.0312; the format's page, cocodataset.org.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paragone.vision._precision_engine import workers
from paragone.vision._precision_table import Faults, Table, finish, rows_of
from paragone.vision.annotations import Annotations, Image
from paragone.vision.ops.precision.json_records import PADDING, records, skip

__all__ = ["plain_json", "read", "read_large", "write"]

_LARGE = 1 << 16
_LIST, _OBJECT, _CLOSED, _COMMA, _QUOTE, _COLON = b'[{},":'


def read(
    source: Any,
    faults: Faults,
    like: Annotations | None,
    classes: tuple[str, ...] | None,
    threads: int | None,
) -> Annotations:
    """Reads a file, or what such a file holds."""
    if isinstance(source, os.PathLike | str):
        source = _loaded(Path(source), faults, threads)
        if isinstance(source, Mapping) and "bbox" in source:
            return _results(dict(source), faults, like, classes)
    if isinstance(source, Mapping):
        return _data_set(source, faults, like, classes)
    if not isinstance(source, list | tuple):
        raise faults.stop("", f"expected an object with annotations or a list of results, not "
                              f"{type(source).__name__}")  # fmt: skip
    return _results(_columns(source, faults, results=True), faults, like, classes)


def _loaded(path: Path, faults: Faults, threads: int | None) -> Any:
    """What the file holds; records as columns where the file is large and plain."""
    size = path.stat().st_size
    if size >= _LARGE:
        return read_large(path, faults, workers(threads, size // 100))
    return plain_json(path.read_bytes(), faults)


def read_large(path: Path, faults: Faults, threads: int) -> Any:
    """Reads by the parser of bytes; what is not plain by the standard library."""
    size = path.stat().st_size
    text = np.zeros(size + PADDING, np.uint8)
    with path.open("rb") as file:
        file.readinto(memoryview(text.data)[:size])
    found = _fast(text, threads)
    return plain_json(text[:size].tobytes(), faults) if found is None else found


def _blank(text: np.ndarray, i: int) -> int:
    while i < len(text) - PADDING and text[i] in b" \t\r\n":
        i += 1
    return i


def _fast(text: np.ndarray, threads: int) -> Any:
    """Results as columns, or a data set whose annotations are columns; None if it is not plain."""
    size = len(text) - PADDING
    i = _blank(text, 0)
    if text[i] == _LIST:
        found = records(text, i, results=True, threads=threads)
        return None if found is None or _blank(text, found[1]) < size else found[0]
    if text[i] != _OBJECT:
        return None
    parts: dict[str, Any] = {}
    while text[i] in (_OBJECT, _COMMA):
        i = _blank(text, i + 1)
        end = skip(text, i) if text[i] == _QUOTE else -1
        colon = _blank(text, end) if end > 0 else size
        if text[colon] != _COLON:
            return None
        name, i = (
            text[i + 1 : end - 1].tobytes().decode("utf-8", "replace"),
            _blank(text, colon + 1),
        )
        if name == "annotations" and text[i] == _LIST:
            found = records(text, i, results=False, threads=threads)
            if found is None:
                return None
            parts[name], i = found
        else:
            end = skip(text, i)
            try:
                parts[name] = json.loads(text[i : max(i, end)].tobytes())
            except (json.JSONDecodeError, UnicodeDecodeError):
                return None
            i = end
        i = _blank(text, i)
    ended = text[i] == _CLOSED and _blank(text, i + 1) == size
    return parts if ended else None


def plain_json(data: bytes, faults: Faults) -> Any:
    """Reads JSON by the standard library, whose errors become ours with the byte's place."""
    try:
        text = data.decode("utf-8")
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise faults.stop(f"byte {error.start}", "no UTF-8; expected JSON") from None
    except json.JSONDecodeError as error:
        place = len(text[: error.pos].encode())
        open_end = place >= len(data.rstrip()) or error.msg.startswith("Unterminated")
        ended = "; the file ends there: is it cut short?" if open_end else ""
        raise faults.stop(
            f"byte {place} (line {error.lineno})", f"broken JSON: {error.msg}{ended}"
        ) from None


def _columns(records: Sequence[Any], faults: Faults, *, results: bool) -> dict[str, Any]:
    """Columns of a list of records; those that cannot be read are told or left out."""
    what = "result" if results else "annotation"
    needed = ("image_id", "category_id", "bbox", *(("score",) if results else ()))
    kept, rows = [], []
    for row, record in enumerate(records):
        told = _wrong(record, needed)
        if told:
            faults.found("incomplete record", f"{what} {row}", told)
        else:
            kept.append(record)
            rows.append(row)
    ids = [r.get("id") for r in kept]
    numbered = all(isinstance(i, int) for i in ids) and bool(ids)
    area = [r.get("area") for r in kept]
    return {
        "row": np.asarray(rows, np.int64),
        "image_id": _ids([r["image_id"] for r in kept]),
        "category_id": _ids([r["category_id"] for r in kept]),
        "bbox": np.array([r["bbox"] for r in kept], np.float64).reshape(-1, 4),
        "score": np.array([r["score"] for r in kept], np.float64) if results else None,
        "area": np.array([np.nan if a is None else a for a in area], np.float64),
        "crowd": np.array([bool(r.get("iscrowd")) for r in kept], bool),
        "ignore": np.array([bool(r.get("ignore")) for r in kept], bool),
        "id": np.asarray(ids, np.int64) if numbered and not results else None,
    }


def _wrong(record: Any, needed: Sequence[str]) -> str:
    if not isinstance(record, Mapping):
        return f"expected an object, not {type(record).__name__}"
    missing = [name for name in needed if name not in record]
    if missing == ["bbox"] or missing == ["bbox", "score"]:
        kind = next((k for k in ("segmentation", "keypoints") if k in record), "")
        if kind:
            return (
                f"has {kind} and no bbox; only boxes are evaluated here (iouType bbox): add the "
                "box around it as bbox"
            )
    if missing:
        return f"lacks {', '.join(missing)}"
    box = record["bbox"]
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_number, box)):
        return f"bbox {box!r}: expected [x, y, width, height]"
    if "score" in needed and not _number(record["score"]):
        return f"score {record['score']!r}: expected a number"
    return ""


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _ids(values: list[Any]) -> np.ndarray:
    if all(isinstance(v, int | np.integer) for v in values):
        return np.asarray(values, np.int64)
    return np.array([v if isinstance(v, int) else str(v) for v in values] + [None], object)[:-1]


def _images(records: Any, faults: Faults) -> list[Image]:
    found: dict[Any, Image] = {}
    for row, record in enumerate(records):
        if not isinstance(record, Mapping) or "id" not in record:
            raise faults.stop(f"image {row}", "expected an object with id")
        key = record["id"]
        if key in found:
            raise faults.stop(f"image {row}", f"id {key!r} has been given to an earlier image")
        found[key] = Image(
            key, str(record.get("file_name", "")), int(record.get("height") or 0),
            int(record.get("width") or 0),
        )  # fmt: skip
    return list(found.values())


def _categories(records: Any, faults: Faults) -> tuple[list[int], list[str]]:
    ids: list[int] = []
    names = []
    for row, record in enumerate(records):
        if not isinstance(record, Mapping) or not isinstance(record.get("id"), int):
            raise faults.stop(f"category {row}", "expected an object with a whole number as id")
        if record["id"] in ids:
            raise faults.stop(f"category {row}", f"id {record['id']} has been given before")
        ids.append(record["id"])
        names.append(str(record.get("name", record["id"])))
    order = np.argsort(ids, kind="stable")
    return [ids[i] for i in order], [names[i] for i in order]


def _data_set(
    source: Mapping[str, Any],
    faults: Faults,
    like: Annotations | None,
    classes: tuple[str, ...] | None,
) -> Annotations:
    if "annotations" not in source or (like is None and "images" not in source):
        there = ", ".join(map(str, source)) or "nothing"
        raise faults.stop("", f"expected images, annotations and categories; there is {there}")
    given = source["annotations"]
    columns = given if isinstance(given, Mapping) else _columns(given, faults, results=False)
    if like is not None:
        return _finished(columns, like.images, like.classes, like.class_ids, faults)
    images = _images(source["images"], faults)
    ids, names = _categories(source.get("categories", ()), faults)
    if not ids:
        ids = np.unique(columns["category_id"]).tolist()
        names = [str(i) for i in ids]
    if classes is not None:
        ids, names = _chosen(classes, ids, names, faults)
    return _finished(columns, images, names, ids, faults)


def _chosen(
    classes: tuple[str, ...], ids: list[int], names: list[str], faults: Faults
) -> tuple[list[int], list[str]]:
    missing = [name for name in classes if name not in names]
    if missing:
        raise faults.stop("", f"class {missing[0]!r} is none of {', '.join(names)}")
    return [ids[names.index(name)] for name in classes], list(classes)


def _results(
    columns: dict[str, Any],
    faults: Faults,
    like: Annotations | None,
    classes: tuple[str, ...] | None,
) -> Annotations:
    if like is not None:
        return _finished(columns, like.images, like.classes, like.class_ids, faults)
    images = [Image(i) for i in dict.fromkeys(sorted(columns["image_id"].tolist(), key=_key))]
    ids = sorted(set(columns["category_id"].tolist()))
    if classes is not None and len(classes) != len(ids):
        raise faults.stop("", f"{len(ids)} class ids, but {len(classes)} names in classes")
    names = list(classes) if classes is not None else [str(i) for i in ids]
    return _finished(columns, images, names, ids, faults, unnamed=classes is None)


def _key(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value


def _finished(
    columns: Mapping[str, Any],
    images: Sequence[Image],
    names: Sequence[str],
    ids: Sequence[int],
    faults: Faults,
    **extra: Any,
) -> Annotations:
    c = columns
    results = c["score"] is not None
    what, rows = "result" if results else "annotation", c["row"]
    area = c["area"]
    if not results and np.isnan(area).any():
        area = np.where(np.isnan(area), c["bbox"][:, 2] * c["bbox"][:, 3], area)
    numbers = c["id"]

    def name(row: int) -> str:
        own = f" (id {numbers[row]})" if numbers is not None else ""
        return f"{what} {row if rows is None else rows[row]}{own}"

    table = Table(
        image=rows_of(c["image_id"], [i.id for i in images]),
        label=rows_of(c["category_id"], ids), boxes=c["bbox"], score=c["score"], xywh=True,
        area=None if results else area, crowd=None if results else c["crowd"],
        difficult=None if results else c["ignore"], ids=numbers, name=name,
        given=lambda row: (c["image_id"][[row]].tolist()[0], c["category_id"][[row]].tolist()[0]),
    )  # fmt: skip
    return finish(table, images, names, ids, faults, **extra)


def write(annotations: Annotations, path: Path) -> None:
    """Writes a data set, or a list of results where there are scores."""
    a, boxes = annotations, annotations.xywh().tolist()
    image = [a.images[i].id for i in a.image.tolist()]
    category = [a.class_ids[k] for k in a.label.tolist()]
    if a.score is not None:
        made: Any = [
            {"image_id": i, "category_id": k, "bbox": b, "score": s}
            for i, k, b, s in zip(image, category, boxes, a.score.tolist(), strict=True)
        ]
    else:
        area = (a.area if a.area is not None else a.xywh()[:, 2:].prod(axis=1)).tolist()
        nothing = np.zeros(len(a), bool)
        crowd = (nothing if a.crowd is None else a.crowd).astype(int).tolist()
        ignore = (nothing if a.difficult is None else a.difficult).astype(int).tolist()
        ids = a.extra["ids"].tolist() if "ids" in a.extra else range(1, len(a) + 1)
        made = {
            "images": [
                {"id": i.id, "file_name": i.file, "height": i.height, "width": i.width}
                for i in a.images
            ],
            "categories": [
                {"id": i, "name": n} for i, n in zip(a.class_ids, a.classes, strict=True)
            ],
            "annotations": [
                {"id": n, "image_id": i, "category_id": k, "bbox": b, "area": s, "iscrowd": c,
                 **({"ignore": 1} if g else {})}
                for n, i, k, b, s, c, g in zip(
                    ids, image, category, boxes, area, crowd, ignore, strict=True)
            ],
        }  # fmt: skip
    path.write_text(json.dumps(made), encoding="utf-8")
