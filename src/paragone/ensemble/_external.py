r"""Training from files larger than memory: bins on disk, and a few numbers a row in memory.

A histogram grower looks at a value once, to bin it. So each column is read alone from Parquet,
cut at the quantiles of *all* its rows (`_binning`, no sketch: the edges are those of a fit in
memory), and written as one byte a row to a memory-mapped file, twice: column-major for parting
rows, row-major for histograms. From then on the engine is the one for memory, and so is the
model, bit for bit; the operating system keeps in memory what it has room for.

Memory of the process, for n rows and K outputs: about 44 + 24 K bytes a row while boosting and
100 while binning, whatever the number of columns (`benchmarks/boosting_speed.py --files` measures
it: 75 with 800,000 rows, 101 with 200,000, for K = 1); disk: 2 bytes a value.

The folder `cache` may be kept: a second fit of the same files with the same bins, or one that was
stopped while binning, goes on from what is there.

Shapes: n rows, p columns.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np

from paragone.ensemble._binning import Binned
from paragone.ensemble._input import Features, _distinct, _marked, read_weights
from paragone.ensemble._plan import Plan, check_same, check_shared
from paragone.ensemble._rounds import Watched
from paragone.ensemble._row_groups import Paths, RowGroups, open_files
from paragone.ensemble._serialize import _decode, _encode
from paragone.ensemble._share import Share
from paragone.ensemble._table_bins import (
    BinnedTable,
    Cut,
    assign_bins,
    cut_shared,
    equal_weights,
)

__all__ = ["FromFiles"]

COLUMNS = 8
"""Columns that are in memory as floats at a time: 32 bytes a row."""

BLOCK = 1 << 18
"""Rows that are turned from column-major to row-major at a time."""


class FromFiles:
    """Gives a Newton booster `fit_files`."""

    _classify: bool
    max_bin: int

    def fit_files(
        self,
        paths: Paths,
        *,
        target: str,
        sample_weight: str | None = None,
        columns: Sequence[str] | None = None,
        eval_set: Paths | None = None,
        cache: str | PathLike[str] | None = None,
        checkpoint: str | PathLike[str] | None = None,
        process_group: Any = None,
        timeout: float = 60.0,
    ) -> Self:
        """Fits the model to files that need not fit into memory.

        The model is that of `fit` on the whole table, bit for bit. Prefer `fit` where the table
        fits: it does not wait for the disk.

        Args:
            paths: Parquet (or CSV) files or folders of them; rows count in this order.
            target: Column to predict.
            sample_weight: Column of weights, >= 0.
            columns: Columns to learn from; None for all others.
            eval_set: Files to watch for early stopping. Without them a share of the rows is held
                out, as in `fit`.
            cache: Folder for the bins, 2 bytes a value, kept and used again; None for a
                temporary one.
            checkpoint: File that takes every finished round; the same call goes on from it.
            process_group: As in `fit`; each process reads its own part of the rows, all of them
                see the same files.
            timeout: Seconds to wait for another process.

        Raises:
            MissingPackageError: pyarrow is not installed.
            ValueError: A file, column or value cannot be used; says which, and its row group.
        """
        model: Any = self
        if model.booster == "gblinear" or model.tree_method not in ("hist", "auto"):
            raise ValueError(
                "fit_files needs trees on fixed bins: booster='gbtree' or 'dart' and "
                f"tree_method='hist', not {model.booster!r} and {model.tree_method!r}"
            )
        if model.warm_start and hasattr(model, "base_score_"):
            raise ValueError("fit_files goes on from a checkpoint, not by warm_start=True")
        plan = Plan(process_group, timeout, checkpoint)
        with (
            tempfile.TemporaryDirectory(prefix="paragone-") as scratch,
            plan.sharing() as share,
        ):
            check_shared(model, share)
            folder = Path(scratch if cache is None else cache)
            folder = folder / f"part-{share.rank}-of-{share.size}"
            _FilesFit(model, plan, share, folder).run(
                paths, target, sample_weight, columns, eval_set
            )
        return self


class _FilesFit:
    def __init__(self, model: Any, plan: Plan, share: Share, folder: Path) -> None:
        self.model, self.plan, self.share, self.folder = model, plan, share, folder
        folder.mkdir(parents=True, exist_ok=True)

    def run(
        self, paths: Paths, target: str, weight: str | None, columns: Any, eval_set: Any
    ) -> None:
        model, share = self.model, self.share
        files = share.agree("opening the files", lambda: self._open(paths, "csv"))
        names = [n for n in files.schema.names if n not in (target, weight)]
        names = names if columns is None else list(columns)
        share.agree("reading the columns", lambda: self._head(files, names, target, weight))
        check_same("columns", names, share)
        y, w = self._targets(files, target, weight, True)
        seed = model._seed(self.plan, share)
        train, held = np.arange(len(y)), np.zeros(0, np.int64)
        apart = model._holds_out([1] if eval_set is not None else [])
        if apart:
            train, held = model._parted(y, seed, share)
        train = train[w[train] > 0]
        y_held, w_held = y[held], w[held]
        if len(train) < len(y):
            y, w = y[train], w[train]
        share.total(len(train))
        everyone = None if equal_weights(w, share) else share.everything(w)
        binned, held_bins, cuts = self._bin(files, names, train, held, everyone)
        stands_in: Any = BinnedTable(binned)
        features = Features(stands_in, binned.categorical, model._categories_)
        watched = []
        if apart:
            watched = [Watched("validation_0", BinnedTable(held_bins), y_held, w_held)]
        elif eval_set is not None:
            watched = [self._watch(eval_set, names, target, weight, cuts)]
        del train, held
        model._train(features, y, w, watched, seed, None, share, self.plan)

    def _open(self, paths: Paths, scratch: str) -> RowGroups:
        files = open_files(paths, self.folder / scratch)
        files.take_part(self.share.rank, self.share.size)
        if not len(files):
            raise ValueError(f"the files have too few rows for {self.share.size} processes")
        return files

    def _head(self, files: RowGroups, names: list[str], target: str, weight: str | None) -> None:
        """Sets the names and notes which columns are categories."""
        files.check_columns([*names, target, *([] if weight is None else [weight])])
        model = self.model
        if not names or target in names:
            raise ValueError(f"columns={names[:5]} must name at least one, and not the target")
        model.feature_names_in_ = np.array(names, dtype=object)
        model.n_features_in_ = len(names)
        empty = [files.empty(name) for name in names]
        self.marked = _marked(model, empty, model.categorical_features)

    def _targets(
        self, files: RowGroups, target: str, weight: str | None, reset: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        share = self.share
        column = share.agree(f"reading {target!r}", lambda: files.column(target))
        y = self.model._read_y(column, reset, share)
        w = share.agree(
            "reading sample_weight",
            lambda: read_weights(None if weight is None else files.column(weight), len(y)),
        )
        return y, w

    def _known(self, files: RowGroups, names: list[str], columns: range) -> None:
        """Collects the categories of the columns from all row groups and processes."""
        marked = [j for j in columns if self.marked[j]]
        own = self.share.agree(
            "reading categories", lambda: files.present([names[j] for j in marked])
        )
        found = self.share.objects(own) if marked else [own]
        for i, j in enumerate(marked):
            values = list({value for part in found for value in part[i]})
            column = np.empty(len(values), object)
            column[:] = values
            self.model._categories_[j] = _distinct(column)

    def _bin(
        self, files: RowGroups, names: list[str], train: np.ndarray, held: np.ndarray, weight: Any
    ) -> tuple[Binned, Binned, list[Cut]]:
        """Returns the bins of the rows to train on and to watch, and where they were cut."""
        share, p = self.share, len(names)
        head = {
            "files": files.stamp, "rows": [files.begin, files.end, len(train), len(held)],
            "train": zlib.crc32(train.data), "weight": 0 if weight is None else zlib.crc32(weight),
            "columns": names, "marked": self.marked.tolist(), "max_bin": self.model.max_bin,
        }  # fmt: skip
        index = _Index(self.folder / "columns.jsonl", head)
        index.keep(min(share.objects(len(index.lines))))
        big = self._table("train", (len(train), p), len(index.lines) > 0)
        small = self._table("held", (len(held), p), len(index.lines) > 0)
        self.model._categories_ = [line["categories"] for line in index.lines]
        self.model._categories_ += [None] * (p - len(index.lines))
        cuts: list[Cut] = [(line["edges"], line["codes"], line["size"]) for line in index.lines]
        step = max(COLUMNS, share.size)
        for first in range(len(cuts), p, step):
            batch = range(first, min(first + step, p))
            self._known(files, names, batch)
            values = self._read(files, names, batch)
            flags = [bool(self.marked[j]) for j in batch]
            own = [column[train] if len(train) < len(column) else column for column in values]
            found = cut_shared(own, flags, self.model.max_bin, weight, share)
            for i, j in enumerate(batch):
                _write(big, j, own[i], flags[i], found[i])
                _write(small, j, values[i][held], flags[i], found[i])
                index.add(found[i], self.model._categories_[j])
            cuts += found
            del values, own
            if self.model.verbose and share.rank == 0:
                print(f"[bins] {len(cuts)} of {p} columns")
        if not index.whole:
            for rows, columns in (big, small):
                _turn(rows, columns)
            index.finish()
        return self._binned(big, cuts), self._binned(small, cuts), cuts

    def _read(self, files: RowGroups, names: list[str], batch: range) -> list[np.ndarray]:
        wanted, known = [names[j] for j in batch], [self.model._categories_[j] for j in batch]
        return self.share.agree("reading columns", lambda: files.numbers(wanted, known))

    def _watch(
        self, paths: Paths, names: list[str], target: str, weight: str | None, cuts: list[Cut]
    ) -> Watched:
        share = self.share
        files = share.agree("opening eval_set", lambda: self._open(paths, "csv-eval"))
        wanted = [*names, target, *([] if weight is None else [weight])]
        share.agree("reading eval_set", lambda: files.check_columns(wanted))
        y, w = self._targets(files, target, weight, False)
        table = self._table("eval", (len(files), len(names)), False)
        for first in range(0, len(names), COLUMNS):
            batch = range(first, min(first + COLUMNS, len(names)))
            for j, column in zip(batch, self._read(files, names, batch), strict=True):
                _write(table, j, column, bool(self.marked[j]), cuts[j])
        _turn(*table)
        return Watched("validation_0", BinnedTable(self._binned(table, cuts)), y, w)

    def _table(self, name: str, shape: tuple[int, int], there: bool) -> tuple[Any, Any]:
        """Opens the row-major and the column-major file."""
        n, p = shape
        rows, columns = self.folder / f"{name}-rows.u8", self.folder / f"{name}-columns.u8"
        if n == 0:
            return np.empty((0, p), np.uint8), np.empty((p, 0), np.uint8)
        sized = all(f.exists() and f.stat().st_size == n * p for f in (rows, columns))
        mode = "r+" if there and sized else "w+"
        return (
            np.memmap(rows, np.uint8, mode, shape=(n, p)),
            np.memmap(columns, np.uint8, mode, shape=(p, n)),
        )

    def _binned(self, table: tuple[Any, Any], cuts: list[Cut]) -> Binned:
        rows, columns = table
        codes = [own for _, own, _ in cuts]
        edges = [edge for edge, _, _ in cuts]
        bins = [len(e) + 1 if own is None else max(len(own), 1)
                for e, own in zip(edges, codes, strict=True)]  # fmt: skip
        return Binned(
            rows.view(np.ndarray), columns.view(np.ndarray), edges, np.array(bins, np.int32),
            self.marked.copy(), codes, np.array([size for _, _, size in cuts], np.int32),
        )  # fmt: skip


def _turn(rows: np.ndarray, columns: np.ndarray) -> None:
    """Fills the row-major file from the column-major one."""
    for begin in range(0, len(rows), BLOCK):
        rows[begin : begin + BLOCK] = columns[:, begin : begin + BLOCK].T


def _write(table: tuple[Any, Any], j: int, values: np.ndarray, categorical: bool, cut: Cut) -> None:
    if len(values):
        binned = assign_bins(values[:, None], np.array([categorical]), [cut], 1)
        table[1][j] = binned.columns[0]


class _Index:
    """Which columns of a cache are done: a head, a line a column, and `true` when all is done."""

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self.path, self.lines, text = path, [], json.dumps(head)
        self._text: list[str] = [text]
        self.whole = False
        there = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        if there and there[0] == text:
            self._text = there
            self.lines = [_decode(json.loads(line)) for line in there[1:]]
            self.whole = bool(self.lines) and self.lines[-1] is True
            self.lines = self.lines[: -1 if self.whole else None]

    def finish(self) -> None:
        """Notes that the row-major files are there too."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("true\n")

    def keep(self, count: int) -> None:
        """Forgets the columns from `count` on."""
        if count < len(self.lines):
            self.lines, self.whole = self.lines[:count], False
        elif self.whole:
            return
        self._text = self._text[: count + 1]
        self.path.write_text("\n".join(self._text) + "\n", encoding="utf-8")

    def add(self, cut: Cut, categories: Any) -> None:
        edges, codes, size = cut
        line = {"edges": edges, "codes": codes, "size": size, "categories": categories}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_encode(line, "")) + "\n")
