"""Qwen2VLImageProcessor: patches put together again, bounds, files."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.multimodal.qwen2_vl_models import drawn

from paragone.multimodal.qwen2_vl_image_processor import Qwen2VLImageProcessor


def together(values: np.ndarray, grid: tuple[int, int, int], p: int = 14) -> np.ndarray:
    """The picture of patches: block by block, patch by patch, put where they belong."""
    _, rows, columns = grid
    found = np.zeros((rows * p, columns * p, 3), np.float32)
    number = 0
    for y in range(0, rows, 2):
        for x in range(0, columns, 2):
            for r, c in [(y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)]:
                first, second = values[number].reshape(3, 2, p, p).swapaxes(0, 1)
                assert np.array_equal(first, second)
                found[r * p : (r + 1) * p, c * p : (c + 1) * p] = first.transpose(1, 2, 0)
                number += 1
    return found


def test_patches_are_the_picture():
    processor, image = Qwen2VLImageProcessor(), drawn(84, 140)
    values, grids = processor([image, drawn(56, 56)])
    assert grids.tolist() == [[1, 6, 10], [1, 4, 4]]
    assert values.shape == (76, 1176)
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    wanted = (image / 255 - mean) / std
    np.testing.assert_allclose(together(values[:60].numpy(), (1, 6, 10)), wanted, atol=1e-6)
    assert processor.tokens(84, 140) == 15
    grey = processor([image[..., :1]])[0]
    assert np.array_equal(grey, processor([np.repeat(image[..., :1], 3, -1)])[0])
    none, empty = processor([])
    assert none.shape == (0, 1176)
    assert empty.shape == (0, 3)


@given(st.integers(15, 3000), st.integers(15, 3000))
def test_sizes_keep_their_promises(height, width):
    processor = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=1024 * 784)
    if max(height, width) > 200 * min(height, width):
        return
    rows, columns = processor.resized(height, width)
    assert rows % 28 == columns % 28 == 0
    assert 56 * 56 <= rows * columns <= 1024 * 784
    assert processor.grid(height, width) == (1, rows // 14, columns // 14)
    assert processor.resized(rows, columns) == (rows, columns)


def test_a_screenshot_takes_as_many_tokens_as_is_said():
    processor = Qwen2VLImageProcessor()
    assert processor.resized(720, 1280) == (728, 1288)
    assert processor.tokens(720, 1280) == 1196


def test_files(tmp_path):
    processor = Qwen2VLImageProcessor(min_pixels=784, max_pixels=78400)
    path = processor.save_pretrained(tmp_path)
    assert Qwen2VLImageProcessor.from_pretrained(tmp_path) == processor
    raw = json.loads(path.read_text())
    # What newer programs write has the bounds in `size` alone.
    del raw["min_pixels"], raw["max_pixels"]
    path.write_text(json.dumps(raw))
    assert Qwen2VLImageProcessor.from_pretrained(tmp_path) == processor
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        Qwen2VLImageProcessor.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="no such file"):
        Qwen2VLImageProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 0}, "patch_size=0: at least 1"),
        ({"min_pixels": 9, "max_pixels": 8}, "min_pixels=9, max_pixels=8"),
        ({"image_mean": (0.5,)}, "three numbers are expected"),
        ({"image_std": (1, 0, 1)}, "numbers above 0"),
    ],
    ids=["patch", "bounds", "mean", "std"],
)
def test_values_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        Qwen2VLImageProcessor(**changes)
