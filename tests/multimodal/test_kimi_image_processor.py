"""Kimi-VL's image processor: sizes by hand, no pixel lost, values of the published constants."""

import numpy as np
import pytest
import torch
from PIL import Image

from paragone.multimodal import KimiImageProcessor

# By hand: (h, w) -> patches of the grid, with patches of 14 merged two by two (steps of 28).
GRIDS = {
    (1, 1): (2, 2), (28, 28): (2, 2), (29, 28): (4, 2), (13, 57): (2, 6), (224, 224): (16, 16),
    (896, 896): (64, 64), (910, 896): (66, 64), (14, 700): (2, 50), (9000, 3): (512, 2),
}  # fmt: skip


def pixels(height: int, width: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(height * 1009 + width)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def whole(patches: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
    """The picture that patches were cut from, (H, W, C)."""
    rows, columns = grid
    x = patches.reshape(rows, columns, *patches.shape[1:]).permute(0, 3, 1, 4, 2)
    return x.reshape(rows * patches.shape[-1], columns * patches.shape[-1], -1).numpy()


@pytest.mark.parametrize("size", GRIDS, ids=str)
def test_grids(size):
    processor = KimiImageProcessor()
    assert processor.grid(*size) == GRIDS[size]
    assert processor.tokens(*size) == GRIDS[size][0] * GRIDS[size][1] // 4


@pytest.mark.parametrize("size", [(1, 1), (27, 31), (28, 56), (15, 750), (64, 63)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_no_pixel_is_lost_and_what_is_added_is_black(size, channels):
    x = pixels(*size, channels)
    patches, grids = KimiImageProcessor(num_channels=channels)([x])
    found = whole(patches, tuple(grids[0].tolist()))
    assert patches.dtype == torch.float32
    np.testing.assert_allclose(found[: size[0], : size[1]], x / 127.5 - 1, atol=1e-6)
    assert (found[size[0] :] == -1).all()
    assert (found[:, size[1] :] == -1).all()


def test_limits_shrink_by_one_factor_and_pad_but_never_crop():
    processor = KimiImageProcessor(patch_size=2, in_token_limit=100, patch_limit_on_one_side=16)
    for height, width in [(41, 23), (40, 40), (7, 350), (350, 7), (32, 33), (33, 5)]:
        (small, wide), (high, padded) = processor.sizes(height, width)
        assert max(1, small // 2) * max(1, wide // 2) <= 100
        assert max(small, wide) <= 32
        assert small <= height
        assert wide <= width
        assert 0 <= high - small < 4
        assert 0 <= padded - wide < 4
        assert high % 4 == padded % 4 == 0
        # One factor for both sides, up to rounding down.
        if min(small, wide) > 1:
            least = max(small / height, wide / width)
            assert least < min((small + 1) / height, (wide + 1) / width)
    assert processor.sizes(20, 20) == ((20, 20), (20, 20))


def test_shrinking_is_pillows_bicubic():
    x = pixels(60, 45)
    processor = KimiImageProcessor(patch_size=2, in_token_limit=150)
    (height, width), _ = processor.sizes(60, 45)
    patches, grids = processor([x])
    wanted = np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BICUBIC))
    found = whole(patches, tuple(grids[0].tolist()))[:height, :width]
    np.testing.assert_allclose(found, wanted / 127.5 - 1, atol=1e-6)
    grey, _ = KimiImageProcessor(patch_size=2, in_token_limit=150, num_channels=1)([x])
    assert grey.shape == (len(patches), 1, 2, 2)


def test_several_pictures_stand_one_behind_the_other():
    processor = KimiImageProcessor(patch_size=2)
    several = [pixels(5, 9), Image.new("RGBA", (3, 3), (0, 0, 0, 0)), np.zeros((4, 4))]
    patches, grids = processor(several)
    assert grids.tolist() == [[4, 6], [2, 2], [2, 2]]
    assert grids.dtype == torch.int64
    parts = [processor([one])[0] for one in several]
    assert torch.equal(patches, torch.cat(parts))
    # What is transparent is white.
    assert (parts[1][0] == 1).all()
    none, no_grids = processor([])
    assert none.shape == (0, 3, 2, 2)
    assert no_grids.shape == (0, 2)


def test_file_has_the_published_keys(tmp_path):
    processor = KimiImageProcessor(patch_size=4, in_token_limit=77, num_channels=1)
    processor.save_pretrained(tmp_path)
    assert KimiImageProcessor.from_pretrained(tmp_path) == processor
    # moonshotai/Kimi-VL-A3B-Instruct, preprocessor_config.json (keys and values as published).
    found = KimiImageProcessor.from_dict({
        "auto_map": {}, "in_token_limit": 4096, "patch_size": 14, "num_pooled_tokens": 1024,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "pad_input": True,
    })  # fmt: skip
    assert found == KimiImageProcessor()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"patch_size": 0}, "patch_size=0"),
        ({"in_token_limit": 0}, "in_token_limit=0"),
        ({"num_channels": 2}, "num_channels=2"),
        ({"merge_kernel_size": (2,)}, "merge_kernel_size"),
        ({"image_mean": (0.5,)}, "image_mean"),
        ({"image_std": (0.0, 1.0, 1.0)}, "image_std"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_values_out_of_range_are_told(change, told):
    with pytest.raises(ValueError, match=told):
        KimiImageProcessor(**change)


def test_bad_files_and_pictures_are_told(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        KimiImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        KimiImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="crops"):
        KimiImageProcessor.from_dict({"pad_input": False})
    with pytest.raises(ValueError, match="no pixels"):
        KimiImageProcessor()([np.zeros((0, 4, 3), np.uint8)])
