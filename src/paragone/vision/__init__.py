"""Vision: backbones, upsampling, detection, average precision."""

__all__: list[str] = []
