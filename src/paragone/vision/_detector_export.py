"""Detectors as ONNX files: the part that is the same for every image.

Choosing boxes (decoding, suppression, pooling of regions) is left to `detections`, which takes
what an ONNX runtime puts out: its loops depend on what is in the image.

References:
    ONNX, "Open neural network exchange intermediate representation".
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paragone._core.errors import MissingPackageError

__all__ = ["export"]


class _Called(nn.Module):
    """One method of a detector as a module."""

    def __init__(self, owner: nn.Module, method: str) -> None:
        super().__init__()
        self.owner, self.method = owner, method

    def forward(self, x: Tensor) -> Any:
        return getattr(self.owner, self.method)(x)


def export(
    owner: nn.Module, method: str, example: Tensor, path: str | Path, name: str,
    outputs: Sequence[str], free: bool = False,
) -> Path:  # fmt: skip
    """Writes what a method computes to a file, weights inside.

    Args:
        owner: In evaluation while it is written.
        method: Takes one tensor.
        example: Of the shape that the file will take.
        path: The file.
        name: Of its input.
        outputs: Names of its outputs.
        free: Whether the first axis of the input may have any length.

    Raises:
        MissingPackageError: onnx or onnxscript is not installed.
    """
    try:
        import onnxscript
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "ONNX files need onnx and onnxscript: pip install 'paragone[onnx]'"
        ) from error
    del onnxscript
    owner_was = owner.training
    shapes = {"x": {0: torch.export.Dim("n", min=1)}} if free else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Called(owner.eval(), method).eval(), (example,), dynamo=True, verbose=False,
                input_names=[name], output_names=list(outputs), dynamic_shapes=shapes,
            )  # fmt: skip
        assert program is not None
        program.save(str(path), external_data=False)
    finally:
        owner.train(owner_was)
    return Path(path)
