"""Reads torch's distributed checkpoints without running what they hold.

Such a folder has an index, `.metadata`, which is a pickle, and small values that are files of
`torch.save`. torch loads both as a program would be loaded: whoever wrote the folder could run
code in the process that reads it. Here the index may name the few classes that it is made of,
and values come with `weights_only=True`.

Shapes: none.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

__all__ = ["PlainPlanner", "PlainReader"]

_HOMES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
_CLASSES = {
    "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata",
    "TensorProperties", "ChunkStorageMetadata", "StorageMeta", "_StorageInfo",
    "_MEM_FORMAT_ENCODING",
}  # fmt: skip
_OTHERS = {
    ("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath"),
    ("collections", "OrderedDict"),
}  # fmt: skip


class _Index(pickle.Unpickler):
    """Finds the classes of an index, dtypes and layouts, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        ours = module in _HOMES and name in _CLASSES
        kind = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not (ours or kind or (module, name) in _OTHERS):
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a checkpoint's index")
        return super().find_class(module, name)


class PlainReader(FileSystemReader):
    """torch's reader of a folder, with an index that can only be data."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Returns the index.

        Raises:
            ValueError: The index is broken, or names what no index is made of.
            OSError: There is none.
        """
        path = self._get_metadata_path(kwargs.get("rank"))
        with self.fs.create_stream(path, "rb") as file:
            content = file.read()
        try:
            found = _Index(io.BytesIO(content)).load()
        except (
            pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError,
            TypeError, ValueError,
        ) as error:  # fmt: skip
            raise ValueError(f"{path} is no index of a checkpoint, and is not run: {error}") from (
                error
            )
        if not isinstance(found, Metadata):
            raise ValueError(f"{path} holds a {type(found).__name__}, no index of a checkpoint")
        stored = getattr(found, "storage_meta", None) or StorageMeta()
        stored.load_id = self.load_id
        found.storage_meta = stored
        return found


class PlainPlanner(DefaultLoadPlanner):
    """torch's plan of a load, in which values that are no tensors are plain data too."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Takes one value; what is no plain data raises `pickle.UnpicklingError`."""
        plain = io.BytesIO()
        torch.save(torch.load(value, map_location="cpu", weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)
