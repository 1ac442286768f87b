r"""Networks that only answer: folded, fused and in the memory order that a CPU likes.

In training a batch norm watches its batch; afterwards it is a constant factor and a constant
offset, and the convolution before it can have both in its weights. On a CPU each convolution then
runs with its activation and its shortcut in one operation, squeeze and excitation in another, on
maps in channels-last order, with weights packed once. No C++ compiler is needed; the first answer
for a shape takes a second, the others none.

For other programs there is `export_onnx`.

References:
    Jacob et al. (2018), "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", arXiv:1712.05877, section 3.2 (folding).

Shapes: B batch, C channels, H and W height and width, K classes.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paragone._core.errors import MissingPackageError
from paragone.vision._speed_graph import fold, fuse, traced, why_not_fused

__all__ = ["Deployed", "deploy", "export_onnx"]

_BACKENDS = ("auto", "fused", "torch")


class Deployed(nn.Module):
    """A network that only answers; made by `deploy`.

    Attributes:
        reason: Why torch's own operations are used in place of fused ones, for the input seen
            last; None if they are not.
    """

    def __init__(self, model: nn.Module, backend: str = "auto") -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.backend = backend
        self.reason: str | None = None
        self._plans: dict[Any, tuple[Any, str | None]] = {}

    def forward(self, images: Tensor) -> Any:
        """Returns what the network returns in evaluation, for images (B, C, H, W)."""
        with torch.inference_mode():
            key = (images.shape, images.dtype, images.device)
            if key not in self._plans:
                self._plans[key] = self._planned(images)
            plan, self.reason = self._plans[key]
            return plan(images.contiguous(memory_format=torch.channels_last))

    def train(self, mode: bool = True) -> Deployed:
        """Changes nothing: what is folded cannot learn."""
        del mode
        return super().train(False)

    def _planned(self, images: Tensor) -> tuple[Any, str | None]:
        reason = "it was asked for" if self.backend == "torch" else why_not_fused(images)
        if reason is not None and self.backend == "fused":
            raise ValueError(f"deploy: backend='fused' cannot serve: {reason}; use 'auto'")
        # Tensors made in inference mode could not be exported.
        with torch.inference_mode(False), torch.no_grad():
            plan = traced(self.model, torch.zeros_like(images, memory_format=torch.channels_last))
            fold(plan)
            if reason is None:
                fuse(plan)
        return plan, reason

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_plans": {}}


def deploy(
    model: nn.Module, example: Tensor | None = None, *, backend: str = "auto"
) -> Deployed:  # fmt: skip
    """Returns a copy of a network that answers faster and cannot learn.

    Prefer it to the network itself for one image at a time on a CPU; to `torch.compile` where
    there is no C++ compiler; and to ONNX Runtime where the network should stay in Python. Each new
    shape of input is prepared once, which takes about a second.

    Args:
        model: Maps one tensor to a tensor or to a structure of tensors, without steps that depend
            on values: a backbone or a segmenter. Of a detector give its backbone.
        example: An input to prepare for now, (B, C, H, W).
        backend: "fused" (float32 on a CPU), "torch" (folding alone, everywhere), or "auto", which
            takes the first that can serve; `reason` says why it was not the fused one.

    Raises:
        ValueError: An unknown back end, or one that cannot serve.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> deploy(net)(torch.randn(1, 3, 9, 9)).shape
        torch.Size([1, 8, 7, 7])
    """
    if backend not in _BACKENDS:
        raise ValueError(f"deploy: backend={backend!r} is none of {', '.join(_BACKENDS)}")
    deployed = Deployed(model, backend).eval()
    if example is not None:
        deployed(example)
    return deployed


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    example: Tensor | None = None,
    *,
    opset: int = 18,
    dynamic_batch: bool = True,
) -> Path:
    """Writes a network in evaluation as an ONNX file, weights included.

    Prefer it to `deploy` where another program shall run the network: ONNX Runtime, a phone.

    Args:
        model: Maps one tensor to a tensor or to a structure of tensors.
        path: The file, usually `*.onnx`.
        example: An input (B, C, H, W), whose height and width the file holds for; without it two
            images of the model's `image_size`.
        opset: Version of ONNX's set of operators.
        dynamic_batch: Whether the file serves any number of images.

    Returns:
        The path.

    Raises:
        MissingPackageError: onnx or onnxscript is not installed.
        ValueError: There is no example, and the model has no `image_size`.
    """
    if missing := [n for n in ("onnx", "onnxscript") if importlib.util.find_spec(n) is None]:
        raise MissingPackageError(
            f"export_onnx needs {' and '.join(missing)}: pip install 'paragone[onnx]'"
        )
    target = Path(path)
    if example is None:
        if not hasattr(model, "image_size"):
            raise ValueError(
                "export_onnx: the model has no image_size: give an example (B, C, H, W)"
            )
        example = torch.zeros(2, int(model.in_channels), *model.image_size)  # pyright: ignore
    if dynamic_batch and len(example) == 1:
        example = example.expand(2, *example.shape[1:])
    modes = {part: part.training for part in model.modules()}
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic_batch else None
    try:
        with warnings.catch_warnings():
            # The exporter uses names of torch that are on their way out; no user can change that.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                model.eval(), (example.contiguous(),), target, dynamo=True, dynamic_shapes=shapes,
                opset_version=opset, external_data=False, verbose=False, input_names=["images"],
            )  # fmt: skip
    finally:
        for part, training in modes.items():
            part.training = training
    return target
