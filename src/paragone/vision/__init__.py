"""Vision: backbones, upsampling, detection, average precision.

Start with `efficientnet("b0")` or any other name of `backbones()` for a network that maps images
(B, C, H, W) to logits, with `UNet` for segments, `ThunderNet` for boxes, and with
`average_precision(gt, dt)` for the figure of any detector. `paragone train-vision` trains them.
"""

from paragone._core.lazy import lazy_exports

_MODULES = {
    "contract": ("Backbone",),
    "counting": ("count_macs",),
    "registry": ("backbone", "backbones"),
    "layers": ("NormAct",),
    "efficientnet": ("efficientnet",),
    "compound_scaling": ("compound_scaling", "scale_to", "search_scaling"),
    "mobilenet": ("mobilenet",),
    "mnasnet": ("mnasnet",),
    "ghostnet": ("ghostnet",),
    "inception": ("inception",),
    "xception": ("xception",),
    "squeezenet": ("squeezenet",),
    "shufflenet": ("shufflenet",),
    "snet": ("snet",),
    "resnet": ("resnet",),
    "lineage": ("Ancestor", "lineage"),
    "deploy": ("deploy", "export_onnx"),
    "upsampling": ("Upsample", "PixelShuffle", "TransposedConv", "MaxUnpool", "DySample"),
    "carafe": ("CARAFE",),
    "fcn": ("FCN",),
    "unet": ("UNet",),
    "espcn": ("ESPCN",),
    "boxes": ("anchors", "box_iou", "decode_boxes", "encode_boxes", "nms", "soft_nms"),
    "position_sensitive": ("ps_roi_align",),
    "thundernet": ("ThunderNet",),
    "nanodet": ("NanoDet",),
    "annotations": ("Annotations", "read_annotations"),
    "average_precision": ("average_precision", "AveragePrecision"),
    "paired_precision": ("compare_detectors",),
    "data": ("read_images",),
    "training": ("train", "load_model"),
    "detection": ("detect",),
}

_TARGETS = {
    name: f"paragone.vision.{module}:{name}" for module, names in _MODULES.items() for name in names
}

__getattr__, __dir__ = lazy_exports(__name__, _TARGETS)

__all__ = [*_TARGETS]  # pyright: ignore[reportUnsupportedDunderAll]
